/** Recognizes the service's image in manifests that were written for another way of deploying. */
import { existsSync, readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { parse } from "yaml";
import { kustomizationIn } from "./find-kustomization.ts";
import type { KubeObject } from "./objects.ts";
import { containersOf, podTemplates } from "./pod-templates.ts";

/** Returns an image's name without registry, path, tag and digest: `ghcr.io/me/shop:1.2` is `shop`. */
function lastSegment(image: string): string {
  return repositoryOf(image).split("/").at(-1)!;
}

/** Returns an image's name without tag and digest. */
function repositoryOf(image: string): string {
  return image.replace(/@.*$/, "").replace(/:[^:/]*$/, "");
}

/**
 * Replaces the service's image by its bare name, which stands for the built image. A bare name with any tag is the
 * service's. If there is none, an image of that name from one repository is, or what kustomize's `images:` made of it.
 */
export function adoptServiceImage(name: string, objects: KubeObject[], renamed: ReadonlySet<string>): KubeObject[] {
  const containers = objects
    .flatMap(podTemplates)
    .flatMap(containersOf)
    .filter(({ image }) => image !== undefined);
  const bare = containers.filter(({ image }) => repositoryOf(image) === name);
  const candidates = containers.filter(({ image }) => lastSegment(image) === name || renamed.has(repositoryOf(image)));
  const isOneRepository = new Set(candidates.map(({ image }) => repositoryOf(image))).size === 1;
  const own = bare.length > 0 ? bare : isOneRepository ? candidates : [];
  for (const container of own) container.image = name;
  return objects;
}

/** Returns the names that kustomize's `images:` of an overlay and its bases give to the service's image. */
export function renamedImages(name: string, directory: string, seen: Set<string> = new Set()): Set<string> {
  const file = kustomizationIn(directory);
  if (file === undefined || seen.has(file)) return new Set();
  seen.add(file);
  const kustomization = (parse(readFileSync(file, "utf8"), { logLevel: "silent" }) ?? {}) as {
    images?: { name?: string; newName?: string }[];
    resources?: string[];
    bases?: string[];
    components?: string[];
  };
  const { images = [], resources = [], bases = [], components = [] } = kustomization;
  const own = images.flatMap(({ name: from, newName }) =>
    from !== undefined && newName !== undefined && lastSegment(from) === name ? [repositoryOf(newName)] : [],
  );
  const below = [...resources, ...bases, ...components]
    .filter((path) => typeof path === "string")
    .map((path) => join(dirname(file), path))
    .filter((path) => existsSync(path) && statSync(path).isDirectory());
  return new Set([...own, ...below.flatMap((path) => [...renamedImages(name, path, seen)])]);
}
