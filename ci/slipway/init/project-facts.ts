/** Detects facts for init from package.json, the source, the workspace and, if available, the cluster. */
import { existsSync, readdirSync, readFileSync, realpathSync } from "node:fs";
import { hostname } from "node:os";
import { join, relative } from "node:path";
import { projectFiles } from "../core/project-files.ts";
import { runGit } from "../core/git.ts";
import { sha256 } from "../core/hash.ts";
import { findIdentity } from "../core/project-identity.ts";
import { PROJECT } from "../kubernetes/prepare-for-apply.ts";
import { isOnPath, runProcess } from "../core/process.ts";
import { findInstallVariables } from "../core/install-access.ts";
import { findBunInstallInputs } from "../core/install-inputs.ts";
import { readPackage, type PackageJson, type Service } from "../core/resolve-service.ts";
import { findEntryCandidates, type EntryCandidate } from "../core/entry-detection.ts";
import { NO_PORT, detectPort } from "./module-ports.ts";
import { startsNoServer } from "./worker-detection.ts";
import { proposeFiles } from "./propose-files.ts";
import { proposeSecrets, type ProposedVariables } from "./propose-secrets.ts";

export interface ProjectFacts {
  service: Service;
  package: PackageJson;
  /** Port in the source. If undefined, $PORT decides. */
  port: number | undefined;
  /** The module with the port, relative to the project. */
  portModule: string | undefined;
  /** Whether a node:http server ignores $PORT. Bun's servers always honour it. */
  isFixed: boolean;
  /** Whether the entry starts no server, like a queue worker or a timer. A Service in the manifests and the setting `port` decide first. */
  isWorker: boolean;
  /** Modules that may be the entry, in order of preference. */
  entries: EntryCandidate[];
  /** Files that the service opens by path, for the `files` setting. */
  openedFiles: string[];
  /** Variables that an example of a .env file names, for the `secrets` setting. */
  environment: ProposedVariables;
  /** Whether there are test files. */
  hasTests: boolean;
  /** Whether the service depends on Dagger's SDK. */
  hasDagger: boolean;
  /** Lockfile in the workspace's root, which `bun install` also creates from another package manager's lockfile. */
  lockfile: "bun.lock" | "bun.lockb";
  /** Directories of the workspace's members, relative to its root. Empty without a workspace. */
  members: string[];
  /** Inputs of the installation other than package.json files, relative to the workspace's root. */
  installs: string[];
  /** Local packages outside the workspace, as package.json names them. */
  outside: string[];
  /** Variables that bunfig.toml and .npmrc name. */
  variables: string[];
  /** Whether the installation runs scripts of the workspace, which may read any file. */
  hasHooks: boolean;
  /** The service's directory, relative to the workspace's root. May be ".". */
  directory: string;
  /** The workspace's root, relative to the repository's root. May be ".". */
  workspace: string;
  nodePort: number;
  /** The identity in ci/pipeline.ts. Undefined if the repository's origin gives one. */
  writtenIdentity: string | undefined;
  /** Published name and version of this package. */
  slipway: { name: string; version: string };
}

export async function findFacts(service: Service, signal: AbortSignal): Promise<ProjectFacts> {
  const { root, project } = service;
  const files = await projectFiles(root, signal);
  const serviceFiles = files.filter((path) => join(root, path).startsWith(`${project}/`));
  const manifest = readPackage(project);
  const { members, files: installs, hasHooks, outside } = findBunInstallInputs(root);
  const identity = await findIdentity(service, signal);
  const writtenIdentity = service.identity ?? (identity === undefined ? createIdentity(service) : undefined);
  const hasPort = service.isPortSet || existsSync(join(project, "k8s/base/service.yaml"));
  const isWorker = !hasPort && startsNoServer(project, service.entry, manifest);
  const hasTests = serviceFiles.some((path) => /(^|\/)[^/]*[._](test|spec)\.[cm]?[jt]sx?$/.test(path));
  return {
    // init adds a script for the tests.
    service: hasTests && manifest.scripts?.test === undefined ? withTests(service) : service,
    package: manifest,
    // A number in the source of a worker is the port of another service.
    ...(isWorker ? NO_PORT : detectPort(project, service.entry)),
    isWorker,
    entries: findEntryCandidates(project, manifest),
    openedFiles: proposeFiles(
      service,
      serviceFiles.map((path) => relative(project, join(root, path))),
    ),
    environment: proposeSecrets(project),
    hasTests,
    hasDagger: "@dagger.io/dagger" in { ...manifest.dependencies, ...manifest.devDependencies },
    lockfile: existsSync(join(root, "bun.lockb")) && !existsSync(join(root, "bun.lock")) ? "bun.lockb" : "bun.lock",
    members,
    installs,
    outside,
    variables: findInstallVariables(root, members),
    hasHooks,
    directory: relative(root, project) || ".",
    workspace: await findWorkspace(root, signal),
    nodePort: await findNodePort(service, identity ?? writtenIdentity!, signal),
    writtenIdentity,
    slipway: await Bun.file(join(import.meta.dir, "../package.json")).json(),
  };
}

/** Creates an identity that no other project has, and that a second run of init gives again. */
function createIdentity({ name, project }: Service): string {
  return `${name}-${sha256(`${hostname()} ${project}`).slice(0, 8)}`;
}

function withTests(service: Service): Service {
  return { ...service, scripts: { ...service.scripts, test: service.scripts.test ?? "test" } };
}

async function findWorkspace(root: string, signal: AbortSignal): Promise<string> {
  const top = (await runGit(["rev-parse", "--show-toplevel"], { cwd: root, signal }))?.replace(/\n$/, "");
  return (top !== undefined && existsSync(top) && relative(realpathSync(top), root)) || ".";
}

/** Matches a NodePort in a patch or in a Service. */
const nodePortPattern = /nodePort["']?,?\s*(?:["']?value["']?\s*)?:\s*["']?(\d{5})/;

/** Default range of NodePorts, without the low ports that examples use, such as 30080. */
const [FIRST_PORT, PORT_COUNT] = [30_100, 2_600];

/**
 * Finds the service's NodePort in the overlay or in the cluster. Otherwise derives one from the project's identity, so that services
 * do not collide, and skips ports that are taken in the cluster.
 */
async function findNodePort(
  { project, overlays, name, namespace }: Service,
  identity: string,
  signal: AbortSignal,
): Promise<number> {
  const overlay = join(project, overlays.k3s);
  for (const file of existsSync(overlay) ? readdirSync(overlay) : []) {
    const [, port] = nodePortPattern.exec(read(join(overlay, file))) ?? [];
    if (port) return Number(port);
  }
  const { current, taken } = await clusterNodePorts({ name, namespace, identity }, signal);
  if (current !== undefined) return current;
  const start = Number(Bun.hash(`${identity} ${namespace}/${name}`) % BigInt(PORT_COUNT));
  for (let i = 0; i < PORT_COUNT; i += 1) {
    const port = FIRST_PORT + ((start + i) % PORT_COUNT);
    if (!taken.has(port)) return port;
  }
  return FIRST_PORT;
}

function read(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return "";
  }
}

/**
 * Queries this machine's k3s for the service's NodePort and for all taken ports. Without access the result is empty. A Service of the
 * same name that belongs to another project keeps its port.
 */
async function clusterNodePorts(
  { name, namespace, identity }: { name: string; namespace: string; identity: string },
  signal: AbortSignal,
): Promise<{ current: number | undefined; taken: Set<number> }> {
  if (!isOnPath("k3s")) return { current: undefined, taken: new Set() };
  const owner = `{.metadata.annotations.${PROJECT.replaceAll(".", "\\.")}}`;
  const line = `{.metadata.namespace}/{.metadata.name} {.spec.ports[*].nodePort}\t${owner}`;
  const query = ["get", "services", "--all-namespaces", "-o", `jsonpath={range .items[*]}${line}{"\\n"}{end}`];
  const command = ["k3s", "kubectl", "--request-timeout=3s", ...query];
  const { code, stdout } = await runProcess(command, { signal, timeoutSeconds: 5 }).catch(() => ({
    code: 1,
    stdout: "",
  }));
  const services = (code === 0 ? stdout : "").split("\n").map((line) => {
    const [before = "", owner = ""] = line.split("\t");
    return { owner, fields: before.split(" ") };
  });
  const ports = ({ fields }: { fields: string[] }) => fields.slice(1).filter(Boolean).map(Number);
  const found = services.find(
    ({ fields, owner }) => fields[0] === `${namespace}/${name}` && (owner === "" || owner === identity),
  ) ?? { fields: [] };
  return { current: ports(found)[0], taken: new Set(services.flatMap(ports)) };
}
