/** Reads the commit for labels and annotations. It never affects the image ID. */
import { runProcess } from "./process.ts";

/** Returns the commit of HEAD, with "-dirty" if files have changed. undefined: no git or no repository. */
export async function gitCommit(project: string, signal: AbortSignal): Promise<string | undefined> {
  if (!Bun.which("git")) return undefined;
  const command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"];
  const { code, stdout } = await runProcess(command, { cwd: project, signal, timeoutSeconds: 10 });
  return code === 0 ? stdout.trim() : undefined;
}
