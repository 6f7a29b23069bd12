import { describe, expect, test } from "bun:test";
import { bufferedOutput, createLogger } from "../../src/telemetry/log.ts";
import { createMetrics } from "../../src/telemetry/metrics.ts";
import { requestId, traceId, traceParent, traceResponse } from "../../src/telemetry/trace.ts";

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
    const root = metrics.route("/");
    for (const seconds of [0.0001, 0.3, 60]) root.observe("GET", 200, seconds);
    root.observe("PUT", 405, 0.002);
    root.observe("PROPFIND", 405, 0.002);
    metrics.reject("url");
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
    expect(text).toContain('method="other",status="405"} 1\n');
    expect(text).not.toContain("PROPFIND");
    expect(text).toContain('http_requests_rejected_total{reason="url"} 1\n');
    expect(text).toContain('http_requests_rejected_total{reason="body"} 0\n');
  });

  test("are well-formed: a type for every name, every line a sample", () => {
    const metrics = createMetrics();
    metrics.route("/").observe("GET", 200, 1);
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

  test.each(["a b", 'a"b', "{}", "x".repeat(65)])("is made anew instead of %p", (given) => {
    expect(requestId(new Headers({ "X-Request-Id": given }))).toMatch(/^[0-9a-f]{16}-\d+$/);
  });

  test("is another one each time", () => {
    expect(requestId(new Headers())).not.toBe(requestId(new Headers()));
  });
});

describe("trace", () => {
  const id = "4bf92f3577b34da6a3ce929d0e0e4736";
  test("is taken over from a valid traceparent, and passed on with a span of its own", () => {
    const parent = traceParent(new Headers({ traceparent: `00-${id}-00f067aa0ba902b7-01` }))!;
    expect(traceId(parent)).toBe(id);
    expect(traceResponse(parent)).toMatch(new RegExp(`^00-${id}-[0-9a-f]{16}-01$`));
    expect(traceResponse(parent)).not.toContain("00f067aa0ba902b7");
  });

  test.each([
    "",
    `01-${id}-00f067aa0ba902b7-01`,
    `00-${"0".repeat(32)}-00f067aa0ba902b7-01`,
    `00-${id}-${"0".repeat(16)}-01`,
    `00-${id.toUpperCase()}-00f067aa0ba902b7-01`,
    `00-${id}-00f067aa0ba902b7-01-extra`,
  ])("is not taken from %p", (traceparent) => {
    expect(traceParent(new Headers({ traceparent }))).toBeUndefined();
  });
});

describe("output", () => {
  test("gathers lines, and keeps their order", async () => {
    const written: string[] = [];
    const output = bufferedOutput((text) => written.push(text));
    for (const line of ["a\n", "b\n", "c\n"]) output.write(line);
    expect(written).toEqual([]);
    await output.flush();
    expect(written).toEqual(["a\nb\nc\n"]);
  });

  test("writes by itself when nobody flushes", async () => {
    const { promise, resolve } = Promise.withResolvers<string>();
    bufferedOutput(resolve).write("a\n");
    expect(await promise).toBe("a\n");
  });

  test("a flush during a write waits for what came after it too", async () => {
    const written: string[] = [];
    const gate = Promise.withResolvers<void>();
    const output = bufferedOutput(async (text) => {
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

  test("drops lines, counted, when the reader does not read; a reader that is gone is no error", async () => {
    const output = bufferedOutput(() => new Promise(() => {}));
    const line = "x".repeat(1024 * 1024);
    for (let i = 0; i < 20; i += 1) output.write(line);
    expect(output.dropped).toBeGreaterThan(0);
    expect(output.dropped).toBeLessThan(20);
    const broken = () => {
      throw new Error("EPIPE");
    };
    for (const sink of [broken, async () => broken()]) {
      const gone = bufferedOutput(sink);
      gone.write("a\n");
      await gone.flush();
    }
  });
});
