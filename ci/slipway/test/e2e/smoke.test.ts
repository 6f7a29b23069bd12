/** The smoke test: one small service that behaves as a variable of its manifests says, and what is told of each behaviour. */
import { beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { resolveService, type Service } from "../../core/service-config.ts";
import { PipelineError } from "../../core/errors.ts";
import { writeArchive } from "../../image/archive-writer.ts";
import { buildImage } from "../../image/build.ts";
import { ownArchitecture } from "../../image/platform.ts";
import { runSmokeTest } from "../../smoke-test/smoke-test.ts";
import { builtProject, describeWith, service as greeting, sh, temporaryDirectory } from "./setup.ts";

setDefaultTimeout(120_000);

/** Whether this machine lets its user have namespaces; where not, the tests of them have nothing to see. */
const hasNamespaces =
  sh(["unshare", "--user", "--map-root-user", "--mount", "--net", "--pid", "--fork", "--mount-proc", "true"])
    .code === 0;
const namespaces = { name: "namespaces", isMet: hasNamespaces };

/** The service. Its id is what the build puts in. */
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

/** What the kubelet would do, with a change. */
function deployment(mode: string, more: object = {}, pod: object = {}) {
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
              ...more,
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
  // For another user as well.
  chmodSync(directory, 0o755);
  const project = join(directory, "shop");
  mkdirSync(join(project, "k8s/overlays/k3s"), { recursive: true });
  writeFileSync(join(project, "package.json"), JSON.stringify({ name: "shop", version: "1.0.0" }));
  writeFileSync(
    join(project, "bun.lock"),
    '{"lockfileVersion":1,"workspaces":{"":{"name":"shop"}},"packages":{}}',
  );
  writeFileSync(join(project, "index.ts"), source);
  service = resolveService(project, { attach: false, readyTimeoutSeconds: 1 });
  const dist = join(directory, "dist");
  const built = await buildImage(service, dist);
  await writeArchive(archive, { service, dist, names: [`shop:${built.id}`], platform: built.platform });
  ({ id } = built);
});

function manifests(...objects: object[]): void {
  const overlay = join(service.project, "k8s/overlays/k3s");
  writeFileSync(join(overlay, "kustomization.yaml"), "resources: [all.yaml]\n");
  writeFileSync(join(overlay, "all.yaml"), objects.map((object) => JSON.stringify(object)).join("\n---\n"));
}

/** How it goes: the sentence, or the error. */
async function rehearse(...objects: object[]): Promise<{ said: string; output: string; failed: boolean }> {
  manifests(...objects);
  try {
    return { said: await runSmokeTest(service, { archive, id }), output: "", failed: false };
  } catch (error) {
    if (!(error instanceof PipelineError)) throw error;
    expect(error.kind).toBe("project");
    return { said: `${error.message}. ${error.hint ?? ""}`, output: error.output ?? "", failed: true };
  }
}

/** Directories of smoke tests that are not gone. */
const leftovers = () => readdirSync(tmpdir()).filter((name) => name.startsWith("shop-smoke-"));

/** Runs `body` with a PATH that has only these programs. */
async function withPath<T>(programs: string[], body: () => Promise<T>): Promise<T> {
  const bin = join(directory, `bin-${programs.join("-")}`);
  mkdirSync(bin);
  for (const program of programs) symlinkSync(Bun.which(program)!, join(bin, program));
  const before = process.env.PATH;
  process.env.PATH = bin;
  try {
    return await body();
  } finally {
    process.env.PATH = before;
  }
}

describeWith(
  "smoke test in namespaces",
  ["unshare"],
  () => {
    test("this project's image passes, and the line says what was tried", async () => {
      const { dist, ...built } = await builtProject();
      const path = join(directory, "helloapp.tar");
      await writeArchive(path, { service: greeting, dist, names: ["helloapp:x"], platform: built.platform });
      const said = await runSmokeTest(greeting, { archive: path, id: built.id });
      expect(said).toStartWith(
        "as uid 65532 on a read-only root, readiness (GET :8080/readyz), liveness (GET :8080/healthz), /version, drain",
      );
      await expect(runSmokeTest(greeting, { archive: path, id: "another-id" })).rejects.toThrow(
        "not another-id",
      );
    });

    test("the process sees a pod, and nothing of this machine", async () => {
      const { output } = await rehearse(deployment("look"));
      const seen = JSON.parse(output.split("\n").find((line) => line.startsWith("{"))!);
      expect(seen).toEqual({
        uid: 65532,
        gid: 65532,
        pid: 1,
        cwd: "/srv",
        host: "shop-rehearsal-00000",
        passwd: false,
        addresses: expect.arrayContaining(["127.0.0.1", "10.42.0.2"]),
        pod: "shop-rehearsal-00000",
        ip: "10.42.0.2",
        url: "http://10.42.0.2/$(ABSENT)",
        color: "red",
        home: "/",
        caps: "0000000000000000",
      });
    });

    test("user, group, working directory and command are the manifests'", async () => {
      const { output } = await rehearse(
        deployment("look", {
          command: ["/shop", "$(MODE)"],
          workingDir: "/srv",
          securityContext: { runAsUser: 1234, runAsGroup: 2345 },
        }),
      );
      expect(output).toContain('"uid":1234,"gid":2345,"pid":1,"cwd":"/srv"');
    });

    test.each([["cwd"], ["root"]])("one that writes into its %s fails in its own words", async (mode) => {
      const before = readdirSync("/");
      const { said, output } = await rehearse(deployment(mode));
      expect(said).toContain("the container ended with exit code 1 before its readiness probe passed");
      expect(output).toContain("EROFS");
      expect(readdirSync("/")).toEqual(before);
    });

    test("one that writes into an emptyDir passes, up to its size", async () => {
      const mounts = { volumeMounts: [{ name: "tmp", mountPath: "/tmp" }] };
      const volumes = { volumes: [{ name: "tmp", emptyDir: { sizeLimit: "1Mi" } }] };
      const before = leftovers();
      const passed = await rehearse(deployment("tmp", mounts, volumes));
      expect(passed.said).toStartWith("as uid 65532 on a read-only root, /tmp writable, readiness");
      expect(existsSync("/tmp/data.db")).toBe(false);
      const full = await rehearse(deployment("full", mounts, volumes));
      expect(full.output).toContain("ENOSPC");
      const without = await rehearse(deployment("tmp"));
      expect(without.output).toContain("ENOENT");
      expect(leftovers()).toEqual(before);
    });

    test("one that listens elsewhere fails, and it is said where", async () => {
      const { said } = await rehearse(deployment("port"));
      expect(said).toContain(
        "the readiness probe (GET :8080/readyz) fails: nobody listens there (it listens on 0.0.0.0:3000), after 1 s",
      );
      expect((await rehearse(deployment("loopback"))).said).toContain("(it listens on 127.0.0.1:8080)");
    });

    test("one whose probes fail: which, how, and what it said", async () => {
      const ill = await rehearse(deployment("ill"));
      expect(ill.said).toContain("the readiness probe (GET :8080/readyz) fails: status 500");
      expect(ill.output).toContain("starting as ill");
      expect(ill.output).toContain("the migration failed");
      const dead = await rehearse(deployment("dead"));
      expect(dead.said).toContain("the liveness probe (GET :8080/healthz) fails: status 503");
    });

    test("one that crashes: stderr and exit code", async () => {
      const { said, output } = await rehearse(deployment("crash"));
      expect(said).toContain("the container ended with exit code 3 before its readiness probe passed");
      expect(output).toContain("there is no database at db:5432");
    });

    test("one that calls others has nobody to call, and is told so", async () => {
      const { said, output } = await rehearse(deployment("calls"));
      expect(output).toContain("ENETUNREACH");
      expect(said).toContain("the container ended with exit code 1");
      expect(said).toContain("the smoke test has no network beyond the pod");
    });

    test.each([
      ["ignores", "still runs 1 s after SIGTERM"],
      // As process 1 it does not even get it.
      ["deaf", "still runs 1 s after SIGTERM"],
      ["fails", "after SIGTERM the container ends with exit code 7"],
      ["cuts", "a request in flight at SIGTERM is not finished"],
    ])("one that %s when it has to leave", async (mode, expected) => {
      expect((await rehearse(deployment(mode))).said).toContain(expected);
    });

    test("a port that is taken on the host is no matter", async () => {
      const taken = Bun.serve({ port: 0, fetch: () => new Response("mine") });
      const port = taken.port!;
      const ports = { ports: [{ name: "http", containerPort: port }] };
      const more = deployment("", {
        ...ports,
        env: [{ name: "PORT", value: String(port) }],
        livenessProbe: { tcpSocket: { port: "http" } },
      });
      const target = { metadata: { name: "shop" }, spec: { ports: [{ port: 80, targetPort: "http" }] } };
      const { said } = await rehearse(more, { apiVersion: "v1", kind: "Service", ...target });
      await taken.stop(true);
      expect(said).toContain(`readiness (GET :${port}/readyz), liveness (TCP :${port}), /version, drain`);
    });

    test("a command as a probe is run in the container", async () => {
      const probed = (command: string[]) =>
        rehearse(
          deployment("", { startupProbe: { exec: { command }, periodSeconds: 1, failureThreshold: 1 } }),
        );
      // It ends with 1 where the service's port is taken, as which this one must be seen.
      expect((await probed(["/shop", "--ask"])).said).toContain(
        "startup probe (/shop --ask) fails: exit code 1",
      );
      expect((await probed(["/bin/true"])).said).toContain("No such file");
    });

    test("what only the cluster has is named; `smoke` can give it a value, a Secret of the manifests as well", async () => {
      const secret = { secretKeyRef: { name: "keys", key: "token" } };
      const asking = deployment("secret", {
        env: [
          { name: "MODE", value: "secret" },
          { name: "TOKEN", valueFrom: secret },
        ],
        volumeMounts: [{ name: "certificates", mountPath: "/certs" }],
      });
      const lacking = await rehearse(asking);
      expect(lacking.output).toContain("TOKEN is not set");
      expect(lacking.said).toContain("Only the cluster has TOKEN: `smoke` in ci/pipeline.ts");
      const metadata = { name: "keys" };
      const known = { apiVersion: "v1", kind: "Secret", metadata, stringData: { token: "sesame" } };
      expect((await rehearse(asking, known)).said).toContain("not tried: the mount /certs");
      const before = service;
      service = { ...service, smokeEnv: { TOKEN: "sesame" } };
      const stated = await rehearse(asking);
      service = before;
      expect(stated).toMatchObject({ failed: false, said: expect.stringContaining("drain") });
    });

    test("without manifests, or a Deployment in them, the image's environment counts", async () => {
      const { said } = await rehearse({ apiVersion: "v1", kind: "Service", metadata: { name: "shop" } });
      expect(said).toEndWith(
        "/version, drain; k8s/overlays/k3s has no Deployment shop: the image's environment alone",
      );
      const none = { ...service, overlays: { ...service.overlays, k3s: "no/such" } };
      expect(await runSmokeTest(none, { archive, id })).toContain("no/such is not there: the image's");
    });

    test("without kubectl the manifests are read as they are", async () => {
      const programs = ["unshare", "nsenter"];
      const { said } = await withPath(programs, () => rehearse(deployment("")));
      expect(said).toContain("readiness (GET :8080/readyz)");
      expect(said).toEndWith("the manifests without k8s/overlays/k3s's patches (no kubectl)");
    });

    test.skipIf(process.getuid?.() !== 0 || !Bun.which("setpriv"))(
      "by a user without rights: the same",
      () => {
        manifests(deployment(""));
        const script = join(directory, "smoke.ts");
        const module = join(import.meta.dir, "../../smoke-test/smoke-test.ts");
        const call = `await runSmokeTest(${JSON.stringify(service)}, ${JSON.stringify({ archive, id })})`;
        writeFileSync(
          script,
          `import { ownArchitecture } from "../../image/platform.ts";
import { runSmokeTest } from ${JSON.stringify(module)};\nconsole.log(${call});\n`,
        );
        const user = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"];
        const may = sh([...user, "unshare", "--user", "--map-root-user", "--mount", "true"]).code === 0;
        const { output } = sh([...user, process.execPath, script], { cwd: dirname(script) });
        // It may have no way to the project's own directory.
        if (output.includes("EACCES")) return;
        expect(output).toContain(
          may ? "as uid 65532 on a read-only root, readiness" : "not tried: a read-only root",
        );
      },
    );
  },
  namespaces,
);

test("an image for another architecture is not run, and that is no fault of it", async () => {
  const other = join(directory, "other.tar");
  const platform = { os: "linux", architecture: ownArchitecture === "arm64" ? "amd64" : "arm64" } as const;
  await writeArchive(other, { service, dist: join(directory, "dist"), names: ["shop:x"], platform });
  const error = await runSmokeTest(service, { archive: other, id }).catch((error: unknown) => error);
  expect(error).toMatchObject({
    kind: "environment",
    message: `the image is for ${platform.architecture}: not run here`,
  });
});

describe("smoke test without namespaces", () => {
  const bare = (...objects: object[]) =>
    withPath(["true"], () => rehearse(...objects)).finally(() =>
      sh(["rm", "-r", join(directory, "bin-true")]),
    );

  test("says so, and what was not tried", async () => {
    const { said, failed } = await bare(
      deployment(
        "",
        { volumeMounts: [{ name: "tmp", mountPath: "/tmp" }] },
        { volumes: [{ name: "tmp", emptyDir: {} }] },
      ),
    );
    expect(failed).toBe(false);
    expect(said).toStartWith("on this machine's root (no unshare on PATH), readiness");
    expect(said).toMatch(
      /, drain; not tried: a read-only root without this machine's files, another user.*, the mount \/tmp/,
    );
  });

  test("writes nothing outside of its own directory", async () => {
    const listed = () => [readdirSync(process.cwd()), readdirSync("/"), leftovers()];
    const before = listed();
    const { output } = await bare(deployment("cwd"));
    // As root without setpriv it may write, and what it wrote is gone.
    if (process.getuid?.() !== 0) expect(output).toContain("EACCES");
    expect(listed()).toEqual(before);
  });

  test("shows what a crash says, and its exit code", async () => {
    const { said, output } = await bare(deployment("crash"));
    expect(said).toContain("exit code 3");
    expect(output).toContain("there is no database at db:5432");
  });
});
