/** Facts that stand in two places because one of them cannot read the other. */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { app } from "../app.ts";
import { image } from "../image/image.ts";
import { findings, readProject } from "../pins/places.ts";
import { pins } from "../pins/pins.ts";
import { settings } from "../../../src/config.ts";

const root = join(import.meta.dir, "../../..");
const read = (path: string) => Bun.file(join(root, path)).text();
const dockerfile = await read("Dockerfile");
/** Left out of image builds on purpose: an edit of the README must not run the tests again. */
const readme = await read("README.md").catch(() => undefined);

/** Values of one instruction of the Dockerfile's last stage. */
function instruction(name: string): string[] {
  const stage = dockerfile.slice(dockerfile.indexOf("FROM scratch")).replace(/\\\n/g, " ");
  return [...stage.matchAll(new RegExp(`^${name} (.*)$`, "gm"))].map(([, value]) => value!.trim());
}

describe("the Dockerfile's runner is the image of ci/image.ts", () => {
  test("settings", () => {
    expect(instruction("USER")).toEqual([image.user]);
    expect(instruction("EXPOSE")).toEqual([image.port]);
    expect(instruction("ENTRYPOINT")).toEqual([JSON.stringify([image.binary])]);
    expect(instruction("ENV")).toEqual(Object.entries(image.env).map(([name, value]) => `${name}=${value}`));
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

describe("pins", () => {
  test("all places agree; those that an image build leaves out are not looked at there", async () => {
    expect(findings(await readProject(root))).toEqual([]);
  });

  test("this runs under the pinned Bun", () => expect(Bun.version).toBe(pins.bun));
});

test.skipIf(!readme)("the README's table of variables is that of src/config.ts", () => {
  const row = ({ variable, fallback, about }: { variable: string; fallback: unknown; about: string }) =>
    `| \`${variable}\` | ${fallback === "" ? "" : `\`${fallback}\``} | ${about} |`.replace(/ +/g, " ");
  const table = readme!.replace(/ +/g, " ");
  for (const setting of Object.values(settings)) expect(table).toContain(row(setting));
});

describe("manifests", async () => {
  interface Manifest {
    kind: string;
    metadata: { name: string };
    // Whatever a manifest holds: the assertions below say what they expect.
    spec: any;
  }
  const manifest = async (path: string) => Bun.YAML.parse(await read(path)) as Manifest;
  const deployment = await manifest("k8s/base/deployment.yaml");
  const pod = deployment.spec.template.spec;
  const [container] = pod.containers;

  test("carry the name that the pipeline looks for", async () => {
    expect(deployment.metadata.name).toBe(app.name);
    expect((await manifest("k8s/base/namespace.yaml")).metadata.name).toBe(app.namespace);
    expect((await manifest("k8s/base/service.yaml")).metadata.name).toBe(app.name);
    expect(container.image).toBe(app.name);
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

  test("keep the old version until the new one is ready, and never put metrics on the Service", async () => {
    expect(deployment.spec.strategy.rollingUpdate.maxUnavailable).toBe(0);
    const { spec } = await manifest("k8s/base/service.yaml");
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
  });
});
