/** The files that a service owns, as this version of slipway writes them. */
import { existsSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { createImageSpec } from "../image/image-spec.ts";
import { APP_DIRECTORY } from "../image/module-paths.ts";
import { pins } from "../core/pins.ts";
import { addComponents, componentFiles } from "./components.ts";
import type { ProjectFacts } from "./project-facts.ts";

const templates = join(import.meta.dir, "templates");
/** Where the k3s overlay is written. */
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
 * Path from the service's directory -> text. What lies above it begins with `../`.
 *
 * @param components those that its overlay names
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
    // GitHub looks for workflows in the repository's root alone.
    [
      join(relative(fromTop(facts), "."), `.github/workflows/${workflowName(facts)}.yml`),
      fill(".github/slipway.yml.template", values(facts)),
    ],
  ]);
}

/** The service's directory, from the repository's root. */
function fromTop({ workspace, directory }: ProjectFacts): string {
  return join(workspace, directory);
}

function workflowName(facts: ProjectFacts): string {
  return fromTop(facts) === "." ? "slipway" : `slipway-${facts.service.name}`;
}

/** Without it, a service of CommonJS modules that TypeScript reads as Node does would make one of ci/pipeline.ts. */
function moduleType({ service, package: own }: ProjectFacts): [string, string][] {
  const file = join(service.project, "tsconfig.json");
  if (own.type === "module" || !existsSync(file)) return [];
  // As Bun's own reads it, the import says what a module is.
  if (/"moduleResolution"\s*:\s*"bundler"|"module"\s*:\s*"(preserve|es)/i.test(readFileSync(file, "utf8")))
    return [];
  return [["ci/package.json", '{ "private": true, "type": "module" }\n']];
}

/** Replaces `__WORD__`; one that nothing is known for would be a mistake here. */
function fill(path: string, words: Record<string, string>): string {
  return readFileSync(join(templates, path), "utf8").replace(/__([A-Z_]+?)__/g, (_, word: string) => {
    const value = words[word];
    if (value === undefined) throw new Error(`${path} has a __${word}__ that nothing is known for`);
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
    DIRECTORY: JSON.stringify(fromTop(facts)),
    WORKSPACE: JSON.stringify(facts.workspace),
    WORKFLOW: workflowName(facts),
    BUN: pins.bun,
    // With a package for it, the workflow has the Dagger engine's CLI and runs under it.
    STEP_DAGGER: hasDagger ? fill(".github/dagger.yml.template", {}) : "",
    RUN: hasDagger ? "dagger run " : "",
    BASE_IMAGE: pins.baseImage,
  };
}

/** Settings that differ from what is found out anyway. */
function pipeline({ service, port }: ProjectFacts): string {
  const settings = [...(port === undefined || port === 8080 ? [] : [`port: ${port}`])];
  const given = settings.length > 0 ? `, { ${settings.join(", ")} }` : "";
  return `/** What ${service.name} is to its pipeline: \`slipway --help\` has the commands, the types the settings. */
import { pipeline } from "slipway";

await pipeline(import.meta${given});
`;
}

function dockerfile(facts: ProjectFacts): Record<string, string> {
  const { service, directory } = facts;
  const image = createImageSpec(service);
  const inRoot = directory === ".";
  const work = inRoot ? "/src" : `/src/${directory}`;
  const { prebuild, scripts: own } = service;
  const scripts = [...prebuild, own.check, own.test].filter((name) => name !== undefined);
  const labels = Object.entries(image.labels).map(([label, value]) => `${label}=${JSON.stringify(value)}`);
  return {
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

/** What the installation reads, so that an edit of the source does not run it again. */
function copyFirst({ members, installs, lockfile, hasHooks }: ProjectFacts): string[] {
  if (hasHooks) return ["# All of it: the installation runs scripts of the project's own.", "COPY . ."];
  const atTop = installs.filter((path) => !path.includes("/"));
  const deeper = installs.filter((path) => path.includes("/"));
  return [
    "# Dependencies first: an edit of the source does not install them again.",
    `COPY ${["package.json", lockfile, ...atTop].join(" ")} ./`,
    ...members.map((member) => copy(`${member}/package.json`)),
    ...deeper.map(copy),
  ];
}

/** To the same place. The second form takes paths with spaces. */
function copy(path: string): string {
  const directory = `${dirname(path)}/`;
  return /\s/.test(path) ? `COPY ${JSON.stringify([path, directory])}` : `COPY ${path} ${directory}`;
}
