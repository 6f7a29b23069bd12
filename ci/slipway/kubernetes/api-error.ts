/** Errors of the Kubernetes API, each with an explanation. */
import type { ErrorCode } from "../core/error-codes.ts";
import { PipelineError } from "../core/errors.ts";

/** An error response of the API server, or no response. */
export class ApiError extends PipelineError {
  constructor(
    request: string,
    /** HTTP status. 0 if there was no response, or an incomplete one. */
    readonly status: number,
    readonly reply: string,
    /** Seconds that the server asks the client to wait (Retry-After). */
    readonly pauseSeconds?: number | undefined,
    connection?: ConnectionInfo,
  ) {
    const reason = reply.trim().split("\n").at(-1) ?? "";
    const stderr = isUnauthenticatedOrUnanswered(status, reply) ? (connection?.stderrTail() ?? "") : "";
    const output = stderr ? `${reply.trimEnd()}\nkubectl output:\n${stderr}` : reply;
    const hint = hintFor(status, reply, stderr, connection);
    super("environment", `${request}: ${reason}`, { code: errorCodeFor(status, reply, stderr), hint, output });
  }

  /** True if the server rejects the object itself, as opposed to the user's rights or a server failure. */
  get isInvalid(): boolean {
    return [400, 422].includes(this.status) || (this.status === 403 && !MISSING_RIGHTS.test(this.reply));
  }
}

/** Matches a 403 about the user's rights. Any other 403 is about the object: an admission policy or a quota. */
const MISSING_RIGHTS = /user "[^"]*" cannot/i;

/** How the API is reached, for hints. */
export interface ConnectionInfo {
  /** Program and options that select the cluster. */
  kubectl: string[];
  /** Returns a command that runs kubectl with the connection's credentials. Default: none. */
  kubectlCommand?(args: string[], hasTerminal: boolean): Promise<string[]>;
  /** Returns the end of kubectl's stderr, which includes its credential plugin's output. Empty if there is none. */
  stderrTail(): string;
}

/** Returns whether the API server has not judged the request: it does not know the user, or did not respond. */
function isUnauthenticatedOrUnanswered(status: number, reply: string): boolean {
  return status === 0 || status === 401 || (status >= 500 && isProxyError(reply));
}

/** Returns whether an error comes from kubectl's proxy: no response, or no credentials from the plugin. */
function isProxyError(reply: string): boolean {
  return /refused|no route|no such host|timeout|timed out|EOF|TLS|certificate|unable to connect|getting credentials/i.test(
    reply,
  );
}

/** Returns whether kubectl's credential plugin failed. */
function isPluginError(reply: string, stderr: string): boolean {
  return /getting credentials|exec plugin/i.test(`${reply}\n${stderr}`);
}

function errorCodeFor(status: number, reply: string, stderr: string): ErrorCode {
  if (status === 401 || isPluginError(reply, stderr)) return "api-unauthorized";
  if (status === 403) return MISSING_RIGHTS.test(reply) ? "api-forbidden" : "manifests-rejected";
  return status === 0 || isProxyError(reply) ? "api-unreachable" : "api-error";
}

function hintFor(status: number, reply: string, stderr: string, connection?: ConnectionInfo): string {
  const kubectl = connection?.kubectl.join(" ") ?? "kubectl";
  if (isPluginError(reply, stderr))
    return `The kubeconfig's credential plugin returned no credentials. Log in with your provider's CLI, then check with \`${kubectl} version\`.`;
  if (status === 401)
    return "Check that the credentials have not expired. `kubectl config view` shows which credentials are used.";
  if (status === 403) {
    return MISSING_RIGHTS.test(reply)
      ? "The kubeconfig's user lacks this right. `kubectl auth can-i --list` lists the user's rights."
      : "The cluster's admission control rejected the request. The error names the policy or the webhook.";
  }
  if (status === 0 || isProxyError(reply)) {
    const isK3s = connection === undefined || connection.kubectl[0] === "k3s";
    return isK3s
      ? "The API server does not respond. Check that k3s is running: `sudo systemctl status k3s` and `sudo journalctl -u k3s -n 50`."
      : `The API server does not respond. Check that the cluster is running and reachable: \`${kubectl} cluster-info\`.`;
  }
  return "Run the command again with --verbose to see the full output.";
}
