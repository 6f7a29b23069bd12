import { describe, expect, test } from "bun:test";
import { createLogger } from "../../src/telemetry/log.ts";
import { createMetrics } from "../../src/telemetry/metrics.ts";
import { requestId, traceId } from "../../src/telemetry/trace.ts";

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
  ] as const)("level %s lets %i of 4 levels through", (level, count) => {
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
  test("count by route, method and status, and add durations up in buckets", () => {
    const metrics = createMetrics();
    metrics.observe("/", "GET", 200, 0.0001);
    metrics.observe("/", "GET", 200, 0.3);
    metrics.observe("/", "GET", 200, 60);
    metrics.observe("/", "PUT", 405, 0.002);
    metrics.inFlight = 3;
    const text = metrics.render();
    const labels = 'route="/",method="GET",status="200"';
    expect(text).toContain(`http_requests_total{${labels}} 3\n`);
    expect(text).toContain('http_requests_total{route="/",method="PUT",status="405"} 1\n');
    expect(text).toContain(`http_request_duration_seconds_bucket{${labels},le="0.0001"} 1\n`);
    expect(text).toContain(`http_request_duration_seconds_bucket{${labels},le="0.1"} 1\n`);
    expect(text).toContain(`http_request_duration_seconds_bucket{${labels},le="0.5"} 2\n`);
    expect(text).toContain(`http_request_duration_seconds_bucket{${labels},le="+Inf"} 3\n`);
    expect(text).toContain(`http_request_duration_seconds_sum{${labels}} 60.3001\n`);
    expect(text).toContain("http_requests_in_flight 3\n");
  });

  test("are well-formed: a type for every name, every line a sample", () => {
    const metrics = createMetrics();
    metrics.observe("/", "GET", 200, 1);
    const typed = new Set<string>();
    for (const line of metrics.render().trimEnd().split("\n")) {
      const type = /^# TYPE (\S+) (counter|gauge|histogram)$/.exec(line);
      if (type) typed.add(type[1]!);
      else if (!line.startsWith("# HELP ")) {
        const sample =
          /^([a-z_]+?)(_bucket|_sum|_count)?(\{([a-z_]+="[^"\n]*",?)+\})? \d+(\.\d+)?(e-?\d+)?$/.exec(line);
        expect(sample, line).not.toBeNull();
        expect(typed.has(sample![1]!) || typed.has(sample![1]! + (sample![2] ?? ""))).toBe(true);
      }
    }
    expect(typed.size).toBeGreaterThanOrEqual(7);
  });
});

describe("request id", () => {
  test("is taken over when harmless", () => {
    expect(requestId(new Headers({ "X-Request-Id": "abc-1.2_Z" }))).toBe("abc-1.2_Z");
  });

  test.each(["", "a b", 'a"b', "ä", "x".repeat(65), "{}"])("is made anew instead of %p", (given) => {
    expect(requestId(new Headers({ "X-Request-Id": encodeURI(given) === given ? given : "a b" }))).toMatch(
      /^[0-9a-f-]{36}$/,
    );
  });
});

describe("trace id", () => {
  const trace = "4bf92f3577b34da6a3ce929d0e0e4736";
  test("is taken from a valid traceparent", () => {
    expect(traceId(new Headers({ traceparent: `00-${trace}-00f067aa0ba902b7-01` }))).toBe(trace);
  });

  test.each([
    "",
    `01-${trace}-00f067aa0ba902b7-01`,
    `00-${"0".repeat(32)}-00f067aa0ba902b7-01`,
    `00-${trace}-${"0".repeat(16)}-01`,
    `00-${trace.toUpperCase()}-00f067aa0ba902b7-01`,
    `00-${trace}-00f067aa0ba902b7-01-extra`,
  ])("is not taken from %p", (traceparent) => {
    expect(traceId(new Headers({ traceparent }))).toBeUndefined();
  });
});
