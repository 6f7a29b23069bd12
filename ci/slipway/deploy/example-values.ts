/** Finds values that `slipway init` writes as examples, and that nobody replaced. */
import { objectName, type KubeObject } from "../kubernetes/objects.ts";
import type { CheckInput, ManifestProblem } from "./manifest-problem.ts";

/** Networks that are reserved for documentation. https://www.rfc-editor.org/rfc/rfc5737 and rfc3849 */
const DOCUMENTATION_NETWORKS = /^(192\.0\.2\.|198\.51\.100\.|203\.0\.113\.|2001:0?db8:)/i;
/** The namespace in the egress component's example. */
const EXAMPLE_NAMESPACE = "database";

interface Peer {
  ipBlock?: { cidr?: string };
  namespaceSelector?: { matchLabels?: Record<string, string> };
}
type Policy = KubeObject & { spec?: { egress?: { to?: Peer[] }[]; ingress?: { from?: Peer[] }[] } };

/** Finds example destinations in network policies. */
export function findExamples({ manifests, hasNamespace }: CheckInput): ManifestProblem[] {
  const policies = manifests.filter(({ kind }) => kind === "NetworkPolicy") as Policy[];
  return policies.flatMap((policy) => {
    const rules = [
      ...(policy.spec?.egress ?? []).map(({ to }, i) => ({ peers: to ?? [], path: `spec.egress[${i}].to` })),
      ...(policy.spec?.ingress ?? []).map(({ from }, i) => ({ peers: from ?? [], path: `spec.ingress[${i}].from` })),
    ];
    return rules.flatMap(({ peers, path }) =>
      peers.flatMap((peer, i): ManifestProblem[] => {
        const object = objectName(policy);
        const cidr = peer.ipBlock?.cidr;
        if (cidr !== undefined && DOCUMENTATION_NETWORKS.test(cidr)) {
          const field = `${path}[${i}].ipBlock.cidr`;
          const remedy = "Write the addresses of your hosts, or remove the rule";
          return [{ object, field, problem: `${cidr} is an example of the documentation`, remedy }];
        }
        const name = peer.namespaceSelector?.matchLabels?.["kubernetes.io/metadata.name"];
        if (name !== EXAMPLE_NAMESPACE || hasNamespace(name) !== false) return [];
        const field = `${path}[${i}].namespaceSelector`;
        const remedy = "Write the namespace of your database, or remove the rule";
        return [{ object, field, problem: `the example namespace ${name} does not exist`, remedy }];
      }),
    );
  });
}
