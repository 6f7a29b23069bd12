/** Which nodes may run a service's pods, as far as manifests and nodes themselves say so. */
import type { Service } from "../ground/service.ts";
import type { KubeObject, Node, PodTemplate } from "../cluster/objects.ts";
import { podTemplates } from "../cluster/render.ts";

/** The nodes that take a pod with the service's image: no nodeSelector and no taint keeps it away. */
export function takers(service: Service, manifests: KubeObject[], nodes: Node[]): Node[] {
  const templates = manifests.flatMap(podTemplates).filter(({ spec }) => {
    return [...spec.containers, ...(spec.initContainers ?? [])].some(({ image }) => image === service.name);
  });
  return nodes.filter((node) => templates.some((template) => takes(node, template)));
}

/** https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/ */
function takes(
  { metadata, spec = {} }: Node,
  { spec: { nodeSelector = {}, tolerations = [] } }: PodTemplate,
) {
  const selected = Object.entries(nodeSelector).every(([key, value]) => metadata.labels?.[key] === value);
  const taints = (spec.taints ?? []).filter(({ effect }) => effect !== "PreferNoSchedule");
  const tolerated = taints.every((taint) =>
    tolerations.some(({ key, operator = "Equal", value = "", effect }) => {
      if (effect && effect !== taint.effect) return false;
      // Without a key it tolerates all.
      if (operator === "Exists") return !key || key === taint.key;
      return key === taint.key && value === (taint.value ?? "");
    }),
  );
  return selected && tolerated;
}
