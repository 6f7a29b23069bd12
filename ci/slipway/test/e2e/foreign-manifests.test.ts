/** Deploys with manifests that were not written for slipway, on this machine's k3s. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { copyProject, describeWith, rewrite, sh, temporaryDirectory } from "./setup.ts";

setDefaultTimeout(300_000);

const isAllowed = process.env.E2E_CLUSTER === "k3s" && sh(["sh", "-c", "k3s kubectl get nodes"]).code === 0;
const k3s = { name: "E2E_CLUSTER=k3s and a running k3s", isMet: isAllowed };
const directory = temporaryDirectory();
const namespace = "sb-foreign";
const kubectl = (...args: string[]) => sh(["k3s", "kubectl", "-n", namespace, ...args]);

const labels = "{ app: helloapp }";
const deployment = (more = "", env = "") => `apiVersion: apps/v1
kind: Deployment
metadata: { name: helloapp, labels: ${labels} }
spec:
  replicas: 1
  ${more}
  selector: { matchLabels: ${labels} }
  template:
    metadata: { labels: ${labels} }
    spec:
      terminationGracePeriodSeconds: 5
      containers:
        - name: web
          image: ghcr.io/me/helloapp:1.2
          env: [${env}]
          ports: [{ containerPort: 8080 }]
          readinessProbe: { httpGet: { path: /readyz, port: 8080 }, periodSeconds: 1 }
`;
const service = `apiVersion: v1
kind: Service
metadata: { name: helloapp }
spec: { selector: ${labels}, ports: [{ name: other, port: 9090 }, { name: web, port: 80, targetPort: 8080 }] }
`;

let project: string;

/** Writes the overlay's only files, and deploys. */
function deploy(manifests: string[], kustomization = "", args: string[] = ["deploy"]) {
  const overlay = join(project, "k8s/overlays/k3s");
  rmSync(overlay, { recursive: true, force: true });
  mkdirSync(overlay, { recursive: true });
  writeFileSync(join(overlay, "all.yaml"), manifests.join("---\n"));
  writeFileSync(join(overlay, "kustomization.yaml"), `resources: [all.yaml]\n${kustomization}`);
  return sh([process.execPath, "ci/pipeline.ts", ...args], { cwd: project });
}

describeWith(
  "manifests of others",
  [],
  () => {
    project = copyProject(join(directory, "helloapp"));
    rewrite(
      join(project, "ci/pipeline.ts"),
      "pipeline(import.meta, {\n",
      `pipeline(import.meta, {\n  namespace: "${namespace}",\n`,
    );
    const packageFile = join(project, "package.json");
    const packageJson = JSON.parse(readFileSync(packageFile, "utf8"));
    packageJson.scripts = { ...packageJson.scripts, check: "true", test: "true" };
    writeFileSync(packageFile, JSON.stringify(packageJson));
    afterAll(() => void sh(["k3s", "kubectl", "delete", "namespace", namespace, "--ignore-not-found", "--wait=false"]));

    test("without the namespace, plan says how to create it, exit 3", () => {
      const { code, output } = deploy([deployment(), service], "", ["plan"]);
      expect(output).toContain(`kubectl create namespace ${namespace}`);
      expect(code).toBe(3);
      expect(sh(["k3s", "kubectl", "create", "namespace", namespace]).code).toBe(0);
    });

    test("labels, image, ports and namespace of their own are served, and a crash is rolled back with its log", () => {
      const first = deploy([deployment(), service]);
      expect(first.output).toContain("20 replies in a row");
      expect(first.code).toBe(0);
      const crash = deploy([deployment("", "{ name: PORT, value: nonsense }"), service]);
      expect(crash.output).toContain("Rolled back");
      expect(crash.output).toContain("last lines of");
      expect(crash.code).toBe(1);
    });

    test("a name prefix, and no Service at all", () => {
      const { code, output } = deploy([deployment()], "namePrefix: prod-\n");
      expect(output).toContain("20 replies in a row");
      expect(code).toBe(0);
      expect(kubectl("get", "deployment", "prod-helloapp").code).toBe(0);
      expect(deploy([deployment()], "namePrefix: prod-\n", ["status"]).output).toContain("is rolled out");
    });

    test("replicas 0: nothing to verify", () => {
      const zero = deployment().replace("replicas: 1", "replicas: 0");
      const { code, output } = deploy([zero, service]);
      expect(output).toContain("scaled to 0, nothing to verify");
      expect(code).toBe(0);
    });

    test.each([
      [
        "a double variable",
        deployment("", "{ name: A, value: b }, { name: A, value: c }"),
        'env: duplicate entries for key [name="A"]',
      ],
      ["a number as text", deployment().replace("replicas: 1", 'replicas: "2"'), "spec.replicas: expected numeric"],
      ["a typo", deployment("replcas: 2"), "spec.replcas: field not declared in schema"],
      ["a number as value", deployment("", "{ name: A, value: 4 }"), "value: expected string, got 4"],
      ["a paused rollout", deployment("paused: true"), "Deployment/helloapp spec.paused:"],
      [
        "an invalid quantity",
        deployment().replace("- name: web", "- name: web\n          resources: { limits: { memory: lots } }"),
        "quantities must match",
      ],
    ])("%s is refused at plan with object and field, exit 1", (_, manifest, message) => {
      const start = performance.now();
      const { code, output } = deploy([manifest, service], "", ["plan"]);
      expect(output).toContain("Deployment/helloapp");
      expect(output).toContain(message);
      expect(code).toBe(1);
      expect(performance.now() - start).toBeLessThan(15_000);
    });

    test("a namespace that is being deleted is exit 3", () => {
      const hold = `apiVersion: v1\nkind: ConfigMap\nmetadata: { name: hold, namespace: ${namespace}, finalizers: [sb.example/hold] }\n`;
      writeFileSync(join(directory, "hold.yaml"), hold);
      expect(kubectl("apply", "-f", join(directory, "hold.yaml")).code).toBe(0);
      kubectl("delete", "namespace", namespace, "--wait=false");
      const { code, output } = deploy([deployment(), service]);
      kubectl("patch", "configmap", "hold", "--type", "merge", "-p", '{"metadata":{"finalizers":null}}');
      expect(output).toContain("the cluster is deleting it");
      expect(code).toBe(3);
    });
  },
  k3s,
);
