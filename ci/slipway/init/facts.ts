/** What init finds out, so that it asks nothing: from package.json, the source, the workspace, and the cluster if one answers. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { projectFiles } from "../ground/files.ts";
import { onPath, run } from "../ground/process.ts";
import { readPackage, type Package, type Service } from "../ground/service.ts";
import { lockfiles } from "../image/inputs.ts";

export interface Facts {
  service: Service;
  package: Package;
  /** The port that the source names; undefined: none, so that $PORT decides. */
  port: number | undefined;
  /** Whether there are test files. */
  hasTests: boolean;
  /** Whether the Dagger engine's client is a package of the service's. */
  hasDagger: boolean;
  /** The lockfile in the workspace's root; undefined: none. */
  lockfile: string | undefined;
  /** Directories of the workspace's members, from its root; none where there is no workspace. */
  members: string[];
  /** Files of the workspace's root that an installation reads, beside package.json of root and members. */
  installs: string[];
  /** The service's directory, from the workspace's root; "." where that is one. */
  directory: string;
  nodePort: number;
  /** Version of this package, and its name where it is published. */
  slipway: { name: string; version: string };
}

export async function findFacts(service: Service, signal: AbortSignal): Promise<Facts> {
  const { root, project } = service;
  const files = await projectFiles(root, signal);
  const own = files.filter((path) => join(root, path).startsWith(`${project}/`));
  const manifest = readPackage(project);
  const hasTests = own.some((path) => /(^|\/)[^/]*[._](test|spec)\.[cm]?[jt]sx?$/.test(path));
  return {
    // With the script that is added for them.
    service: hasTests && !service.scripts.test ? withTests(service) : service,
    package: manifest,
    port: findPort(readFileSync(join(project, service.entry), "utf8")),
    hasTests,
    hasDagger: "@dagger.io/dagger" in { ...manifest.dependencies, ...manifest.devDependencies },
    lockfile: lockfiles.find((name) => existsSync(join(root, name))),
    members: membersOf(root),
    installs: ["bunfig.toml", ".npmrc"].filter((name) => existsSync(join(root, name))),
    directory: relative(root, project) || ".",
    nodePort: await findNodePort(service, signal),
    slipway: await Bun.file(join(import.meta.dir, "../package.json")).json(),
  };
}

function withTests(service: Service): Service {
  return { ...service, scripts: { ...service.scripts, test: "test" } };
}

/** The number that stands where a server is told its port: `port: 3000`, `.listen(3000`, `PORT ?? 3000`. */
export function findPort(source: string): number | undefined {
  const forms = [
    /\bPORT\b["'\]]*\s*(?:\)\s*)?(?:\?\?|\|\|)\s*["']?(\d{2,5})/,
    /\bport\s*[:=]\s*["']?(\d{2,5})/i,
    /\.listen\(\s*["']?(\d{2,5})/,
  ];
  const found = forms.map((form) => form.exec(source)?.[1]).find(Boolean);
  const port = Number(found);
  return found && port > 0 && port < 65_536 ? port : undefined;
}

function membersOf(root: string): string[] {
  const { workspaces = [] } = readPackage(root);
  const patterns = Array.isArray(workspaces) ? workspaces : workspaces.packages;
  const found = patterns.flatMap((pattern) => {
    const clean = pattern.replace(/^\.\/|\/$/g, "");
    return [...new Bun.Glob(`${clean}/package.json`).scanSync({ cwd: root })];
  });
  return [...new Set(found)]
    .filter((path) => !path.includes("node_modules/"))
    .map((path) => path.slice(0, -"/package.json".length))
    .sort();
}

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
    const [, port] =
      /nodePort\s*\n?\s*value:\s*(\d{5})|nodePort:\s*(\d{5})/.exec(read(join(overlay, file))) ?? [];
    if (port) return Number(port);
  }
  const taken = await takenNodePorts(signal);
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

/** Of this machine's k3s, if it has one and this user may ask it. */
async function takenNodePorts(signal: AbortSignal): Promise<Set<number>> {
  if (!onPath("k3s")) return new Set();
  const query = ["get", "services", "--all-namespaces", "-o", "jsonpath={.items[*].spec.ports[*].nodePort}"];
  const command = ["k3s", "kubectl", "--request-timeout=3s", ...query];
  const { code, stdout } = await run(command, { signal, timeoutSeconds: 5 }).catch(() => ({
    code: 1,
    stdout: "",
  }));
  return new Set(code === 0 ? stdout.split(/\s+/).map(Number) : []);
}
