/** What kubectl makes of the manifests. */
import { expect, test } from "bun:test";
import { describeWith, must, root, service, sh } from "./setup.ts";

// Debian's kubectl is of 2020, its kustomize older: it lacks what the overlay uses. Newer ones print their version so.
const recent = sh(["sh", "-c", "kubectl version --client"]).stdout.includes("Kustomize Version: v5");
const kubectl = recent ? ["kubectl"] : ["k3s", "kubectl"];

describeWith(
  "kustomize",
  [],
  () => {
    const objects = () => Bun.YAML.parse(must(["kubectl", "kustomize", service.overlays.k3s])) as any[];
    const one = (kind: string) => objects().find((object) => object.kind === kind);

    test("the overlay holds what the deploy needs, all in its namespace", () => {
      expect(
        objects()
          .map(({ kind }) => kind)
          .sort(),
      ).toEqual([
        "Deployment",
        "Namespace",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Service",
        "ServiceAccount",
      ]);
      for (const { kind, metadata } of objects()) {
        if (kind !== "Namespace") expect(metadata.namespace).toBe(service.namespace);
        expect(metadata.labels["app.kubernetes.io/name"]).toBe(service.name);
      }
      expect(one("Namespace").metadata.labels["pod-security.kubernetes.io/enforce"]).toBe("restricted");
    });

    test("the Service is a NodePort on 30080", () => {
      const { type, ports, selector } = one("Service").spec;
      expect({ type, ports, selector }).toEqual({
        type: "NodePort",
        ports: [{ name: "http", port: 80, targetPort: "http", nodePort: 30080 }],
        selector: { "app.kubernetes.io/name": service.name },
      });
    });

    test("the Deployment never pulls, and has what pod security asks for", () => {
      const { template, strategy, replicas } = one("Deployment").spec;
      const [container] = template.spec.containers;
      expect(replicas).toBe(2);
      expect(strategy.rollingUpdate).toEqual({ maxSurge: "100%", maxUnavailable: 0 });
      expect(container.imagePullPolicy).toBe("Never");
      expect(template.spec.securityContext).toMatchObject({
        runAsNonRoot: true,
        seccompProfile: { type: "RuntimeDefault" },
      });
      expect(template.spec.automountServiceAccountToken).toBe(false);
      expect(container.securityContext).toEqual({
        allowPrivilegeEscalation: false,
        readOnlyRootFilesystem: true,
        capabilities: { drop: ["ALL"] },
      });
    });

    test("the NetworkPolicy lets the service call nobody", () => {
      const { policyTypes, egress } = one("NetworkPolicy").spec;
      expect(policyTypes).toContain("Egress");
      expect(egress).toBeUndefined();
    });
  },
  { name: "a kubectl with kustomize 5", answers: recent },
);

describeWith(
  "kube-score",
  [],
  () => {
    interface Scored {
      type_meta: { kind: string };
      checks: { check: { id: string }; grade: number; skipped: boolean }[];
    }
    /** What is not as it should be, `Kind/check`. */
    const findings = (overlay: string, ...flags: string[]) => {
      const manifests = must([...kubectl, "kustomize", overlay]);
      const { stdout } = Bun.spawnSync(["kube-score", "score", "--output-format=json", ...flags, "-"], {
        cwd: root,
        stdin: Buffer.from(manifests),
      });
      const scored = JSON.parse(stdout.toString()) as Scored[];
      expect(scored.map(({ type_meta }) => type_meta.kind)).toContain("Deployment");
      const bad = scored.flatMap(({ type_meta, checks }) =>
        checks
          .filter(({ grade, skipped }) => grade < 10 && !skipped)
          .map(({ check }) => `${type_meta.kind}/${check.id}`),
      );
      return bad.sort();
    };
    const deployment = ["container-image-pull-policy", "container-image-tag", "container-resources"].map(
      (check) => `Deployment/${check}`,
    );

    test.each([
      [service.overlays.k3s, [...deployment, "Service/service-type"]],
      [service.overlays.registry, deployment],
    ])(
      "%s: nothing is found but what is left on purpose, which is no more than has its reason there",
      (overlay, left) => {
        expect(findings(overlay)).toEqual([]);
        expect(findings(overlay, "--disable-ignore-checks-annotations")).toEqual(left);
      },
    );
  },
  { name: "kube-score", answers: Boolean(Bun.which("kube-score")) },
  { name: "a kubectl with kustomize 5", answers: recent || Boolean(Bun.which("k3s")) },
);
