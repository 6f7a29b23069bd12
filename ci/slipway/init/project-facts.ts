/** What init finds out, so that it asks nothing: from package.json, the source, the workspace, and the cluster if one answers. */
import { existsSync, readdirSync, readFileSync, realpathSync } from "node:fs";
import { join, relative } from "node:path";
import { projectFiles } from "../core/project-files.ts";
import { isOnPath, runProcess } from "../core/process.ts";
import { findInstallInputs } from "../core/install-inputs.ts";
import { readPackage, type PackageJson, type Service } from "../core/service-config.ts";
import { findPort, hasHardcodedPort } from "./port-detection.ts";

export interface ProjectFacts {
  service: Service;
  package: PackageJson;
  /** The port that the source names; undefined: none, so that $PORT decides. */
  port: number | undefined;
  /** Whether it is one of node:http that no $PORT changes; Bun's servers take $PORT in any case. */
  isFixed: boolean;
  /** Whether there are test files. */
  hasTests: boolean;
  /** Whether the Dagger engine's client is a package of the service's. */
  hasDagger: boolean;
  /** Bun's lockfile in the workspace's root, as it is or as `bun install` makes it of another's. */
  lockfile: "bun.lock" | "bun.lockb";
  /** Directories of the workspace's members, from its root; none where there is no workspace. */
  members: string[];
  /** Files below the workspace's root that an installation reads, beside package.json of root and members. */
  installs: string[];
  /** Whether the installation runs scripts of the workspace's own, which may read anything. */
  hasHooks: boolean;
  /** The service's directory, from the workspace's root; "." where that is one. */
  directory: string;
  /** The workspace's root, from the repository's, where GitHub looks for workflows; "." where that is one. */
  workspace: string;
  nodePort: number;
  /** Version of this package, and its name where it is published. */
  slipway: { name: string; version: string };
}

export async function findFacts(service: Service, signal: AbortSignal): Promise<ProjectFacts> {
  const { root, project } = service;
  const files = await projectFiles(root, signal);
  const own = files.filter((path) => join(root, path).startsWith(`${project}/`));
  const manifest = readPackage(project);
  const source = readFileSync(join(project, service.entry), "utf8");
  const { members, files: installs, hasHooks } = findInstallInputs(root);
  const hasTests = own.some((path) => /(^|\/)[^/]*[._](test|spec)\.[cm]?[jt]sx?$/.test(path));
  return {
    // With the script that is added for them.
    service: hasTests && manifest.scripts?.test === undefined ? withTests(service) : service,
    package: manifest,
    port: findPort(source),
    isFixed: hasHardcodedPort(source),
    hasTests,
    hasDagger: "@dagger.io/dagger" in { ...manifest.dependencies, ...manifest.devDependencies },
    lockfile:
      existsSync(join(root, "bun.lockb")) && !existsSync(join(root, "bun.lock")) ? "bun.lockb" : "bun.lock",
    members,
    installs,
    hasHooks,
    directory: relative(root, project) || ".",
    workspace: await findWorkspace(root, signal),
    nodePort: await findNodePort(service, signal),
    slipway: await Bun.file(join(import.meta.dir, "../package.json")).json(),
  };
}

function withTests(service: Service): Service {
  return { ...service, scripts: { ...service.scripts, test: service.scripts.test ?? "test" } };
}

async function findWorkspace(root: string, signal: AbortSignal): Promise<string> {
  if (!isOnPath("git")) return ".";
  const command = ["git", "rev-parse", "--show-toplevel"];
  const { code, stdout } = await runProcess(command, { cwd: root, signal, timeoutSeconds: 20 });
  const top = stdout.replace(/\n$/, "");
  return (code === 0 && existsSync(top) && relative(realpathSync(top), root)) || ".";
}

/** As a patch of one value, on one line or more, or as a Service has it. */
const nodePortForm = /nodePort["']?,?\s*(?:["']?value["']?\s*)?:\s*["']?(\d{5})/;

/** Where Kubernetes takes NodePorts from by default, without 30080, which everybody's first example has. */
const [FIRST, COUNT] = [30_100, 2_600];

/**
 * The NodePort in the overlay that is there, else one that follows from the name, so that two services do not collide; where a
 * k3s answers, one that is free there.
 */
async function findNodePort(
  { project, overlays, name, namespace }: Service,
  signal: AbortSignal,
): Promise<number> {
  const overlay = join(project, overlays.k3s);
  for (const file of existsSync(overlay) ? readdirSync(overlay) : []) {
    const [, port] = nodePortForm.exec(read(join(overlay, file))) ?? [];
    if (port) return Number(port);
  }
  const { own, taken } = await clusterNodePorts({ name, namespace }, signal);
  if (own !== undefined) return own;
  const start = Number(Bun.hash(`${namespace}/${name}`) % BigInt(COUNT));
  for (let i = 0; i < COUNT; i += 1) {
    const port = FIRST + ((start + i) % COUNT);
    if (!taken.has(port)) return port;
  }
  return FIRST;
}

function read(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return "";
  }
}

/** Of this machine's k3s, if it has one and this user may ask it: the port that the service has there, and all. */
async function clusterNodePorts(
  { name, namespace }: Pick<Service, "name" | "namespace">,
  signal: AbortSignal,
): Promise<{ own: number | undefined; taken: Set<number> }> {
  if (!isOnPath("k3s")) return { own: undefined, taken: new Set() };
  const line = "{.metadata.namespace}/{.metadata.name} {.spec.ports[*].nodePort}";
  const query = [
    "get",
    "services",
    "--all-namespaces",
    "-o",
    `jsonpath={range .items[*]}${line}{"\\n"}{end}`,
  ];
  const command = ["k3s", "kubectl", "--request-timeout=3s", ...query];
  const { code, stdout } = await runProcess(command, { signal, timeoutSeconds: 5 }).catch(() => ({
    code: 1,
    stdout: "",
  }));
  const services = (code === 0 ? stdout : "").split("\n").map((line) => line.split(" "));
  const ports = (words: string[]) => words.slice(1).filter(Boolean).map(Number);
  const own = services.find(([service]) => service === `${namespace}/${name}`) ?? [];
  return { own: ports(own)[0], taken: new Set(services.flatMap(ports)) };
}
