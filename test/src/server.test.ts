import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { loadConfig } from "../../src/config.ts";
import { Lifecycle } from "slipway/service";
import { reply } from "../../src/reply.ts";
import { startServer, type Route, type RunningServer } from "../../src/server.ts";
import { createLogger } from "../../src/telemetry/log.ts";
import { exchange } from "../exchange.ts";

const lines: string[] = [];
const lifecycle = new Lifecycle();
let server: RunningServer;
/** Another one, with no patience. */
let hasty: RunningServer;
const logged = () => lines.map((line) => JSON.parse(line));
const get = (path: string, init?: RequestInit) => fetch(new URL(path, server.url), init);

const raw = (bytes: string) => exchange(server.url, bytes);

/** Opened by the tests of what happens while requests wait. */
const release = Promise.withResolvers<void>();
const entered = Promise.withResolvers<void>();
let entries = 0;

const never = () => new Promise<never>(() => {});

function start(env: Record<string, string>, routes: Record<string, Route>): RunningServer {
  const config = loadConfig({ HOST: "127.0.0.1", PORT: "0", ADMIN_PORT: "0", ...env });
  return startServer(config, { lifecycle, log: createLogger("info", (line) => lines.push(line)), routes });
}

beforeAll(() => {
  const ok = reply("text/plain", "done");
  server = start(
    { POD_NAME: "pod-1", GREETING: "<Hello>", MAX_BODY_BYTES: "10", MAX_IN_FLIGHT: "3" },
    {
      "/boom": {
        handle() {
          throw new Error("secret detail");
        },
      },
      "/wait": {
        async handle() {
          if ((entries += 1) === 3) entered.resolve();
          await release.promise;
          return ok;
        },
      },
    },
  );
  hasty = start(
    { REQUEST_TIMEOUT_SECONDS: "0.05", SLOW_REQUEST_SECONDS: "0.04" },
    { "/never": { handle: never } },
  );
  lifecycle.ready();
});

afterAll(() => Promise.all([server, hasty].flatMap(({ servers }) => servers.map((one) => one.stop(true)))));

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

describe.each(["/", "/version", "/openapi.json", "/healthz", "/readyz"])("%s", (path) => {
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

describe("limits", () => {
  const metric = async (name: string, { adminUrl }: RunningServer) => {
    const text = await (await fetch(new URL("/metrics", adminUrl))).text();
    return Number(
      text
        .split("\n")
        .find((line) => line.startsWith(`${name} `))
        ?.split(" ")[1],
    );
  };
  const rejected = (reason: string, of = server) =>
    metric(`http_requests_rejected_total{reason="${reason}"}`, of);

  test("a URL over MAX_URL_BYTES is 414, and counted", async () => {
    const before = await rejected("url");
    const reply = await get(`/${"x".repeat(8192)}`);
    expect(reply.status).toBe(414);
    expect(reply.headers.get("content-type")).toBe("application/problem+json");
    expect(await rejected("url")).toBe(before + 1);
  });

  test("a body over MAX_BODY_BYTES is counted, one without a length too", async () => {
    const before = await Promise.all([rejected("body"), rejected("length")]);
    await get("/", { method: "POST", body: "x".repeat(11) });
    await raw("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    expect(await Promise.all([rejected("body"), rejected("length")])).toEqual([
      before[0]! + 1,
      before[1]! + 1,
    ]);
  });

  test("a head over MAX_HEADER_BYTES is 431 and ends the connection", async () => {
    expect(await raw(`GET / HTTP/1.1\r\nHost: x\r\nX: ${"x".repeat(17_000)}\r\n\r\n`)).toStartWith(
      "HTTP/1.1 431 ",
    );
  });

  test("a request that takes longer than REQUEST_TIMEOUT_SECONDS is 503, and counted", async () => {
    const before = await rejected("time", hasty);
    const reply = await fetch(new URL("/never", hasty.url));
    expect(reply.status).toBe(503);
    expect(reply.headers.get("retry-after")).toBe("1");
    expect(await rejected("time", hasty)).toBe(before + 1);
  });

  test("more requests at once than MAX_IN_FLIGHT are 503 at once; probes are answered", async () => {
    const before = await rejected("in-flight");
    const waiting = [get("/wait"), get("/wait"), get("/wait")];
    await entered.promise;
    const reply = await get("/");
    expect(reply.status).toBe(503);
    expect((await get("/healthz")).status).toBe(200);
    release.resolve();
    for (const one of waiting) expect((await one).status).toBe(200);
    expect(await rejected("in-flight")).toBe(before + 1);
    expect((await get("/")).status).toBe(200);
  });

  test("a slow client loses its own connection only", async () => {
    const slow = await Bun.connect({
      hostname: new URL(server.url).hostname,
      port: Number(new URL(server.url).port),
      socket: {
        open: (socket) => void socket.write("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"),
        data() {},
      },
    });
    expect((await get("/")).status).toBe(200);
    slow.end();
  });
});

test("requests in one packet keep their own ids and traces", async () => {
  const trace = "4bf92f3577b34da6a3ce929d0e0e4736";
  const request = (id: string, more: string) =>
    `GET / HTTP/1.1\r\nHost: x\r\nX-Request-Id: ${id}\r\n${more}\r\n`;
  const parent = `traceparent: 00-${trace}-00f067aa0ba902b7-01\r\n`;
  const replies = (
    await raw(request("one", parent) + request("two", "") + request("three", "Connection: close\r\n"))
  )
    .split("HTTP/1.1 200 OK")
    .slice(1);
  expect(replies.map((reply) => /x-request-id: (\w+)/i.exec(reply)?.[1])).toEqual(["one", "two", "three"]);
  expect(replies.map((reply) => /traceresponse: 00-(\w+)/i.exec(reply)?.[1])).toEqual([
    trace,
    undefined,
    undefined,
  ]);
});

test("a slow request is logged as a warning", async () => {
  lines.length = 0;
  await fetch(new URL("/never", hasty.url));
  expect(logged().find(({ event }) => event === "request")).toMatchObject({
    level: "warn",
    slow: true,
    route: "/never",
  });
});

describe("/openapi.json", () => {
  test("is sent once: its ETag makes the next one a 304", async () => {
    const etag = (await get("/openapi.json")).headers.get("etag")!;
    const again = await get("/openapi.json", { headers: { "If-None-Match": etag } });
    expect([again.status, await again.text()]).toEqual([304, ""]);
    expect(again.headers.get("etag")).toBe(etag);
    expect((await get("/openapi.json", { headers: { "If-None-Match": '"other"' } })).status).toBe(200);
  });

  test("describes every path of the service, and what it says is true", async () => {
    const description = await (await get("/openapi.json")).json();
    expect(description.openapi).toBe("3.1.0");
    expect(Object.keys(description.paths).sort()).toEqual([
      "/",
      "/healthz",
      "/openapi.json",
      "/readyz",
      "/version",
    ]);
    const valid = (value: any, { $ref, type, required = [], properties = {} }: any): boolean => {
      if ($ref) return valid(value, description.components.schemas[$ref.split("/").at(-1)]);
      const is = type === "integer" ? Number.isInteger(value) : typeof value === type;
      return (
        is &&
        required.every((name: string) => name in value) &&
        Object.entries(properties).every(
          ([name, schema]) => value[name] === undefined || valid(value[name], schema),
        ) &&
        // Nothing that the description does not know.
        (Object.keys(properties).length === 0 || Object.keys(value).every((name) => name in properties))
      );
    };
    for (const [path, { get: operation }] of Object.entries<any>(description.paths)) {
      for (const accept of ["*/*", "application/json", "text/html", "image/png"]) {
        for (const method of ["GET", "POST"]) {
          const reply = await get(path, { method, headers: { Accept: accept } });
          const described = operation.responses[reply.status];
          expect(described, `${method} ${path} ${accept}: ${reply.status}`).toBeDefined();
          const type = reply.headers.get("content-type")!.split(";")[0]!;
          const { schema } = described.content[type];
          const body = type.endsWith("json") ? await reply.json() : await reply.text();
          expect(
            valid(body, schema),
            `${method} ${path} ${accept}: ${JSON.stringify(body).slice(0, 200)}`,
          ).toBe(true);
          for (const name of Object.keys(described.headers)) expect(reply.headers.get(name)).toBeString();
        }
      }
    }
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
