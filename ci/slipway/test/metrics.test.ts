/** Metrics that the build adds to a service, and the monitoring component that asks for them. */
import { afterAll, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { build, createProject, removeProjects } from "./built-service.ts";
import { Service } from "./service/harness.ts";

/** Milliseconds. Generous, because the machine may be busy. */
const LONG = 60_000;
const started: Service[] = [];
afterAll(() => {
  for (const service of started) service.kill("SIGKILL");
  removeProjects();
});

async function freePort(): Promise<number> {
  const probe = Bun.serve({ port: 0, fetch: () => new Response() });
  const port = probe.port!;
  await probe.stop(true);
  return port;
}

const binaries = new Map<string, Promise<string>>();
function compile(source: string): Promise<string> {
  const create = async () =>
    (await build(createProject({ "src/main.ts": source }), { port: 3000, entry: "src/main.ts" })).binary;
  const found = binaries.get(source) ?? create();
  binaries.set(source, found);
  return found;
}

async function start(binary: string, env: Record<string, string> = {}): Promise<{ service: Service; port: number }> {
  const port = await freePort();
  const service = await Service.onPort([binary], { METRICS_PORT: `${port}`, DRAIN_DELAY_SECONDS: "0", ...env });
  started.push(service);
  return { service, port };
}

const scrape = async (port: number) => (await fetch(`http://127.0.0.1:${port}/metrics`)).text();

/** Returns the value of a series. The labels may be in any order, and there may be more. */
function valueOf(text: string, name: string, labels: Record<string, string> = {}): number | undefined {
  const wanted = Object.entries(labels).map(([label, value]) => `${label}="${value}"`);
  const line = text.split("\n").find((one) => one.startsWith(`${name}{`) && wanted.every((pair) => one.includes(pair)));
  return line === undefined ? undefined : Number(line.split(" ").at(-1));
}
const DURATION = "http_server_request_duration_seconds";
/** Sums the requests with a status, of a route or of all but the probes'. */
function countOf(text: string, status: number, route?: string): number {
  const lines = text.split("\n").filter((line) => {
    if (!line.startsWith(`${DURATION}_count{`) || !line.includes(`http_response_status_code="${status}"`)) return false;
    return route === undefined ? !/http_route="\/(readyz|healthz)"/.test(line) : line.includes(`http_route="${route}"`);
  });
  return lines.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
}

/** Replies to /item/1 with 200, to /teapot by the handler of errors with 418, to /throw with 500, and else with 404. */
const sources = {
  "Bun.serve": `const teapot = new Error("teapot");
Bun.serve({
  port: 3000,
  routes: {
    "/item/:id": () => new Response("item"),
    "/posted": { POST: async () => new Response("posted", { status: 201 }) },
    "/static": new Response("static"),
  },
  error: (error) => {
    if (error === teapot) return new Response("teapot", { status: 418 });
    throw error;
  },
  fetch: async ({ url }) => {
    if (url.endsWith("/teapot")) throw teapot;
    if (url.endsWith("/throw")) throw new Error("expected");
    return new Response("own", { status: 404 });
  },
});`,
  "node:http": `import { createServer } from "node:http";
createServer(({ url, method }, reply) => {
  const status = { "/item/1": 200, "/item/2": 200, "/posted": 201, "/teapot": 418, "/throw": 500 };
  reply.statusCode = status[url] ?? 404;
  reply.end();
}).listen(process.env.PORT);`,
  Hono: `import { Hono } from "hono";
const app = new Hono();
app.get("/item/:id", (c) => c.text("item"));
app.post("/posted", (c) => c.text("posted", 201));
app.get("/teapot", (c) => c.text("teapot", 418));
app.get("/throw", () => { throw new Error("expected"); });
export default app;`,
  Elysia: `import { Elysia } from "elysia";
new Elysia()
  .get("/item/:id", () => "item")
  .post("/posted", ({ set }) => { set.status = 201; return "posted"; })
  .get("/teapot", ({ set }) => { set.status = 418; return "teapot"; })
  .get("/throw", () => { throw new Error("expected"); })
  .listen(process.env.PORT);`,
};

test.each(Object.entries(sources))(
  "%s: requests are counted by method, status and route, on a port of its own",
  async (kind, source) => {
    const { service, port } = await start(await compile(source));
    await service.until(200);
    for (const path of ["/item/1", "/item/2", "/none", "/teapot", "/throw"]) await service.ask(path);
    await service.ask("/posted", { method: "POST", body: "x" });
    await service.ask("/other", { method: "PROPFIND" });
    const text = await scrape(port);
    expect(countOf(text, 200, kind === "Bun.serve" ? "/item/:id" : undefined)).toBe(2);
    // Elysia gives Bun its routes.
    if (kind === "Bun.serve") expect(countOf(text, 201, "/posted")).toBe(1);
    expect(countOf(text, 201)).toBe(1);
    expect(countOf(text, 418)).toBe(1);
    expect(countOf(text, 500)).toBe(1);
    expect(countOf(text, 404)).toBe(2);
    expect(countOf(text, 200, "/readyz")).toBeGreaterThan(0);
    expect(valueOf(text, `${DURATION}_count`, { http_request_method: "POST" })).toBe(1);
    expect(valueOf(text, `${DURATION}_count`, { http_request_method: "_OTHER" })).toBe(1);
    expect(text).not.toContain("PROPFIND");
    expect(valueOf(text, `${DURATION}_count`, { http_response_status_code: "500", error_type: "500" })).toBe(1);
    for (const [method] of text.matchAll(/http_server_active_requests\{[^}]*\} .*/g)) expect(method).toEndWith(" 0");
    expect(text).toMatch(/^process_resident_memory_bytes \d{7,}$/m);
    expect(text).toMatch(/^process_open_fds [1-9]\d*$/m);
    // Clients of the service do not see them.
    expect((await service.ask("/metrics")).status).toBe(404);
    service.kill("SIGTERM");
    expect(await service.process.exited).toBe(0);
  },
  LONG,
);

test(
  "the buckets add up, and a request in progress is active",
  async () => {
    const source = `Bun.serve({ port: 3000, routes: {
      "/slow": async () => { await Bun.sleep(60); return new Response("slow"); },
      "/held": () => new Promise(() => {}),
    } });`;
    const { service, port } = await start(await compile(source));
    await service.ask("/slow");
    const held = await service.connect();
    held.send("GET /held HTTP/1.1\r\nHost: test\r\n\r\n");
    let text = "";
    for (let i = 0; i < 100 && valueOf(text, "http_server_active_requests") !== 1; i += 1) text = await scrape(port);
    expect(valueOf(text, "http_server_active_requests", { http_request_method: "GET" })).toBe(1);
    const slow = (le: string) => valueOf(text, `${DURATION}_bucket`, { http_route: "/slow", le })!;
    expect([slow("0.05"), slow("10"), slow("+Inf")]).toEqual([0, 1, 1]);
    expect(valueOf(text, `${DURATION}_sum`, { http_route: "/slow" })).toBeGreaterThan(0.05);
  },
  LONG,
);

test(
  "without METRICS_PORT nothing is served, and with PORT or a wrong value the service runs without metrics",
  async () => {
    const binary = await compile(sources["Bun.serve"]);
    for (const given of ["", "abc", "70000", "same"]) {
      const port = await freePort();
      const env =
        given === "same" ? { METRICS_PORT: `${port}`, PORT: `${port}` } : { METRICS_PORT: given, PORT: `${port}` };
      const child = Bun.spawn([binary], { env, stdio: ["ignore", "ignore", "pipe"] });
      const ask = () => fetch(`http://127.0.0.1:${port}/item/1`).catch(() => undefined);
      let reply: Response | undefined;
      for (let i = 0; i < 500 && !reply; i += 1) reply = (await ask()) ?? (await Bun.sleep(10), undefined);
      expect(await reply?.text()).toBe("item");
      expect((await fetch(`http://127.0.0.1:${port}/metrics`)).status).toBe(404);
      child.kill("SIGKILL");
      const stderr = await new Response(child.stderr).text();
      if (given === "") expect(stderr).toBe("");
      else expect(stderr).toContain("no metrics: METRICS_PORT is");
    }
  },
  LONG,
);

test.each([
  ["Bun.serve", `Bun.serve({ port: process.env.METRICS_PORT, fetch: () => new Response("mine") });`],
  [
    "node:http",
    `import { createServer } from "node:http"; createServer((_, r) => r.end("mine")).listen(process.env.METRICS_PORT);`,
  ],
])(
  "a service that serves METRICS_PORT itself with %s keeps it",
  async (_, own) => {
    const main = `Bun.serve({ port: 3000, fetch: () => new Response("main") });`;
    for (const source of [`${own}\n${main}`, `${own.replace(/^(import .*?;)?/, `$1 ${main} `)}`]) {
      const { service, port } = await start(await compile(source));
      expect((await service.ask("/")).body).toBe("main");
      let body = "";
      for (let i = 0; i < 200 && body !== "mine"; i += 1)
        body = await scrape(port).catch(() => Bun.sleep(10).then(() => ""));
      expect(body).toBe("mine");
    }
  },
  LONG,
);

test(
  "a port in use costs the metrics, not the service",
  async () => {
    const other = Bun.serve({ port: 0, fetch: () => new Response("other") });
    const { service } = await start(await compile(sources["Bun.serve"]), { METRICS_PORT: `${other.port}` });
    expect((await service.ask("/item/1")).body).toBe("item");
    expect(await scrape(other.port!)).toBe("other");
    await other.stop(true);
  },
  LONG,
);

test.each(["Bun.serve", "node:http"] as const)(
  "%s: metrics are served until the drain ends",
  async (kind) => {
    const { service, port } = await start(await compile(sources[kind]), { DRAIN_DELAY_SECONDS: "2" });
    await service.until(200);
    service.kill("SIGTERM");
    await service.until(503);
    const text = await scrape(port);
    expect(countOf(text, 503, "/readyz")).toBeGreaterThan(0);
    expect(await service.process.exited).toBe(0);
  },
  LONG,
);

test(
  "with metrics, static routes keep Bun's validators, and a websocket is upgraded",
  async () => {
    const source = `Bun.serve({ port: 3000, routes: { "/static": new Response("static") },
      fetch: (request, server) => (server.upgrade(request) ? undefined : new Response("plain")),
      websocket: { message: (socket, text) => void socket.send("echo " + text) } });`;
    const { service, port } = await start(await compile(source));
    const { headers } = await service.ask("/static");
    expect(headers.get("etag")).toBeTruthy();
    const socket = new WebSocket(`ws://127.0.0.1:${service.port}/`);
    const reply = await new Promise((resolve, reject) => {
      socket.onopen = () => socket.send("hi");
      socket.onmessage = ({ data }) => resolve(data);
      socket.onerror = reject;
    });
    expect(reply).toBe("echo hi");
    socket.close();
    expect(countOf(await scrape(port), 101)).toBe(1);
  },
  LONG,
);

test(
  "the alerts and the dashboard ask for served names and labels alone",
  async () => {
    const { service, port } = await start(await compile(sources["Bun.serve"]));
    await service.ask("/item/1");
    const text = await scrape(port);
    const served = new Set([...text.matchAll(/^(\w+)(?:\{| )/gm)].map(([, name]) => name!));
    const labels = new Set([...text.matchAll(/(\w+)="/g)].map(([, label]) => label!));
    const directory = join(import.meta.dir, "../init/templates/k8s/components/monitoring");
    const read = (file: string) => readFileSync(join(directory, file), "utf8");
    const dashboard = JSON.parse(read("dashboard.json")) as { panels: { targets: { expr: string }[] }[] };
    const rule = Bun.YAML.parse(read("prometheusrule.yaml")) as { spec: { groups: { rules: { expr: string }[] }[] } };
    const expressions = [
      ...dashboard.panels.flatMap(({ targets }) => targets.map(({ expr }) => expr)),
      ...rule.spec.groups.flatMap(({ rules }) => rules.map(({ expr }) => expr)),
    ];
    const asked = new Set(expressions.flatMap((expr) => expr.match(/\b(?:http|process)_\w+(?=\{)/g) ?? []));
    expect(asked.size).toBeGreaterThanOrEqual(5);
    expect([...asked].filter((name) => !served.has(name))).toEqual([]);
    const matched = new Set(
      expressions.flatMap((expr) =>
        [...expr.matchAll(/\b(?:http|process)_\w+\{([^}]*)\}/g)].flatMap(
          ([, inner = ""]) => inner.match(/\w+(?=[!=]~?=?")/g) ?? [],
        ),
      ),
    );
    // Prometheus adds the job.
    expect([...matched].filter((label) => label !== "job" && !labels.has(label))).toEqual([]);
    expect([...matched]).toContain("http_route");
    const grouped = expressions.flatMap((expr) =>
      [...expr.matchAll(/\bby \(([^)]*)\)/g)].flatMap(([, inner = ""]) => inner.split(/,\s*/)),
    );
    expect(grouped.filter((label) => !labels.has(label))).toEqual([]);
  },
  LONG,
);
