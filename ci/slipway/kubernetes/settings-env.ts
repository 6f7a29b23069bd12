/** Writes the settings `env` and `secrets` into the containers that run the service's image, and finds the references. */
import type { Service } from "../core/resolve-service.ts";
import type { KubeObject, PodTemplate } from "./objects.ts";
import { containersOf, podTemplates } from "./pod-templates.ts";
import type { EnvSpec } from "./resolve-env.ts";

/** Returns the name of the Secret with the values of a service's `secrets`. */
export function secretName({ name }: Pick<Service, "name">): string {
  return `${name}-slipway-secrets`;
}

/**
 * Adds the variables to each container that runs the service's image, also in Jobs. A Secret's values stay out of the manifests:
 * a container refers to its key. Changes the objects in place.
 */
export function addSettingsEnv(service: Service, objects: KubeObject[]): KubeObject[] {
  const added: NonNullable<EnvSpec["env"]> = [
    ...Object.entries(service.env).map(([name, value]) => ({ name, value: escapeReferences(value) })),
    ...service.secrets.map(({ name }) => ({
      name,
      valueFrom: { secretKeyRef: { name: secretName(service), key: name } },
    })),
  ];
  if (added.length === 0) return objects;
  for (const container of objects.flatMap(podTemplates).flatMap(containersOf) as (EnvSpec & { image?: string })[]) {
    if (container.image === service.name) container.env = [...(container.env ?? []), ...structuredClone(added)];
  }
  return objects;
}

/** Escapes `$(NAME)` and `$$`, which Kubernetes expands: the setting's value is literal. */
function escapeReferences(value: string): string {
  return value.replace(/\$(?=[$(])/g, "$$$$");
}

/**
 * Returns the keys of the service's Secret that a pod template refers to.
 *
 * @param all the keys that exist, for references to the whole Secret
 */
export function secretKeysOf(service: Pick<Service, "name">, template: PodTemplate, all: string[]): string[] {
  const name = secretName(service);
  const containers = containersOf(template) as EnvSpec[];
  const named = containers
    .flatMap(({ env = [] }) => env)
    .flatMap(({ valueFrom }) => (valueFrom?.secretKeyRef?.name === name ? [valueFrom.secretKeyRef.key] : []));
  const { volumes = [] } = template.spec as { volumes?: { secret?: { secretName?: string } }[] };
  const isWhole =
    containers.some(({ envFrom = [] }) => envFrom.some(({ secretRef }) => secretRef?.name === name)) ||
    volumes.some(({ secret }) => secret?.secretName === name);
  return [...new Set([...named, ...(isWhole ? all : [])])].sort();
}
