/**
 * Compares the metrics and labels in alerts and dashboard with the metrics of the service. These tests are separate from
 * the unit tests, so that an edit of an alert does not block a deploy.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Lifecycle } from "slipway/service";
import { loadConfig } from "../src/config.ts";
import { startServer, type RunningServer } from "../src/server.ts";
import { createLogger } from "../src/telemetry/log.ts";

const directory = join(import.meta.dir, "../k8s/components/monitoring");
const read = (name: string) => readFileSync(join(directory, name), "utf8");
const { spec } = Bun.YAML.parse(read("prometheusrule.yaml")) as {
  spec: { groups: { rules: { expr: string }[] }[] };
};
const { panels } = JSON.parse(read("dashboard.json")) as {
  panels: { title: string; targets: { expr: string; legendFormat: string }[] }[];
};
const targets = panels.flatMap((panel) => panel.targets);
const expressions = [...spec.groups.flatMap(({ rules }) => rules), ...targets].map(({ expr }) => expr);

/** Metrics of Prometheus and kube-state-metrics. */
const externalMetrics = ["up", "kube_deployment_status_replicas_available"];
/** Labels that Prometheus adds to all metrics of a pod. */
const targetLabels = ["job", "namespace", "pod"];
const selectors = [...new Set(expressions.flatMap((expr) => expr.match(/\b[a-z_]+\{[^}]*\}/g) ?? []))].filter(
  (selector) => !externalMetrics.includes(selector.replace(/\{.*/, "")),
);

interface Sample {
  name: string;
  labels: Record<string, string>;
}
let samples: Sample[];
let server: RunningServer;

beforeAll(async () => {
  const lifecycle = new Lifecycle();
  server = startServer(loadConfig({ HOST: "127.0.0.1", PORT: "0", ADMIN_PORT: "0" }), {
    lifecycle,
    log: createLogger("error", () => {}),
    routes: {
      "/boom": {
        handle() {
          throw new Error("boom");
        },
      },
    },
  });
  lifecycle.ready();
  for (const path of ["/", "/boom", "/readyz"]) await fetch(new URL(path, server.url));
  const text = await (await fetch(new URL("/metrics", server.adminUrl))).text();
  samples = [...text.matchAll(/^([a-z_]+)(?:\{(.*)\})? \S+$/gm)].map(([, name, labels = ""]) => ({
    name: name!,
    labels: Object.fromEntries([...labels.matchAll(/(\w+)="([^"]*)"/g)].map(([, label, value]) => [label, value])),
  }));
});
afterAll(() => Promise.all(server.servers.map((server) => server.stop(true))));

const named = (name: string) => samples.filter((sample) => sample.name === name);

test("rules and dashboard use the service's metrics", () => {
  expect(selectors.length).toBeGreaterThanOrEqual(6);
});

test.each(selectors)("%s is exposed", (selector) => {
  const [, name = "", given = ""] = /^(\w+)\{(.*)\}$/.exec(selector)!;
  const matchers = [...given.matchAll(/(\w+)(=~|!~|=|!=)"([^"]*)"/g)].filter(
    ([, label]) => !targetLabels.includes(label!),
  );
  let found = named(name);
  expect(found, name).not.toBeEmpty();
  for (const [matcher, label = "", operator = "", value = ""] of matchers) {
    // Prometheus treats a missing label as empty, so that a misspelt label could match.
    expect(
      found.some(({ labels }) => label in labels),
      `${name} with a label ${label}`,
    ).toBeTrue();
    const pattern = operator.endsWith("~") ? new RegExp(`^(?:${value})$`) : { test: (text: string) => text === value };
    found = found.filter(({ labels }) => pattern.test(labels[label] ?? "") !== operator.startsWith("!"));
    expect(found, `${name}, ${matcher}`).not.toBeEmpty();
  }
});

test("labels in groupings and legends exist", () => {
  const labels = expressions
    .flatMap((expr) => [...expr.matchAll(/\bby \(([^)]*)\)/g)])
    .flatMap(([, list]) => list!.split(", "));
  const shown = targets
    .flatMap(({ legendFormat }) => [...legendFormat.matchAll(/\{\{(\w+)\}\}/g)])
    .map(([, label]) => label!);
  const known = new Set([...targetLabels, ...samples.flatMap(({ labels }) => Object.keys(labels))]);
  expect([...labels, ...shown].filter((label) => !known.has(label))).toEqual([]);
});

test("the latency threshold is a bucket bound, so that Prometheus does not interpolate", () => {
  const [, name = "", seconds = ""] =
    expressions.map((expr) => /(\w+_bucket)\{[^>]*>\s*([\d.]+)/.exec(expr)).find(Boolean) ?? [];
  expect(named(name).map(({ labels }) => labels.le)).toContain(seconds);
});
