import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { loadConfig } from "../../src/config.ts";
import { Lifecycle } from "slipway/service";
import { createReply } from "../../src/responses.ts";
import { startServer, type Route, type RunningServer } from "../../src/server.ts";
import { createLogger } from "../../src/telemetry/log.ts";
import { exchange } from "../raw-request.ts";

const lines: string[] = [];
const lifecycle = new Lifecycle();
let server: RunningServer;
/** A server with a short request timeout. */
let impatient: RunningServer;
/** A server without access log. */
let quiet: RunningServer;
const logged = () => lines.map((line) => JSON.parse(line));
const get = (path: string, init?: RequestInit) => fetch(new URL(path, server.url), init);

const TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

const raw = (bytes: string) => exchange(server.url, bytes);

/** Lets the requests to /wait finish. */
const release = Promise.withResolvers<void>();
const entered = Promise.withResolvers<void>();
let entries = 0;

const never = () => new Promise<never>(() => {});

function start(env: Record<string, string>, routes: Record<string, Route>): RunningServer {
  const config = loadConfig({ HOST: "127.0.0.1", PORT: "0", ADMIN_PORT: "0", ...env });
  return startServer(config, { lifecycle, log: createLogger("info", (line) => lines.push(line)), routes });
}

beforeAll(() => {
  const ok = createReply("text/plain", "done");
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
  impatient = start({ REQUEST_TIMEOUT_SECONDS: "0.05", SLOW_REQUEST_SECONDS: "0.04" }, { "/never": { handle: never } });
  quiet = start({ ACCESS_LOG: "off" }, {});
  lifecycle.ready();
});

afterAll(() => Promise.all([server, impatient, quiet].flatMap(({ servers }) => servers.map((one) => one.stop(true)))));

describe("GET /", () => {
  test("returns text by default", async () => {
    const reply = await get("/");
    expect(reply.status).toBe(200);
    expect(reply.headers.get("content-type")).toBe("text/plain; charset=utf-8");
    expect(reply.headers.get("vary")).toBe("Accept");
    expect(await reply.text()).toBe("<Hello>\n");
  });

  test("returns JSON if the client accepts JSON", async () => {
    const reply = await get("/", { headers: { Accept: "application/json" } });
    expect(await reply.json()).toMatchObject({ message: "<Hello>", pod: "pod-1", build: "dev" });
  });

  test("returns a page to a browser, with escaped text and a Content-Security-Policy", async () => {
    const reply = await get("/", { headers: { Accept: "text/html,application/xhtml+xml,*/*;q=0.8" } });
    expect(reply.headers.get("content-security-policy")).toContain("default-src 'none'");
    expect(reply.headers.get("x-content-type-options")).toBe("nosniff");
    const page = await reply.text();
    expect(page).toContain("&lt;Hello&gt;");
    expect(page).not.toContain("<Hello>");
  });

  test("returns 406 if the client accepts no offered type", async () => {
    const reply = await get("/", { headers: { Accept: "image/png" } });
    expect(reply.status).toBe(406);
    expect(reply.headers.get("vary")).toBe("Accept");
  });
});

test("/version returns version and build", async () => {
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

  test("OPTIONS returns the allowed methods", async () => {
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

describe("errors are problem+json with the request's ID", () => {
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

  test("have a generated ID if the client sends none", async () => {
    const reply = await get("/nowhere");
    const id = reply.headers.get("x-request-id");
    expect(id).toMatch(/^[0-9a-f]{16}-\d+$/);
    expect(await reply.json()).toMatchObject({ requestId: id });
  });

  test("a body without a length gets 411 at once", async () => {
    const reply = await raw("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n");
    expect(reply).toStartWith("HTTP/1.1 411 ");
    expect(reply).toContain("application/problem+json");
  });

  test("an exception's message is logged and not sent to the client", async () => {
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
  const rejected = (reason: string, of = server) => metric(`http_requests_rejected_total{reason="${reason}"}`, of);

  test("a URL over MAX_URL_BYTES gets 414 and is counted", async () => {
    const before = await rejected("url");
    const reply = await get(`/${"x".repeat(8192)}`);
    expect(reply.status).toBe(414);
    expect(reply.headers.get("content-type")).toBe("application/problem+json");
    expect(await rejected("url")).toBe(before + 1);
  });

  test("a body over MAX_BODY_BYTES or without a length is counted", async () => {
    const before = await Promise.all([rejected("body"), rejected("length")]);
    await get("/", { method: "POST", body: "x".repeat(11) });
    await raw("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    expect(await Promise.all([rejected("body"), rejected("length")])).toEqual([before[0]! + 1, before[1]! + 1]);
  });

  test("request headers over MAX_HEADER_BYTES get 431 and a closed connection", async () => {
    expect(await raw(`GET / HTTP/1.1\r\nHost: x\r\nX: ${"x".repeat(17_000)}\r\n\r\n`)).toStartWith("HTTP/1.1 431 ");
  });

  test("a request over REQUEST_TIMEOUT_SECONDS gets 503 and is counted", async () => {
    const before = await rejected("time", impatient);
    const reply = await fetch(new URL("/never", impatient.url));
    expect(reply.status).toBe(503);
    expect(reply.headers.get("retry-after")).toBe("1");
    expect(await rejected("time", impatient)).toBe(before + 1);
  });

  test("requests over MAX_IN_FLIGHT get 503 at once, except probes", async () => {
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

  test("a slow client does not block others", async () => {
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

describe("X-Request-Id of a successful reply", () => {
  const idOf = async (url: string, headers = {}) => (await fetch(url, { headers })).headers.get("x-request-id");

  test("is the client's ID or the ID in the log line", async () => {
    expect(await idOf(server.url, { "X-Request-Id": "mine" })).toBe("mine");
    lines.length = 0;
    const id = await idOf(server.url);
    expect(logged()).toMatchObject([{ requestId: id }]);
  });

  test("is absent without a log line and without an ID from the client, also after a reply with an ID", async () => {
    expect(await idOf(quiet.url, { "X-Request-Id": "mine" })).toBe("mine");
    expect(await idOf(quiet.url)).toBeNull();
    expect(await idOf(new URL("/healthz", server.url).href)).toBeNull();
  });
});

describe("headers that HTTP requires", () => {
  const CLOSE = "Host: x\r\nConnection: close\r\n";

  test.each([
    ["HEAD", "/"],
    ["HEAD", "/version"],
    ["HEAD", "/nowhere"],
    ["GET", "/"],
    ["OPTIONS", "/"],
  ])("%s %s has one Date", async (method, path) => {
    const reply = await raw(`${method} ${path} HTTP/1.1\r\n${CLOSE}\r\n`);
    const dates = [...reply.matchAll(/^date: (.*)\r$/gim)].map(([, date]) => date!);
    expect(dates).toHaveLength(1);
    expect(dates[0]).toMatch(/^\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$/);
  });

  test.each(["close", "Close", "keep-alive, close", "close ,x"])(
    "Connection: %s closes the connection",
    async (value) => {
      const reply = await raw(`GET / HTTP/1.1\r\nHost: x\r\nConnection: ${value}\r\n\r\n`);
      expect(reply).toMatch(/^connection: close\r$/im);
    },
  );

  test.each(["keep-alive", "closed", "x-close"])("Connection: %s keeps the connection open", async (value) => {
    // The second request succeeds only if the connection stays open.
    const reply = await raw(`GET / HTTP/1.1\r\nHost: x\r\nConnection: ${value}\r\n\r\nGET / HTTP/1.1\r\n${CLOSE}\r\n`);
    const [first, second] = reply.split("HTTP/1.1 200 OK").slice(1);
    expect(first).not.toMatch(/^connection: close\r$/im);
    expect(second).toMatch(/^connection: close\r$/im);
  });
});

test("pipelined requests keep their own IDs and traces", async () => {
  const trace = "4bf92f3577b34da6a3ce929d0e0e4736";
  const request = (id: string, more: string) => `GET / HTTP/1.1\r\nHost: x\r\nX-Request-Id: ${id}\r\n${more}\r\n`;
  const parent = `traceparent: 00-${trace}-00f067aa0ba902b7-01\r\n`;
  const replies = (await raw(request("one", parent) + request("two", "") + request("three", "Connection: close\r\n")))
    .split("HTTP/1.1 200 OK")
    .slice(1);
  expect(replies.map((reply) => /x-request-id: (\w+)/i.exec(reply)?.[1])).toEqual(["one", "two", "three"]);
  expect(replies.map((reply) => /traceresponse: 00-(\w+)/i.exec(reply)?.[1])).toEqual([trace, undefined, undefined]);
});

test("a slow request is logged as a warning", async () => {
  lines.length = 0;
  await fetch(new URL("/never", impatient.url));
  expect(logged().find(({ event }) => event === "request")).toMatchObject({
    level: "warn",
    slow: true,
    route: "/never",
  });
});

describe("/openapi.json", () => {
  test("returns 304 for a matching ETag", async () => {
    const etag = (await get("/openapi.json")).headers.get("etag")!;
    const again = await get("/openapi.json", { headers: { "If-None-Match": etag } });
    expect([again.status, await again.text()]).toEqual([304, ""]);
    expect(again.headers.get("etag")).toBe(etag);
    expect((await get("/openapi.json", { headers: { "If-None-Match": '"other"' } })).status).toBe(200);
  });

  test.each([
    ["W/$", 304],
    ['"other", $', 304],
    ['W/"other" , W/$,"third"', 304],
    ["*", 304],
    [" * ", 304],
    ['W/"other"', 200],
    ["dev", 200],
    ['"not $"', 200],
    ["**", 200],
  ])("If-None-Match: %s is %i", async (value, status) => {
    const etag = (await get("/openapi.json")).headers.get("etag")!;
    const headers = { "If-None-Match": value.replace("$", etag) };
    for (const method of ["GET", "HEAD"]) {
      const reply = await get("/openapi.json", { method, headers });
      expect([reply.status, reply.headers.get("etag")]).toEqual([status, etag]);
    }
  });

  test("describes every path, and all replies match the description", async () => {
    const description = await (await get("/openapi.json")).json();
    expect(description.openapi).toBe("3.1.0");
    expect(Object.keys(description.paths).sort()).toEqual(["/", "/healthz", "/openapi.json", "/readyz", "/version"]);
    const valid = (value: any, { $ref, type, required = [], properties = {} }: any): boolean => {
      if ($ref) return valid(value, description.components.schemas[$ref.split("/").at(-1)]);
      const is = type === "integer" ? Number.isInteger(value) : typeof value === type;
      return (
        is &&
        required.every((name: string) => name in value) &&
        Object.entries(properties).every(([name, schema]) => value[name] === undefined || valid(value[name], schema)) &&
        // Undescribed properties are errors.
        (Object.keys(properties).length === 0 || Object.keys(value).every((name) => name in properties))
      );
    };
    const requests = [
      { method: "GET" },
      { method: "HEAD" },
      { method: "OPTIONS" },
      { method: "POST" },
      { method: "POST", body: "x".repeat(11) },
      { method: "GET", headers: { "X-Request-Id": "mine", traceparent: TRACEPARENT } },
      { method: "GET", headers: { "If-None-Match": "*" } },
      ...["application/json", "text/html", "image/png"].map((Accept) => ({
        method: "GET",
        headers: { Accept },
      })),
    ];
    const seen = new Set<string>();
    for (const [path, item] of Object.entries<any>(description.paths)) {
      for (const request of requests) {
        const reply = await get(path, request);
        const what = `${JSON.stringify(request)} ${path}: ${reply.status}`;
        seen.add(`${request.method} ${reply.status}`);
        const described = (item[request.method.toLowerCase()] ?? item.get).responses[reply.status];
        expect(described, what).toBeDefined();
        for (const [name, { required }] of Object.entries<any>(described.headers)) {
          if (required) expect(reply.headers.get(name), `${what}: ${name}`).toBeString();
        }
        const names = Object.keys(described.headers).map((name) => name.toLowerCase());
        for (const name of reply.headers.keys()) expect([...names, "content-type"], what).toContain(name);
        const body = await reply.text();
        if (!described.content) {
          expect(body, what).toBe("");
          continue;
        }
        const type = reply.headers.get("content-type")!.split(";")[0]!;
        const { schema } = described.content[type];
        const value = type.endsWith("json") ? JSON.parse(body) : body;
        expect(valid(value, schema), `${what}: ${body.slice(0, 200)}`).toBe(true);
      }
      for (const { $ref } of item.parameters) {
        expect(description.components.parameters[$ref.split("/").at(-1)]).toBeDefined();
      }
    }
    expect([...seen].sort()).toEqual([
      "GET 200",
      "GET 304",
      "GET 406",
      "HEAD 200",
      "OPTIONS 204",
      "POST 405",
      "POST 413",
    ]);
  });
});

describe("access log", () => {
  test("has a line for each request, without the query", async () => {
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

  test.each([
    ["GET /a/../version", "x", 200, "/version", "/version"],
    ["GET /./version", "x", 200, "/version", "/version"],
    ["GET /a/%2e%2e/%2E%2e/version?q", "x", 200, "/version", "/version"],
    ["GET /\\a\\..\\nowhere", "x", 404, undefined, "//nowhere"],
    ["GET /nowhere?q=://a/b", "x", 404, undefined, "/nowhere"],
    ["GET http://x/version", "x", 200, "/version", "/version"],
    // With an invalid Host, Bun reports the path as it was sent.
    ["GET /a/../version?q", "x y", 404, undefined, "/a/../version"],
    ["CONNECT constructor", "x", 405, undefined, "constructor"],
  ] as const)("%s with Host %p: reply, log and metrics use the same path", async (line, host, status, route, path) => {
    lines.length = 0;
    const reply = await raw(`${line} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);
    expect(reply).toStartWith(`HTTP/1.1 ${status} `);
    const [entry] = logged();
    expect([entry.status, entry.route, entry.path]).toEqual([status, route, path]);
    if (route) expect(reply).toContain('"name":"helloapp"');
  });

  test("and metrics do not include requests that Bun's parser rejects, as documented in src/README.md", async () => {
    lines.length = 0;
    const count = async () =>
      (await (await fetch(new URL("/metrics", server.adminUrl))).text())
        .split("\n")
        .filter((line) => line.includes("_duration_seconds_count") && !line.includes("/metrics"));
    const before = await count();
    const host = "Host: x\r\n\r\n";
    const replies = await Promise.all(
      [
        "GET / HTTP/1.1\r\n\r\n",
        `GET / HTTP/1.1\r\nHost : x\r\n\r\n`,
        `GET / HTTP/1.1\r\nX: a\r\n b\r\n${host}`,
        `POST / HTTP/1.1\r\nContent-Length: x\r\n${host}`,
        `POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n${host}ab`,
        `OPTIONS * HTTP/1.1\r\n${host}`,
        `GET / HTTP/1.1\r\nX: ${"x".repeat(17_000)}\r\n${host}`,
        `GET / HTTP/3.0\r\n${host}`,
        `BREW / HTTP/1.1\r\n${host}`,
      ].map(raw),
    );
    expect(replies.map((reply) => reply.split(" ")[1])).toEqual([...Array(6).fill("400"), "431", "505", undefined]);
    expect(lines).toEqual([]);
    expect(await count()).toEqual(before);
  });

  test("omits successful probes", async () => {
    lines.length = 0;
    await Promise.all([get("/healthz"), get("/readyz")]);
    expect(lines).toEqual([]);
  });
});

test("metrics exclude unknown paths and methods, and have no duplicate series", async () => {
  await Promise.all([server.url, server.adminUrl].map((url) => fetch(new URL("/nowhere/1", url))));
  await get("/", { method: "PROPFIND" });
  const text = await (await fetch(new URL("/metrics", server.adminUrl))).text();
  expect(text).toMatch(
    /^http_server_request_duration_seconds_count\{http_request_method="GET",http_route="\/version",http_response_status_code="200",url_scheme="http"\} \d+$/m,
  );
  const series = text
    .split("\n")
    .filter((line) => line !== "" && !line.startsWith("#"))
    .map((line) => line.slice(0, line.lastIndexOf(" ")));
  expect(series.filter((name, i) => series.indexOf(name) !== i)).toEqual([]);
  expect(text).not.toContain("nowhere");
  expect(text).not.toContain("PROPFIND");
});

test("while draining: not ready, alive, and every reply closes its connection", async () => {
  await lifecycle.drain([], { delaySeconds: 0, timeoutSeconds: 0 });
  const replies = await Promise.all(
    ["/readyz", "/healthz", "/"].map((path) => raw(`GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`)),
  );
  expect(replies.map((reply) => reply.split(" ")[1])).toEqual(["503", "200", "200"]);
  for (const reply of replies) expect(reply).toMatch(/\r\nconnection: close\r\n/i);
});
