/** Prints the logs of the service's pods, merged by time. */
import { clusterOptions, usageError } from "../cli/options.ts";
import type { Command } from "../cli/context.ts";
import { withTarget } from "../cli/connect-target.ts";
import type { LogLine } from "../operations/log-lines.ts";
import { followServiceLogs, readServiceLogs } from "../operations/pod-logs.ts";

const DEFAULT_LINES = 100;

export default {
  about: "Print the logs of all pods, merged by time",
  args: { form: "[WORKLOAD]", min: 0, max: 1 },
  options: [...clusterOptions, "follow", "lines", "since", "previous", "grep", "json"],
  execute: (context) =>
    withTarget(context, async ({ target }) => {
      const { args, follow, lines, since, previous, grep, json } = context.options;
      if (follow && previous) throw usageError("--previous cannot be combined with --follow");
      const closed = new AbortController();
      const signal = AbortSignal.any([context.signal, closed.signal]);
      const print = async (text: string) => {
        try {
          if (text !== "") await Bun.write(Bun.stdout, text);
        } catch (error) {
          // The reader has seen enough, like `head`.
          if ((error as NodeJS.ErrnoException).code !== "EPIPE") throw error;
          closed.abort();
        }
      };
      const show = (found: LogLine[]) =>
        print(found.map((line) => `${json ? JSON.stringify(line) : formatLine(line)}\n`).join(""));
      const options = {
        lines: lines === "all" ? undefined : (lines ?? (since === undefined ? DEFAULT_LINES : undefined)),
        sinceSeconds: since,
        previous,
        grep,
        workload: args[0],
      };
      try {
        if (!follow) await show(await readServiceLogs(target.api, options, signal));
        else
          await followServiceLogs(target.api, options, signal, {
            show,
            announce: async (text) => console.error(`--- ${text} ---`),
          });
      } catch (error) {
        if (!closed.signal.aborted) throw error;
      }
      return "";
    }),
} satisfies Command;

/** Formats a line: local time, version, end of the pod's name, text. */
function formatLine({ time, version, pod, line }: LogLine): string {
  const at = new Date(time);
  const clock = [at.getHours(), at.getMinutes(), at.getSeconds()].map((part) => `${part}`.padStart(2, "0")).join(":");
  const milliseconds = `${at.getMilliseconds()}`.padStart(3, "0");
  return `${clock}.${milliseconds} ${version} ${pod.slice(pod.lastIndexOf("-") + 1)} ${line}`;
}
