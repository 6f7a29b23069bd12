/** The command line: its commands and options, and what is wrong with one. */
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { app } from "./app.ts";
import { compressions, type Compression } from "./image/archive.ts";
import { parseReference } from "./registry/push.ts";
import { PipelineError } from "./ground/errors.ts";
import type { Architecture } from "./image/image.ts";

export const usage = `Takes ${app.name} from the source to a verified version on k3s.

usage: bun ci/pipeline.ts [command] [options]              on this machine
       dagger run bun ci/pipeline.ts [command] [options]   in containers

commands:
  deploy          check, test, image, then deliver, roll out, verify (the default)
  up              the same where there is a k3s; elsewhere a smoke test of the image
  watch           deploy at every save
  check           types and format
  test            unit tests
  image           the docker-archive alone
  plan            what a deploy would change
  status          what runs, since when, by which commit, how healthy; which versions are kept
  verify          ask the Service whether it serves what is here
  rollback [ID]   go back to the version that served before, or to ID, and verify that
  verify-archive FILE
                  build again, and compare FILE with that bit for bit
  push FILE...    push archives that are there, each under its id; --tag names an index of them

options:
  --engine dagger|host   where steps run (default: dagger under \`dagger run\`, else host)
  --target k3s           this machine's k3s, by import (the default)
  --target registry      any cluster, by a registry that it pulls from; takes --registry and --context
  --target none          the archive alone
  --registry HOST/PATH   where the image is pushed, without a tag; also for push
  --url URL              where the Service answers from outside (default: the NodePort; with a registry, through the API)
  --output FILE          the docker-archive (default: ${app.name}.tar)
  --platform LIST        linux/amd64, linux/arm64 or both; one archive each (default: this machine's)
  --compress LEVEL       of the layers: none, fast or high (default: none; for a registry: fast)
  --tag NAME             a further name in the archive, ${app.name}:NAME, or of what is pushed; may be repeated
  --report FILE          the steps and their times as JSON
  --kubeconfig FILE      another kubeconfig than k3s's own; with a registry: than kubectl's
  --context NAME         which context of that file
  --verbose              stack traces and the whole output of what failed
  --help                 this text

exit codes: 0 what was asked for holds; 1 the change is at fault; 2 the command line is wrong;
            3 the surroundings are at fault, nothing was changed; 130 interrupted
`;

const commands = [
  "deploy",
  "up",
  "watch",
  "check",
  "test",
  "image",
  "plan",
  "status",
  "verify",
  "rollback",
  "verify-archive",
  "push",
] as const;
type Command = (typeof commands)[number];

export interface Options {
  command: Command;
  /** For `rollback`: the version to go back to. */
  id: string | undefined;
  /** For `verify-archive`: the archive; for `push`: one or more; otherwise none. */
  files: string[];
  engine: "dagger" | "host";
  target: "k3s" | "registry" | "none";
  output: string;
  /** Undefined: the engine's own. */
  architectures: Architecture[] | undefined;
  compression: Compression | undefined;
  tags: string[];
  registry: string | undefined;
  /** Where the steps and their times go, as JSON. */
  report: string | undefined;
  url: string | undefined;
  kubeconfig: string | undefined;
  context: string | undefined;
  verbose: boolean;
  help: boolean;
}

/** @throws {PipelineError} "usage" when the command line is wrong */
export function parseCommandLine(args: string[], env: Record<string, string | undefined>): Options {
  const wrong = (message: string) => new PipelineError("usage", message);
  const parsed = (() => {
    try {
      return parseArgs({
        args,
        allowPositionals: true,
        options: {
          engine: { type: "string" },
          target: { type: "string" },
          output: { type: "string" },
          platform: { type: "string" },
          compress: { type: "string" },
          tag: { type: "string", multiple: true },
          registry: { type: "string" },
          report: { type: "string" },
          url: { type: "string" },
          kubeconfig: { type: "string" },
          context: { type: "string" },
          verbose: { type: "boolean" },
          help: { type: "boolean", short: "h" },
        },
      });
    } catch (error) {
      throw wrong((error as Error).message);
    }
  })();
  const { values, positionals } = parsed;
  const oneOf = <const T extends string>(what: string, given: string, known: readonly T[]): T => {
    const found = known.find((value) => value === given);
    if (!found) throw wrong(`unknown ${what} "${given}": expected one of ${known.join(", ")}`);
    return found;
  };
  const command = oneOf("command", positionals[0] ?? "deploy", commands);
  const id = command === "rollback" ? positionals[1] : undefined;
  const files = command === "verify-archive" || command === "push" ? positionals.slice(1) : [];
  if (command === "verify-archive" && files.length !== 1)
    throw wrong("verify-archive takes one archive: FILE");
  if (command === "push" && files.length === 0) throw wrong("push takes archives: FILE...");
  const expected = 1 + (id === undefined ? 0 : 1) + files.length;
  if (positionals.length > expected) throw wrong(`one command at a time, not ${positionals.join(" ")}`);
  for (const tag of values.tag ?? []) {
    if (!/^[\w][\w.-]{0,127}$/.test(tag)) throw wrong(`--tag "${tag}" is no image tag`);
  }
  const target = oneOf("target", values.target ?? "k3s", ["k3s", "registry", "none"]);
  const { registry, context, url } = values;
  if (target === "registry") {
    // No deploy follows whatever context happens to be current.
    if (!registry || !context) throw wrong("--target registry takes --registry HOST/PATH and --context NAME");
    parseReference(`${registry}:tag`);
  } else if (command === "push") {
    if (!registry) throw wrong("push takes --registry HOST/PATH");
    parseReference(`${registry}:tag`);
    if (files.length > 1 && !values.tag)
      throw wrong("push takes --tag NAME where there are several archives");
  } else if (registry) throw wrong("--registry goes with --target registry and with push");
  if (url !== undefined && !URL.canParse(url)) throw wrong(`--url "${url}" is no URL`);
  const { compress } = values;
  const architectures = values.platform
    ?.split(",")
    .map((platform) => oneOf("platform", platform, ["linux/amd64", "linux/arm64"]).slice("linux/".length));
  if (architectures && architectures.length > 1 && command !== "image" && target !== "none") {
    throw wrong("a deploy is for one platform: several go with `image` or --target none");
  }
  const inSession = env.DAGGER_SESSION_PORT !== undefined;
  return {
    command,
    id,
    files: files.map((file) => resolve(file)),
    engine: oneOf("engine", values.engine ?? (inSession ? "dagger" : "host"), ["dagger", "host"]),
    target,
    output: resolve(values.output ?? `${app.name}.tar`),
    architectures: architectures && ([...new Set(architectures)] as Architecture[]),
    compression: compress === undefined ? undefined : oneOf("level", compress, compressions),
    tags: values.tag ?? [],
    registry,
    report: values.report && resolve(values.report),
    url,
    kubeconfig: values.kubeconfig,
    context,
    verbose: values.verbose ?? false,
    help: values.help ?? false,
  };
}
