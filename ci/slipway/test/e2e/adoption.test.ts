/** Objects of others on a real k3s: those of `kubectl apply` are adopted with their fields, those of another project are refused. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { Copy } from "./project-versions.ts";
import { describeWith, must, sh, temporaryDirectory } from "./setup.ts";

setDefaultTimeout(600_000);

const isRunning = process.env.E2E_CLUSTER === "k3s" && sh(["sh", "-c", "k3s kubectl get nodes"]).code === 0;
const k3s = { name: "E2E_CLUSTER=k3s and a running k3s", isMet: isRunning };
const deployment = "k8s/base/deployment.yaml";
const kubectl = ["k3s", "kubectl"];

describeWith(
  "objects of others",
  [],
  () => {
    const directory = temporaryDirectory();
    const namespaces = new Set<string>();
    afterAll(() => {
      for (const name of namespaces) sh([...kubectl, "delete", "namespace", name, "--wait=false"]);
    });

    function create(namespace: string, port: number, name = namespace): Copy {
      namespaces.add(namespace);
      const copy = new Copy(join(directory), name, { namespace, port });
      for (const script of ["check", "test", "test:unit"])
        copy.rewrite("package.json", `"${script}":`, `"no-${script}":`);
      copy.rewrite("ci/pipeline.ts", "attach: false,", `attach: false,\n  identity: "${name}",`);
      copy.keepChanges();
      return copy;
    }
    const run = (copy: Copy, ...args: string[]) =>
      sh([process.execPath, "ci/pipeline.ts", ...args], { cwd: copy.directory });
    const get = (namespace: string, object: string) =>
      JSON.parse(must([...kubectl, "-n", namespace, "get", object, "-o", "json"])) as any;

    test.each<[string, string[]]>([
      ["client-side", []],
      ["server-side", ["--server-side"]],
    ])(
      "fields of a %s `kubectl apply` that the manifests no longer have are removed, and plan shows them",
      (name, how) => {
        const namespace = `sa-adopt-${name}`;
        const copy = create(namespace, name === "client-side" ? 31110 : 31111);
        copy.rewrite(
          deployment,
          "          env:\n",
          '          env:\n            - name: OLD\n              value: "1"\n',
        );
        copy.rewrite(
          deployment,
          "      enableServiceLinks: false\n",
          "      enableServiceLinks: false\n      hostname: old\n",
        );
        copy.rewrite(deployment, "  replicas: 2\n", "  replicas: 1\n  minReadySeconds: 1\n");
        must([...kubectl, "apply", ...how, "-k", join(copy.directory, "k8s/overlays/k3s")]);
        copy.restore();
        const plan = run(copy, "plan");
        for (const field of ["hostname", "minReadySeconds", "OLD"]) expect(plan.output).toContain(field);
        const deploy = run(copy);
        expect(deploy.code, deploy.output).toBe(0);
        const { spec, metadata } = get(namespace, "deployment/helloapp");
        const { hostname, containers } = spec.template.spec;
        expect({ hostname, minReadySeconds: spec.minReadySeconds, replicas: spec.replicas }).toEqual({
          replicas: 2,
        } as any);
        expect(containers[0].env.map((one: any) => one.name)).toEqual(["POD_NAME"]);
        expect(metadata.annotations["kubectl.kubernetes.io/last-applied-configuration"]).toBeUndefined();
        const again = run(copy);
        expect(again.code, again.output).toBe(0);
        expect(again.output).toContain("nothing");
      },
    );

    test("a clean-up that the cluster denies is caught up by the same command", () => {
      const namespace = "sa-prune";
      const copy = create(namespace, 31113);
      const first = run(copy);
      expect(first.code, first.output).toBe(0);
      const policy = {
        apiVersion: "admissionregistration.k8s.io/v1",
        kind: "ValidatingAdmissionPolicy",
        metadata: { name: namespace },
        spec: {
          matchConstraints: {
            namespaceSelector: { matchLabels: { "kubernetes.io/metadata.name": namespace } },
            resourceRules: [
              {
                apiGroups: ["policy"],
                apiVersions: ["v1"],
                operations: ["DELETE"],
                resources: ["poddisruptionbudgets"],
              },
            ],
          },
          validations: [{ expression: "false", reason: "Forbidden" }],
        },
      };
      const binding = {
        apiVersion: "admissionregistration.k8s.io/v1",
        kind: "ValidatingAdmissionPolicyBinding",
        metadata: { name: namespace },
        spec: { policyName: namespace, validationActions: ["Deny"] },
      };
      const file = join(directory, "policy.json");
      writeFileSync(file, JSON.stringify({ apiVersion: "v1", kind: "List", items: [policy, binding] }));
      must([...kubectl, "apply", "-f", file]);
      try {
        const removal = [...kubectl, "-n", namespace, "delete", "poddisruptionbudget/helloapp", "--dry-run=server"];
        for (let i = 0; i < 50 && sh(removal).code === 0; i += 1) Bun.sleepSync(200);
        copy.rewrite("k8s/base/kustomization.yaml", "  - poddisruptionbudget.yaml\n", "");
        expect(run(copy, "plan").output).toContain("PodDisruptionBudget/helloapp is deleted");
        const denied = run(copy);
        expect(denied.code, denied.output).toBe(4);
      } finally {
        must([...kubectl, "delete", "-f", file]);
      }
      const again = run(copy);
      expect(again.code, again.output).toBe(0);
      expect(again.output).toContain("deleted, no longer in the manifests: PodDisruptionBudget/helloapp");
      expect(sh([...kubectl, "-n", namespace, "get", "poddisruptionbudget/helloapp"]).code).not.toBe(0);
    });

    test("a project of the same name changes nothing of another one", () => {
      const first = create("sa-same-name", 31112, "first");
      expect(run(first).code).toBe(0);
      const before = get("sa-same-name", "deployment/helloapp");
      const second = create("sa-same-name", 31112, "second");
      for (const args of [["plan"], [], ["rollback"]]) {
        const refused = run(second, ...args);
        expect(refused.code, refused.output).toBe(1);
        expect(refused.output).toContain('belongs to the project "first"');
      }
      expect(get("sa-same-name", "deployment/helloapp").metadata.generation).toBe(before.metadata.generation);
    });
  },
  k3s,
);
