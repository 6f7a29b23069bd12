/** The manifests as kubectl, promtool and kube-score see them. */
import { expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { components } from "../../init/kustomize-components.ts";
import { describeWith, must, root, service, sh, temporaryDirectory } from "./setup.ts";

// Debian's kubectl is from 2020 and its kustomize lacks features that the overlay uses. Newer ones print their
// version like this.
const isRecent = sh(["sh", "-c", "kubectl version --client"]).stdout.includes("Kustomize Version: v5");
const kubectl = isRecent ? ["kubectl"] : ["k3s", "kubectl"];

const directory = temporaryDirectory();

/** Creates an overlay in another directory: the k3s overlay with components. */
function overlayWith(names: string[]): string {
  const at = join(directory, names.join("-") || "none");
  mkdirSync(at, { recursive: true });
  const from = (path: string) => relative(at, join(root, path));
  const kustomization = {
    resources: [from(service.overlays.k3s)],
    components: names.map((name) => from(`k8s/components/${name}`)),
  };
  writeFileSync(join(at, "kustomization.yaml"), JSON.stringify(kustomization));
  return at;
}
const rendered = (overlay: string) => Bun.YAML.parse(must([...kubectl, "kustomize", overlay])) as any[];

describeWith(
  "kustomize",
  [],
  () => {
    const objects = () => rendered(service.overlays.k3s);
    const one = (kind: string) => objects().find((object) => object.kind === kind);

    test("the overlay contains the objects of a deploy, all in its namespace", () => {
      expect(
        objects()
          .map(({ kind }) => kind)
          .sort(),
      ).toEqual(["Deployment", "Namespace", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount"]);
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

    test("the Deployment never pulls images, and complies with restricted pod security", () => {
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

    test("the NetworkPolicy blocks all egress", () => {
      const { policyTypes, egress } = one("NetworkPolicy").spec;
      expect(policyTypes).toContain("Egress");
      expect(egress).toBeUndefined();
    });
  },
  { name: "a kubectl with kustomize 5", isMet: isRecent },
);

const kustomize = { name: "a kubectl with kustomize 5", isMet: isRecent || Boolean(Bun.which("k3s")) };

describeWith(
  "components",
  [],
  () => {
    const nameOf = ({ kind, metadata }: any) => `${kind}/${metadata.name}`;
    const added: Record<string, string[]> = {
      autoscaler: ["HorizontalPodAutoscaler/helloapp"],
      egress: ["NetworkPolicy/helloapp-egress"],
      ingress: ["Ingress/helloapp"],
      monitoring: ["ConfigMap/helloapp-dashboard", "PodMonitor/helloapp", "PrometheusRule/helloapp"],
    };

    test.each([...components.map((name) => [[name]]), [components]])(
      "%p: adds its objects in the namespace, with the service's label, and changes nothing else",
      (names) => {
        const before = rendered(service.overlays.k3s);
        const objects = rendered(overlayWith(names));
        const isNew = (object: any) => !before.some((one) => nameOf(one) === nameOf(object));
        expect(objects.filter(isNew).map(nameOf).sort()).toEqual(names.flatMap((name) => added[name]!).sort());
        for (const { kind, metadata } of objects) {
          if (kind !== "Namespace") expect(metadata.namespace).toBe(service.namespace);
          expect(metadata.labels["app.kubernetes.io/name"]).toBe(service.name);
        }
        // The autoscaler sets the replicas. All else is unchanged.
        const without = (object: any) => ({ ...object, spec: { ...object.spec, replicas: 0 } });
        const existing = objects.filter((object) => !isNew(object));
        expect(existing.map(without)).toEqual(before.map(without));
        const deployment = objects.find(({ kind }) => kind === "Deployment");
        expect(deployment.spec.replicas).toBe(names.includes("autoscaler") ? undefined : 2);
      },
    );
  },
  kustomize,
);

describeWith(
  "promtool",
  [],
  () => {
    const job = "helloapp/helloapp";
    const count = (route: string, status: number, values: string) => ({
      series: `http_server_request_duration_seconds_count{job="${job}", http_route="${route}", http_response_status_code="${status}"}`,
      values,
    });
    const bucket = (route: string, le: string, values: string) => ({
      series: `http_server_request_duration_seconds_bucket{job="${job}", http_route="${route}", le="${le}"}`,
      values,
    });
    const up = (value: number) => ({ series: `up{job="${job}", pod="a"}`, values: `${value}x30` });
    const ready = (pods: number) => ({
      series: `kube_deployment_status_replicas_available{namespace="helloapp", deployment="helloapp"}`,
      values: `${pods}x30`,
    });
    const objects = () => rendered(overlayWith(["monitoring"]));
    const write = (name: string, content: object) => {
      const file = join(directory, name);
      writeFileSync(file, JSON.stringify(content));
      return file;
    };
    const rules = () => write("rules.yaml", objects().find(({ kind }) => kind === "PrometheusRule").spec);

    test("can parse every expression of the dashboard", () => {
      const { data } = objects().find(({ kind }) => kind === "ConfigMap");
      const { panels } = JSON.parse(data["helloapp.json"]) as { panels: { targets: { expr: string }[] }[] };
      const asked = panels.flatMap(({ targets }) => targets.map(({ expr }) => expr));
      expect(asked.length).toBeGreaterThanOrEqual(8);
      // Grafana replaces this variable.
      const exprs = asked.map((expr) => expr.replaceAll("$__rate_interval", "5m"));
      const recorded = exprs.map((expr, i) => ({ record: `panel:${i}`, expr }));
      must(["promtool", "check", "rules", write("panels.yaml", { groups: [{ name: "panels", rules: recorded }] })]);
    });

    test.each<[string, object[], string[]]>([
      [
        "healthy",
        [up(1), ready(2), count("/", 200, "0+600x30"), bucket("/", "0.5", "0+600x30"), bucket("/", "+Inf", "0+600x30")],
        [],
      ],
      ["no requests", [up(1), ready(2)], []],
      [
        "probes fail and are slow",
        [
          up(1),
          ready(2),
          count("/readyz", 503, "0+60x30"),
          bucket("/readyz", "0.5", "0x30"),
          bucket("/readyz", "+Inf", "0+60x30"),
        ],
        [],
      ],
      [
        "1 in 50 requests fails",
        [up(1), ready(2), count("/", 200, "0+588x30"), count("/", 500, "0+12x30")],
        ["ServiceErrorRatio"],
      ],
      ["1 in 200 requests fails", [up(1), ready(2), count("/", 200, "0+597x30"), count("/", 500, "0+3x30")], []],
      [
        "1 in 50 requests is slow",
        [
          up(1),
          ready(2),
          bucket("/", "0.5", "0+588x30"),
          bucket("/", "1", "0+600x30"),
          bucket("/", "+Inf", "0+600x30"),
        ],
        ["ServiceLatencyP99"],
      ],
      ["no pod can be scraped", [up(0), ready(2)], ["ServiceDown"]],
      ["no metrics", [], ["ServiceDown"]],
      ["no pod is ready", [up(1), ready(0)], ["ServiceDown"]],
      ["one of two pods cannot be scraped", [up(0), { ...up(1), series: `up{job="${job}", pod="b"}` }], []],
    ])("alerts: %s", (_, input_series, alerts) => {
      const file = rules();
      const known = ["ServiceDown", "ServiceErrorRatio", "ServiceLatencyP99"];
      const ALERTS = known.map((alertname) => ({
        expr: `count by (alertname, service, alertstate) (ALERTS{alertname="${alertname}", alertstate="firing"})`,
        eval_time: "20m",
        exp_samples: alerts.includes(alertname)
          ? [{ labels: `{alertname="${alertname}", service="helloapp", alertstate="firing"}`, value: 1 }]
          : [],
      }));
      const tests = [{ interval: "1m", input_series, promql_expr_test: ALERTS }];
      must(["promtool", "test", "rules", write("test.yaml", { rule_files: [file], evaluation_interval: "1m", tests })]);
    });
  },
  { name: "promtool", isMet: Boolean(Bun.which("promtool")) },
  kustomize,
);

describeWith(
  "kube-score",
  [],
  () => {
    interface Scored {
      type_meta: { kind: string };
      checks: { check: { id: string }; grade: number; skipped: boolean }[];
    }
    /** Lists kube-score's findings, `Kind/check`. */
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

    test("reports no finding with all components", () => {
      expect(findings(overlayWith(components))).toEqual([]);
    });

    test.each([
      [service.overlays.k3s, [...deployment, "Service/service-type"]],
      [service.overlays.registry, deployment],
    ])("%s: reports no finding except those ignored by annotation", (overlay, left) => {
      expect(findings(overlay)).toEqual([]);
      expect(findings(overlay, "--disable-ignore-checks-annotations")).toEqual(left);
    });
  },
  { name: "kube-score", isMet: Boolean(Bun.which("kube-score")) },
  kustomize,
);
