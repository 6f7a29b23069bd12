/** What ssh says when it does not get there, as a person needs to hear it. */
import { PipelineError } from "../core/errors.ts";
import { destinationOf } from "./host.ts";

/** The line to a host has gone, or did not come about. It may the next time. */
export class SshConnectionLost extends PipelineError {
  constructor(host: string, words: string, options: { hint?: string; output?: string } = {}) {
    super("environment", `${host} is not reached: ${words}`, options);
  }
}

/** @param said what ssh has written to stderr */
export async function explainSshError(
  host: string,
  said: string,
  signal?: AbortSignal,
): Promise<PipelineError> {
  const words = lastReason(said);
  const wrong = (message: string, hint: string) =>
    new PipelineError("environment", `${host}: ${message}; nothing was changed`, { hint, output: said });
  const isChanged = /IDENTIFICATION HAS CHANGED/.test(said);
  if (isChanged || /Host key verification failed|host key is known for/i.test(said)) {
    const keys = await keyCommands(host, isChanged, signal);
    if (isChanged)
      return wrong("its key is another one than known_hosts has: it may be somebody else's machine", keys);
    return wrong("its key is not in known_hosts, and none is taken on trust", keys);
  }
  if (/Permission denied/i.test(said)) {
    const hint = `\`ssh ${host} true\` has to work without a question: add a key to the agent (\`ssh-add -l\` lists them), or to the host (\`ssh-copy-id ${host}\`).`;
    return wrong(`it does not let this user in (${words})`, hint);
  }
  const hint = `\`ssh ${host} true\` shows more.`;
  return new SshConnectionLost(host, words || "ssh has ended without a word", { hint, output: said });
}

/** Of all that ssh has said, the last line that is a reason. */
export function lastReason(said: string): string {
  const lines = said.split("\n").map((line) => line.trim());
  return lines.findLast((line) => line !== "" && !/^\*\*\*|^Warning: Permanently/.test(line)) ?? "";
}

/** The command that shows the fingerprint of a host's key, and the one that adds it. */
async function keyCommands(host: string, isChanged: boolean, signal?: AbortSignal): Promise<string> {
  const { name, port, isBehind } = await destinationOf(host, signal);
  const entry = port === "22" ? name : `[${name}]:${port}`;
  const forget = isChanged ? `ssh-keygen -R '${entry}' && ` : "";
  if (isBehind) {
    const ask = `ssh -o StrictHostKeyChecking=ask ${host} true`;
    return `Ask its owner for the fingerprint, then \`${forget}${ask}\`, which shows what it has and adds it.`;
  }
  const scan = `ssh-keyscan -p ${port} ${name}`;
  return `\`${scan} | ssh-keygen -lf -\` shows its fingerprint: compare it with what its owner says. \`${forget}${scan} >> ~/.ssh/known_hosts\` adds it.`;
}
