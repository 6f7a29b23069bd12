/** Decides from labels and taints which nodes can run a service's pods, and finds their addresses. */
import type { Service } from "../core/resolve-service.ts";
import type { KubeObject, Node, PodTemplate } from "../kubernetes/objects.ts";
import { containersOf, podTemplates } from "../kubernetes/pod-templates.ts";

/** Returns the nodes that no nodeSelector and no taint excludes for a pod with the service's image. */
export function schedulableNodes(service: Service, manifests: KubeObject[], nodes: Node[]): Node[] {
  const templates = manifests
    .flatMap(podTemplates)
    .filter((template) => containersOf(template).some(({ image }) => image === service.name));
  return nodes.filter((node) => templates.some((template) => canSchedule(node, template)));
}

/** Returns the node's internal address. Default: 127.0.0.1. */
export function addressOf({ status }: Node): string {
  return status.addresses?.find(({ type }) => type === "InternalIP")?.address ?? "127.0.0.1";
}

/** https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/ */
function canSchedule(
  { metadata, spec = {} }: Node,
  { spec: { nodeSelector = {}, tolerations = [] } }: PodTemplate,
): boolean {
  const isSelected = Object.entries(nodeSelector).every(([key, value]) => metadata.labels?.[key] === value);
  const taints = (spec.taints ?? []).filter(({ effect }) => effect !== "PreferNoSchedule");
  const isTolerated = taints.every((taint) =>
    tolerations.some(({ key, operator = "Equal", value = "", effect }) => {
      if (effect && effect !== taint.effect) return false;
      // A toleration without a key matches all taints.
      if (operator === "Exists") return !key || key === taint.key;
      return key === taint.key && value === (taint.value ?? "");
    }),
  );
  return isSelected && isTolerated;
}
