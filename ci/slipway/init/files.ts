/** Generates the files of a service from the templates. */
import { existsSync, readFileSync, statSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { createImageSpec } from "../image/image-spec.ts";
import { APP_DIRECTORY } from "../image/image-paths.ts";
import { pins } from "../core/pins.ts";
import { addComponents, componentFiles } from "./kustomize-components.ts";
import type { ProjectFacts } from "./project-facts.ts";

const templates = join(import.meta.dir, "templates");
/** Path of the k3s overlay. */
export const OVERLAY = "k8s/overlays/k3s/kustomization.yaml";
const manifests = [
  "k8s/base/deployment.yaml",
  "k8s/base/kustomization.yaml",
  "k8s/base/namespace.yaml",
  "k8s/base/networkpolicy.yaml",
  "k8s/base/poddisruptionbudget.yaml",
  "k8s/base/service.yaml",
  "k8s/base/serviceaccount.yaml",
  "k8s/overlays/registry/kustomization.yaml",
];

/**
 * Returns the text of each file by its path, relative to the service's directory. Paths outside begin with `../`.
 *
 * @param components components to switch on in the overlay
 */
export function generatedFiles(facts: ProjectFacts, components: string[] = []): Map<string, string> {
  const { project } = facts.service;
  const filled = [...manifests, ...components.flatMap(componentFiles)];
  const overlay = fill(OVERLAY, values(facts));
  return new Map([
    ["ci/pipeline.ts", pipeline(facts)],
    ...moduleType(facts),
    ...filled.map((path): [string, string] => [path, fill(path, values(facts))]),
    [OVERLAY, addComponents(overlay, join(project, OVERLAY), project, components)],
    ["Dockerfile", fill("Dockerfile", { ...values(facts), ...dockerfile(facts) })],
    // GitHub reads workflows only from the root of the repository.
    [
      join(relative(pathInRepository(facts), "."), `.github/workflows/${workflowName(facts)}.yml`),
      fill(".github/slipway.yml.template", values(facts)),
    ],
  ]);
}

/** Returns the service's directory, relative to the root of the repository. */
function pathInRepository({ workspace, directory }: ProjectFacts): string {
  return join(workspace, directory);
}

function workflowName(facts: ProjectFacts): string {
  return pathInRepository(facts) === "." ? "slipway" : `slipway-${facts.service.name}`;
}

/**
 * Returns a package.json for ci/ if TypeScript would otherwise treat ci/pipeline.ts as CommonJS. This is the case in a CommonJS
 * package with Node's module resolution.
 */
function moduleType({ service, package: manifest }: ProjectFacts): [string, string][] {
  const file = join(service.project, "tsconfig.json");
  if (manifest.type === "module" || !existsSync(file)) return [];
  // With a bundler's resolution, imports make a file a module.
  if (/"moduleResolution"\s*:\s*"bundler"|"module"\s*:\s*"(preserve|es)/i.test(readFileSync(file, "utf8"))) return [];
  return [["ci/package.json", '{ "private": true, "type": "module" }\n']];
}

/** Replaces every `__NAME__` in a template. @throws {Error} if a name has no value */
function fill(path: string, values: Record<string, string>): string {
  return readFileSync(join(templates, path), "utf8").replace(/__([A-Z_]+?)__/g, (_, name: string) => {
    const value = values[name];
    if (value === undefined) throw new Error(`no value for __${name}__ in the template ${path}`);
    return value;
  });
}

function values(facts: ProjectFacts): Record<string, string> {
  const { service, nodePort, hasDagger } = facts;
  return {
    NAME: service.name,
    NAMESPACE: service.namespace,
    PORT: String(service.port),
    NODE_PORT: String(nodePort),
    DIRECTORY: JSON.stringify(pathInRepository(facts)),
    WORKSPACE: JSON.stringify(facts.workspace),
    WORKFLOW: workflowName(facts),
    BUN: pins.bun,
    // If the service depends on Dagger's SDK, the workflow runs the pipeline in the Dagger engine.
    STEP_DAGGER: hasDagger ? fill(".github/dagger.yml.template", {}) : "",
    RUN: hasDagger ? "dagger run " : "",
    BASE_IMAGE: pins.baseImage,
  };
}

/** Returns ci/pipeline.ts with the settings that differ from the defaults. */
function pipeline({ service, port, writtenIdentity, openedFiles, environment }: ProjectFacts): string {
  const changed = [
    ...(port === undefined || port === 8080 ? [] : [`port: ${port}`]),
    ...(writtenIdentity === undefined ? [] : [`identity: ${JSON.stringify(writtenIdentity)}`]),
    ...list("files", openedFiles),
    ...list("secrets", environment.secrets),
  ];
  const settings = changed.length === 0 ? "" : `, { ${changed.join(", ")} }`;
  return `/** Pipeline settings of ${service.name}. The type Settings documents them, and \`slipway --help\` the commands. */
import { pipeline } from "slipway";

await pipeline(import.meta${settings});
`;
}

/** Returns a setting with a list of texts, unless the list is empty. */
function list(name: string, texts: string[]): string[] {
  return texts.length === 0 ? [] : [`${name}: [${texts.map((text) => JSON.stringify(text)).join(", ")}]`];
}

function dockerfile(facts: ProjectFacts): Record<string, string> {
  const { service, directory } = facts;
  const image = createImageSpec(service);
  const inRoot = directory === ".";
  const work = inRoot ? "/src" : `/src/${directory}`;
  const { prebuild, scripts: steps } = service;
  const scripts = [...prebuild, steps.check, steps.test].filter((name) => name !== undefined);
  const labels = Object.entries(image.labels).map(([label, value]) => `${label}=${JSON.stringify(value)}`);
  const { variables } = facts;
  const options = variables.map((name) => `--secret id=${name},env=${name}`).join(" ");
  return {
    SECRETS: variables.length > 0 ? `# For the registry's credentials, pass: ${options}\n` : "",
    SECRET_MOUNTS: variables.map((name) => `    --mount=type=secret,id=${name} \\\n`).join(""),
    SECRET_VALUES: variables.map((name) => `${name}="$(cat /run/secrets/${name} 2>/dev/null)" `).join(""),
    FROM_ROOT: inRoot ? "" : ", in the workspace's root",
    FILE: inRoot ? "" : ` -f ${directory}/Dockerfile`,
    COPY_FIRST: copyFirst(facts).join("\n"),
    COPY_REST: facts.hasHooks ? "" : "COPY . .\n",
    WORKDIR: inRoot ? "" : `WORKDIR ${work}\n`,
    RUN_SCRIPTS: scripts.map((name) => `RUN bun run ${name}\n`).join(""),
    DIST: `${work}/dist`,
    ENV: Object.entries(image.env)
      .map(([name, value]) => `${name}=${value}`)
      .join(" "),
    USER: image.user,
    APP_DIRECTORY,
    EXPOSE: image.port,
    LABELS: labels.join(" \\\n      "),
    BINARY: image.binary,
  };
}

/** Returns COPY instructions for the inputs of the installation, so that an edit of the source does not repeat it. */
function copyFirst({ service, members, installs, lockfile, hasHooks }: ProjectFacts): string[] {
  if (hasHooks) return ["# The installation runs scripts of the project, so it needs all files.", "COPY . ."];
  const isDirectory = (path: string) => statSync(join(service.root, path), { throwIfNoEntry: false })?.isDirectory();
  const atTop = installs.filter((path) => !path.includes("/") && !isDirectory(path));
  const deeper = installs.filter((path) => !atTop.includes(path));
  return [
    "# Dependencies first, so that an edit of the source does not install them again.",
    `COPY ${["package.json", lockfile, ...atTop].join(" ")} ./`,
    ...members.map((member) => copy(`${member}/package.json`)),
    // The contents of a directory are copied, not the directory.
    ...deeper.map((path) => copy(path, isDirectory(path) ? path : dirname(path))),
  ];
}

/** Returns a COPY instruction to the same path. Paths with spaces need the JSON form. */
function copy(path: string, to = dirname(path)): string {
  const directory = `${to}/`;
  return /\s/.test(path) ? `COPY ${JSON.stringify([path, directory])}` : `COPY ${path} ${directory}`;
}
