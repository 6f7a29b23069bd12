/** Defines every command-line option once. A command lists the options that it takes. */
import { resolve } from "node:path";
import { PipelineError } from "../core/errors.ts";
import type { Service } from "../core/resolve-service.ts";
import { compressions, type Compression } from "../image/docker-archive-writer.ts";
import type { Architecture } from "../image/architecture.ts";
import { parseHost } from "../ssh/host.ts";
import { findNearest } from "./find-nearest.ts";
import { parseReference } from "../registry/reference.ts";

export interface Option {
  /** Form of the value in the help. Default: the option takes no value. */
  value?: string;
  multiple?: boolean;
  short?: string;
  about: string;
}

export const optionDefinitions = {
  engine: { value: "dagger|host", about: "where steps run (default: dagger under `dagger run`, else host)" },
  target: {
    value: "k3s|registry|none",
    about: "k3s on this machine, a cluster with a registry, or the archive alone (default: k3s)",
  },
  host: {
    value: "[USER@]HOST",
    multiple: true,
    about: "k3s on another machine, over SSH (repeat it for each node that may run the pods)",
  },
  registry: { value: "HOST/PATH", about: "repository for the image, without a tag" },
  url: {
    value: "URL",
    about: "public URL of the Service (default: the NodePort, or through the API server)",
  },
  output: { value: "FILE", about: "image archive to write (default: NAME.tar)" },
  platform: {
    value: "LIST",
    about: "linux/amd64, linux/arm64 or both, with one archive each (default: this machine's)",
  },
  compress: { value: "FORMAT", about: "compression of the layers: zstd or none (default: zstd)" },
  tag: {
    value: "NAME",
    multiple: true,
    about: "additional tag of the image (repeatable)",
  },
  kubeconfig: { value: "FILE", about: "kubeconfig (default: k3s's own, with a registry kubectl's)" },
  context: { value: "NAME", about: "context in the kubeconfig, required with --target registry" },
  report: { value: "FILE", about: "write the steps and their times as JSON" },
  id: { about: "print the image ID and build nothing" },
  sysroot: { value: "DIRECTORY", about: "root of another architecture, for its libraries and its Bun" },
  check: { about: "print the differences and write nothing, exit 1 if a file differs" },
  minimal: { about: "leave out ingress, load balancer and metrics, for CI" },
  with: { value: "LIST", about: "components to switch on: autoscaler, egress, ingress, monitoring" },
  follow: { short: "f", about: "keep printing new lines, also through a rollout" },
  lines: { value: "N|all", short: "n", about: "lines from the end, of all pods together (default: 100)" },
  since: { value: "TIME", about: "only lines of the last TIME, such as 90s, 10m, 2h or 1d" },
  previous: { about: "only the containers before their last restart" },
  grep: { value: "TEXT", about: "only lines that contain TEXT" },
  "no-restart": { about: "store the values only, and keep the running pods" },
  json: { about: "print JSON" },
  wait: { value: "SECONDS", about: "wait so long for another deploy's lock (default: 0)" },
  yes: { value: "NAME", about: "delete without a question, if NAME is the service's name" },
  volumes: { about: "also delete the volume claims, with their data" },
  namespace: { about: "also delete the namespace, with everything that others made in it" },
  deadline: { value: "TIME", about: "end the program after TIME, such as 90s, 10m or 2h (default: 1h)" },
  verbose: { about: "print stack traces and the whole output of a failed tool" },
  help: { short: "h", about: "print this text" },
  version: { short: "v", about: "print the versions of slipway and Bun" },
} satisfies Record<string, Option>;

export type OptionName = keyof typeof optionDefinitions;

/** Options of every command. */
export const commonOptions = ["verbose", "help", "version"] as const satisfies OptionName[];
/** Options of commands that run steps. */
export const stepOptions = ["engine", "report"] as const satisfies OptionName[];
/** Options of commands that build an image. */
export const imageOptions = ["platform"] as const satisfies OptionName[];
/** Options of the archive, for `image`. */
export const archiveOptions = ["output", "compress", "tag"] as const satisfies OptionName[];
/** Options of commands that connect to a cluster. */
export const clusterOptions = [
  "target",
  "host",
  "registry",
  "url",
  "kubeconfig",
  "context",
] as const satisfies OptionName[];
/** Options of commands that take the deploy lock. */
export const lockOptions = ["wait"] as const satisfies OptionName[];

/** Values on the command line, by name. */
export type OptionValues = { [Name in OptionName]?: string | boolean | string[] };

/** Parsed command line. */
export interface Options {
  /** Arguments after the command. */
  args: string[];
  engine: "dagger" | "host";
  target: "k3s" | "registry" | "none";
  output: string;
  /** k3s machines to reach over SSH. If empty, `target` decides. */
  hosts: string[];
  /** Default: the engine's architecture. */
  architectures: Architecture[] | undefined;
  compression: Compression | undefined;
  tags: string[];
  registry: string | undefined;
  /** JSON file for the steps and their times. */
  report: string | undefined;
  url: string | undefined;
  kubeconfig: string | undefined;
  context: string | undefined;
  sysroot: string | undefined;
  id: boolean;
  check: boolean;
  minimal: boolean;
  /** Components to switch on. */
  with: string[];
  follow: boolean;
  lines: number | "all" | undefined;
  /** In seconds. */
  since: number | undefined;
  previous: boolean;
  grep: string | undefined;
  noRestart: boolean;
  json: boolean;
  /** Name that confirms a deletion. */
  yes: string | undefined;
  volumes: boolean;
  namespace: boolean;
  /** Seconds to wait for the deploy lock. */
  wait: number;
  /** In seconds. */
  deadline: number | undefined;
  verbose: boolean;
}

export function usageError(message: string): PipelineError {
  return new PipelineError("usage", message);
}

/** @throws {PipelineError} "usage" if a value is invalid or two options exclude each other */
export function readOptions(
  values: OptionValues,
  args: string[],
  { name, hosts }: Pick<Service, "name" | "hosts">,
  env: Record<string, string | undefined>,
): Options {
  const text = (option: OptionName) => values[option] as string | undefined;
  const target = parseChoice("target", text("target") ?? "k3s", ["k3s", "registry", "none"]);
  const [registry, context, url] = [text("registry"), text("context"), text("url")];
  if (registry) checkRepository(registry);
  if (target === "registry") {
    // A deploy never follows the current context.
    if (!registry || !context) throw usageError("--target registry requires --registry HOST/PATH and --context NAME");
  }
  if (url !== undefined) checkUrl(url);
  // An explicit cluster replaces the hosts of the settings.
  const hasCluster = [values.target, values.kubeconfig, context].some((value) => value !== undefined);
  const hostNames = (values.host as string[] | undefined) ?? (hasCluster ? [] : hosts);
  const tags = (values.tag as string[] | undefined) ?? [];
  for (const tag of tags) {
    if (!/^[\w][\w.-]{0,127}$/.test(tag)) throw usageError(`--tag "${tag}" is not a valid image tag`);
  }
  const architectures = text("platform")
    ?.split(",")
    .map((platform) => parseChoice("platform", platform, ["linux/amd64", "linux/arm64"]).slice("linux/".length));
  const inSession = env.DAGGER_SESSION_PORT !== undefined;
  const [compress, report] = [text("compress"), text("report")];
  return {
    args,
    engine: parseChoice("engine", text("engine") ?? (inSession ? "dagger" : "host"), ["dagger", "host"]),
    target,
    hosts: hostNames.map(parseHost),
    output: resolve(text("output") ?? `${name}.tar`),
    architectures: architectures && ([...new Set(architectures)] as Architecture[]),
    compression: compress === undefined ? undefined : parseChoice("compress", compress, compressions),
    tags,
    registry,
    report: report && resolve(report),
    url,
    kubeconfig: text("kubeconfig"),
    context,
    sysroot: text("sysroot"),
    id: values.id === true,
    check: values.check === true,
    minimal: values.minimal === true,
    with: text("with")?.split(",") ?? [],
    follow: values.follow === true,
    lines: parseLines(text("lines")),
    since: parseDuration("since", text("since")),
    previous: values.previous === true,
    grep: text("grep"),
    noRestart: values["no-restart"] === true,
    json: values.json === true,
    yes: text("yes"),
    volumes: values.volumes === true,
    namespace: values.namespace === true,
    wait: parseSeconds("wait", text("wait")),
    deadline: parseDuration("deadline", text("deadline")),
    verbose: values.verbose === true,
  };
}

/**
 * Checks that every option has an effect with the chosen target.
 *
 * @throws {PipelineError} "usage" if an option would have none
 */
export function validateTargetOptions(options: Options): void {
  const { target, registry, hosts } = options;
  const exclude = (names: readonly ("url" | "kubeconfig" | "context")[], other: string) => {
    const name = names.find((name) => options[name] !== undefined);
    if (name) throw usageError(`--${name} cannot be combined with ${other}`);
  };
  if (hosts.length > 0 && target !== "k3s") throw usageError(`--host cannot be combined with --target ${target}`);
  if (hosts.length > 0) exclude(["kubeconfig", "context"], "--host");
  if (registry && target !== "registry") throw usageError("--registry requires --target registry");
  if (target === "none") exclude(["url", "kubeconfig", "context"], "--target none");
}

/** @throws {PipelineError} "usage" if a deploy names several platforms */
export function assertSinglePlatform({ architectures = [] }: Options): void {
  if (architectures.length > 1)
    throw usageError("a deploy takes a single platform. Build several with `image` or --target none");
}

/**
 * Checks the value of --url. `localhost:30080` parses as a URL with the scheme `localhost`, so the scheme is checked too.
 *
 * @throws {PipelineError} "usage" if it is not an HTTP URL, or has a query or a fragment
 */
function checkUrl(text: string): void {
  const url = URL.parse(text);
  const isWeb = url !== null && /^https?:\/\//i.test(text);
  if (!isWeb || url.search || url.hash)
    throw usageError(`--url "${text}" is not of the form http(s)://HOST[:PORT][/PATH]`);
}

function parseLines(text: string | undefined): number | "all" | undefined {
  if (text === undefined || text === "all") return text;
  if (!/^\d{1,9}$/.test(text)) throw usageError(`--lines "${text}" is neither a number nor all`);
  return Number(text);
}

/** @throws {PipelineError} "usage" if the text is not a number of seconds */
function parseSeconds(option: OptionName, text = "0"): number {
  if (!/^\d{1,6}$/.test(text)) throw usageError(`--${option} "${text}" is not a number of seconds`);
  return Number(text);
}

const secondsPerUnit = { s: 1, m: 60, h: 3600, d: 86_400 };

/** @returns seconds @throws {PipelineError} "usage" if the text is not a number with a unit */
function parseDuration(option: OptionName, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const [, number, unit] = /^(\d{1,6})([smhd])$/.exec(text) ?? [];
  if (number === undefined || Number(number) === 0)
    throw usageError(`--${option} "${text}" is not a time such as 90s, 10m, 2h or 1d`);
  return Number(number) * secondsPerUnit[unit as keyof typeof secondsPerUnit];
}

/** @throws {PipelineError} "usage" if a value of --registry is not a repository */
function checkRepository(repository: string): void {
  try {
    parseReference(`${repository}:tag`);
  } catch {
    // The part before an @ can contain a password.
    const shown = repository.replace(/.*@/, "…@");
    throw new PipelineError("usage", `--registry "${shown}" is not of the form HOST[:PORT]/PATH`, {
      hint: "For Docker Hub, use docker.io/NAME/IMAGE.",
    });
  }
}

/** @throws {PipelineError} "usage" if the value is not among the choices */
export function parseChoice<const T extends string>(what: string, text: string, choices: readonly T[]): T {
  const found = choices.find((choice) => choice === text);
  if (found) return found;
  const near = findNearest(text, choices);
  const hint = near ? `did you mean "${near}"?` : `expected one of ${choices.join(", ")}`;
  throw usageError(`unknown ${what} "${text}": ${hint}`);
}

/** Describes options for the help, with a line for each. */
export function describeOptions(names: readonly OptionName[]): string[] {
  return names.map((name) => {
    const { value, short, about }: Option = optionDefinitions[name];
    return `  ${`--${name}${short ? `, -${short}` : ""}${value ? ` ${value}` : ""}`.padEnd(29)} ${about}`;
  });
}
