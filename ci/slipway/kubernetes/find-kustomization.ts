/** Finds kustomization files. */
import { existsSync } from "node:fs";
import { join } from "node:path";

const KUSTOMIZATIONS = ["kustomization.yaml", "kustomization.yml", "Kustomization"];

/**
 * Finds a directory's kustomization file.
 * https://kubectl.docs.kubernetes.io/references/kustomize/kustomization/
 */
export function kustomizationIn(directory: string): string | undefined {
  return KUSTOMIZATIONS.map((name) => join(directory, name)).find((file) => existsSync(file));
}
