/**
 * The API server's error answers: who has to act, whether a retry may succeed, and what to do.
 *
 * Status codes and reasons are those of `metav1.StatusReason`
 * (https://pkg.go.dev/k8s.io/apimachinery/pkg/apis/meta/v1#StatusReason). Messages are matched only where the server
 * sends no reason: server-side apply reports most errors in the manifest as 500
 * (https://github.com/kubernetes/apimachinery/blob/master/pkg/util/managedfields/internal/structuredmerge.go).
 */
import type { ErrorCode } from "../core/error-codes.ts";

/** An answer as the server sent it. Status 0 means no answer, or an incomplete one. */
export interface ReceivedAnswer {
  status: number;
  reason: string | undefined;
  message: string;
}

export interface AnswerClass {
  /** Values of the HTTP status. Default: any. */
  statuses?: number[];
  /** Values of `reason` in the Status object. Default: any. */
  reasons?: string[];
  /** Pattern of the message. Default: any. */
  message?: RegExp;
  /** "object": the manifests are wrong. "environment": the cluster, the connection or the user's rights. */
  fault: "object" | "environment";
  code: ErrorCode;
  /** Whether the same request may succeed a moment later. */
  isTransient: boolean;
  /** Next step, where it does not depend on the connection. */
  hint?: string;
}

const MANIFESTS_HINT = "Correct the manifests under k8s/.";

/** The first match counts. */
export const answerClasses: readonly AnswerClass[] = [
  {
    statuses: [401],
    fault: "environment",
    code: "api-unauthorized",
    isTransient: false,
    hint: "Check that the credentials have not expired. `kubectl config view` shows which credentials are used.",
  },
  {
    // `details.causes` has the reason NamespaceTerminating, the Status itself has Forbidden.
    message: /because it is being terminated|namespace \S+ is being terminated/,
    fault: "environment",
    code: "namespace-terminating",
    isTransient: false,
    hint: "Wait until the namespace is deleted, then run the command again.",
  },
  {
    // All other answers of 403 are about the object: an admission policy, a webhook or a quota.
    statuses: [403],
    message: /user "[^"]*" cannot/i,
    fault: "environment",
    code: "api-forbidden",
    isTransient: false,
    hint: "The kubeconfig's user lacks this right. `kubectl auth can-i --list` lists the user's rights.",
  },
  {
    statuses: [403],
    fault: "object",
    code: "manifests-rejected",
    isTransient: false,
    hint: "The cluster's admission control rejected the request. The error names the policy or the webhook.",
  },
  {
    // A webhook may deny with any status. A webhook that cannot be called is the environment's fault, see below.
    message: /admission webhook "[^"]*" denied the request/,
    fault: "object",
    code: "manifests-rejected",
    isTransient: false,
    hint: "The cluster's admission control rejected the request. The error names the policy or the webhook.",
  },
  {
    message: /failed calling webhook|conversion webhook for .* failed/,
    fault: "environment",
    code: "api-error",
    isTransient: true,
    hint: "A webhook of the cluster does not answer. Check the pods of the webhook that the message names.",
  },
  {
    // Server-side apply: unknown field, double list entry, wrong type, invalid quantity. The server sends no reason.
    statuses: [500],
    message:
      /^failed to (create typed (patch|live) object|convert (new|merged|patch(ed)?) object|create manager for)|^(unable to convert unstructured object|error decoding|strict decoding error)|cannot unmarshal|quantities must match/,
    fault: "object",
    code: "manifests-rejected",
    isTransient: false,
    hint: MANIFESTS_HINT,
  },
  {
    // etcd's limit for one object. https://etcd.io/docs/latest/dev-guide/limit/
    message: /etcdserver: request is too large|rpc error: .*trying to send message larger than max/,
    fault: "object",
    code: "manifests-too-large",
    isTransient: false,
    hint: "Split the object, or move large files into the image.",
  },
  {
    statuses: [413],
    reasons: ["RequestEntityTooLarge"],
    fault: "object",
    code: "manifests-too-large",
    isTransient: false,
    hint: "Split the object, or move large files into the image.",
  },
  {
    statuses: [415],
    reasons: ["UnsupportedMediaType"],
    fault: "environment",
    code: "api-error",
    isTransient: false,
    hint: "The API server lacks server-side apply. Kubernetes has it since 1.22.",
  },
  { statuses: [400, 405, 422], fault: "object", code: "manifests-rejected", isTransient: false, hint: MANIFESTS_HINT },
  // 404, 409 and 410: the caller decides.
  { statuses: [404, 406, 409, 410, 501], fault: "environment", code: "api-error", isTransient: false },
  // Timeout, TooManyRequests, ServerTimeout, InternalError, ServiceUnavailable, and gateways in front of the server.
  { statuses: [408, 429], fault: "environment", code: "api-error", isTransient: true },
  {
    message:
      /refused|no route|no such host|timeout|timed out|EOF|TLS|certificate|unable to connect|getting credentials/i,
    statuses: [500, 502, 503, 504],
    fault: "environment",
    code: "api-unreachable",
    isTransient: true,
  },
  { statuses: [0], fault: "environment", code: "api-unreachable", isTransient: true },
];

/** Class of the remaining answers. A server error may pass. */
function defaultClass({ status }: ReceivedAnswer): AnswerClass {
  return { fault: "environment", code: "api-error", isTransient: status >= 500 };
}

/** Classifies an answer. */
export function classifyAnswer(answer: ReceivedAnswer): AnswerClass {
  const { status, reason, message } = answer;
  const matches = (one: AnswerClass) =>
    (one.statuses === undefined || one.statuses.includes(status)) &&
    // Old servers and proxies send the status alone.
    (one.reasons === undefined || reason === undefined || one.reasons.includes(reason)) &&
    (one.message === undefined || one.message.test(message));
  return answerClasses.find(matches) ?? defaultClass(answer);
}

/**
 * Returns the field and the problem of a rejection, without the parts that repeat the object's name.
 *
 * @example `spec.replicas: expected numeric (int or float), got string`
 */
export function describeRejection(message: string): string {
  const text = message
    .trim()
    .replace(
      /^failed to (?:create typed (?:patch|live) object|convert \w+ object)\s*\([^)]*\)(?: to proper version)?:\s*/,
      "",
    )
    .replace(/^errors:\s*/, "")
    .replace(/(^|\n)\s*\./g, "$1");
  return text.replace(/\s*\n\s*/g, "; ").replace(/&value\.valueUnstructured\{Value:([^}]*)\}/g, "$1");
}
