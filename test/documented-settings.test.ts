/**
 * Compares the code with the table of variables, the Dockerfile and the manifests. These tests are separate from the unit
 * tests, so that an edit of a document does not block a deploy.
 */
import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { resolveService } from "../ci/slipway/core/resolve-service.ts";
import { createImageSpec } from "../ci/slipway/image/image-spec.ts";
import { settings } from "../src/config.ts";

const root = join(import.meta.dir, "..");
const service = resolveService(root);
const image = createImageSpec(service);
const read = (path: string) => readFileSync(join(root, path), "utf8");
const dockerfile = read("Dockerfile");

/** The document with the table of variables. An image build excludes both. */
const document = ["src/README.md", "README.md"].find((path) => existsSync(join(root, path)));

/** Removes the alignment of a row in a Markdown table. */
const normalizeRow = (line: string) => line.trim().replace(/ +/g, " ");

test.skipIf(!document)("the table of variables lists exactly the settings in src/config.ts", () => {
  const lines = read(document!).split("\n");
  const isHead = (line: string) => /^\| variable +\|/i.test(line);
  const head = lines.findIndex(isHead);
  expect(lines.filter(isHead), `tables in ${document} with the first column "variable"`).toHaveLength(1);
  const length = lines.slice(head).findIndex((line) => !line.startsWith("|"));
  const found = lines.slice(head + 2, length < 0 ? undefined : head + length);
  const expected = Object.values(settings).map(
    ({ variable, fallback, description }) =>
      [
        variable,
        normalizeRow(`| \`${variable}\` | ${fallback === "" ? "" : `\`${fallback}\``} | ${description} |`),
      ] as const,
  );
  const rowOf = (variable: string) => found.findIndex((line) => line.startsWith(`| \`${variable}\` `));
  const wrong = expected.flatMap(([variable, row]) => {
    const at = rowOf(variable);
    if (at < 0) return [`${document} has no line\n  ${row}`];
    if (normalizeRow(found[at]!) === row) return [];
    return [`${document}:${head + 3 + at} should be\n  ${row}\nnot\n  ${normalizeRow(found[at]!)}`];
  });
  const known = new Set(expected.map(([variable]) => rowOf(variable)));
  const unknown = found.flatMap((line, at) =>
    known.has(at) ? [] : [`${document}:${head + 3 + at} names no variable in src/config.ts\n  ${normalizeRow(line)}`],
  );
  expect([...wrong, ...unknown].join("\n")).toBe("");
});

/** Returns the values of an instruction in the Dockerfile's last stage. */
function instruction(name: string): string[] {
  const stage = dockerfile.slice(dockerfile.indexOf("FROM scratch")).replace(/\\\n/g, " ");
  return [...stage.matchAll(new RegExp(`^${name} (.*)$`, "gm"))].map(([, value]) => value!.trim());
}

describe("the Dockerfile's last stage matches the pipeline's image", () => {
  test("settings", () => {
    expect(instruction("USER")).toEqual([image.user]);
    expect(instruction("EXPOSE")).toEqual([image.port]);
    expect(instruction("ENTRYPOINT")).toEqual([JSON.stringify([image.binary])]);
    // There may be one instruction for all variables or several.
    const env = instruction("ENV").flatMap((values) => values.split(/\s+/));
    expect(env).toEqual(Object.entries(image.env).map(([name, value]) => `${name}=${value}`));
  });

  test("labels", () => {
    const labels = [
      ...instruction("LABEL")
        .join(" ")
        .matchAll(/(\S+?)="([^"]*)"/g),
    ].map(([, name, value]) => [name, value]);
    expect(Object.fromEntries(labels)).toEqual(image.labels);
  });

  test("two layers: runtime and app", () => {
    expect(instruction("COPY")).toEqual(["--from=builder /src/dist/runtime/ /", "--from=builder /src/dist/app/ /"]);
  });
});

describe("manifests", () => {
  interface Manifest {
    kind: string;
    metadata: { name: string };
    // Untyped, because the assertions below check the structure.
    spec: any;
  }
  const manifest = (path: string) => Bun.YAML.parse(read(path)) as Manifest;
  const deployment = manifest("k8s/base/deployment.yaml");
  const pod = deployment.spec.template.spec;
  const [container] = pod.containers;

  test("use the names that the pipeline expects", () => {
    expect(deployment.metadata.name).toBe(service.name);
    expect(manifest("k8s/base/namespace.yaml").metadata.name).toBe(service.namespace);
    expect(manifest("k8s/base/service.yaml").metadata.name).toBe(service.name);
    expect(container.image).toBe(service.name);
  });

  test("use the image's user", () => {
    const { runAsUser, runAsGroup } = pod.securityContext;
    expect(`${runAsUser}:${runAsGroup}`).toBe(image.user);
  });

  test("have a grace period longer than preStop, drain delay and drain timeout", () => {
    const { drainDelaySeconds, drainTimeoutSeconds } = settings;
    const needed =
      container.lifecycle.preStop.sleep.seconds + drainDelaySeconds.fallback + drainTimeoutSeconds.fallback;
    expect(pod.terminationGracePeriodSeconds).toBeGreaterThan(needed);
  });

  test("remove a pod from its endpoints before it stops accepting connections", () => {
    const { periodSeconds, failureThreshold } = container.readinessProbe;
    const { seconds } = container.lifecycle.preStop.sleep;
    expect(seconds + settings.drainDelaySeconds.fallback).toBeGreaterThanOrEqual(periodSeconds * failureThreshold);
  });

  test("keep old pods until new pods are ready, and exclude metrics from the Service", () => {
    expect(deployment.spec.strategy.rollingUpdate.maxUnavailable).toBe(0);
    const { spec } = manifest("k8s/base/service.yaml");
    expect(spec.ports.map(({ targetPort }: { targetPort: string }) => targetPort)).toEqual(["http"]);
  });

  test("set requests and limits for all resources except a CPU limit", () => {
    const { requests, limits } = container.resources;
    expect(Object.keys(requests).sort()).toEqual(["cpu", "ephemeral-storage", "memory"]);
    expect(Object.keys(limits).sort()).toEqual(["ephemeral-storage", "memory"]);
  });

  test("use the service's default ports", () => {
    const ports = Object.fromEntries(container.ports.map((port: any) => [port.name, port.containerPort]));
    expect(ports).toEqual({ http: settings.port.fallback, metrics: settings.adminPort.fallback });
    expect(service.port).toBe(settings.port.fallback);
  });
});
