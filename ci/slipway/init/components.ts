/** Parts of the manifests that a service has only where it asks for them, as kustomize's components. */
import { readdirSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { isSeq, parseDocument, type Document, type Node, type YAMLSeq } from "yaml";
import { PipelineError } from "../core/errors.ts";
import { kustomizationIn } from "../kubernetes/offline-manifests.ts";
import type { Service } from "../core/service-config.ts";
import { detectLineEnding } from "./merge.ts";

const PLACE = "k8s/components";
const templates = join(import.meta.dir, "templates", PLACE);

/** Their names. */
export const components = readdirSync(templates).sort();

/** Paths of a component's files, from the service's directory. */
export function componentFiles(component: string): string[] {
  return readdirSync(join(templates, component))
    .sort()
    .map((file) => `${PLACE}/${component}/${file}`);
}

/** The kustomization of the k3s overlay: the one that is there, else the one that would be written. */
export function overlayOf({ project, overlays }: Pick<Service, "project" | "overlays">): string {
  const directory = join(project, overlays.k3s);
  return kustomizationIn(directory) ?? join(directory, "kustomization.yaml");
}

/** Those of slipway's components that a kustomization names, in its order. @param file where it is, absolute */
export function componentsIn(text: string, file: string, project: string): string[] {
  const { components: named } = (read(text, file).toJS() ?? {}) as { components?: unknown };
  const places = [named ?? []].flat().map((path) => resolve(dirname(file), String(path)));
  return places.flatMap((place) => components.filter((name) => place === join(project, PLACE, name)));
}

/**
 * A kustomization with the components that it lacks; what is there stays as it is, to the letter.
 *
 * @throws {PipelineError} "project" where it is written in a way that no line can be added to
 */
export function addComponents(text: string, file: string, project: string, wanted: string[]): string {
  const named = componentsIn(text, file, project);
  const missing = wanted
    .filter((name) => !named.includes(name))
    .map((name) => relative(dirname(file), join(project, PLACE, name)));
  if (missing.length === 0) return text;
  const before = read(text, file);
  const after = insert(text, before, missing);
  const list = before.get("components");
  const expected = { ...before.toJS(), components: [...(isSeq(list) ? list.toJSON() : []), ...missing] };
  const made = parseDocument(after);
  if (made.errors.length > 0 || !Bun.deepEquals(made.toJS(), expected)) {
    throw new PipelineError(
      "project",
      `${file} has no place where a line could be added to \`components:\``,
      {
        hint: `Nothing was changed. By hand: components: [${missing.join(", ")}]`,
      },
    );
  }
  return after;
}

function read(text: string, file: string): Document.Parsed {
  const document = parseDocument(text);
  const [error] = document.errors;
  if (error)
    throw new PipelineError("project", `${file} is no valid YAML: ${error.message}`, {
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
  // What stands before the last: its indentation and dash.
  const dash = last && text.slice(text.lastIndexOf("\n", last.range![0]) + 1, last.range![0]);
  const lines = paths.map((path) => `${dash ?? "  - "}${path}${end}`).join("");
  if (last) return splice(text, nextLine(text, last), lines);
  const block = `components:${end}${lines}`;
  const before = isSeq(resources) && !resources.flow ? resources.items.at(-1) : resources;
  return splice(text, before ? nextLine(text, before) : text.length, block);

  /** Begins a line of its own, also at the end of a text without a newline. */
  function splice(text: string, at: number, added: string): string {
    const isLine = added.endsWith(end) && at > 0 && text[at - 1] !== "\n";
    return `${text.slice(0, at)}${isLine ? end : ""}${added}${text.slice(at)}`;
  }
}

/** Where the line after a node begins. */
function nextLine(text: string, { range }: Node): number {
  const at = text.indexOf("\n", range![1]);
  return at < 0 ? text.length : at + 1;
}
