/** Health endpoints and drain that the build injects into services without slipway/service. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { resolveService } from "../core/resolve-service.ts";
import { buildImage } from "../image/build-image-files.ts";
import { root } from "./helloapp-service.ts";
import { Service } from "./service/harness.ts";

/** Milliseconds. Generous, because the machine may be busy. */
const LONG = 60_000;
const work = mkdtempSync(join(tmpdir(), "attach-"));
const started: Service[] = [];
afterAll(() => {
  for (const service of started) service.kill("SIGKILL");
  rmSync(work, { recursive: true });
});

const sources = {
  "Bun.serve": `Bun.serve({ port: Number(process.env.PORT), fetch: () => new Response("own") });`,
  "a default export": `export default { port: 3000, fetch: () => new Response("own") };`,
  "a custom route": `Bun.serve({ port: 3000, routes: { "/": new Response("own"), "/readyz": () => new Response("mine") } });`,
  "a custom path in fetch": `Bun.serve({
  port: 3000,
  fetch: ({ url }) => new Response(new URL(url).pathname === "/readyz" ? "mine" : "own"),
});`,
  "node:http": `import { createServer } from "node:http";
createServer((_, reply) => reply.end("own")).listen(process.env.PORT);`,
  Hono: `import { Hono } from "hono";
const app = new Hono();
app.get("/", (c) => c.text("own"));
export default app;`,
  Elysia: `import { Elysia } from "elysia";
new Elysia().get("/", () => "own").listen(process.env.PORT ?? 3000);`,
  Express: `import express from "express";
const app = express();
app.get("/", (_, reply) => void reply.send("own"));
app.listen(process.env.PORT);`,
};

/** Services that reply to every path themselves, like from source. */
const catchAll = ["Bun.serve", "a default export", "a custom path in fetch", "node:http"];

/** Builds a service of one file, like the pipeline. @returns the binary and its build ID */
async function compile(source: string): Promise<{ command: string[]; id: string }> {
  const project = mkdtempSync(join(work, "service-"));
  mkdirSync(join(project, "src"));
  writeFileSync(join(project, "package.json"), JSON.stringify({ name: "plain", version: "1.2.3" }));
  writeFileSync(join(project, "src/main.ts"), source);
  symlinkSync(join(root, "node_modules"), join(project, "node_modules"));
  const dist = join(project, "dist");
  const { id } = await buildImage(resolveService(project, { port: 3000 }), dist);
  return { command: [join(dist, "app/plain")], id };
}

async function start(command: string[], env: Record<string, string> = {}): Promise<Service> {
  const service = await Service.onPort(command, env);
  started.push(service);
  return service;
}

describe.each(Object.entries(sources))("%s", (kind, source) => {
  test(
    "serves the health endpoints beside its own routes, drains and exits with 0",
    async () => {
      const { command, id } = await compile(source);
      const service = await start(command, { DRAIN_DELAY_SECONDS: "2" });
      await service.until(200);
      const connection = await service.connect();
      expect((await connection.ask("/")).body).toBe("own");
      const isCatchAll = catchAll.includes(kind);
      const version = await connection.ask("/version");
      const built = { name: "plain", version: "1.2.3", id, bun: Bun.version };
      if (isCatchAll) expect(version.body).toBe("own");
      else expect(JSON.parse(version.body)).toEqual(built);
      expect(version.headers.get("slipway-build")).toBe(id);
      expect((await connection.ask("/healthz")).status).toBe(200);
      const readiness = kind.startsWith("a custom ") ? "mine" : isCatchAll ? "own" : "ready";
      expect((await connection.ask("/readyz")).body).toBe(readiness);
      service.kill("SIGTERM");
      await service.until(503);
      // The service receives the signal with a delay.
      while ((await service.ask("/")).headers.get("connection") !== "close") await Bun.sleep(5);
      const last = await connection.ask("/");
      expect(last.body).toBe("own");
      expect(last.headers.get("connection")).toBe("close");
      expect(await service.process.exited).toBe(0);
    },
    LONG,
  );
});

test.each(["Bun.serve", "node:http"] as const)(
  "%s replies to connections that a late proxy still sends after the drain delay",
  async (kind) => {
    const { command } = await compile(sources[kind]);
    const service = await start(command, { DRAIN_DELAY_SECONDS: "0.2", DRAIN_TIMEOUT_SECONDS: "60" });
    await service.until(200);
    const end = Date.now() + 2000;
    service.kill("SIGTERM");
    // Ten times the delay. Without a request for half a second, the process exits.
    while (Date.now() < end) expect((await service.ask("/")).status).toBe(200);
    const probes = setInterval(() => {
      const headers = { "User-Agent": "kube-probe/1.35" };
      fetch(`http://127.0.0.1:${service.port}/healthz`, { headers }).catch(() => {});
    }, 100);
    expect(await service.process.exited).toBe(0);
    clearInterval(probes);
    expect(Date.now() - end).toBeLessThan(25_000);
  },
  LONG,
);

test(
  "runs the service's own signal handler after the drain",
  async () => {
    const { command } = await compile(
      `const server = Bun.serve({ port: 3000, fetch: async () => (await Bun.sleep(300), new Response("own")) });
       const stop = async () => (await server.stop(), console.log("port handler"), process.exit(7));
       process.on("SIGTERM", stop);
       process.on("SIGINT", stop);`,
    );
    const service = await start(command, { DRAIN_DELAY_SECONDS: "0.2" });
    const connection = await service.connect();
    const answer = connection.ask("/");
    // The request has to arrive before the signal.
    await Bun.sleep(100);
    service.kill("SIGTERM");
    expect((await answer).body).toBe("own");
    expect(await service.process.exited).toBe(7);
  },
  LONG,
);

test(
  "runs the service's own signal handler at once if there is no server",
  async () => {
    const { command } = await compile(
      `process.once("SIGTERM", () => process.exit(9)); console.log("port 1"); setInterval(() => {}, 1000);`,
    );
    const worker = await Service.start(command);
    started.push(worker);
    worker.kill("SIGTERM");
    expect(await worker.process.exited).toBe(9);
  },
  LONG,
);

test(
  "PORT belongs to the server that asks for it",
  async () => {
    const free = () => {
      const server = Bun.serve({ port: 0, reusePort: false, fetch: () => new Response() });
      const port = server.port!;
      return (void server.stop(true), port);
    };
    const [PORT, metrics] = [free(), free()];
    const answer = (name: string) => `fetch: () => new Response(${JSON.stringify(name)})`;
    for (const app of [
      `Bun.serve({ port: process.env.PORT, ${answer("app")} })`,
      `Bun.serve({ port: Number(process.env.PORT ?? 3000), ${answer("app")} })`,
      `Bun.serve({ ${answer("app")} })`,
      `Bun.serve({ port: 3000, ${answer("app")} })`,
    ]) {
      const { command } = await compile(`
        const metrics = Bun.serve({ port: ${metrics}, hostname: "127.0.0.1", ${answer("metrics")} });
        const random = Bun.serve({ port: 0, ${answer("random")} });
        const socket = Bun.serve({ unix: ${JSON.stringify(join(work, "metrics.sock"))}, ${answer("socket")} });
        const app = ${app};
        console.log("port", app.port);
        console.log("port", metrics.port);
        console.log("port", random.port);`);
      const service = await Service.start(command, { PORT: String(PORT) }, 3);
      started.push(service);
      expect(service.ports.slice(0, 2)).toEqual([PORT, metrics]);
      const bodies = await Promise.all(service.ports.map(async (port) => (await service.ask("/", {}, port)).body));
      expect(bodies).toEqual(["app", "metrics", "random"]);
      const unix = await fetch("http://localhost/", { unix: join(work, "metrics.sock") });
      expect(await unix.text()).toBe("socket");
      service.kill("SIGKILL");
      await service.process.exited;
      rmSync(join(work, "metrics.sock"), { force: true });
    }
  },
  LONG,
);
