/** A host as the command line names it, and as ssh takes it. */
import { PipelineError } from "../core/errors.ts";
import { runProcess } from "../core/process.ts";

/**
 * `[USER@]HOST`, or the same as a URL, `ssh://[USER@]HOST[:PORT]`; HOST may be a name of ssh's configuration. What ssh would take for
 * an option, or a shell for more than a word, is none.
 */
const FORM =
  /^(?:ssh:\/\/)?(?:[A-Za-z0-9_][\w.+-]*@)?(?:[A-Za-z0-9_][\w.:%-]*|\[[0-9A-Fa-f:.]+(?:%\w+)?\](?::\d+)?)$/;

/** @throws {PipelineError} "usage" */
export function parseHost(given: string): string {
  if (FORM.test(given) && given.length <= 255) return given;
  throw new PipelineError("usage", `${JSON.stringify(given)} is no host of the form [USER@]HOST`);
}

/** Where ssh would go, by its own configuration. */
export interface Destination {
  name: string;
  port: string;
  /** Whether that is behind another host, or a program. */
  isBehind: boolean;
}

/** Asks ssh itself. */
export async function destinationOf(host: string, signal?: AbortSignal): Promise<Destination> {
  const { stdout } = await runProcess(["ssh", "-G", "--", host], {
    timeoutSeconds: 5,
    ...(signal && { signal }),
  });
  const settings = new Map(
    stdout.split("\n").map((line): [string, string] => {
      const space = line.indexOf(" ");
      return [line.slice(0, space), line.slice(space + 1)];
    }),
  );
  const isSet = (key: string) => !["none", undefined].includes(settings.get(key));
  return {
    name: settings.get("hostname") ?? host,
    port: settings.get("port") ?? "22",
    isBehind: isSet("proxyjump") || isSet("proxycommand"),
  };
}
