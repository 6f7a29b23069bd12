/** What git says of the source, where there is git. It goes into labels and annotations, never into the id. */
import { runProcess } from "./process.ts";

/** The commit of HEAD, with "-dirty" after it when files differ from it; undefined outside a repository. */
export async function gitCommit(project: string, signal: AbortSignal): Promise<string | undefined> {
  if (!Bun.which("git")) return undefined;
  const command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"];
  const { code, stdout } = await runProcess(command, { cwd: project, signal, timeoutSeconds: 10 });
  return code === 0 ? stdout.trim() : undefined;
}
