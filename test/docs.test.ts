/**
 * What the documents and files beside the code say of it: the table of variables, the Dockerfile, the manifests. Not among
 * the unit tests: an edit of a document must not stop a deploy.
 */
import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { resolveService } from "../ci/slipway/core/service-config.ts";
import { createImageSpec } from "../ci/slipway/image/image-spec.ts";
import { settings } from "../src/config.ts";

const root = join(import.meta.dir, "..");
const service = resolveService(root);
const image = createImageSpec(service);
const read = (path: string) => readFileSync(join(root, path), "utf8");
const dockerfile = read("Dockerfile");

/** Where the table of variables stands; an image build has neither, on purpose. */
const document = ["src/README.md", "README.md"].find((path) => existsSync(join(root, path)));

/** A row of a Markdown table without what aligns its columns. */
const bare = (line: string) => line.trim().replace(/ +/g, " ");

test.skipIf(!document)("the table of variables is that of src/config.ts: each in a row, and no other", () => {
  const lines = read(document!).split("\n");
  const isHead = (line: string) => /^\| variable +\|/i.test(line);
  const head = lines.findIndex(isHead);
  expect(lines.filter(isHead), `${document} has one table whose first column is "variable"`).toHaveLength(1);
  const length = lines.slice(head).findIndex((line) => !line.startsWith("|"));
  const found = lines.slice(head + 2, length < 0 ? undefined : head + length);
  const expected = Object.values(settings).map(
    ({ variable, fallback, about }) =>
      [
        variable,
        bare(`| \`${variable}\` | ${fallback === "" ? "" : `\`${fallback}\``} | ${about} |`),
      ] as const,
  );
  const rowOf = (variable: string) => found.findIndex((line) => line.startsWith(`| \`${variable}\` `));
  const wrong = expected.flatMap(([variable, row]) => {
    const at = rowOf(variable);
    if (at < 0) return [`${document} lacks the line\n  ${row}`];
    if (bare(found[at]!) === row) return [];
    return [`${document}:${head + 3 + at} should be\n  ${row}\nnot\n  ${bare(found[at]!)}`];
  });
  const known = new Set(expected.map(([variable]) => rowOf(variable)));
  const foreign = found.flatMap((line, at) =>
    known.has(at) ? [] : [`${document}:${head + 3 + at} has no variable of src/config.ts\n  ${bare(line)}`],
  );
  expect([...wrong, ...foreign].join("\n")).toBe("");
});

/** Values of one instruction of the Dockerfile's last stage. */
function instruction(name: string): string[] {
  const stage = dockerfile.slice(dockerfile.indexOf("FROM scratch")).replace(/\\\n/g, " ");
  return [...stage.matchAll(new RegExp(`^${name} (.*)$`, "gm"))].map(([, value]) => value!.trim());
}

describe("the Dockerfile's runner is the image that the pipeline makes", () => {
  test("settings", () => {
    expect(instruction("USER")).toEqual([image.user]);
    expect(instruction("EXPOSE")).toEqual([image.port]);
    expect(instruction("ENTRYPOINT")).toEqual([JSON.stringify([image.binary])]);
    // One instruction for each, or one for all.
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

  test("two layers, from the two trees", () => {
    expect(instruction("COPY")).toEqual([
      "--from=builder /src/dist/runtime/ /",
      "--from=builder /src/dist/app/ /",
    ]);
  });
});

describe("manifests", () => {
  interface Manifest {
    kind: string;
    metadata: { name: string };
    // Whatever a manifest holds: the assertions below say what they expect.
    spec: any;
  }
  const manifest = (path: string) => Bun.YAML.parse(read(path)) as Manifest;
  const deployment = manifest("k8s/base/deployment.yaml");
  const pod = deployment.spec.template.spec;
  const [container] = pod.containers;

  test("carry the name that the pipeline looks for", () => {
    expect(deployment.metadata.name).toBe(service.name);
    expect(manifest("k8s/base/namespace.yaml").metadata.name).toBe(service.namespace);
    expect(manifest("k8s/base/service.yaml").metadata.name).toBe(service.name);
    expect(container.image).toBe(service.name);
  });

  test("run the user of the image", () => {
    const { runAsUser, runAsGroup } = pod.securityContext;
    expect(`${runAsUser}:${runAsGroup}`).toBe(image.user);
  });

  test("give the drain the time that it may take: preStop, delay and deadline fit into the grace period", () => {
    const { drainDelaySeconds, drainTimeoutSeconds } = settings;
    const needed =
      container.lifecycle.preStop.sleep.seconds + drainDelaySeconds.fallback + drainTimeoutSeconds.fallback;
    expect(pod.terminationGracePeriodSeconds).toBeGreaterThan(needed);
  });

  test("take a pod off the lists before it stops to accept", () => {
    const { periodSeconds, failureThreshold } = container.readinessProbe;
    const { seconds } = container.lifecycle.preStop.sleep;
    expect(seconds + settings.drainDelaySeconds.fallback).toBeGreaterThanOrEqual(
      periodSeconds * failureThreshold,
    );
  });

  test("keep the old version until the new one is ready, and never put metrics on the Service", () => {
    expect(deployment.spec.strategy.rollingUpdate.maxUnavailable).toBe(0);
    const { spec } = manifest("k8s/base/service.yaml");
    expect(spec.ports.map(({ targetPort }: { targetPort: string }) => targetPort)).toEqual(["http"]);
  });

  test("say how much of each resource a pod gets, and no limit of CPU", () => {
    const { requests, limits } = container.resources;
    expect(Object.keys(requests).sort()).toEqual(["cpu", "ephemeral-storage", "memory"]);
    expect(Object.keys(limits).sort()).toEqual(["ephemeral-storage", "memory"]);
  });

  test("name the ports that the service listens on by default", () => {
    const ports = Object.fromEntries(container.ports.map((port: any) => [port.name, port.containerPort]));
    expect(ports).toEqual({ http: settings.port.fallback, metrics: settings.adminPort.fallback });
    expect(service.port).toBe(settings.port.fallback);
  });
});
