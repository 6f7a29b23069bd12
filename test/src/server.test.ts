import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { loadConfig } from "../../src/config.ts";
import { Lifecycle } from "../../src/lifecycle.ts";
import { startServer, type RunningServer } from "../../src/server.ts";
import { createLogger } from "../../src/telemetry/log.ts";
import { exchange } from "../exchange.ts";

const lines: string[] = [];
const lifecycle = new Lifecycle();
let server: RunningServer;
const logged = () => lines.map((line) => JSON.parse(line));
const get = (path: string, init?: RequestInit) => fetch(new URL(path, server.url), init);

const raw = (bytes: string) => exchange(server.url, bytes);

beforeAll(() => {
  const env = {
    HOST: "127.0.0.1",
    PORT: "0",
    ADMIN_PORT: "0",
    POD_NAME: "pod-1",
    GREETING: "<Hello>",
    MAX_BODY_BYTES: "10",
  };
  server = startServer(loadConfig(env), {
    lifecycle,
    log: createLogger("info", (line) => lines.push(line)),
    routes: {
      "/boom": {
        handle() {
          throw new Error("secret detail");
        },
      },
    },
  });
  lifecycle.ready();
});

afterAll(() => Promise.all(server.servers.map((one) => one.stop(true))));

describe("GET /", () => {
  test("is text for who does not care", async () => {
    const reply = await get("/");
    expect(reply.status).toBe(200);
    expect(reply.headers.get("content-type")).toBe("text/plain; charset=utf-8");
    expect(reply.headers.get("vary")).toBe("Accept");
    expect(await reply.text()).toBe("<Hello>\n");
  });

  test("is JSON on request", async () => {
    const reply = await get("/", { headers: { Accept: "application/json" } });
    expect(await reply.json()).toMatchObject({ message: "<Hello>", pod: "pod-1", build: "dev" });
  });

  test("is a page in a browser, with the text escaped and scripts forbidden", async () => {
    const reply = await get("/", { headers: { Accept: "text/html,application/xhtml+xml,*/*;q=0.8" } });
    expect(reply.headers.get("content-security-policy")).toContain("default-src 'none'");
    expect(reply.headers.get("x-content-type-options")).toBe("nosniff");
    const page = await reply.text();
    expect(page).toContain("&lt;Hello&gt;");
    expect(page).not.toContain("<Hello>");
  });

  test("is 406 for who accepts nothing of it", async () => {
    const reply = await get("/", { headers: { Accept: "image/png" } });
    expect(reply.status).toBe(406);
    expect(reply.headers.get("vary")).toBe("Accept");
  });
});

test("/version names the build", async () => {
  const { version } = await import("../../package.json");
  expect(await (await get("/version")).json()).toEqual({
    name: "helloapp",
    version,
    id: "dev",
    bun: Bun.version,
  });
});

describe.each(["/", "/version", "/healthz", "/readyz"])("%s", (path) => {
  test("HEAD has GET's headers and no body", async () => {
    const [head, full] = await Promise.all([get(path, { method: "HEAD" }), get(path)]);
    expect(head.status).toBe(full.status);
    expect(head.headers.get("content-type")).toBe(full.headers.get("content-type"));
    expect(head.headers.get("content-length")).toBe(full.headers.get("content-length"));
    expect(await head.text()).toBe("");
  });

  test("OPTIONS tells what is allowed", async () => {
    const reply = await get(path, { method: "OPTIONS" });
    expect(reply.status).toBe(204);
    expect(reply.headers.get("allow")).toBe("GET, HEAD, OPTIONS");
  });

  test.each(["POST", "PUT", "PATCH", "DELETE"])("%s is 405 with Allow", async (method) => {
    const reply = await get(path, { method });
    expect(reply.status).toBe(405);
    expect(reply.headers.get("allow")).toBe("GET, HEAD, OPTIONS");
    expect(await reply.json()).toMatchObject({ title: "Method Not Allowed", status: 405 });
  });
});

describe("errors are problem+json with the request's id", () => {
  test.each([
    ["/nowhere", {}, 404],
    ["/version/", {}, 404],
    ["/metrics", {}, 404],
    ["/", { method: "POST", body: "x".repeat(11) }, 413],
    ["/boom", {}, 500],
  ] as const)("%s %p is %i", async (path, init, status) => {
    const reply = await get(path, { ...init, headers: { "X-Request-Id": "mine" } });
    expect(reply.status).toBe(status);
    expect(reply.headers.get("content-type")).toBe("application/problem+json");
    expect(reply.headers.get("x-request-id")).toBe("mine");
    expect(await reply.json()).toMatchObject({ type: "about:blank", status, requestId: "mine" });
  });

  test("a body of unknown length is 411 and is not waited for", async () => {
    const reply = await raw("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n");
    expect(reply).toStartWith("HTTP/1.1 411 ");
    expect(reply).toContain("application/problem+json");
  });

  test("an exception's text stays in the log", async () => {
    lines.length = 0;
    expect(await (await get("/boom")).text()).not.toContain("secret");
    expect(logged()[0]).toMatchObject({ level: "error", error: expect.stringContaining("secret detail") });
  });
});

describe("access log", () => {
  test("has a line for each request", async () => {
    lines.length = 0;
    const trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    const headers = { "X-Request-Id": "r1", traceparent: `00-${trace}-00f067aa0ba902b7-01` };
    await get("/version?token=secret", { headers });
    expect(logged()).toEqual([
      {
        time: expect.any(String),
        level: "info",
        event: "request",
        method: "GET",
        route: "/version",
        path: "/version",
        status: 200,
        bytes: expect.any(Number),
        durationMs: expect.any(Number),
        requestId: "r1",
        traceId: trace,
      },
    ]);
  });

  test("leaves healthy probes out", async () => {
    lines.length = 0;
    await Promise.all([get("/healthz"), get("/readyz")]);
    expect(lines).toEqual([]);
  });
});

test("metrics are on the admin port only", async () => {
  const text = await (await fetch(new URL("/metrics", server.adminUrl))).text();
  expect(text).toMatch(/http_requests_total\{route="\/version",method="GET",status="200"\} \d+/);
  // A client cannot make series without end.
  await get("/nowhere/1");
  await get("/", { method: "PROPFIND" });
  const after = await (await fetch(new URL("/metrics", server.adminUrl))).text();
  expect(after).not.toContain("nowhere");
  expect(after).not.toContain("PROPFIND");
});

test("draining: not ready, alive, and every reply says that the connection ends", async () => {
  await lifecycle.drain([], { delaySeconds: 0, timeoutSeconds: 0 });
  const replies = await Promise.all(
    ["/readyz", "/healthz", "/"].map((path) => raw(`GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`)),
  );
  expect(replies.map((reply) => reply.split(" ")[1])).toEqual(["503", "200", "200"]);
  for (const reply of replies) expect(reply).toMatch(/\r\nconnection: close\r\n/i);
});
