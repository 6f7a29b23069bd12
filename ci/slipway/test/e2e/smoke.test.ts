/** Smoke tests of a small service. The variable MODE in its manifests selects how it behaves. */
import { beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { resolveService, type Service } from "../../core/resolve-service.ts";
import { PipelineError } from "../../core/errors.ts";
import { writeDockerArchive } from "../../image/docker-archive-writer.ts";
import { buildImage } from "../../image/build-image-files.ts";
import { ownArchitecture } from "../../image/architecture.ts";
import { runSmokeTest } from "../../smoke-test/smoke-test.ts";
import {
  builtProject,
  describeWith,
  hasNamespaces,
  root,
  service as greeting,
  sh,
  temporaryDirectory,
} from "./setup.ts";

setDefaultTimeout(120_000);

const namespaces = { name: "namespaces", isMet: hasNamespaces };

/** Source of the service. */
const source = `
import { appendFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { hostname, networkInterfaces } from "node:os";
const { MODE, PORT } = process.env;
console.log("starting as", MODE);
if (MODE === "cwd") writeFileSync("data.db", "");
if (MODE === "root") writeFileSync("/data.db", "");
if (MODE === "tmp") writeFileSync("/tmp/data.db", "x".repeat(1000));
if (MODE === "full") writeFileSync("/tmp/data.db", Buffer.alloc(2 << 20));
if (MODE === "crash") { console.error("there is no database at db:5432"); process.exit(3); }
if (MODE === "illegal") process.exit(132);
if (MODE === "misses") try { readFileSync("/srv/migrations/1.sql"); } catch (error) { console.error(String(error)); }
if (MODE === "shell") Bun.spawnSync(["git", "status"]);
if (MODE === "calls") await fetch("http://10.43.0.1/");
if (MODE === "secret" && process.env.TOKEN !== "sesame") throw new Error("TOKEN is not set");
const seen = {
  uid: process.getuid(), gid: process.getgid(), pid: process.pid, cwd: process.cwd(), host: hostname(),
  passwd: existsSync("/etc/passwd"), addresses: Object.values(networkInterfaces()).flat().map(({ address }) => address),
  pod: process.env.POD_NAME, ip: process.env.POD_IP, url: process.env.URL, color: process.env.COLOR, home: process.env.HOME,
  caps: /CapEff:\\s*(\\S+)/.exec(readFileSync("/proc/self/status", "utf8"))[1],
};
if (MODE === "look") { console.log(JSON.stringify(seen)); process.exit(1); }
const server = Bun.serve({
  port: MODE === "port" ? 3000 : PORT,
  hostname: MODE === "loopback" ? "127.0.0.1" : "0.0.0.0",
  routes: {
    "/version": () => Response.json({ id: BUILD_ID }),
    "/readyz": () => {
      if (MODE !== "ill") return new Response("ok");
      console.error("the migration failed");
      return new Response("no", { status: 500 });
    },
    "/healthz": () => new Response("ok", { status: MODE === "dead" ? 503 : 200 }),
  },
});
const ends = {
  ignores: () => console.log("what was that?"),
  cuts: () => process.exit(0),
  fails: async () => { await server.stop(); process.exit(7); },
};
if (MODE !== "deaf") process.on("SIGTERM", ends[MODE] ?? (async () => { await server.stop(); process.exit(0); }));
if (process.argv[2] === "--ask") process.exit(1);
`;

/** A Deployment of the service, with more fields of the container and of the pod. */
function deployment(mode: string, container: object = {}, pod: object = {}) {
  return {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: { name: "shop" },
    spec: {
      template: {
        metadata: { labels: { color: "red" } },
        spec: {
          terminationGracePeriodSeconds: 3,
          containers: [
            {
              name: "shop",
              image: "shop",
              env: [
                { name: "MODE", value: mode },
                { name: "POD_NAME", valueFrom: { fieldRef: { fieldPath: "metadata.name" } } },
                { name: "POD_IP", valueFrom: { fieldRef: { fieldPath: "status.podIP" } } },
                { name: "COLOR", valueFrom: { fieldRef: { fieldPath: "metadata.labels['color']" } } },
                { name: "URL", value: "http://$(POD_IP)/$(ABSENT)" },
              ],
              ports: [{ name: "http", containerPort: 8080 }],
              readinessProbe: { httpGet: { path: "/readyz", port: "http" } },
              livenessProbe: { httpGet: { path: "/healthz", port: 8080 } },
              lifecycle: { preStop: { sleep: { seconds: 2 } } },
              ...container,
            },
          ],
          ...pod,
        },
      },
    },
  };
}

const directory = temporaryDirectory();
const archive = join(directory, "shop.tar");
let service: Service;
let id: string;

beforeAll(async () => {
  // The container's user needs access.
  chmodSync(directory, 0o755);
  const project = join(directory, "shop");
  mkdirSync(join(project, "k8s/overlays/k3s"), { recursive: true });
  writeFileSync(join(project, "package.json"), JSON.stringify({ name: "shop", version: "1.0.0" }));
  writeFileSync(join(project, "bun.lock"), '{"lockfileVersion":1,"workspaces":{"":{"name":"shop"}},"packages":{}}');
  writeFileSync(join(project, "index.ts"), source);
  service = resolveService(project, { attach: false, readyTimeoutSeconds: 1 });
  const dist = join(directory, "dist");
  const built = await buildImage(service, dist);
  await writeDockerArchive(archive, { service, dist, names: [`shop:${built.id}`], platform: built.platform });
  ({ id } = built);
});

function manifests(...objects: object[]): void {
  const overlay = join(service.project, "k8s/overlays/k3s");
  writeFileSync(join(overlay, "kustomization.yaml"), "resources: [all.yaml]\n");
  writeFileSync(join(overlay, "all.yaml"), objects.map((object) => JSON.stringify(object)).join("\n---\n"));
}

/** Runs the smoke test. @returns the detail of a success, or the message, hint and output of a failure */
async function smokeTest(
  ...objects: object[]
): Promise<{ message: string; output: string; failed: boolean; skipped?: boolean }> {
  manifests(...objects);
  try {
    const { detail, skipped } = await runSmokeTest(service, { archive, id });
    return { message: detail, output: "", failed: false, skipped };
  } catch (error) {
    if (!(error instanceof PipelineError)) throw error;
    expect(error.kind).toBe("project");
    return { message: `${error.message}. ${error.hint ?? ""}`, output: error.output ?? "", failed: true };
  }
}

/** Lists directories that smoke tests have not removed. */
const leftovers = () => readdirSync(tmpdir()).filter((name) => name.startsWith("shop-smoke-"));

/** Runs `body` with a PATH that has only these programs, or scripts in their place. */
async function withPath<T>(programs: Record<string, string | undefined>, body: () => Promise<T>): Promise<T> {
  const bin = mkdtempSync(join(directory, "bin-"));
  for (const [name, script] of Object.entries(programs)) {
    if (script === undefined) symlinkSync(Bun.which(name)!, join(bin, name));
    else writeFileSync(join(bin, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  }
  const before = process.env.PATH;
  process.env.PATH = bin;
  try {
    return await body();
  } finally {
    process.env.PATH = before;
  }
}

describeWith(
  "smoke test in a sandbox",
  ["unshare"],
  () => {
    test("passes for this project's image and lists the checks", async () => {
      const { dist, ...built } = await builtProject();
      const path = join(directory, "helloapp.tar");
      await writeDockerArchive(path, { service: greeting, dist, names: ["helloapp:x"], platform: built.platform });
      const { detail, skipped } = await runSmokeTest(greeting, { archive: path, id: built.id });
      expect(skipped).toBe(false);
      expect(detail).toStartWith(
        "as uid 65532 on a read-only root, readiness (GET :8080/readyz), liveness (GET :8080/healthz), /version, drain",
      );
      await expect(runSmokeTest(greeting, { archive: path, id: "another-id" })).rejects.toThrow("expected another-id");
    });

    test("the process sees a pod and not this machine", async () => {
      const { output } = await smokeTest(deployment("look"));
      const seen = JSON.parse(output.split("\n").find((line) => line.startsWith("{"))!);
      expect(seen).toEqual({
        uid: 65532,
        gid: 65532,
        pid: 1,
        cwd: "/srv",
        host: "shop-smoketest-00000",
        passwd: false,
        addresses: expect.arrayContaining(["127.0.0.1", "10.42.0.2"]),
        pod: "shop-smoketest-00000",
        ip: "10.42.0.2",
        url: "http://10.42.0.2/$(ABSENT)",
        color: "red",
        home: "/",
        caps: "0000000000000000",
      });
    });

    test("user, group, working directory and command come from the manifests", async () => {
      const { output } = await smokeTest(
        deployment("look", {
          command: ["/shop", "$(MODE)"],
          workingDir: "/srv",
          securityContext: { runAsUser: 1234, runAsGroup: 2345 },
        }),
      );
      expect(output).toContain('"uid":1234,"gid":2345,"pid":1,"cwd":"/srv"');
    });

    test.each([["cwd"], ["root"]])("fails with EROFS if the service writes into %s", async (mode) => {
      const before = readdirSync("/");
      const { message, output } = await smokeTest(deployment(mode));
      expect(message).toContain("the container ended with exit code 1 before the readiness probe passed");
      expect(output).toContain("EROFS");
      expect(readdirSync("/")).toEqual(before);
    });

    test("passes if the service writes into an emptyDir, up to its size limit", async () => {
      const mounts = { volumeMounts: [{ name: "tmp", mountPath: "/tmp" }] };
      const volumes = { volumes: [{ name: "tmp", emptyDir: { sizeLimit: "1Mi" } }] };
      const before = leftovers();
      const passed = await smokeTest(deployment("tmp", mounts, volumes));
      expect(passed.message).toStartWith("as uid 65532 on a read-only root, /tmp writable, readiness");
      expect(existsSync("/tmp/data.db")).toBe(false);
      const full = await smokeTest(deployment("full", mounts, volumes));
      expect(full.output).toContain("ENOSPC");
      const without = await smokeTest(deployment("tmp"));
      expect(without.output).toContain("ENOENT");
      expect(leftovers()).toEqual(before);
    });

    test("fails if the service listens on another port or address, and names it", async () => {
      const { message } = await smokeTest(deployment("port"));
      expect(message).toContain(
        "the readiness probe (GET :8080/readyz) failed for 1 s: connection refused (the service listens on 0.0.0.0:3000)",
      );
      expect(message).toContain("Listen on process.env.PORT, or set `port: 3000` in ci/pipeline.ts");
      const loopback = await smokeTest(deployment("loopback"));
      expect(loopback.message).toContain("(the service listens on 127.0.0.1:8080)");
      expect(loopback.message).toContain("Listen on 0.0.0.0.");
    });

    test.each([
      ["cwd", "The service writes to data.db, but only /tmp and volumes are writable."],
      ["root", "The service writes to /data.db, but only /tmp and volumes are writable."],
      ["shell", "The service starts git, but the image contains no other program"],
      ["illegal", "ended with exit code 132 (SIGILL, illegal instruction)"],
      ["illegal", "Bun needs x86-64-v2 (SSE4.2, POPCNT)"],
    ])("a failure has the hint that a failed rollout shows (%s)", async (mode, hint) => {
      expect((await smokeTest(deployment(mode))).message).toContain(hint);
    });

    test("a service that passes without a file has the file as a finding", async () => {
      manifests(deployment("misses"));
      const { finding, detail } = await runSmokeTest(service, { archive, id });
      expect(finding).toStartWith(
        "The service reads migrations/1.sql, which is neither in the image nor in the project.",
      );
      expect(detail).toEndWith("drain");
      manifests(deployment("plain"));
      expect(await runSmokeTest(service, { archive, id })).not.toHaveProperty("finding");
    });

    test("fails if a probe fails, with the probe, the status and the output", async () => {
      const ill = await smokeTest(deployment("ill"));
      expect(ill.message).toContain("the readiness probe (GET :8080/readyz) failed for 1 s: status 500");
      expect(ill.output).toContain("starting as ill");
      expect(ill.output).toContain("the migration failed");
      const dead = await smokeTest(deployment("dead"));
      expect(dead.message).toContain("the liveness probe (GET :8080/healthz) failed for 1 s: status 503");
    });

    test("fails if the service crashes, with stderr and exit code", async () => {
      const { message, output } = await smokeTest(deployment("crash"));
      expect(message).toContain("the container ended with exit code 3 before the readiness probe passed");
      expect(output).toContain("there is no database at db:5432");
    });

    test("fails if the service calls another service, with a hint about the network", async () => {
      const { message, output } = await smokeTest(deployment("calls"));
      expect(output).toContain("ENETUNREACH");
      expect(message).toContain("the container ended with exit code 1");
      expect(message).toContain("the smoke test has no network outside the pod");
    });

    test.each([
      ["ignores", "still runs 1 s after SIGTERM"],
      // Process 1 receives only signals that it handles.
      ["deaf", "still runs 1 s after SIGTERM"],
      ["fails", "after SIGTERM the container ended with exit code 7, expected exit code 0"],
      ["cuts", "a request in flight at SIGTERM did not finish"],
    ])("fails if the service does not drain (%s)", async (mode, expected) => {
      expect((await smokeTest(deployment(mode))).message).toContain(expected);
    });

    test("passes if the port is in use on the host", async () => {
      const taken = Bun.serve({ port: 0, fetch: () => new Response("mine") });
      const port = taken.port!;
      const ports = { ports: [{ name: "http", containerPort: port }] };
      const more = deployment("", {
        ...ports,
        env: [{ name: "PORT", value: String(port) }],
        livenessProbe: { tcpSocket: { port: "http" } },
      });
      const target = { metadata: { name: "shop" }, spec: { ports: [{ port: 80, targetPort: "http" }] } };
      const { message } = await smokeTest(more, { apiVersion: "v1", kind: "Service", ...target });
      await taken.stop(true);
      expect(message).toContain(`readiness (GET :${port}/readyz), liveness (TCP :${port}), /version, drain`);
    });

    test("runs an exec probe in the container", async () => {
      const probed = (command: string[]) =>
        smokeTest(deployment("", { startupProbe: { exec: { command }, periodSeconds: 1, failureThreshold: 1 } }));
      // It exits with 1 if the service's port is in use, so it must run in the service's network.
      expect((await probed(["/shop", "--ask"])).message).toContain(
        "startup probe (/shop --ask) failed for 1 s: exit code 1",
      );
      expect((await probed(["/bin/true"])).message).toContain("No such file");
    });

    test("names variables that only the cluster has, and uses values of `smokeEnv` or of a Secret in the manifests", async () => {
      const secret = { secretKeyRef: { name: "keys", key: "token" } };
      const asking = deployment("secret", {
        env: [
          { name: "MODE", value: "secret" },
          { name: "TOKEN", valueFrom: secret },
        ],
        volumeMounts: [{ name: "certificates", mountPath: "/certs" }],
      });
      const lacking = await smokeTest(asking);
      expect(lacking.output).toContain("TOKEN is not set");
      expect(lacking.message).toContain("Set TOKEN in `smokeEnv` of ci/pipeline.ts");
      const metadata = { name: "keys" };
      const known = { apiVersion: "v1", kind: "Secret", metadata, stringData: { token: "sesame" } };
      expect((await smokeTest(asking, known)).message).toContain("not tested: the mount /certs");
      const before = service;
      service = { ...service, smokeEnv: { TOKEN: "sesame" } };
      const stated = await smokeTest(asking);
      service = before;
      expect(stated).toMatchObject({ failed: false, message: expect.stringContaining("drain") });
    });

    test("takes secrets from .env or makes them up, names the source, and leaves no file", async () => {
      const before = service;
      const leftovers = () => readdirSync(tmpdir()).filter((name) => name.startsWith("shop-smoke-"));
      const known = leftovers();
      service = { ...service, secrets: [{ name: "TOKEN" }, { name: "OTHER_KEY" }] };
      const madeUp = await smokeTest(deployment("secret"));
      expect(madeUp.output).toContain("TOKEN is not set");
      expect(madeUp.message).toContain("TOKEN, OTHER_KEY had a made-up value");
      writeFileSync(join(service.project, ".env"), "TOKEN='sesame'\n");
      const { failed, message } = await smokeTest(deployment("secret"));
      rmSync(join(service.project, ".env"));
      service = before;
      expect(failed, message).toBe(false);
      expect(message).toContain("secrets: TOKEN from .env, made-up values for OTHER_KEY");
      expect(message).not.toContain("sesame");
      expect(leftovers()).toEqual(known);
    });

    test("uses the image's environment if there are no manifests or no Deployment in them", async () => {
      const { message } = await smokeTest({ apiVersion: "v1", kind: "Service", metadata: { name: "shop" } });
      expect(message).toEndWith(
        "/version, drain; k8s/overlays/k3s has no Deployment shop, so only the image's environment was used",
      );
      const none = { ...service, overlays: { ...service.overlays, k3s: "no/such" } };
      expect((await runSmokeTest(none, { archive, id })).detail).toContain("no/such not found: the image's");
    });

    test("reads the manifests without kustomize if kubectl is missing", async () => {
      const programs = { unshare: undefined, nsenter: undefined };
      const { message } = await withPath(programs, () => smokeTest(deployment("")));
      expect(message).toContain("readiness (GET :8080/readyz)");
      expect(message).toEndWith("the manifests without k8s/overlays/k3s's patches (kubectl not found)");
    });

    test.skipIf(process.getuid?.() !== 0 || !Bun.which("setpriv"))(
      "runs in a user namespace for a user other than root",
      () => {
        manifests(deployment(""));
        // The user may have no access to this repository, or to a Bun that npx installed below root's home.
        const copy = join(directory, "copy");
        cpSync(join(import.meta.dir, "../.."), join(copy, "slipway"), { recursive: true });
        const yaml = dirname(Bun.resolveSync("yaml/package.json", import.meta.dir));
        cpSync(yaml, join(copy, "node_modules/yaml"), { recursive: true });
        cpSync(process.execPath, join(copy, "bun"));
        const script = join(copy, "smoke.ts");
        const call = `await runSmokeTest(${JSON.stringify(service)}, ${JSON.stringify({ archive, id })})`;
        writeFileSync(
          script,
          `import { runSmokeTest } from "./slipway/smoke-test/smoke-test.ts";\nconsole.log((${call}).detail);\n`,
        );
        const user = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"];
        const hasUserNamespaces = sh([...user, "unshare", "--user", "--map-root-user", "--mount", "true"]).code === 0;
        const { output } = sh([...user, join(copy, "bun"), script], { cwd: copy });
        expect(output).toContain(
          hasUserNamespaces
            ? "as uid 65532 on a read-only root, readiness"
            : "smoke test skipped: this machine has no user namespaces",
        );
      },
    );
  },
  namespaces,
);

test("an image for another architecture is an environment error and is not run", async () => {
  const other = join(directory, "other.tar");
  const platform = { os: "linux", architecture: ownArchitecture === "arm64" ? "amd64" : "arm64" } as const;
  await writeDockerArchive(other, { service, dist: join(directory, "dist"), names: ["shop:x"], platform });
  const error = await runSmokeTest(service, { archive: other, id }).catch((error: unknown) => error);
  expect(error).toMatchObject({
    kind: "environment",
    message: `the image is for ${platform.architecture}, but this machine is ${ownArchitecture}. It was not run`,
  });
});

describe("smoke test without user namespaces", () => {
  const refusal = 'echo "unshare: unshare failed: Operation not permitted" >&2; exit 1';

  test("is skipped, with the reason and how to enable them", async () => {
    const before = leftovers();
    const { message, skipped } = await withPath({ unshare: refusal }, () => smokeTest(deployment("crash")));
    expect(skipped).toBe(true);
    expect(message).toStartWith(
      "smoke test skipped: this machine has no user namespaces (unshare: unshare failed: Operation not permitted). ",
    );
    expect(message).toMatch(/ to enable them\.$/);
    expect(leftovers()).toEqual(before);
  });

  test("is skipped if unshare is missing", async () => {
    const { message, skipped } = await withPath({ true: undefined }, () => smokeTest(deployment("crash")));
    expect(skipped).toBe(true);
    expect(message).toBe("smoke test skipped: unshare not found on PATH. Install util-linux.");
  });

  test("a killed sandbox is an environment error", async () => {
    const attempt = withPath({ unshare: "kill -9 $$" }, () => runSmokeTest(service, { archive, id }));
    const error = await attempt.catch((error: unknown) => error);
    expect(error).toMatchObject({ kind: "environment", message: "smoke test: SIGKILL ended the sandbox" });
  });

  test("`up` exits with 0 and reports a skipped step", async () => {
    const { project } = service;
    mkdirSync(join(project, "ci"));
    mkdirSync(join(project, "node_modules"));
    symlinkSync(join(root, "ci/slipway"), join(project, "node_modules/slipway"));
    writeFileSync(
      join(project, "ci/pipeline.ts"),
      'import { pipeline } from "slipway";\n\nawait pipeline(import.meta, { attach: false });\n',
    );
    const { code, output } = await withPath({ unshare: refusal }, async () =>
      sh([process.execPath, "ci/pipeline.ts", "up"], {
        cwd: project,
        env: { DAGGER_SESSION_PORT: undefined, GITHUB_STEP_SUMMARY: undefined },
      }),
    );
    expect(output).toMatch(/^ {2}smoke +none .*smoke test skipped: this machine has no user namespaces/m);
    expect(code).toBe(0);
  });
});
