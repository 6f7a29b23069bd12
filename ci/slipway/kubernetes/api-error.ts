/** Errors of the Kubernetes API, each with an explanation. */
import type { ErrorCode } from "../core/error-codes.ts";
import { PipelineError } from "../core/errors.ts";
import { classifyAnswer, type AnswerClass } from "./api-answers.ts";

/** An error response of the API server, or no response. */
export class ApiError extends PipelineError {
  /** What the answer means, from the table of answers. */
  readonly answer: AnswerClass;

  constructor(
    request: string,
    /** HTTP status. 0 if there was no response, or an incomplete one. */
    readonly status: number,
    readonly reply: string,
    /** Seconds that the server asks the client to wait (Retry-After). */
    readonly pauseSeconds?: number | undefined,
    connection?: ConnectionInfo,
    /** Reason of the Status object. Undefined if the server sent none. */
    readonly reason?: string | undefined,
  ) {
    const lastLine = reply.trim().split("\n").at(-1) ?? "";
    const answer = classifyAnswer({ status, reason, message: reply });
    const stderr = isUnauthenticatedOrUnanswered(answer) ? (connection?.stderrTail() ?? "") : "";
    const isPlugin = isPluginError(reply, stderr);
    const output = stderr ? `${reply.trimEnd()}\nkubectl output:\n${stderr}` : reply;
    const code: ErrorCode = isPlugin ? "api-unauthorized" : answer.code;
    super("environment", `${request}: ${lastLine}`, { code, hint: hintFor(answer, isPlugin, connection), output });
    this.answer = answer;
  }

  /** True if the server rejects the object itself, as opposed to the user's rights or a server failure. */
  get isInvalid(): boolean {
    return this.answer.fault === "object";
  }

  /** True if the same request may succeed a moment later. */
  get isTransient(): boolean {
    return this.answer.isTransient;
  }
}

/** How the API is reached, for hints. */
export interface ConnectionInfo {
  /** Program and options that select the cluster. */
  kubectl: string[];
  /** Returns a command that runs kubectl with the connection's credentials. Default: none. */
  kubectlCommand?(args: string[], hasTerminal: boolean): Promise<string[]>;
  /** Forwards an address where kubectl runs. Returns the local socket. Default: kubectl runs on this machine. */
  forward?(address: string): Promise<string>;
  /** Returns the end of kubectl's stderr, which includes its credential plugin's output. Empty if there is none. */
  stderrTail(): string;
}

/** Returns whether the API server has not judged the request: it does not know the user, or did not respond. */
function isUnauthenticatedOrUnanswered({ code }: AnswerClass): boolean {
  return code === "api-unauthorized" || code === "api-unreachable";
}

/** Returns whether kubectl's credential plugin failed. */
function isPluginError(reply: string, stderr: string): boolean {
  return /getting credentials|exec plugin/i.test(`${reply}\n${stderr}`);
}

function hintFor({ code, hint }: AnswerClass, isPlugin: boolean, connection?: ConnectionInfo): string {
  const kubectl = connection?.kubectl.join(" ") ?? "kubectl";
  if (isPlugin)
    return `The kubeconfig's credential plugin returned no credentials. Log in with your provider's CLI, then check with \`${kubectl} version\`.`;
  if (hint) return hint;
  if (code === "api-unreachable") {
    const [program, host] = connection?.kubectl ?? [];
    if (program === "ssh")
      return `The API server does not respond. Check that k3s is running: \`ssh ${host} systemctl status k3s\`.`;
    const isK3s = connection === undefined || connection.kubectl[0] === "k3s";
    return isK3s
      ? "The API server does not respond. Check that k3s is running: `sudo systemctl status k3s` and `sudo journalctl -u k3s -n 50`."
      : `The API server does not respond. Check that the cluster is running and reachable: \`${kubectl} cluster-info\`.`;
  }
  return "Run the command again with --verbose to see the full output.";
}
