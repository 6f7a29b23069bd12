/** The manifests where there is no cluster to ask. */
import { existsSync, readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { isOnPath } from "../core/process.ts";
import type { Service } from "../core/service-config.ts";
import { parseManifests, renderManifests } from "./render.ts";
import type { KubeObject } from "./objects.ts";

export interface OfflineManifests {
  objects: KubeObject[];
  /** What is to be said of them; undefined: they are as the cluster would get them. */
  note?: string;
}

const KUSTOMIZATIONS = ["kustomization.yaml", "kustomization.yml", "Kustomization"];

/**
 * What the overlay for this machine's k3s holds: by kubectl, or without one by its `resources` alone.
 *
 * @throws {PipelineError} "project" when a file is not valid
 */
export async function renderOffline(service: Service, signal: AbortSignal): Promise<OfflineManifests> {
  const overlay = service.overlays.k3s;
  if (!kustomizationIn(join(service.project, overlay))) {
    return { objects: [], note: `${overlay} is not there: the image's environment alone` };
  }
  const kubectl = ["kubectl", "k3s"].find(isOnPath);
  if (kubectl === undefined) {
    return {
      objects: resourcesOf(join(service.project, overlay)),
      note: `the manifests without ${overlay}'s patches (no kubectl)`,
    };
  }
  const words = kubectl === "k3s" ? ["k3s", "kubectl"] : [kubectl];
  return { objects: await renderManifests({ kubectl: words, overlay }, service, signal) };
}

/** The path of a directory's kustomization. https://kubectl.docs.kubernetes.io/references/kustomize/kustomization/ */
export function kustomizationIn(directory: string): string | undefined {
  return KUSTOMIZATIONS.map((name) => join(directory, name)).find((file) => existsSync(file));
}

/** The objects of a kustomization's files, and of the directories that it names; what is elsewhere is left out. */
function resourcesOf(directory: string): KubeObject[] {
  const file = kustomizationIn(directory);
  if (!file) return [];
  const [kustomization] = read(file) as { resources?: string[] }[];
  const { resources = [] } = kustomization ?? {};
  return resources.flatMap((resource) => {
    const path = join(dirname(file), resource);
    if (!existsSync(path)) return [];
    return statSync(path).isDirectory() ? resourcesOf(path) : read(path);
  });
}

function read(file: string): KubeObject[] {
  return parseManifests(readFileSync(file, "utf8"), file);
}
