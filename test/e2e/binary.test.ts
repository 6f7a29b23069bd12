/** Tests the compiled binary as a process. */
import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { findSharedLibraries } from "../../ci/slipway/image/image-spec.ts";
import { computeImageId } from "../../ci/slipway/image/inputs.ts";
import { loadConfig, settings } from "../../src/config.ts";
import { drainUnderLoad, type Instance } from "../bench/drain.ts";
import { exchange } from "../raw-request.ts";
import {
  builtProject,
  copyProject,
  describeWith,
  eventually,
  must,
  sameBytes,
  service,
  sh,
  temporaryDirectory,
  untilReady,
} from "../../ci/slipway/test/e2e/setup.ts";

setDefaultTimeout(60_000);

describeWith("binary", [], () => {
  const directory = temporaryDirectory();
  const children: Bun.Subprocess[] = [];
  afterEach(() => children.splice(0).forEach((child) => child.kill("SIGKILL")));

  /** Starts the service on free ports. `log` receives its log entries. */
  async function start(env: Record<string, string> = {}, cwd = directory) {
    const { dist, id } = await builtProject();
    const child = Bun.spawn([join(dist, "app/helloapp")], {
      cwd,
      env: { HOST: "127.0.0.1", PORT: "0", ADMIN_PORT: "0", DRAIN_DELAY_SECONDS: "0", ...env },
      stdin: "ignore",
      stdout: "pipe",
      stderr: "inherit",
    });
    children.push(child);
    const log: Record<string, unknown>[] = [];
    const ended = (async () => {
      let rest = "";
      for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream() as never) as ReadableStream<string>) {
        const lines = (rest + chunk).split("\n");
        rest = lines.pop()!;
        log.push(...lines.map((line) => JSON.parse(line)));
      }
    })();
    const { url, admin } = await eventually(async () => log.find(({ event }) => event === "listening"));
    const exit = async () => {
      const code = await child.exited;
      await ended;
      return code;
    };
    return { child, log, url: String(url), admin: String(admin), id, exit };
  }

  const events = (log: Record<string, unknown>[]) =>
    log.map(({ event }) => event).filter((event) => event !== "request");

  test("returns the image ID that was computed before the build", async () => {
    const { url, id } = await start();
    expect(id).toBe(await computeImageId(service, findSharedLibraries()));
    expect(await (await fetch(new URL("/version", url))).json()).toMatchObject({
      name: "helloapp",
      id,
      bun: Bun.version,
    });
    expect(await (await fetch(url)).text()).toBe("Hello from helloapp\n");
  });

  test("exposes metrics only on the admin port", async () => {
    const { url, admin, id } = await start();
    expect(await (await fetch(new URL("/metrics", admin))).text()).toContain(`build="${id}"`);
    expect((await fetch(new URL("/metrics", url))).status).toBe(404);
  });

  test("SIGTERM: drains, logs each state, exits with 0", async () => {
    const { child, log, exit } = await start();
    child.kill("SIGTERM");
    expect(await exit()).toBe(0);
    expect(events(log)).toEqual(["listening", "ready", "signal", "draining", "stopped"]);
  });

  test("while draining: replies, and closes connections", async () => {
    const { child, url, log, exit } = await start({ DRAIN_DELAY_SECONDS: "60" });
    child.kill("SIGTERM");
    await eventually(async () => events(log).includes("draining") || undefined);
    const status = async (path: string) => (await fetch(new URL(path, url))).status;
    expect([await status("/readyz"), await status("/healthz"), await status("/")]).toEqual([503, 200, 200]);
    expect(await exchange(url, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")).toMatch(/^connection: close\r$/im);
    child.kill("SIGTERM");
    expect(await exit()).toBe(1);
  });

  test("an incomplete request does not delay the exit beyond the drain timeout", async () => {
    const { child, url, log, exit } = await start({ DRAIN_TIMEOUT_SECONDS: "0.2" });
    const { hostname, port } = new URL(url);
    const opened = Promise.withResolvers<void>();
    await Bun.connect({
      hostname,
      port: Number(port),
      socket: {
        open: (socket) => (socket.write("GET / HTTP/1.1\r\nHo"), socket.flush(), opened.resolve()),
        data() {},
      },
    });
    await opened.promise;
    // A reply on a later connection shows that the server has accepted this one.
    await fetch(url);
    child.kill("SIGTERM");
    expect(await exit()).toBe(0);
    expect(events(log).at(-1)).toBe("requests aborted at the drain timeout");
  });

  test("serves, drains and exits with 0 after the reader of its log is gone", async () => {
    const { dist } = await builtProject();
    for (let i = 0; i < 10; i += 1) {
      const child = Bun.spawn([join(dist, "app/helloapp")], {
        env: { HOST: "127.0.0.1", PORT: "0", ADMIN_PORT: "0", DRAIN_DELAY_SECONDS: "0" },
        stdout: "pipe",
        stderr: "pipe",
      });
      children.push(child);
      const { url } = await untilReady(child.stdout);
      for (let n = 0; n < 5; n += 1) expect((await fetch(url)).status).toBe(200);
      child.kill("SIGTERM");
      expect(await child.exited, await new Response(child.stderr).text()).toBe(0);
    }
  });

  test("a second signal exits at once with 1", async () => {
    const { child, log, exit } = await start({ DRAIN_DELAY_SECONDS: "60" });
    child.kill("SIGINT");
    await eventually(async () => events(log).includes("draining") || undefined);
    child.kill("SIGINT");
    expect(await exit()).toBe(1);
  });

  test("no request fails while one of two instances drains under 64 keep-alive clients", async () => {
    const instance = async (): Promise<Instance> => {
      const { child, url, exit } = await start({ DRAIN_DELAY_SECONDS: "2", ACCESS_LOG: "off" });
      const stop = async () => {
        child.kill("SIGTERM");
        expect(await exit()).toBe(0);
      };
      return { url, stop };
    };
    const { requests, failed, first } = await drainUnderLoad(instance);
    expect(first).toBeUndefined();
    expect(failed).toBe(0);
    expect(requests).toBeGreaterThan(64);
  });

  describe("slow clients do not block others", () => {
    test.each([
      ["the head", "GET / HTTP/1.1\r\nHo"],
      ["the body", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc"],
      ["anything", ""],
    ])("clients that do not complete %s", async (_, bytes) => {
      const { url } = await start({ IDLE_TIMEOUT_SECONDS: "1" });
      const slow = Array.from({ length: 20 }, () => exchange(url, bytes));
      expect((await fetch(url)).status).toBe(200);
      // exchange() resolves after the idle timeout has closed the connection.
      await Promise.all(slow);
      expect((await fetch(url)).status).toBe(200);
    });

    test("clients that do not read", async () => {
      const { url } = await start();
      const { hostname, port } = new URL(url);
      const asked = "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2000);
      const sockets = await Promise.all(
        Array.from({ length: 5 }, () =>
          Bun.connect({
            hostname,
            port: Number(port),
            socket: { open: (socket) => (socket.write(asked), socket.pause()), data() {} },
          }),
        ),
      );
      for (let i = 0; i < 20; i += 1) expect((await fetch(url)).status).toBe(200);
      sockets.forEach((socket) => socket.terminate());
      expect((await fetch(url)).status).toBe(200);
    });
  });

  test("above MAX_CONNECTIONS, replies close their connections and are counted", async () => {
    const { url, admin } = await start({ MAX_CONNECTIONS: "5", IDLE_TIMEOUT_SECONDS: "60" });
    const { hostname, port } = new URL(url);
    const idle = await Promise.all(
      Array.from({ length: 60 }, () => Bun.connect({ hostname, port: Number(port), socket: { data() {} } })),
    );
    await eventually(async () => {
      const text = await (await fetch(new URL("/metrics", admin))).text();
      await fetch(url);
      return /^http_connections_shed_total [1-9]/m.test(text) || undefined;
    });
    idle.forEach((socket) => socket.end());
  });

  describe("arguments", () => {
    const binary = async (...args: string[]) => {
      const { dist } = await builtProject();
      return sh([join(dist, "app/helloapp"), ...args], { env: { PORT: "8081", GREETING: "Moin" } });
    };

    test("--help names every variable", async () => {
      const { code, stdout } = await binary("--help");
      expect(code).toBe(0);
      for (const { variable } of Object.values(settings)) expect(stdout).toContain(`  ${variable} `);
    });

    test("--version names version and build", async () => {
      const { id } = await builtProject();
      const { code, stdout } = await binary("--version");
      expect(code).toBe(0);
      expect(stdout).toMatch(new RegExp(`^helloapp \\d+\\.\\d+\\.\\d+ \\(build ${id}, Bun ${Bun.version}\\)\\n$`));
    });

    test("--print-config shows the configuration from the environment", async () => {
      const { code, stdout } = await binary("--print-config");
      expect(code).toBe(0);
      expect(JSON.parse(stdout)).toEqual(loadConfig({ PORT: "8081", GREETING: "Moin" }));
    });

    test("--health exits with 0 while the service is alive, else with 1", async () => {
      const { url, child, exit } = await start();
      const { dist } = await builtProject();
      const exitCode = () =>
        sh([join(dist, "app/helloapp"), "--health"], { env: { HOST: "127.0.0.1", PORT: new URL(url).port } }).code;
      expect(exitCode()).toBe(0);
      child.kill("SIGTERM");
      await exit();
      expect(exitCode()).toBe(1);
    });

    test.each([["--frobnicate"], ["start"]])("unknown argument %s: exit 2 with the usage", async (argument) => {
      const { code, output } = await binary(argument);
      expect(code).toBe(2);
      expect(output).toContain("usage: helloapp");
    });
  });

  test("invalid configuration: one message with all variables, exit 2, no open port", async () => {
    const { dist } = await builtProject();
    const env = { PORT: "eighty", LOG_LEVEL: "loud", DRAIN_DELAY_SECONDS: "-1" };
    const { code, output } = sh([join(dist, "app/helloapp")], { env });
    expect(code).toBe(2);
    for (const variable of Object.keys(env)) expect(output).toContain(`${variable}=`);
    expect(output).not.toContain("listening");
  });

  test("occupied port: one line, exit 1", async () => {
    const { url } = await start();
    const { dist } = await builtProject();
    const env = { HOST: "127.0.0.1", PORT: new URL(url).port, ADMIN_PORT: "0" };
    const { code, output } = sh([join(dist, "app/helloapp")], { env });
    expect(code).toBe(1);
    expect(output).toMatch(/^helloapp: .*port.*in use.*\n$/i);
  });

  test("ignores .env and bunfig.toml in its working directory", async () => {
    const cwd = join(directory, "trap");
    mkdirSync(cwd);
    writeFileSync(join(cwd, ".env"), "GREETING=from .env\n");
    writeFileSync(join(cwd, "bunfig.toml"), 'preload = ["./preload.ts"]\n');
    writeFileSync(join(cwd, "preload.ts"), 'process.env.GREETING = "from the preload";\n');
    const { url } = await start({}, cwd);
    expect(await (await fetch(url)).text()).toBe("Hello from helloapp\n");
  });

  test("has identical bytes if built in another directory, with another umask and time zone", async () => {
    const { dist, id } = await builtProject();
    const project = copyProject(join(directory, "elsewhere"));
    const out = must(["sh", "-c", "umask 077 && exec bun run --silent build"], {
      cwd: project,
      env: { TZ: "Pacific/Kiritimati", PATH: `${join(process.execPath, "..")}:${process.env.PATH}` },
    });
    expect(out.trim()).toBe(`helloapp:${id}`);
    expect(await sameBytes(join(dist, "app/helloapp"), join(project, "dist/app/helloapp"))).toBe(true);
  });
});
