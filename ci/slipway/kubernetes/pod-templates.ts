/** Finds pod templates in objects, and containers in templates. */
import type { KubeObject, PodTemplate } from "./objects.ts";

/** Returns the pod templates of an object of any kind. */
export function podTemplates(object: KubeObject): PodTemplate[] {
  const { spec } = object as KubeObject & {
    spec?: { template?: PodTemplate; jobTemplate?: { spec?: { template?: PodTemplate } } };
  };
  if (object.kind === "Pod") return [object as unknown as PodTemplate];
  return [spec?.template, spec?.jobTemplate?.spec?.template].filter(
    (template) => template?.spec?.containers !== undefined,
  ) as PodTemplate[];
}

/** Returns all containers of a template, init containers included. */
export function containersOf({ spec }: PodTemplate): { name: string; image: string; imagePullPolicy?: string }[] {
  return [...spec.containers, ...(spec.initContainers ?? [])];
}
