/** Runs git. */
import { isOnPath, runProcess } from "./process.ts";

/**
 * Runs git in a directory, also if another user owns it, as in a container with a mounted project. git refuses such a repository,
 * because its settings name programs. The project's own scripts run in any case. git-config(1), safe.directory
 *
 * @returns stdout, or undefined without git or without a repository
 */
export async function runGit(
  args: string[],
  { cwd, signal }: { cwd: string; signal: AbortSignal },
): Promise<string | undefined> {
  if (!isOnPath("git")) return undefined;
  const command = ["git", "-c", "safe.directory=*", ...args];
  const { code, stdout } = await runProcess(command, { cwd, signal, timeoutSeconds: 20 });
  return code === 0 ? stdout : undefined;
}

/** Returns the commit of HEAD, with "-dirty" if files have changed, for labels. It never affects the image ID. */
export async function gitCommit(project: string, signal: AbortSignal): Promise<string | undefined> {
  const args = ["describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"];
  return (await runGit(args, { cwd: project, signal }))?.trim();
}
