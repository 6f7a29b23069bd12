/** What nodes say of themselves: which may run a service's pods, as far as the manifests say so too, and where they are. */
import type { Service } from "../core/service-config.ts";
import type { KubeObject, Node, PodTemplate } from "../kubernetes/objects.ts";
import { containersOf, podTemplates } from "../kubernetes/render.ts";

/** The nodes that take a pod with the service's image: no nodeSelector and no taint keeps it away. */
export function schedulableNodes(service: Service, manifests: KubeObject[], nodes: Node[]): Node[] {
  const templates = manifests
    .flatMap(podTemplates)
    .filter((template) => containersOf(template).some(({ image }) => image === service.name));
  return nodes.filter((node) => templates.some((template) => takes(node, template)));
}

/** Where others reach it; this machine's own where it says nothing. */
export function addressOf({ status }: Node): string {
  return status.addresses?.find(({ type }) => type === "InternalIP")?.address ?? "127.0.0.1";
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
