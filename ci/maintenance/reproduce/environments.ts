/** Environments of the builds that `reproduce` compares. None of their properties may change the image. */
import { constants, copyFile } from "node:fs/promises";
import { join } from "node:path";
import { isOnPath, runProcess } from "../../slipway/core/process.ts";

/** Properties of each build, in turn. The first environment is an ordinary machine. */
export const environments = [
  { directory: "plain", umask: "022", TZ: "UTC", LC_ALL: "C.UTF-8", modified: "2024-02-29T12:00:00Z" },
  {
    directory: "a longer path/with a space & an ü",
    umask: "077",
    TZ: "Pacific/Kiritimati",
    // In this locale, if it is installed, "i" is not the lower case of "I".
    LC_ALL: "tr_TR.UTF-8",
    modified: "1999-12-31T23:59:59Z",
    /** Uses a separate HOME and, if possible, another user and a single CPU. */
    isUnusual: true,
  },
  { directory: "x/y/z", umask: "000", TZ: "America/St_Johns", LC_ALL: "C", modified: "2038-01-19T03:14:08Z" },
];

/** User that owns no files on this machine. */
export const OTHER_UID = 54_321;

/** Optional properties of an environment that this machine supports. */
export interface Capabilities {
  /** Copy of Bun that every user can run, or undefined if builds cannot run as another user. */
  bun: string | undefined;
  /** Command prefix that restricts a command to one CPU, or empty if that is not possible. */
  oneCpuPrefix: string[];
  /** Unsupported properties, with the reason. */
  skipped: string[];
}

/** Detects the supported properties. Copies Bun into `directory` if this process runs as root. */
export async function detectCapabilities(directory: string, signal: AbortSignal): Promise<Capabilities> {
  const skipped: string[] = [];
  const succeeds = async (command: string[]) =>
    isOnPath(command[0]!) && (await runProcess(command, { cwd: "/", signal, timeoutSeconds: 20 })).code === 0;
  const oneCpuPrefix = ["taskset", "--cpu-list", "0"];
  const canPinCpu = await succeeds([...oneCpuPrefix, "true"]);
  if (!canPinCpu) skipped.push("one CPU instead of all: taskset is not available or not permitted");

  const bun = join(directory, "bun");
  const isRoot = process.getuid?.() === 0;
  // The installed Bun may be in a directory that only its owner can enter.
  if (isRoot) await copyFile(process.execPath, bun, constants.COPYFILE_FICLONE);
  // Through a shell, because setpriv opens its own command with the rights of root.
  const probe = [...asUser(OTHER_UID), "sh", "-c", 'exec "$0" --version', bun];
  const canChangeUser = isRoot && (await succeeds(probe));
  if (!isRoot) skipped.push("another user: this process does not run as root");
  else if (!canChangeUser) skipped.push(`another user: setpriv failed, or other users cannot enter ${directory}`);
  return { bun: canChangeUser ? bun : undefined, oneCpuPrefix: canPinCpu ? oneCpuPrefix : [], skipped };
}

/** Command prefix that runs a command as another user. */
export function asUser(uid: number): string[] {
  return ["setpriv", `--reuid=${uid}`, `--regid=${uid}`, "--clear-groups", "--inh-caps=-all"];
}
