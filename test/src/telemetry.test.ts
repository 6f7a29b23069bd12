import { describe, expect, test } from "bun:test";
import { createBufferedOutput, createLogger } from "../../src/telemetry/log.ts";
import { createMetrics } from "../../src/telemetry/metrics.ts";
import {
  createRequestId,
  createTraceResponse,
  readRequestId,
  readTraceParent,
  traceIdOf,
} from "../../src/telemetry/trace.ts";

describe("log", () => {
  test("writes one JSON object a line", () => {
    const lines: string[] = [];
    createLogger("info", (line) => lines.push(line)).warn("odd", { text: 'a "quoted"\nline' });
    expect(lines).toHaveLength(1);
    expect(lines[0]).toMatch(/^[^\n]+\n$/);
    const { time, ...rest } = JSON.parse(lines[0]!);
    expect(rest).toEqual({ level: "warn", event: "odd", text: 'a "quoted"\nline' });
    expect(new Date(time).toISOString()).toBe(time);
  });

  test.each([
    ["debug", 4],
    ["info", 3],
    ["warn", 2],
    ["error", 1],
  ] as const)("level %s logs %i of 4 levels", (level, count) => {
    const lines: string[] = [];
    const log = createLogger(level, (line) => lines.push(line));
    log.debug("x");
    log.info("x");
    log.warn("x");
    log.error("x");
    expect(lines).toHaveLength(count);
    expect(log.enabled("info")).toBe(count >= 3);
  });
});

describe("metrics", () => {
  test("count requests by method, route and status, with durations in buckets", () => {
    const metrics = createMetrics();
    const root = metrics.route("/");
    for (const seconds of [0.005, 0.3, 60]) root.begin("GET").end(200, seconds);
    root.begin("PUT").end(405, 0.002);
    root.begin("GET").end(503, 0.002);
    metrics.reject("url");
    const text = metrics.render();
    const name = "http_server_request_duration_seconds";
    const labels = 'http_request_method="GET",http_route="/",http_response_status_code="200",url_scheme="http"';
    for (const [le, count] of [
      ["0.005", 1],
      ["0.25", 1],
      ["0.5", 2],
      ["10", 2],
      ["+Inf", 3],
    ]) {
      expect(text).toContain(`${name}_bucket{${labels},le="${le}"} ${count}\n`);
    }
    expect(text).toContain(`${name}_sum{${labels}} 60.305\n`);
    expect(text).toContain(`${name}_count{${labels}} 3\n`);
    expect(text).toContain(`${name}_count{http_request_method="PUT",http_route="/",`);
    expect(text).toContain(`http_response_status_code="503",url_scheme="http",error_type="503"} 1\n`);
    expect(text.match(/error_type/g)).toHaveLength(17);
    expect(text).toContain('http_requests_rejected_total{reason="url"} 1\n');
    expect(text).toContain('http_requests_rejected_total{reason="body"} 0\n');
  });

  test("count unknown methods as _OTHER, and match methods case-sensitively", () => {
    const metrics = createMetrics();
    for (const method of ["PROPFIND", "get", "QUERY"]) metrics.route("/").begin(method).end(405, 0);
    const text = metrics.render();
    expect(text).toContain('_count{http_request_method="_OTHER",http_route="/",');
    expect(text).toContain('_count{http_request_method="QUERY",http_route="/",');
    expect(text).not.toMatch(/PROPFIND|"get"/);
  });

  test("share series between servers, and omit http_route if no route matched", () => {
    const metrics = createMetrics();
    for (let server = 0; server < 2; server += 1) metrics.route(undefined).begin("GET").end(404, 0);
    const lines = metrics.render().trimEnd().split("\n");
    const names = lines.map((line) => line.slice(0, line.lastIndexOf(" ")));
    expect(names.toSorted()).toEqual([...new Set(names)].toSorted());
    expect(lines).toContain(
      'http_server_request_duration_seconds_count{http_request_method="GET",http_response_status_code="404",url_scheme="http"} 2',
    );
  });

  test("report requests in progress by method", () => {
    const metrics = createMetrics();
    const [one] = [metrics.route("/").begin("GET"), metrics.route(undefined).begin("GET")];
    const gauge = (count: number) =>
      `http_server_active_requests{http_request_method="GET",url_scheme="http"} ${count}\n`;
    expect(metrics.inFlight).toBe(2);
    expect(metrics.render()).toContain(gauge(2));
    one.end(200, 0);
    expect(metrics.inFlight).toBe(1);
    expect(metrics.render()).toContain(gauge(1));
  });

  test("are valid Prometheus text: each line is a sample with a declared type", () => {
    const metrics = createMetrics();
    metrics.route("/").begin("GET").end(200, 1);
    const typed = new Set<string>();
    for (const line of metrics.render().trimEnd().split("\n")) {
      const type = /^# TYPE (\S+) (counter|gauge|histogram)$/.exec(line);
      if (type) typed.add(type[1]!);
      else if (!line.startsWith("# HELP ")) {
        const sample = /^([a-z_]+?)(_bucket|_sum|_count)?(\{([a-z_]+="[^"\n]*",?)+\})? \d+(\.\d+)?(e-?\d+)?$/.exec(
          line,
        );
        expect(sample, line).not.toBeNull();
        expect(typed.has(sample![1]!) || typed.has(sample![1]! + (sample![2] ?? ""))).toBe(true);
      }
    }
    expect(typed.size).toBeGreaterThanOrEqual(7);
  });
});

describe("request ID", () => {
  test("is read from X-Request-Id", () => {
    expect(readRequestId(new Headers({ "X-Request-Id": "abc-1.2_Z" }))).toBe("abc-1.2_Z");
  });

  test.each(["a b", 'a"b', "{}", "", "x".repeat(65)])("%p is ignored", (given) => {
    expect(readRequestId(new Headers({ "X-Request-Id": given }))).toBeUndefined();
  });

  test("is unique when created", () => {
    expect(createRequestId()).toMatch(/^[0-9a-f]{16}-\d+$/);
    expect(createRequestId()).not.toBe(createRequestId());
  });
});

describe("trace", () => {
  const id = "4bf92f3577b34da6a3ce929d0e0e4736";
  test("comes from a valid traceparent and is returned with a new span", () => {
    const parent = readTraceParent(new Headers({ traceparent: `00-${id}-00f067aa0ba902b7-01` }))!;
    expect(traceIdOf(parent)).toBe(id);
    expect(createTraceResponse(parent)).toMatch(new RegExp(`^00-${id}-[0-9a-f]{16}-01$`));
    expect(createTraceResponse(parent)).not.toContain("00f067aa0ba902b7");
    expect(createTraceResponse(parent)).not.toBe(createTraceResponse(parent));
  });

  test.each([
    "",
    `01-${id}-00f067aa0ba902b7-01`,
    `00-${"0".repeat(32)}-00f067aa0ba902b7-01`,
    `00-${id}-${"0".repeat(16)}-01`,
    `00-${id.toUpperCase()}-00f067aa0ba902b7-01`,
    `00-${id}-00f067aa0ba902b7-01-extra`,
  ])("ignores the invalid traceparent %p", (traceparent) => {
    expect(readTraceParent(new Headers({ traceparent }))).toBeUndefined();
  });
});

describe("output", () => {
  test("collects lines in order", async () => {
    const written: string[] = [];
    const output = createBufferedOutput((text) => written.push(text));
    for (const line of ["a\n", "b\n", "c\n"]) output.write(line);
    expect(written).toEqual([]);
    await output.flush();
    expect(written).toEqual(["a\nb\nc\n"]);
  });

  test("writes without a flush", async () => {
    const { promise, resolve } = Promise.withResolvers<string>();
    createBufferedOutput(resolve).write("a\n");
    expect(await promise).toBe("a\n");
  });

  test("a flush during a write also waits for later lines", async () => {
    const written: string[] = [];
    const gate = Promise.withResolvers<void>();
    const output = createBufferedOutput(async (text) => {
      await gate.promise;
      written.push(text);
    });
    output.write("a\n");
    const first = output.flush();
    output.write("b\n");
    const second = output.flush();
    gate.resolve();
    await Promise.all([first, second]);
    expect(written).toEqual(["a\n", "b\n"]);
  });

  test("drops and counts lines if the reader is blocked, and ignores a closed pipe", async () => {
    const output = createBufferedOutput(() => new Promise(() => {}));
    const line = "x".repeat(1024 * 1024);
    for (let i = 0; i < 20; i += 1) output.write(line);
    expect(output.dropped).toBeGreaterThan(0);
    expect(output.dropped).toBeLessThan(20);
    const broken = () => {
      throw new Error("EPIPE");
    };
    for (const sink of [broken, async () => broken()]) {
      const gone = createBufferedOutput(sink);
      gone.write("a\n");
      await gone.flush();
    }
  });
});
