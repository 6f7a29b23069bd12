/** Lists the changes that an apply would make, without the values of Secrets. */
import { PipelineError } from "../core/errors.ts";
import { isRawJsonNumber } from "../core/lossless-json.ts";
import { describeRejection } from "./api-answers.ts";
import { ApiError } from "./api-error.ts";
import { unknownKindMessage, type ApiClient } from "./api.ts";
import { dryRunHandOver } from "./hand-over-fields.ts";
import { CREATED_BY, prepareForApply, PROJECT } from "./prepare-for-apply.ts";
import { objectName, type KubeObject } from "./objects.ts";
import { splitPreDeployJobs } from "./render.ts";

export interface Difference {
  /** `Deployment/helloapp` */
  object: string;
  /** Lines such as `spec.replicas: 2 -> 3`. Empty for a new object. */
  lines: string[];
  isNew: boolean;
}

/**
 * Compares manifests with the cluster by a server-side dry run. The server validates and merges as in a real apply,
 * so its defaults and fields that others set are no differences.
 *
 * @throws {PipelineError} "project" if the server rejects a manifest or does not have its kind
 */
export async function compareWithCluster(api: ApiClient, manifests: KubeObject[]): Promise<Difference[]> {
  const { jobs: preDeployJobs, rest } = splitPreDeployJobs(manifests);
  const definedKinds = kindsDefinedBy(manifests);
  const prepared = await prepareForApply(api, rest);
  const compared = await Promise.all(
    prepared.map(async ({ object, live, path }): Promise<Difference[]> => {
      const isNew = [{ object: objectName(object), lines: [], isNew: true }];
      if (path === undefined) {
        // Its definition is in the same manifests and not applied yet.
        if (definedKinds.has(kindOf(object))) return isNew;
        throw new PipelineError("project", unknownKindMessage(object), {
          code: "kind-unknown",
          hint: "Install what defines the kind first, for example an operator, or remove the object from the overlay.",
        });
      }
      const merged = await api.apply(object, { dryRun: true }).catch((error: unknown) => {
        // A dry run fails in a namespace that does not exist yet.
        if (error instanceof ApiError && error.status === 404 && !live) return object;
        throw explainRejection("dry run", object, error);
      });
      if (!live) return isNew;
      const lines = describeChanges(object, live, await dryRunHandOver(api, path, merged));
      return lines.length > 0 ? [{ object: objectName(object), lines, isNew: false }] : [];
    }),
  );
  // A pre-deploy Job has the version in its name: if it exists, it has run.
  const jobs = await prepareForApply(api, preDeployJobs);
  const newJobs = jobs.flatMap(({ object, live }) =>
    live ? [] : [{ object: objectName(object), lines: [], isNew: true }],
  );
  return [...newJobs, ...compared.flat()];
}

/** Returns the kinds that these manifests define, as `group/Kind`. */
function kindsDefinedBy(manifests: KubeObject[]): Set<string> {
  return new Set(
    manifests.flatMap((object) => {
      if (object.kind !== "CustomResourceDefinition") return [];
      const { spec } = object as KubeObject & { spec?: { group?: string; names?: { kind?: string } } };
      return [`${spec?.group}/${spec?.names?.kind}`];
    }),
  );
}

const kindOf = ({ apiVersion, kind }: KubeObject) => `${apiVersion.replace(/\/[^/]*$/, "")}/${kind}`;

/**
 * Turns a rejected object into a "project" error. Other errors are returned unchanged.
 *
 * @param operation for the message: `dry run` or `apply`
 */
export function explainRejection(operation: string, object: KubeObject, error: unknown): unknown {
  if (!(error instanceof ApiError) || !error.isInvalid) return error;
  // The server quotes the invalid value.
  const reason =
    object.kind === "Secret"
      ? `status ${error.status} (details hidden, they may contain a value)`
      : describeRejection(error.reply);
  const message = `the cluster rejected the ${operation} of ${objectName(object)}: ${reason}`;
  const cause = object.kind === "Secret" ? undefined : error;
  return new PipelineError("project", message, {
    code: error.answer.code,
    hint: immutableHint(object, error.reply) ?? "Correct the manifests under k8s/.",
    cause,
  });
}

/** How the API server says that a field cannot change. It is the only word for StatefulSets and for a Service's address. */
const IMMUTABLE = /\bimmutable\b|updates to statefulset spec for fields other than|may not change once set/i;

/** Returns the next step if the change is to a field that an existing object keeps. */
function immutableHint(object: KubeObject, reply: string): string | undefined {
  if (!IMMUTABLE.test(reply)) return undefined;
  const name = objectName(object);
  const remove = (options = "") => `\`bun ci/pipeline.ts kubectl -- delete ${name}${options}\``;
  switch (object.kind) {
    case "Job":
      return `A Job cannot change. Annotate it with \`slipway/pre-deploy: "true"\`, so that each version has its own Job. Or delete the old one with ${remove()}, and deploy again.`;
    case "StatefulSet":
      return `Restore the field. Or delete the StatefulSet without its pods with ${remove(" --cascade=orphan")}, and deploy again.`;
    case "PersistentVolumeClaim":
      return "Restore the field. For another class or size, use a claim with a new name, and copy the data.";
    default:
      return `Restore the field. Or delete the object with ${remove()}, and deploy again. It does not work until then.`;
  }
}

function describeChanges(object: KubeObject, live: KubeObject, merged: KubeObject): string[] {
  const lines = compareFields(comparableFields(live), comparableFields(merged));
  if (object.kind !== "Secret") return lines;
  // The key only, never the old or new value.
  return lines.map((line) => line.replace(/^((?:data|stringData)(?:\.[^:]+)?): .*$/s, "$1 changed"));
}

function comparableFields(object: KubeObject): unknown {
  const { metadata, status: _, ...rest } = object as KubeObject & { status?: unknown };
  const { labels } = metadata;
  const annotations = Object.entries(metadata.annotations ?? {}).filter(([name]) => !CONTROLLER_ANNOTATIONS.test(name));
  return { ...rest, metadata: { labels, annotations: Object.fromEntries(annotations) } };
}

/** Annotations that controllers write, and those with the creator and the project. */
const CONTROLLER_ANNOTATIONS = new RegExp(
  `^deployment\\.kubernetes\\.io/|^deprecated\\.daemonset|^kubernetes\\.io/change-cause$|^kubectl\\.|^${CREATED_BY}$|^${PROJECT}$`,
);

/** Lists the paths at which two values differ, one line each. */
export function compareFields(before: unknown, after: unknown, path = ""): string[] {
  if (Bun.deepEquals(before, after)) return [];
  if (isObjectOrArray(before) && isObjectOrArray(after) && Array.isArray(before) === Array.isArray(after)) {
    const keys = new Set([...Object.keys(before), ...Object.keys(after)]);
    return [...keys].flatMap((key) => compareFields(before[key], after[key], path ? `${path}.${key}` : key));
  }
  const show = (value: unknown) => (value === undefined ? "nothing" : JSON.stringify(value));
  return [`${path}: ${show(before)} -> ${show(after)}`];
}

function isObjectOrArray(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !isRawJsonNumber(value);
}
