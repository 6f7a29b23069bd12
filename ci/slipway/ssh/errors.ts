/** Explains why ssh failed, and suggests a fix. */
import type { ErrorCode } from "../core/error-codes.ts";
import { PipelineError } from "../core/errors.ts";
import { resolveDestination } from "./host.ts";

/** Failure to open or keep a connection. A retry may succeed. */
export class SshConnectionLost extends PipelineError {
  constructor(message: string, options: { code?: ErrorCode; hint?: string; output?: string } = {}) {
    super("environment", message, { code: "ssh-connection-lost", ...options });
  }
}

/** @param stderr everything that ssh wrote */
export async function explainSshError(host: string, stderr: string, signal?: AbortSignal): Promise<PipelineError> {
  const reason = lastReason(stderr);
  const failure = (code: ErrorCode, message: string, hint: string) =>
    new PipelineError("environment", `${host}: ${message}. Nothing was changed`, { code, hint, output: stderr });
  const isChanged = /IDENTIFICATION HAS CHANGED/.test(stderr);
  if (isChanged || /Host key verification failed|host key is known for/i.test(stderr)) {
    const hint = await hostKeyHint(host, isChanged, signal);
    if (isChanged)
      return failure("ssh-host-key-changed", "the host key differs from known_hosts: it may be another machine", hint);
    return failure("ssh-host-key-unknown", "the host key is not in known_hosts", hint);
  }
  if (/Permission denied/i.test(stderr)) {
    const hint = `\`ssh ${host} true\` must work without a prompt: add a key to the agent (\`ssh-add -l\` lists them), or to the host (\`ssh-copy-id ${host}\`).`;
    return failure("ssh-login-refused", `SSH login refused (${reason})`, hint);
  }
  const hint = `Run \`ssh ${host} true\` for details.`;
  const message = `cannot connect to ${host} over SSH: ${reason || "ssh exited without an error message"}`;
  return new SshConnectionLost(message, { code: "ssh-unreachable", hint, output: stderr });
}

/** Returns the last line of ssh's stderr that gives a reason. */
export function lastReason(stderr: string): string {
  const lines = stderr.split("\n").map((line) => line.trim());
  return lines.findLast((line) => line !== "" && !/^\*\*\*|^Warning: Permanently/.test(line)) ?? "";
}

/** Returns a hint with the commands that show a host key's fingerprint and that add the key. */
async function hostKeyHint(host: string, isChanged: boolean, signal?: AbortSignal): Promise<string> {
  const { name, port, isProxied } = await resolveDestination(host, signal);
  const entry = port === "22" ? name : `[${name}]:${port}`;
  const remove = isChanged ? `ssh-keygen -R '${entry}' && ` : "";
  if (isProxied) {
    const connect = `ssh -o StrictHostKeyChecking=ask ${host} true`;
    return `Get the fingerprint from the host's owner, then compare and add the key with \`${remove}${connect}\`.`;
  }
  const scan = `ssh-keyscan -p ${port} ${name}`;
  return `Show the fingerprint with \`${scan} | ssh-keygen -lf -\` and compare it with the one from the host's owner. Then add the key with \`${remove}${scan} >> ~/.ssh/known_hosts\`.`;
}
