/** Workloads whose pods do not run beside each other, on a real k3s: bad versions, and good ones after them. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { Copy } from "./project-versions.ts";
import { describeWith, sh, temporaryDirectory } from "./setup.ts";

setDefaultTimeout(600_000);

const isRunning = process.env.E2E_CLUSTER === "k3s" && sh(["sh", "-c", "k3s kubectl get nodes"]).code === 0;
const k3s = { name: "E2E_CLUSTER=k3s and a running k3s", isMet: isRunning };
const manifest = "k8s/base/deployment.yaml";
const strategy = /  strategy:\n(?: {4}.*\n)+/;

describeWith(
  "workload kinds",
  [],
  () => {
    const directory = temporaryDirectory();
    const namespaces: string[] = [];
    afterAll(() => {
      for (const name of namespaces) sh(["k3s", "kubectl", "delete", "namespace", name, "--wait=false"]);
    });

    function create(namespace: string, port: number): Copy {
      namespaces.push(namespace);
      const copy = new Copy(directory, namespace, { namespace, port });
      for (const script of ["check", "test", "test:unit"])
        copy.rewrite("package.json", `"${script}":`, `"no-${script}":`);
      copy.rewrite(
        "ci/pipeline.ts",
        "attach: false,",
        "attach: false,\n  readyTimeoutSeconds: 30,\n  rolloutTimeoutSeconds: 60,",
      );
      copy.keepChanges();
      return copy;
    }

    function deploy(copy: Copy, ...args: string[]): { code: number; output: string } {
      return sh([process.execPath, "ci/pipeline.ts", ...args], {
        cwd: copy.directory,
        env: { SLIPWAY_CHECK: undefined },
      });
    }

    /** Creates a copy whose Deployment is an ordered StatefulSet. */
    function createStatefulSet(namespace: string, port: number): Copy {
      const copy = create(namespace, port);
      copy.rewrite(manifest, "kind: Deployment", "kind: StatefulSet");
      copy.rewrite(manifest, strategy, "  serviceName: helloapp\n");
      copy.rewrite(manifest, "  progressDeadlineSeconds: 180\n", "");
      copy.rewrite("k8s/overlays/k3s/kustomization.yaml", "kind: Deployment", "kind: StatefulSet");
      copy.keepChanges();
      return copy;
    }

    const crash = 'if (process.env.POD_NAME) throw new Error("a bad version");';

    test("a bad version of an ordered StatefulSet is rolled back, and a good one follows", () => {
      const copy = createStatefulSet("sa-statefulset", 31100);
      const first = deploy(copy);
      expect(first.code, first.output).toBe(0);
      copy.state(crash);
      const bad = deploy(copy);
      expect(bad.code, bad.output).toBe(1);
      expect(bad.output).toContain("Rolled back");
      copy.restore();
      copy.edit();
      const good = deploy(copy);
      expect(good.code, good.output).toBe(0);
    });

    test("a bad first version of an ordered StatefulSet is followed by a good one", () => {
      const copy = createStatefulSet("sa-statefulset-first", 31101);
      copy.state(crash);
      const bad = deploy(copy);
      expect(bad.code, bad.output).toBe(1);
      expect(bad.output).not.toContain("describe deployment");
      copy.restore();
      const good = deploy(copy);
      expect(good.code, good.output).toBe(0);
    });

    test.each([1, 2, 3])(
      "the version after a crashing one is not judged by its pods, strategy Recreate (%d)",
      (round) => {
        const copy = create(`sa-recreate-${round}`, 31101 + round);
        copy.state(crash);
        const bad = deploy(copy);
        expect(bad.code, bad.output).toBe(1);
        copy.restore();
        copy.rewrite(manifest, strategy, "  strategy:\n    type: Recreate\n");
        copy.rewrite(manifest, "  replicas: 2", "  replicas: 1");
        const good = deploy(copy);
        expect(good.code, good.output).toBe(0);
      },
    );
  },
  k3s,
);
