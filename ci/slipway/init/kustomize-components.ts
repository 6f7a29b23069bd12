/** Optional parts of the manifests, as kustomize components. */
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { isSeq, parseDocument, type Document, type Node, type YAMLSeq } from "yaml";
import { PipelineError } from "../core/errors.ts";
import { kustomizationIn } from "../kubernetes/find-kustomization.ts";
import type { Service } from "../core/resolve-service.ts";
import { detectLineEnding } from "./merge.ts";

const DIRECTORY = "k8s/components";
const templates = join(import.meta.dir, "templates", DIRECTORY);

/** Names of all components. */
export const components = readdirSync(templates).sort();

/** Returns the paths of a component's files, relative to the service's directory. */
export function componentFiles(component: string): string[] {
  return readdirSync(join(templates, component))
    .sort()
    .map((file) => `${DIRECTORY}/${component}/${file}`);
}

/** Matches the manifest that a component needs, and a message about its lack. A worker does not have it. */
const requirements: Record<string, { path: string; has: RegExp; lack: string }> = {
  ingress: { path: "k8s/base/service.yaml", has: /kind: Service/, lack: "a Service to send requests to" },
  monitoring: { path: "k8s/base/deployment.yaml", has: /name: http\b/, lack: "a container port `http` to scrape" },
};

/**
 * Checks that a worker has the ports that components refer to.
 *
 * @throws {PipelineError} "project" if a component would have no effect
 */
export function assertComponentsFitWorker({ name, project }: Service, wanted: string[]): void {
  for (const component of wanted) {
    const required = requirements[component];
    if (!required) continue;
    const file = join(project, required.path);
    if (existsSync(file) && required.has.test(readFileSync(file, "utf8"))) continue;
    throw new PipelineError("project", `the component ${component} needs ${required.lack}, and ${name} is a worker`, {
      code: "components-not-added",
      hint: `Nothing was changed. Add it to ${required.path}, or leave out \`--with ${component}\`.`,
    });
  }
}

/** Returns the path of the kustomization of the k3s overlay, whether or not it exists. */
export function kustomizationPathOf({ project, overlays }: Pick<Service, "project" | "overlays">): string {
  const directory = join(project, overlays.k3s);
  return kustomizationIn(directory) ?? join(directory, "kustomization.yaml");
}

/** Returns slipway's components in a kustomization, in its order. @param file absolute path of the kustomization */
export function componentsIn(text: string, file: string, project: string): string[] {
  const { components: named } = (read(text, file).toJS() ?? {}) as { components?: unknown };
  const paths = [named ?? []].flat().map((path) => resolve(dirname(file), String(path)));
  return paths.flatMap((path) => components.filter((name) => path === join(project, DIRECTORY, name)));
}

/**
 * Adds missing components to a kustomization and keeps every other character.
 *
 * @throws {PipelineError} "project" if its YAML style leaves no place for a new line
 */
export function addComponents(text: string, file: string, project: string, wanted: string[]): string {
  const named = componentsIn(text, file, project);
  const missing = wanted
    .filter((name) => !named.includes(name))
    .map((name) => relative(dirname(file), join(project, DIRECTORY, name)));
  if (missing.length === 0) return text;
  const before = read(text, file);
  const after = insert(text, before, missing);
  const list = before.get("components");
  const expected = { ...before.toJS(), components: [...(isSeq(list) ? list.toJSON() : []), ...missing] };
  const changed = parseDocument(after);
  if (changed.errors.length > 0 || !Bun.deepEquals(changed.toJS(), expected)) {
    throw new PipelineError("project", `cannot add a line to \`components:\` in ${file}`, {
      code: "components-not-added",
      hint: `Nothing was changed. Add it by hand: components: [${missing.join(", ")}]`,
    });
  }
  return after;
}

function read(text: string, file: string): Document.Parsed {
  const document = parseDocument(text);
  const [error] = document.errors;
  if (error)
    throw new PipelineError("project", `${file} is not valid YAML: ${error.message}`, {
      code: "manifests-invalid",
      hint: "Nothing was changed.",
    });
  return document;
}

function insert(text: string, document: Document.Parsed, paths: string[]): string {
  const end = detectLineEnding(text);
  const list = document.get("components", true) as YAMLSeq<Node> | undefined;
  const [last, resources] = [
    isSeq(list) ? list.items.at(-1) : undefined,
    document.get("resources", true) as YAMLSeq<Node> | undefined,
  ];
  if (last && list!.flow) return splice(text, last.range![1], paths.map((path) => `, ${path}`).join(""));
  // Indentation and dash of the last item.
  const dash = last && text.slice(text.lastIndexOf("\n", last.range![0]) + 1, last.range![0]);
  const lines = paths.map((path) => `${dash ?? "  - "}${path}${end}`).join("");
  if (last) return splice(text, nextLine(text, last), lines);
  const block = `components:${end}${lines}`;
  const before = isSeq(resources) && !resources.flow ? resources.items.at(-1) : resources;
  return splice(text, before ? nextLine(text, before) : text.length, block);

  /** Inserts text, and adds a newline first if a new line would continue an unfinished one. */
  function splice(text: string, at: number, added: string): string {
    const isLine = added.endsWith(end) && at > 0 && text[at - 1] !== "\n";
    return `${text.slice(0, at)}${isLine ? end : ""}${added}${text.slice(at)}`;
  }
}

/** Returns the offset of the line after a node. */
function nextLine(text: string, { range }: Node): number {
  const at = text.indexOf("\n", range![1]);
  return at < 0 ? text.length : at + 1;
}
