/**
 * Stops a service that starts itself again and again.
 *
 * In a compiled binary, `process.execPath` is the service. `fork("./job.ts")` and Bun's shell with `bun run job` start
 * the service instead of Bun, and the new process would do the same.
 */
/** Path of the main module in the image. */
declare const BUILD_ENTRY: string;
/** Names of the `entries` setting, and paths in the image of modules that the service starts as a process. */
declare const BUILD_ENTRIES: readonly string[];

/** Exits if an ancestor of this process is the same service, started through the same entry. */
export function stopSelfStart(): void {
  // Process 1 of a container and processes that the container runtime starts have no parent. It saves the time.
  if (process.ppid === 0) return;
  // node:cluster starts the service itself to share its load. It sets this variable.
  if (process.env.NODE_UNIQUE_ID !== undefined) return;
  const [, main, script] = process.argv;
  const { resolve } = process.getBuiltinModule("node:path");
  if (script !== undefined && [script, resolve(script)].some((name) => BUILD_ENTRIES.includes(name))) return;
  if (!isOwnDescendant()) return;
  // The service has named its own main module, so it also starts itself from source.
  if (script !== undefined && [main, BUILD_ENTRY].includes(resolve(script))) {
    process.argv.splice(2, 1);
    return;
  }
  const given = process.argv.slice(2).join(" ");
  console.error(
    `${process.execPath} has started itself${given && ` to run \`${given}\``}, and would do so again and again. ` +
      "The image has no Bun that runs scripts. Import the module instead, or name it in `entries` of " +
      "ci/pipeline.ts and start it with `[process.execPath, NAME]`.",
  );
  process.exit(1);
}

function isOwnDescendant(): boolean {
  // In a container, process 1 is the service: every process that it starts has it as an ancestor. Loading node:fs takes
  // longer than all the rest of the start, so it is left to processes that are likely to stop.
  if (!isSameFile(process.ppid) && !isSameFile(1)) return false;
  const { readFileSync, readlinkSync } = process.getBuiltinModule("node:fs");
  const executableOf = (pid: number | "self") => readlinkSync(`/proc/${pid}/exe`);
  try {
    const own = executableOf("self");
    for (let pid = process.ppid; pid > 0;) {
      if (executableOf(pid) === own) return true;
      // The name in brackets may contain spaces. https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
      const [, after = ""] = /.*\) \S (\d+)/s.exec(readFileSync(`/proc/${pid}/stat`, "utf8")) ?? [];
      pid = Number(after);
    }
  } catch {
    // The process of another user, or no /proc. Neither can be the service.
  }
  return false;
}

/** Whether a process runs a file of the same size and time as this process. */
function isSameFile(pid: number): boolean {
  const [own, other] = ["self", pid].map((name) => Bun.file(`/proc/${name}/exe`));
  return own!.size === other!.size && own!.lastModified === other!.lastModified;
}
