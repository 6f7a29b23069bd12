/** Every option of the command line, once; a command names those that it takes. */
import { resolve } from "node:path";
import { PipelineError } from "../core/errors.ts";
import type { Service } from "../core/service-config.ts";
import { compressions, type Compression } from "../image/archive-writer.ts";
import type { Architecture } from "../image/platform.ts";
import { parseHost } from "../ssh/host.ts";
import { parseReference } from "../registry/reference.ts";

interface Option {
  /** What it takes, as the usage shows it; undefined: nothing. */
  value?: string;
  multiple?: boolean;
  about: string;
}

export const optionDefinitions = {
  engine: { value: "dagger|host", about: "where steps run (default: dagger under `dagger run`, else host)" },
  target: {
    value: "k3s|registry|none",
    about: "this machine's k3s (default), any cluster, the archive alone",
  },
  host: {
    value: "[USER@]HOST",
    multiple: true,
    about: "k3s on another machine, over SSH; one for each node that may run the pods",
  },
  registry: { value: "HOST/PATH", about: "where the image is pushed, without a tag; with --target registry" },
  url: { value: "URL", about: "where the Service answers from outside (default: the NodePort, or the API)" },
  output: { value: "FILE", about: "the docker-archive (default: NAME.tar)" },
  platform: {
    value: "LIST",
    about: "linux/amd64, linux/arm64 or both: one archive each (default: this one's)",
  },
  compress: {
    value: "LEVEL",
    about: "of the layers: none, fast, high (default: none; for a registry: fast)",
  },
  tag: {
    value: "NAME",
    multiple: true,
    about: "a further name in the archive, or of what is pushed; repeatable",
  },
  kubeconfig: { value: "FILE", about: "another kubeconfig than k3s's own; with a registry: than kubectl's" },
  context: { value: "NAME", about: "which context of that file; --target registry always takes one" },
  report: { value: "FILE", about: "the steps and their times as JSON" },
  id: { about: "print the id and build nothing" },
  sysroot: { value: "DIRECTORY", about: "a system of another architecture to take libraries and Bun from" },
  check: { about: "write nothing: say what differs, exit 1 if anything does" },
  with: { value: "LIST", about: "components to switch on: autoscaler, egress, ingress, monitoring" },
  verbose: { about: "stack traces and the whole output of what failed" },
  help: { about: "this text" },
} satisfies Record<string, Option>;

export type OptionName = keyof typeof optionDefinitions;

/** Options that every command takes. */
export const commonOptions = ["verbose", "help"] as const satisfies OptionName[];
/** Of commands that run steps. */
export const stepOptions = ["engine", "report"] as const satisfies OptionName[];
/** Of commands that make an archive. */
export const imageOptions = ["output", "platform", "compress", "tag"] as const satisfies OptionName[];
/** Of commands that go to a cluster. */
export const clusterOptions = [
  "target",
  "host",
  "registry",
  "url",
  "kubeconfig",
  "context",
] as const satisfies OptionName[];

/** Values as the command line has them, by name. */
export type OptionValues = { [Name in OptionName]?: string | boolean | string[] };

/** What a command is run with. */
export interface Options {
  /** Words after the command. */
  args: string[];
  engine: "dagger" | "host";
  target: "k3s" | "registry" | "none";
  output: string;
  /** k3s's that are reached over SSH; none: `target` says where it goes. */
  hosts: string[];
  /** Whether an archive was asked for by words: --output, --tag or --compress. */
  wantsArchive: boolean;
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
  sysroot: string | undefined;
  id: boolean;
  check: boolean;
  /** Components to switch on. */
  with: string[];
  verbose: boolean;
}

export function usageError(message: string): PipelineError {
  return new PipelineError("usage", message);
}

/** @throws {PipelineError} "usage" when a value cannot be, or two do not go together */
export function readOptions(
  values: OptionValues,
  args: string[],
  { name, hosts }: Pick<Service, "name" | "hosts">,
  env: Record<string, string | undefined>,
): Options {
  const text = (option: OptionName) => values[option] as string | undefined;
  const target = parseChoice("target", text("target") ?? "k3s", ["k3s", "registry", "none"]);
  const [registry, context, url] = [text("registry"), text("context"), text("url")];
  if (registry) parseReference(`${registry}:tag`);
  if (target === "registry") {
    // No deploy follows whatever context happens to be current.
    if (!registry || !context)
      throw usageError("--target registry takes --registry HOST/PATH and --context NAME");
  }
  if (url !== undefined) checkUrl(url);
  const named = values.host as string[] | undefined;
  // Who says where it goes does not mean the hosts of the settings.
  const elsewhere = [values.target, values.kubeconfig, context].some((value) => value !== undefined);
  const tags = (values.tag as string[] | undefined) ?? [];
  for (const tag of tags) {
    if (!/^[\w][\w.-]{0,127}$/.test(tag)) throw usageError(`--tag "${tag}" is no image tag`);
  }
  const architectures = text("platform")
    ?.split(",")
    .map((platform) =>
      parseChoice("platform", platform, ["linux/amd64", "linux/arm64"]).slice("linux/".length),
    );
  const inSession = env.DAGGER_SESSION_PORT !== undefined;
  const [compress, report] = [text("compress"), text("report")];
  return {
    args,
    engine: parseChoice("engine", text("engine") ?? (inSession ? "dagger" : "host"), ["dagger", "host"]),
    target,
    hosts: (named ?? (elsewhere ? [] : hosts)).map(parseHost),
    output: resolve(text("output") ?? `${name}.tar`),
    wantsArchive: text("output") !== undefined || compress !== undefined || tags.length > 0,
    architectures: architectures && ([...new Set(architectures)] as Architecture[]),
    compression: compress === undefined ? undefined : parseChoice("level", compress, compressions),
    tags,
    registry,
    report: report && resolve(report),
    url,
    kubeconfig: text("kubeconfig"),
    context,
    sysroot: text("sysroot"),
    id: values.id === true,
    check: values.check === true,
    with: text("with")?.split(",") ?? [],
    verbose: values.verbose === true,
  };
}

/**
 * Of a command that takes a target.
 *
 * @throws {PipelineError} "usage" when an option would have no effect with the one that is chosen
 */
export function validateTargetOptions(given: Options): void {
  const { target, registry, hosts } = given;
  if (hosts.length > 0 && target !== "k3s") throw usageError(`--host is a k3s: not with --target ${target}`);
  for (const name of ["kubeconfig", "context"] as const) {
    if (hosts.length > 0 && given[name] !== undefined)
      throw usageError(`--${name} is of this machine: not with --host`);
  }
  if (registry && target !== "registry") throw usageError("--registry goes with --target registry");
  if (target !== "none") return;
  for (const name of ["url", "kubeconfig", "context"] as const) {
    if (given[name] !== undefined) throw usageError(`--${name} is of a cluster: not with --target none`);
  }
}

/** @throws {PipelineError} "usage" where a version runs, which is for one platform */
export function assertSinglePlatform({ architectures = [] }: Options): void {
  if (architectures.length > 1)
    throw usageError("a deploy is for one platform: several go with `image` or --target none");
}

/** @throws {PipelineError} "usage" for what no client could ask: `localhost:30080` has the form of a URL, with a scheme of that name */
function checkUrl(given: string): void {
  const url = URL.parse(given);
  const isWeb = url !== null && /^https?:\/\//i.test(given);
  if (!isWeb || url.search || url.hash)
    throw usageError(`--url "${given}" is no URL of the form http(s)://HOST[:PORT][/PATH]`);
}

export function parseChoice<const T extends string>(what: string, given: string, known: readonly T[]): T {
  const found = known.find((value) => value === given);
  if (!found) throw usageError(`unknown ${what} "${given}": expected one of ${known.join(", ")}`);
  return found;
}

/** The lines of a usage about these options. */
export function describeOptions(names: readonly OptionName[]): string[] {
  return names.map((name) => {
    const { value, about }: Option = optionDefinitions[name];
    return `  ${`--${name}${value ? ` ${value}` : ""}`.padEnd(29)} ${about}`;
  });
}
