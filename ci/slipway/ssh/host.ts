/** Parses the hosts of the command line, and resolves them with ssh's configuration. */
import { PipelineError } from "../core/errors.ts";
import { runProcess } from "../core/process.ts";

/**
 * `[USER@]HOST` or `ssh://[USER@]HOST[:PORT]`. HOST may be an alias of ssh's configuration. Rejects text that ssh would
 * parse as an option, or that a shell would split or expand.
 */
const HOST_PATTERN =
  /^(?:ssh:\/\/)?(?:[A-Za-z0-9_][\w.+-]*@)?(?:[A-Za-z0-9_][\w.:%-]*|\[[0-9A-Fa-f:.]+(?:%\w+)?\](?::\d+)?)$/;

/** @throws {PipelineError} "usage" */
export function parseHost(text: string): string {
  if (HOST_PATTERN.test(text) && text.length <= 255) return text;
  throw new PipelineError("usage", `invalid host ${JSON.stringify(text)}: expected [USER@]HOST`);
}

export interface Destination {
  name: string;
  port: string;
  /** Whether ssh connects through a jump host or a proxy command. */
  isProxied: boolean;
}

/** Resolves a host with ssh's own configuration. */
export async function resolveDestination(host: string, signal?: AbortSignal): Promise<Destination> {
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
    isProxied: isSet("proxyjump") || isSet("proxycommand"),
  };
}
