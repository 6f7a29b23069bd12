/** Renders the manifests without a cluster. */
import { existsSync, readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { isOnPath } from "../core/process.ts";
import type { Service } from "../core/resolve-service.ts";
import { kustomizationIn } from "./find-kustomization.ts";
import { parseManifests, renderManifests } from "./render.ts";
import { adoptServiceImage, renamedImages } from "./service-images.ts";
import { addSettingsEnv } from "./settings-env.ts";
import type { KubeObject } from "./objects.ts";

export interface OfflineManifests {
  objects: KubeObject[];
  /** How they differ from what a cluster would get. Undefined if they do not. */
  note?: string;
}

/**
 * Renders the overlay of the k3s target with kubectl, or without kubectl from its `resources` alone.
 *
 * @throws {PipelineError} "project" if a file is invalid
 */
export async function renderOffline(service: Service, signal: AbortSignal): Promise<OfflineManifests> {
  const overlay = service.overlays.k3s;
  if (!kustomizationIn(join(service.project, overlay))) {
    return { objects: [], note: `${overlay} not found: the image's environment alone` };
  }
  const kubectl = ["kubectl", "k3s"].find(isOnPath);
  if (kubectl === undefined) {
    const objects = readResources(join(service.project, overlay));
    adoptServiceImage(service.name, objects, renamedImages(service.name, join(service.project, overlay)));
    return {
      objects: addSettingsEnv(service, objects),
      note: `the manifests without ${overlay}'s patches (kubectl not found)`,
    };
  }
  const command = kubectl === "k3s" ? ["k3s", "kubectl"] : [kubectl];
  return { objects: await renderManifests({ kubectl: command, overlay }, service, signal) };
}

/** Reads the files and directories that a kustomization lists. Missing paths and URLs are skipped. */
function readResources(directory: string): KubeObject[] {
  const file = kustomizationIn(directory);
  if (!file) return [];
  const [kustomization] = readFile(file) as { resources?: string[] }[];
  const { resources = [] } = kustomization ?? {};
  return resources.flatMap((resource) => {
    const path = join(dirname(file), resource);
    if (!existsSync(path)) return [];
    return statSync(path).isDirectory() ? readResources(path) : readFile(path);
  });
}

function readFile(file: string): KubeObject[] {
  return parseManifests(readFileSync(file, "utf8"), file);
}
