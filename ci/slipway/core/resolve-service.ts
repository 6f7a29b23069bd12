/** Resolves a service's configuration from its settings, package.json and files. */
import { existsSync, readFileSync, realpathSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import type { Settings } from "../index.d.ts";
import type { ErrorCode } from "./error-codes.ts";
import { findEntry, findServerModules } from "./entry-detection.ts";
import { resolveEnvSettings, type SecretSetting } from "./env-settings.ts";
import { PipelineError } from "./errors.ts";
import type { PackageJson } from "./package-json.ts";

export type { PackageJson };

/** The settings with their defaults. */
export interface Service {
  /** Directory with package.json. */
  project: string;
  /** Directory with the lockfile: the root of the workspace if the service is a member, else `project`. */
  root: string;
  name: string;
  version: string;
  description: string | undefined;
  license: string | undefined;
  namespace: string;
  entry: string;
  port: number;
  /** Whether the settings name the port. */
  isPortSet: boolean;
  attach: boolean;
  /** undefined: package.json has no such script. */
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
  env: Record<string, string>;
  secrets: SecretSetting[];
  hosts: string[];
  /** The setting, until a command that needs a cluster adds the default. */
  identity: string | undefined;
  keepVersions: number;
  readyTimeoutSeconds: number;
  scheduleTimeoutSeconds: number;
  rolloutTimeoutSeconds: number;
}

/** Valid name of a Kubernetes object. https://kubernetes.io/docs/concepts/overview/working-with-objects/names/ */
const LABEL = /^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$/;

/**
 * Applies the settings, and detects or defaults the rest.
 *
 * @param directory contains package.json
 * @throws {PipelineError} "project" if a setting is invalid, or the name or entry cannot be detected
 */
export function resolveService(directory: string, settings: Settings = {}): Service {
  // The bundler resolves symbolic links.
  const project = existsSync(directory) ? realpathSync(directory) : directory;
  const packageJson = readPackage(project);
  const name = settings.name ?? serviceNameOf(packageJson, project);
  const { namespace = name } = settings;
  for (const [setting, value] of Object.entries({ name, namespace })) {
    if (!LABEL.test(value))
      throw settingError(
        "setting-invalid",
        `invalid ${setting} "${value}": expected a DNS label (a-z, 0-9, -, at most 63)`,
        hints.name,
      );
  }
  const { entry = findEntry(project, packageJson), license = licenseOf(packageJson) } = settings;
  if (!entry) throw noEntryError(project);
  for (const path of [entry, ...Object.values(settings.entries ?? {})]) {
    if (!existsSync(join(project, path))) throw settingError("setting-invalid", `entry ${path} not found`);
  }
  return {
    project,
    root: findWorkspaceRoot(project),
    name,
    version: packageJson.version ?? "0.0.0",
    description: packageJson.description,
    license,
    namespace,
    entry,
    port: settings.port ?? 8080,
    isPortSet: settings.port !== undefined,
    attach: settings.attach ?? true,
    scripts: { ...findScripts(packageJson), ...settings.scripts },
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
    bun: settings.bun ?? findPinnedBun(project, packageJson),
    smokeEnv: settings.smokeEnv ?? {},
    ...resolveEnvSettings(settings),
    hosts: settings.hosts ?? [],
    identity: settings.identity,
    keepVersions: settings.keepVersions ?? 5,
    readyTimeoutSeconds: settings.readyTimeoutSeconds ?? 6,
    scheduleTimeoutSeconds: settings.scheduleTimeoutSeconds ?? 4,
    rolloutTimeoutSeconds: settings.rolloutTimeoutSeconds ?? 120,
  };
}

/** Names the files that start a server, because one of them is the entry. */
function noEntryError(project: string): PipelineError {
  const [first, ...others] = findServerModules(project).slice(0, 5);
  if (first === undefined)
    return settingError("setting-invalid", `no entry found in ${project}: no file starts a server`, hints.entry);
  const names = [first, ...others].join(", ");
  return settingError(
    "setting-invalid",
    `no entry found in ${project}. Files that start a server: ${names}`,
    `Set the script \`start\` in package.json, for example "bun ${first}", or \`entry\` in ci/pipeline.ts.`,
  );
}

/** Before `slipway init`, ci/pipeline.ts does not exist, so hints also name package.json. */
const hints = {
  name: "Set `name` in package.json or ci/pipeline.ts.",
  entry: "Set `module` or the script `start` in package.json, or `entry` in ci/pipeline.ts.",
  missing: "Run the command in the directory with the service's package.json.",
};

/** @throws {PipelineError} "project" if package.json is missing or invalid */
export function readPackage(project: string): PackageJson {
  const file = join(project, "package.json");
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code !== "ENOENT" && code !== "ENOTDIR") throw settingError("package-json-invalid", `${file}: ${message}`);
    throw settingError("package-json-invalid", `${file} not found`, hints.missing);
  }
  const hint = "Write it as a JSON object without comments, as npm requires.";
  try {
    // Windows editors may add a byte order mark, which Bun and npm ignore.
    const content: unknown = JSON.parse(text.replace(/^\uFEFF/, ""));
    if (typeof content === "object" && content !== null && !Array.isArray(content)) return content;
  } catch (error) {
    throw settingError("package-json-invalid", `${file}: ${(error as Error).message}`, hint);
  }
  throw settingError("package-json-invalid", `${file} is not a JSON object`, hint);
}

function licenseOf({ license }: PackageJson): string | undefined {
  return typeof license === "object" ? license?.type : license;
}

/** Converts package.json's name, or else the directory's, to a DNS label. */
export function serviceNameOf({ name = "" }: PackageJson, project: string): string {
  const bare = name.replace(/^@[^/]*\//, "") || basename(project);
  const label = bare.toLowerCase().replace(/[^a-z0-9-]+/g, "-");
  return label
    .replace(/^[^a-z]+/, "")
    .slice(0, 63)
    .replace(/-+$/, "");
}

/** Returns the nearest workspace that has the project as a member. Default: the project itself. */
export function findWorkspaceRoot(project: string): string {
  for (let at = project; ; at = dirname(at)) {
    if (isWorkspaceMember(project.slice(at.length + 1), workspacePatternsOf(at))) return at;
    if (at === dirname(at)) return project;
  }
}

/** Returns the patterns of a workspace's members. Ignores an invalid package.json, which may be unrelated. */
export function workspacePatternsOf(directory: string): string[] {
  try {
    const { workspaces = pnpmPatternsOf(directory) } = readPackage(directory);
    return (Array.isArray(workspaces) ? workspaces : workspaces.packages) ?? [];
  } catch {
    return [];
  }
}

/** Reads pnpm's list of members. `bun install` copies it to package.json if that has no `workspaces`. */
function pnpmPatternsOf(directory: string): string[] {
  const file = join(directory, "pnpm-workspace.yaml");
  if (!existsSync(file)) return [];
  const { packages } = (Bun.YAML.parse(readFileSync(file, "utf8")) ?? {}) as { packages?: unknown };
  return Array.isArray(packages) ? packages.filter((pattern) => typeof pattern === "string") : [];
}

/** Returns whether the patterns match a path. A pattern that starts with ! excludes members. */
export function isWorkspaceMember(path: string, patterns: string[]): boolean {
  const matches = (pattern: string) => new Bun.Glob(pattern.replace(/^\.\/|\/$/g, "")).match(path);
  const excludes = patterns.filter((pattern) => pattern.startsWith("!")).map((pattern) => pattern.slice(1));
  const includes = patterns.filter((pattern) => !pattern.startsWith("!"));
  return includes.some(matches) && !excludes.some(matches);
}

/** Matches npm's placeholder test, and scripts that watch and never exit. */
const UNUSABLE_SCRIPT = /no test specified|\s--(watch|watchAll|hot)\b(?!=false)|\btsc\b.*\s-w\b/;

/** Finds the Bun version that the service pins, in .bun-version or `packageManager`. */
export function findPinnedBun(project: string, projectPackage: PackageJson): string | undefined {
  for (const directory of new Set([project, findWorkspaceRoot(project)])) {
    const file = join(directory, ".bun-version");
    const { packageManager = "" } = directory === project ? projectPackage : readPackage(directory);
    const pinned = existsSync(file) ? readFileSync(file, "utf8") : (/^bun@([^+]+)/.exec(packageManager)?.[1] ?? "");
    if (pinned.trim()) return pinned.trim().replace(/^(bun-)?v/, "");
  }
  return undefined;
}

function findScripts({ scripts = {} }: PackageJson): Service["scripts"] {
  const first = (...names: string[]) =>
    names.find((name) => scripts[name] !== undefined && !UNUSABLE_SCRIPT.test(scripts[name]));
  return { check: first("check", "typecheck"), test: first("test:unit", "test") };
}

function settingError(
  code: ErrorCode,
  message: string,
  hint = "Check the settings in ci/pipeline.ts. slipway's `index.d.ts` explains them.",
): PipelineError {
  return new PipelineError("project", message, { code, hint });
}

/** Returns the directory for files that can be deleted: build outputs, passed steps, full outputs of failed steps. */
export function cacheDirectoryOf({ project }: Service): string {
  return join(project, "node_modules/.cache/slipway");
}
