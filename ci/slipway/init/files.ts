/** The files that a service owns, as this version of slipway writes them. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describeImage } from "../image/image.ts";
import { pins } from "../pins/pins.ts";
import type { Facts } from "./facts.ts";

const templates = join(import.meta.dir, "templates");
const manifests = [
  "k8s/base/deployment.yaml",
  "k8s/base/kustomization.yaml",
  "k8s/base/namespace.yaml",
  "k8s/base/networkpolicy.yaml",
  "k8s/base/poddisruptionbudget.yaml",
  "k8s/base/service.yaml",
  "k8s/base/serviceaccount.yaml",
  "k8s/overlays/k3s/kustomization.yaml",
  "k8s/overlays/registry/kustomization.yaml",
];

/** Path from the service's directory -> text. What lies in the workspace's root begins with `../`. */
export function ownFiles(facts: Facts): Map<string, string> {
  const up = facts.directory === "." ? "" : facts.directory.replace(/[^/]+/g, "..") + "/";
  return new Map([
    ["ci/pipeline.ts", pipeline(facts)],
    ...manifests.map((path): [string, string] => [path, fill(path, values(facts))]),
    ["Dockerfile", fill("Dockerfile", { ...values(facts), ...dockerfile(facts) })],
    // GitHub looks for workflows in the repository's root alone.
    [`${up}.github/workflows/${workflowName(facts)}`, fill(".github/slipway.yml.template", values(facts))],
  ]);
}

function workflowName({ directory, service }: Facts): string {
  return directory === "." ? "slipway.yml" : `slipway-${service.name}.yml`;
}

/** Replaces `__WORD__`; one that nothing is known for would be a mistake here. */
function fill(path: string, words: Record<string, string>): string {
  return readFileSync(join(templates, path), "utf8").replace(/__([A-Z_]+?)__/g, (_, word: string) => {
    const value = words[word];
    if (value === undefined) throw new Error(`${path} has a __${word}__ that nothing is known for`);
    return value;
  });
}

function values({ service, nodePort, directory, hasDagger }: Facts): Record<string, string> {
  return {
    NAME: service.name,
    NAMESPACE: service.namespace,
    PORT: String(service.port),
    NODE_PORT: String(nodePort),
    DIRECTORY: directory,
    BUN: pins.bun,
    // With a package for it, the workflow has the Dagger engine's CLI and runs under it.
    STEP_DAGGER: hasDagger ? fill(".github/dagger.yml.template", {}) : "",
    RUN: hasDagger ? "dagger run " : "",
    BASE_IMAGE: pins.baseImage,
  };
}

/** Settings that differ from what is found out anyway. */
function pipeline({ service, port }: Facts): string {
  const settings = [...(port === undefined || port === 8080 ? [] : [`port: ${port}`])];
  const given = settings.length > 0 ? `, { ${settings.join(", ")} }` : "";
  return `/** What ${service.name} is to its pipeline: \`slipway --help\` has the commands, the types the settings. */
import { pipeline } from "slipway";

await pipeline(import.meta${given});
`;
}

function dockerfile(facts: Facts): Record<string, string> {
  const { service, directory, members, installs, lockfile } = facts;
  const image = describeImage(service);
  const inRoot = directory === ".";
  const work = inRoot ? "/src" : `/src/${directory}`;
  const manifests = ["package.json", lockfile === undefined ? "bun.lock" : lockfile, ...installs];
  const copies = [
    `COPY ${manifests.join(" ")} ./`,
    ...members.map((member) => `COPY ${member}/package.json ${member}/`),
  ];
  const { before, scripts: own } = service;
  const scripts = [...before, own.check, own.test].filter((name) => name !== undefined);
  const labels = Object.entries(image.labels).map(([label, value]) => `${label}=${JSON.stringify(value)}`);
  return {
    FROM_ROOT: inRoot ? "" : ", in the workspace's root",
    FILE: inRoot ? "" : ` -f ${directory}/Dockerfile`,
    COPY_MANIFESTS: copies.join("\n"),
    WORKDIR: inRoot ? "" : `WORKDIR ${work}\n`,
    RUN_SCRIPTS: scripts.map((name) => `RUN bun run ${name}\n`).join(""),
    DIST: `${work}/dist`,
    ENV: Object.entries(image.env)
      .map(([name, value]) => `${name}=${value}`)
      .join(" "),
    USER: image.user,
    EXPOSE: image.port,
    LABELS: labels.join(" \\\n      "),
    BINARY: image.binary,
  };
}
