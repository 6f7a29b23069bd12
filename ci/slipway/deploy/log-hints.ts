/**
 * Recognizes common failures in container logs (read-only file system, missing program or file, blocked egress) and
 * suggests a fix.
 */
import { existsSync } from "node:fs";
import { dirname, join, posix } from "node:path";
import type { Service } from "../core/resolve-service.ts";
import { findDatabaseFile } from "./find-sqlite-file.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import { isWorkload } from "../kubernetes/workload-state.ts";
import { podTemplates } from "../kubernetes/pod-templates.ts";

/** Read-only file system, as the system and SQLite report it. The image's own files belong to root, so they report EACCES. */
const READ_ONLY =
  /\bEROFS\b|\bEACCES\b[^\n]*, (?:open|mkdir|rename|unlink|rmdir|copyfile) '(?:[^\/'\n]|\/srv\/)|read-only file system|SQLITE_CANTOPEN|unable to open database file|SQLITE_READONLY|readonly database/i;
/** SQLite's errors, which do not name the file. */
const SQLITE = /sqlite|database/i;
/** The path in Node's errors. Of two paths, the last is the target. */
const READ_ONLY_PATH = /\b(?:EROFS|EACCES)\b[^\n]*?'(?:[^'\n]*' -> ')?([^'\n]+)'/;
/** A missing program, as node:child_process, Bun.spawn and Bun's shell report it. */
const MISSING_PROGRAM =
  /\bENOENT\b[^\n]*\bposix_spawn '([^'\n]+)'|\bspawn (\S+) ENOENT|Executable not found in \$PATH: "([^"\n]+)"|bun: command not found: (\S+)/;
/** A missing file. */
const MISSING_FILE = /\bENOENT\b[^\n]*?, (?!posix_spawn)\w+ '([^'\n]+)'/g;
/** An unreachable host, as the system, Bun and its database clients report it. */
const UNREACHABLE =
  /\b(EAI_AGAIN|ENOTFOUND|ECONNREFUSED|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH|ConnectionRefused|ERR_[A-Z]+_CONNECTION_[A-Z]+)\b|Failed to connect\b/;
/** An address of the pod itself, to which no policy applies. */
const LOOPBACK = /(connect|REFUSED|address:|path:|hostname:)[^\n]*(\b127\.\d|\blocalhost\b|::1\b)/i;

/** Returns cause and fix as sentences, or undefined if the log shows none of these failures. */
export function diagnoseLogs(
  output: string,
  { project }: Pick<Service, "project">,
  manifests: KubeObject[] = [],
): string | undefined {
  return diagnoseWrite(output, project, manifests) ?? diagnoseProgram(output) ?? diagnoseFile(output, project);
}

function diagnoseWrite(output: string, project: string, manifests: KubeObject[]): string | undefined {
  if (!READ_ONLY.test(output)) return undefined;
  const [, named] = READ_ONLY_PATH.exec(output) ?? [];
  const path = named ?? (SQLITE.test(output) ? findDatabaseFile(output, project, manifests) : undefined);
  return `The service writes to ${path ?? "a file"}, but only /tmp and volumes are writable. Mount an emptyDir or a PersistentVolumeClaim there.`;
}

function diagnoseProgram(output: string): string | undefined {
  const found = MISSING_PROGRAM.exec(output)?.slice(1).find(Boolean);
  return found && `The service starts ${found}, but the image contains no other program, not even a shell.`;
}

/** Finds a missing file that exists in the project, at the path that it would have in the image. */
function diagnoseFile(output: string, project: string): string | undefined {
  for (const [, path = ""] of output.matchAll(MISSING_FILE)) {
    const file = posix.normalize(path).replace(/^\/(?:\$bunfs\/root|srv)\/|^\/|\/$/g, "");
    if (file === "" || file === "." || file.startsWith("..") || !existsSync(join(project, file))) continue;
    if (!file.startsWith("node_modules/")) return describeFile(file);
  }
  return findMissingFile(output, project);
}

const describeFile = (file: string) =>
  `The service reads ${file}, which is in the project but not in the image. Set \`files: ["${file}"]\` in ci/pipeline.ts.`;

/** A package that is loaded by its name, as Bun, Node and pino report it. */
const MISSING_PACKAGE =
  /Cannot find (?:module|package) ["']((?:@[\w.-]+\/)?[a-z][\w.-]*)["'\/]|transport target for "((?:@[\w.-]+\/)?[\w.-]+)/;

/**
 * Finds a file of the service or of a package that a log reports as missing. The service may run and serve nevertheless.
 *
 * @returns a sentence that names the setting
 */
export function findMissingFile(output: string, project: string): string | undefined {
  for (const [, path = ""] of output.matchAll(MISSING_FILE)) {
    const normal = posix.normalize(path).replace(/\/$/, "");
    const [, name] = /^\/(?:srv\/)?node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(normal) ?? [];
    if (name && name !== ".bundled")
      return `The package ${name} reads ${normal}, which is not in the image. Set \`nativePackages: ["${name}"]\` in ci/pipeline.ts.`;
    if (normal.startsWith("/node_modules/.bundled")) return describeUnknownPackage(output, normal);
    const [, file] = /^\/srv\/(.+)$/.exec(normal) ?? [];
    if (!file) continue;
    if (existsSync(join(project, file))) return describeFile(file);
    return `The service reads ${file}, which is neither in the image nor in the project. If a script generates it, add the script to \`prebuild\` and the file to \`files\` in ci/pipeline.ts.`;
  }
  const [, module, transport] = MISSING_PACKAGE.exec(output) ?? [];
  const named = module ?? transport;
  if (!named) return undefined;
  const step = isInstalled(named, project) ? "Set" : `Run \`bun add ${named}\`, and set`;
  return `The service loads the package ${named}, which is not in the image. ${step} \`nativePackages: ["${named}"]\` in ci/pipeline.ts.`;
}

function isInstalled(name: string, project: string): boolean {
  for (let at = project; ; at = dirname(at)) {
    if (existsSync(join(at, "node_modules", name))) return true;
    if (at === dirname(at)) return false;
  }
}

/** Names the package in the first line of the stack after the error. */
function describeUnknownPackage(output: string, path: string): string | undefined {
  const stack = output.slice(output.indexOf(path));
  const [, name] = /\bat [^\n]*node_modules\/((?:@[^/\s]+\/)?[^/\s]+)\//.exec(stack) ?? [];
  return (
    name &&
    `The package ${name} reads a file beside its module, which is not in the image. Set \`nativePackages: ["${name}"]\` in ci/pipeline.ts.`
  );
}

/** Detects that a running service listens on another port than its container declares. */
export function diagnosePortMismatch({ name, port }: Service, manifests: KubeObject[]): string | undefined {
  const deployment = manifests.find(({ kind, metadata }) => kind === "Deployment" && metadata.name === name);
  const containers = deployment ? podTemplates(deployment).flatMap(({ spec }) => spec.containers) : [];
  const container = containers.find((candidate) => candidate.name === name) ?? containers[0];
  const declared = container?.ports?.map(({ containerPort }) => containerPort) ?? [];
  const configured = Number(container?.env?.find((variable) => variable.name === "PORT")?.value ?? port);
  if (declared.length === 0 || declared.includes(configured)) return undefined;
  return `The service gets PORT=${configured}, but containerPort is ${declared.join(", ")}. Set \`port\` in ci/pipeline.ts and containerPort in the manifests to the same value.`;
}

interface NetworkPolicy extends KubeObject {
  spec: {
    podSelector?: { matchLabels?: Record<string, string>; matchExpressions?: unknown[] };
    policyTypes?: string[];
    egress?: object[];
  };
}

/**
 * Detects that the manifests' network policies block the service's outgoing connections.
 *
 * @param isSilent whether the service runs without responding, as if it waited for another host. Then the hint is
 * given whatever the log says
 */
export function diagnoseBlockedEgress(
  output: string,
  { name }: Pick<Service, "name">,
  manifests: KubeObject[],
  isSilent = false,
): string | undefined {
  const isReported = UNREACHABLE.test(output) && !LOOPBACK.test(output);
  if (!isReported && !isSilent) return undefined;
  const workload = manifests.find((object) => isWorkload(object) && object.metadata.name === name);
  const labels = workload ? podTemplates(workload)[0]?.metadata?.labels : undefined;
  if (!labels) return undefined;
  const policies = manifests.filter(({ kind }) => kind === "NetworkPolicy") as NetworkPolicy[];
  const blocking = policies.filter(({ spec: { podSelector = {}, policyTypes, egress } }) => {
    const { matchLabels = {}, matchExpressions = [] } = podSelector;
    const selects = Object.entries(matchLabels).every(([label, value]) => labels[label] === value);
    return selects && matchExpressions.length === 0 && (policyTypes?.includes("Egress") ?? egress !== undefined);
  });
  if (blocking.length === 0) return undefined;
  const rules = blocking.flatMap(({ spec: { egress = [] } }) => egress);
  // A rule without a condition allows everything.
  if (rules.some((rule) => Object.values(rule).flat().length === 0)) return undefined;
  const cause = isReported ? "The service cannot reach another host" : "The service may be waiting for another host";
  const names = `NetworkPolicy ${blocking.map(({ metadata }) => metadata.name).join(", ")}`;
  return rules.length === 0
    ? `${cause}: ${names} blocks all outgoing traffic, DNS included. Allow the hosts that it needs with \`slipway init --with egress\`.`
    : `${cause}: outgoing traffic is limited to the destinations in ${names}.`;
}
