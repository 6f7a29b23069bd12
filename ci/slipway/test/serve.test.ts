import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Connection, Service } from "./service/harness.ts";

const here = join(import.meta.dir, "service");
const work = mkdtempSync(join(tmpdir(), "service-"));
const started: Service[] = [];
/** Milliseconds. Generous, because the machine may be busy. */
const LONG = 60_000;

afterAll(() => {
  for (const service of started) service.kill("SIGKILL");
  rmSync(work, { recursive: true });
});

async function start(command: string[], env?: Record<string, string>, servers?: number): Promise<Service> {
  const service = await Service.start(command, env, servers);
  started.push(service);
  return service;
}

const source = (name: string) => [process.execPath, join(here, `${name}.ts`)];
const compiled = (name: string) => [join(work, name)];
const routes = (env?: Record<string, string>) => start(source("routes"), env);

/** Compiles a service, like the pipeline. */
async function compile(name: string): Promise<void> {
  const options = ["--compile", "--minify", "--bytecode", "--define", `BUILD_ID="abc"`];
  const command = [process.execPath, "build", ...options, join(here, `${name}.ts`), "--outfile", name];
  const child = Bun.spawn(command, { cwd: work, stdout: "ignore", stderr: "pipe" });
  if ((await child.exited) !== 0) throw new Error(await new Response(child.stderr).text());
}

beforeAll(async () => {
  for (const name of ["routes", "express"]) await compile(name);
}, LONG);

const all: [name: string, command: string[], id: string][] = [
  ["Bun", source("routes"), "dev"],
  ["Bun, compiled", compiled("routes"), "abc"],
  ["Hono", source("hono"), "dev"],
  ["Elysia", source("elysia"), "dev"],
  ["node:http", source("node"), "dev"],
  ["Express", source("express"), "dev"],
  ["Express, compiled", compiled("express"), "abc"],
];

describe.each(all)("%s", (_, command, id) => {
  test(
    "serves the three paths beside its own routes",
    async () => {
      const service = await start(command);
      await service.until(200);
      const connection = await service.connect();
      const version = await connection.ask("/version?at=once");
      expect(version.status).toBe(200);
      expect(JSON.parse(version.body)).toEqual({ id, bun: Bun.version });
      expect(version.headers.get("content-type")).toStartWith("application/json");
      expect(version.headers.get("cache-control")).toBe("no-store");
      expect(await connection.ask("/version", { method: "HEAD" })).toMatchObject({ status: 200, body: "" });
      expect(await connection.ask("/readyz")).toMatchObject({ status: 200, body: "ready" });
      expect(await connection.ask("/healthz")).toMatchObject({ status: 200, body: "ok" });
      expect(await connection.ask("/")).toMatchObject({ status: 200, body: "hello\n" });
      expect((await connection.ask("/version", { method: "POST" })).status).toBe(404);
      expect((await connection.ask("/else")).status).toBe(404);
      connection.end();
    },
    LONG,
  );

  test(
    "is alive but not ready during the drain, and closes each connection after its response",
    async () => {
      const service = await start(command);
      const [kept, slow] = [await service.connect(), await service.connect()];
      expect((await kept.ask("/")).headers.get("connection")).not.toBe("close");
      const late = slow.ask("/slow");
      await service.line("slow");
      service.kill();
      await service.until(503);

      expect((await kept.ask("/")).headers.get("connection")).toBe("close");
      await kept.closed;
      for (const [path, status, body] of [
        ["/", 200, "hello\n"],
        ["/readyz", 503, "draining"],
        ["/healthz", 200, "ok"],
        ["/version", 200, undefined],
        ["/else", 404, undefined],
      ] as const) {
        const connection = await service.connect();
        const answer = await connection.ask(path);
        expect(answer).toMatchObject({ status, ...(body && { body }) });
        expect(answer.headers.get("connection")).toBe("close");
        await connection.closed;
      }

      // A request from before the signal closes its connection too.
      service.process.stdin.write("go\n");
      await service.process.stdin.flush();
      expect((await late).headers.get("connection")).toBe("close");
      await slow.closed;

      service.kill("SIGINT");
      expect(await service.process.exited).toBe(1);
    },
    LONG,
  );

  test(
    "finishes requests in flight, refuses connections and exits with 0",
    async () => {
      const service = await start(command, { DRAIN_DELAY_SECONDS: "0" });
      const [idle, slow] = [await service.connect(), await service.connect()];
      await idle.ask("/");
      const late = slow.ask("/slow");
      await service.line("slow");
      service.kill();
      await service.untilRefused();
      await idle.closed;

      service.process.stdin.write("go\n");
      await service.process.stdin.flush();
      const answer = await late;
      expect(answer).toMatchObject({ status: 200, body: "slow\n" });
      expect(answer.headers.get("connection")).toBe("close");
      expect(await service.process.exited).toBe(0);
      expect(await service.stderr()).toBe("");
    },
    LONG,
  );

  test(
    "closes unfinished requests at the deadline, logs it and exits with 0",
    async () => {
      const service = await start(command, { DRAIN_DELAY_SECONDS: "0", DRAIN_TIMEOUT_SECONDS: "0.1" });
      const [slow, half] = [await service.connect(), await service.connect()];
      half.send("GET / HTTP/1.1\r\nHost:");
      const late = slow.ask("/slow").catch(() => "cut");
      await service.line("slow");
      service.kill("SIGINT");
      expect(await late).toBe("cut");
      expect(await service.process.exited).toBe(0);
      expect(await service.stderr()).toBe("requests were closed after 0.1 s of draining\n");
    },
    LONG,
  );
});

test(
  "16 keep-alive clients that honour `Connection: close` see no failed request",
  async () => {
    const drained = all.map(async ([, command]) => {
      const service = await start(command, { DRAIN_DELAY_SECONDS: "10" });
      let asked = 0;
      const clients = Array.from({ length: 16 }, async () => {
        const connection = await service.connect();
        for (;;) {
          const { status, headers } = await connection.ask("/");
          expect(status).toBe(200);
          asked += 1;
          if (headers.get("connection") === "close") break;
        }
        connection.end();
      });
      while (asked < 500) await Bun.sleep(1);
      service.kill();
      await Promise.all(clients);
      expect(await service.process.exited).toBe(0);
    });
    await Promise.all(drained);
  },
  LONG,
);

describe("as a replacement of Bun.serve", () => {
  test(
    "serves every kind of route as Bun does, and closes the connection during the drain",
    async () => {
      for (const command of [source("routes"), compiled("routes")]) {
        const service = await start(command);
        const requestAll = async () => {
          const replies: Record<string, unknown> = {};
          const closing: (string | null)[] = [];
          for (const [path, method, body] of [
            ["/static"],
            ["/file"],
            ["/methods"],
            ["/methods", "HEAD"],
            ["/methods", "POST"],
            ["/methods", "DELETE"],
            ["/params/7"],
            ["/stream"],
            ["/redirect"],
            ["/socket"],
            ["/about"],
            ["/echo", "PUT", "x".repeat(100_000)],
            ["/fetch"],
          ] as [string, string?, string?][]) {
            const connection = await service.connect();
            const answer = await connection.ask(path, { ...(method && { method }), ...(body && { body }) });
            const kept = answer.headers.get("x-kept") ?? answer.headers.get("location");
            replies[`${method ?? "GET"} ${path}`] = [answer.status, answer.body, kept];
            closing.push(answer.headers.get("connection"));
            if (closing.at(-1) === "close") await connection.closed;
            else connection.end();
          }
          return { replies, closing };
        };
        const before = await requestAll();
        expect(before.replies).toMatchObject({
          "GET /static": [200, "static\n", "yes"],
          "GET /methods": [200, "got GET\n", null],
          "POST /methods": [200, "posted\n", null],
          "DELETE /methods": [404, "fetch /methods true\n", null],
          "GET /params/7": [200, "7", null],
          "GET /stream": [200, "one two\n", null],
          "GET /redirect": [302, "", "/"],
          "GET /socket": [400, "", null],
          "PUT /echo": [200, "x".repeat(100_000), null],
          "GET /fetch": [404, "fetch /fetch true\n", null],
        });
        expect(new Set(before.closing)).toEqual(new Set([null]));
        service.kill();
        await service.until(503);
        const after = await requestAll();
        expect(after.replies).toEqual(before.replies);
        expect(new Set(after.closing)).toEqual(new Set(["close"]));
      }
    },
    LONG,
  );

  test(
    "serves a bundled page, also during the drain",
    async () => {
      for (const command of [source("routes"), compiled("routes")]) {
        const service = await start(command, { NODE_ENV: "production" });
        const page = async () => {
          const { status, body } = await service.ask("/page");
          expect(status).toBe(200);
          const script = /src="([^"]+)"/.exec(body)?.[1] ?? "";
          expect((await service.ask(script)).body).toContain(`"page"`);
        };
        await page();
        service.kill();
        await service.until(503);
        await page();
      }
    },
    LONG,
  );

  test(
    "leaves exceptions of handlers to Bun or to the service's `error` handler",
    async () => {
      const service = await routes({ NODE_ENV: "production" });
      const own = await routes({ ON_ERROR: "1" });
      const expectErrors = async () => {
        for (const [path, message] of [
          ["/throw", "thrown"],
          ["/reject", "rejected"],
        ] as const) {
          expect(await service.ask(path)).toMatchObject({ status: 500, body: "Something went wrong!" });
          expect(await own.ask(path)).toMatchObject({ status: 500, body: `caught ${message}\n` });
        }
      };
      await expectErrors();
      for (const one of [service, own]) {
        one.kill();
        await one.until(503);
      }
      await expectErrors();
      for (const one of [service, own]) {
        const connection = await one.connect();
        expect((await connection.ask("/throw")).headers.get("connection")).toBe("close");
        await connection.closed;
      }
    },
    LONG,
  );

  test(
    "hides source code in errors in a build and if NODE_ENV is production",
    async () => {
      const isPage = async (service: Service) => (await service.ask("/throw")).body.includes("<html");
      expect(await isPage(await routes())).toBe(true);
      expect(await isPage(await routes({ NODE_ENV: "production" }))).toBe(false);
      expect(await isPage(await start(compiled("routes")))).toBe(false);
    },
    LONG,
  );

  test(
    "opens and keeps websockets during the drain, and closes them at the deadline",
    async () => {
      const open = async ({ port }: Service) => {
        const socket = new WebSocket(`ws://127.0.0.1:${port}/socket`);
        await new Promise((resolve) => (socket.onopen = resolve));
        return socket;
      };
      const echo = async (socket: WebSocket) => {
        const { promise, resolve } = Promise.withResolvers<unknown>();
        socket.onmessage = ({ data }) => resolve(data);
        socket.send("text");
        return promise;
      };
      const service = await routes();
      const before = await open(service);
      expect(await echo(before)).toBe("echo text");
      service.kill();
      await service.until(503);
      expect(await echo(before)).toBe("echo text");
      expect(await echo(await open(service))).toBe("echo text");

      const short = await routes({ DRAIN_DELAY_SECONDS: "0", DRAIN_TIMEOUT_SECONDS: "0.1" });
      const socket = await open(short);
      const closed = new Promise<CloseEvent>((resolve) => (socket.onclose = resolve));
      short.kill();
      expect((await closed).code).toBe(1001);
      expect(await short.process.exited).toBe(0);
    },
    LONG,
  );

  test(
    "keeps the three paths after a reload",
    async () => {
      const service = await routes();
      await service.ask("/reload");
      expect((await service.ask("/fetch")).body).toBe("reloaded\n");
      expect((await service.ask("/version")).body).toContain(`"dev"`);
      service.kill();
      await service.until(503);
      const { body, headers } = await service.ask("/fetch");
      expect([body, headers.get("connection")]).toEqual(["reloaded\n", "close"]);
    },
    LONG,
  );

  test(
    "is ready when the promise resolves",
    async () => {
      const service = await routes({ NOT_READY: "1" });
      expect(await service.ask("/readyz")).toMatchObject({ status: 503, body: "starting" });
      expect((await service.ask("/healthz")).status).toBe(200);
      await service.ask("/ready");
      await service.until(200);
    },
    LONG,
  );

  test(
    "drains on a signal before it is ready, and stays not ready",
    async () => {
      const service = await routes({ NOT_READY: "1" });
      service.kill();
      while ((await service.ask("/readyz")).body !== "draining") await Bun.sleep(5);
      await service.ask("/ready");
      expect(await service.ask("/readyz")).toMatchObject({ status: 503, body: "draining" });
    },
    LONG,
  );

  test(
    "routes of the service take precedence over the three paths",
    async () => {
      const service = await start(source("custom-paths"));
      expect((await service.ask("/version")).body).toBe("own\n");
      expect((await service.ask("/readyz")).body).toBe("fetch /readyz\n");
      expect((await service.ask("/healthz")).body).toBe("ok");
    },
    LONG,
  );

  test(
    "the server that names no port listens on PORT and does not share it",
    async () => {
      const free = Bun.serve({ port: 0, reusePort: false, fetch: () => new Response() });
      const PORT = String(free.port);
      await free.stop(true);
      const service = await start(source("two-ports"), { PORT }, 2);
      expect(service.ports[1]).toBe(Number(PORT));
      expect(service.port).not.toBe(Number(PORT));
      expect((await service.ask("/")).body).toBe("one\n");
      expect((await service.ask("/", {}, service.ports[1])).body).toBe("two\n");

      const second = start(source("two-ports"), { PORT }, 2);
      await expect(second).rejects.toThrow("EADDRINUSE");
    },
    LONG,
  );

  test(
    "fails to start if a variable is not a number, and names it",
    async () => {
      await expect(start(source("two-ports"), { PORT: "http" }, 2)).rejects.toThrow(`PORT is "http"`);
      await expect(start(source("routes"), { DRAIN_DELAY_SECONDS: "2s" })).rejects.toThrow(
        `DRAIN_DELAY_SECONDS is "2s"`,
      );
    },
    LONG,
  );
});

test(
  "a Node server handles the paths in customPaths itself",
  async () => {
    const service = await start(source("node"), { OWN: "1" });
    expect((await service.ask("/version")).body).toBe("handler /version\n");
    expect((await service.ask("/healthz")).body).toBe("ok");
  },
  LONG,
);

test(
  "a Node server closes the connection of its first request, also during the drain",
  async () => {
    const service = await start(source("node"));
    service.kill();
    const first = await service.connect();
    // The signal may arrive after this request.
    const { status, headers } = await first.ask("/readyz");
    expect(headers.get("connection")).toBe(status === 503 ? "close" : "keep-alive");
    await service.until(503);
    expect((await service.ask("/")).headers.get("connection")).toBe("close");
  },
  LONG,
);

test(
  "a rejected readiness promise ends the process",
  async () => {
    const code = `import { serve } from ${JSON.stringify(join(here, "../../service/service.ts"))};
      serve({ port: 0, fetch: () => new Response() }, { ready: Promise.reject(new Error("no database")) });`;
    const child = Bun.spawn([process.execPath, "-e", code], { stderr: "pipe", stdout: "ignore" });
    expect(await new Response(child.stderr).text()).toContain("no database");
    expect(await child.exited).toBe(1);
  },
  LONG,
);

test(
  "several servers of one process become ready and drain together",
  async () => {
    const service = await start(source("several-servers"), {}, 2);
    const [one, two] = service.ports as [number, number];
    const states = async () =>
      Promise.all([one, two].map(async (port) => (await service.ask("/readyz", {}, port)).body));
    expect(await states()).toEqual(["starting", "starting"]);
    await service.ask("/", {}, two);
    await service.until(200);
    expect(await states()).toEqual(["ready", "ready"]);
    service.kill();
    await service.until(503);
    expect(await states()).toEqual(["draining", "draining"]);
    for (const port of [one, two]) {
      const connection = await Connection.to(port);
      expect((await connection.ask("/")).headers.get("connection")).toBe("close");
      await connection.closed;
    }
  },
  LONG,
);
