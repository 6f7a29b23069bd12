/**
 * A service as slipway knows it: its settings, and what was found out where they say nothing. It is handed in, so that
 * nothing here is about one service alone.
 */
import { existsSync, readFileSync, realpathSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import type { Settings } from "../index.d.ts";
import { PipelineError } from "./errors.ts";

/** The settings with their defaults. */
export interface Service {
  /** The directory with package.json. */
  project: string;
  /** The workspace's directory where the service is a member of one, else `project`: the lockfile is there. */
  root: string;
  name: string;
  version: string;
  description: string | undefined;
  license: string | undefined;
  namespace: string;
  entry: string;
  port: number;
  attach: boolean;
  /** undefined: there is no such script. */
  scripts: { check: string | undefined; test: string | undefined };
  overlays: { k3s: string; registry: string };
  versionPath: string;
  entries: Record<string, string>;
  prebuild: string[];
  files: string[];
  nativePackages: string[];
  external: string[];
  define: Record<string, string>;
  publicEnv: string;
  plugins: unknown[];
  bun: string | undefined;
  smokeEnv: Record<string, string>;
  hosts: string[];
  keepVersions: number;
  readyTimeoutSeconds: number;
  scheduleTimeoutSeconds: number;
  rolloutTimeoutSeconds: number;
}

/** The parts of package.json that matter here. */
export interface PackageJson {
  name?: string;
  version?: string;
  description?: string;
  /** Formerly an object. */
  license?: string | { type?: string };
  type?: string;
  module?: string;
  main?: string;
  scripts?: Record<string, string>;
  workspaces?: string[] | { packages?: string[] };
  packageManager?: string;
  dependencies?: Record<string, string>;
  devDependencies?: Record<string, string>;
  optionalDependencies?: Record<string, string>;
  patchedDependencies?: Record<string, string>;
}

/** What a Kubernetes object can be called. https://kubernetes.io/docs/concepts/overview/working-with-objects/names/ */
const LABEL = /^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$/;

/** Where the entry is, if nothing says so. */
const entries = ["src/main", "src/index", "src/server", "index", "main", "server", "src/app", "app"].flatMap(
  (name) => ["ts", "tsx", "mts", "js", "mjs", "cjs"].map((ending) => `${name}.${ending}`),
);

/**
 * @param directory the one with package.json
 * @throws {PipelineError} "project" when a setting cannot be, or what has no setting cannot be found out
 */
export function resolveService(directory: string, settings: Settings = {}): Service {
  // The bundler sees through links.
  const project = existsSync(directory) ? realpathSync(directory) : directory;
  const own = readPackage(project);
  const name = settings.name ?? serviceNameOf(own, project);
  const { namespace = name } = settings;
  for (const [what, value] of Object.entries({ name, namespace })) {
    if (!LABEL.test(value))
      throw wrong(`the service's ${what} "${value}" is no DNS label (a-z, 0-9, -; at most 63)`, hints.name);
  }
  const { entry = findEntry(project, own), license = licenseOf(own) } = settings;
  if (!entry)
    throw wrong(`no module was found in ${project} that starts the service: set \`entry\``, hints.entry);
  for (const path of [entry, ...Object.values(settings.entries ?? {})]) {
    if (!existsSync(join(project, path))) throw wrong(`the entry ${path} is not there`);
  }
  return {
    project,
    root: findWorkspaceRoot(project),
    name,
    version: own.version ?? "0.0.0",
    description: own.description,
    license,
    namespace,
    entry,
    port: settings.port ?? 8080,
    attach: settings.attach ?? true,
    scripts: { ...findScripts(own), ...settings.scripts },
    overlays: { k3s: "k8s/overlays/k3s", registry: "k8s/overlays/registry", ...settings.overlays },
    versionPath: settings.versionPath ?? "/version",
    entries: settings.entries ?? {},
    prebuild: settings.prebuild ?? [],
    files: settings.files ?? [],
    nativePackages: settings.nativePackages ?? [],
    external: settings.external ?? [],
    define: settings.define ?? {},
    publicEnv: settings.publicEnv ?? "",
    plugins: settings.plugins ?? [],
    bun: settings.bun ?? findPinnedBun(project, own),
    smokeEnv: settings.smokeEnv ?? {},
    hosts: settings.hosts ?? [],
    keepVersions: settings.keepVersions ?? 5,
    readyTimeoutSeconds: settings.readyTimeoutSeconds ?? 6,
    scheduleTimeoutSeconds: settings.scheduleTimeoutSeconds ?? 4,
    rolloutTimeoutSeconds: settings.rolloutTimeoutSeconds ?? 120,
  };
}

/** What to do about what cannot be found out. Before `slipway init` there is no ci/pipeline.ts. */
const hints = {
  name: "package.json's `name` is where it comes from, or `name` in ci/pipeline.ts.",
  entry: "package.json can name it, as `module` or in the script `start`, or ci/pipeline.ts, as `entry`.",
  missing: "Run the command in the directory with the service's package.json.",
};

/** @throws {PipelineError} "project" when there is none, or it is not JSON */
export function readPackage(project: string): PackageJson {
  const file = join(project, "package.json");
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code !== "ENOENT" && code !== "ENOTDIR") throw wrong(`${file}: ${message}`);
    throw wrong(`there is no ${file}`, hints.missing);
  }
  const hint = "It is to be JSON as npm reads it, without comments.";
  try {
    // Windows' editors put a byte order mark in front, which Bun and npm pass over.
    const found: unknown = JSON.parse(text.replace(/^\uFEFF/, ""));
    if (typeof found === "object" && found !== null && !Array.isArray(found)) return found;
  } catch (error) {
    throw wrong(`${file}: ${(error as Error).message}`, hint);
  }
  throw wrong(`${file} holds no object`, hint);
}

function licenseOf({ license }: PackageJson): string | undefined {
  return typeof license === "object" ? license?.type : license;
}

/** A DNS label, made of package.json's name or, where that has none, of the directory's. */
export function serviceNameOf({ name = "" }: PackageJson, project: string): string {
  const bare = name.replace(/^@[^/]*\//, "") || basename(project);
  const label = bare.toLowerCase().replace(/[^a-z0-9-]+/g, "-");
  return label
    .replace(/^[^a-z]+/, "")
    .slice(0, 63)
    .replace(/-+$/, "");
}

/** The nearest directory above, or the project's own, that is a workspace with the project as a member. */
export function findWorkspaceRoot(project: string): string {
  for (let at = project; ; at = dirname(at)) {
    if (isWorkspaceMember(project.slice(at.length + 1), workspacePatternsOf(at))) return at;
    if (at === dirname(at)) return project;
  }
}

/** Patterns of a workspace's members; what is above may be nobody's: one that cannot be read has none. */
export function workspacePatternsOf(directory: string): string[] {
  try {
    const { workspaces = [] } = readPackage(directory);
    return (Array.isArray(workspaces) ? workspaces : workspaces.packages) ?? [];
  } catch {
    return [];
  }
}

/** A pattern that begins with ! takes members away. */
export function isWorkspaceMember(path: string, patterns: string[]): boolean {
  const matches = (pattern: string) => new Bun.Glob(pattern.replace(/^\.\/|\/$/g, "")).match(path);
  const isLess = (pattern: string) => pattern.startsWith("!");
  const [less, more] = [patterns.filter(isLess), patterns.filter((pattern) => !isLess(pattern))];
  return more.some(matches) && !less.some((pattern) => matches(pattern.slice(1)));
}

/** What is loaded before the module that is run. */
const LOADED = /\s(?:-r|--(?:preload|require|import))[= ]\S+/g;

/** The module that starts the service, relative to the project; undefined: none was found. */
export function findEntry(project: string, { scripts = {}, module, main }: PackageJson): string | undefined {
  const runBy = (runner: string) => {
    const file = new RegExp(`\\b(?:${runner})\\b.*?\\s((?:\\./)?[\\w@./-]+\\.[cm]?[jt]sx?)(?=\\s|$)`);
    return [scripts.start, scripts.dev].map((script = "") => file.exec(script.replace(LOADED, ""))?.[1]);
  };
  // Who comes from Node may have nothing else that names it.
  const known = [...runBy("bun"), module, main, ...entries, ...runBy("node|tsx|ts-node|nodemon")];
  const there = known
    .flatMap((path) => (path ? [path.replace(/^\.\//, "")] : []))
    .filter((path) => /\.[cm]?[jt]sx?$/.test(path) && existsSync(join(project, path)));
  // What was built lies there on one machine and not on the next.
  return there.find((path) => !BUILT.test(path)) ?? there[0];
}

const BUILT = /^(dist|build|out)\//;

/** What npm writes as a test where there is none; and what never ends. */
const NONE = /no test specified|\s--(watch|watchAll|hot)\b(?!=false)|\btsc\b.*\s-w\b/;

/** The version of Bun that the service pins; undefined: none. @param own its package.json */
export function findPinnedBun(project: string, own: PackageJson): string | undefined {
  for (const directory of new Set([project, findWorkspaceRoot(project)])) {
    const file = join(directory, ".bun-version");
    const { packageManager = "" } = directory === project ? own : readPackage(directory);
    const pinned = existsSync(file)
      ? readFileSync(file, "utf8")
      : (/^bun@([^+]+)/.exec(packageManager)?.[1] ?? "");
    if (pinned.trim()) return pinned.trim().replace(/^(bun-)?v/, "");
  }
  return undefined;
}

function findScripts({ scripts = {} }: PackageJson): Service["scripts"] {
  const first = (...names: string[]) =>
    names.find((name) => scripts[name] !== undefined && !NONE.test(scripts[name]));
  return { check: first("check", "typecheck"), test: first("test:unit", "test") };
}

function wrong(
  message: string,
  hint = "ci/pipeline.ts has the service's settings; those of `index.d.ts` are explained there.",
): PipelineError {
  return new PipelineError("project", message, { hint });
}

/** Where slipway keeps what it can do without: built trees, what passed, whole outputs of what failed. */
export function cacheDirectoryOf({ project }: Service): string {
  return join(project, "node_modules/.cache/slipway");
}
