/** Verification of the served version, and availability during a rollout. */
import { describe, expect, setSystemTime, test } from "bun:test";
import { describeAvailability, monitorAvailability } from "../deploy/availability.ts";
import { PipelineError } from "../core/errors.ts";
import { fetchVersion, verifyVersion, type Endpoint } from "../deploy/verify-from-outside.ts";

const { signal } = new AbortController();

/** An endpoint that sends these responses in turn, then repeats the last one. It records the requests. */
function endpoint(...answers: (string | Error | number)[]) {
  const asked: RequestInit[] = [];
  const open: Endpoint["open"] = async (init) => {
    const answer = answers[Math.min(asked.push(init), answers.length) - 1]!;
    if (answer instanceof Error) throw answer;
    if (typeof answer === "number") return new Response("no", { status: answer });
    return Response.json({ id: answer });
  };
  return { url: "http://service/version", open, asked };
}

describe("verifyVersion", () => {
  test("succeeds after 20 matching responses in a row, each over a new connection", async () => {
    const service = endpoint("new");
    expect(await verifyVersion(service, "new", { signal })).toMatchObject({ ok: true });
    expect(service.asked).toHaveLength(20);
    for (const { keepalive, headers } of service.asked)
      expect({ keepalive, headers }).toEqual({ keepalive: false, headers: { Connection: "close" } });
  });

  test("starts counting again after another id or a failure", async () => {
    const service = endpoint("new", "new", "old", "new", new Error("reset"), "new", 503, "new");
    expect(await verifyVersion(service, "new", { replies: 3, signal })).toEqual({
      ok: true,
      last: "status 503",
    });
    expect(service.asked).toHaveLength(7 + 3);
  });

  // Regression: after a lost SSH connection during verification, a good version was rolled back.
  test("fails with the connection's error if the last request could not be sent", async () => {
    const gone = new PipelineError("environment", "shop is not reached", { code: "ssh-connection-lost" });
    const asking = verifyVersion(endpoint("old", gone), "new", { deadlineSeconds: 0.1, signal });
    expect(await asking.catch((error: unknown) => error)).toBe(gone);
  });

  test.each([
    ["another id", "old", "old"],
    ["an error", new Error("connection refused"), "connection refused"],
    ["a status", 502, "status 502"],
  ])("fails at the deadline, with the last response: %s", async (_, answer, last) => {
    const service = endpoint(answer);
    expect(await verifyVersion(service, "new", { deadlineSeconds: 0.12, signal })).toEqual({
      ok: false,
      last,
    });
    expect(service.asked.length).toBeGreaterThan(1);
  });

  test.each([0, -5])("sends at least one request, with a deadline of %d s too", async (deadlineSeconds) => {
    const good = endpoint("new");
    expect(await verifyVersion(good, "new", { deadlineSeconds, signal })).toMatchObject({ ok: true });
    const bad = endpoint("old");
    // After the second response at the latest, a millisecond has passed.
    expect(await verifyVersion(bad, "new", { deadlineSeconds, signal })).toEqual({ ok: false, last: "old" });
    expect(bad.asked.length).toBeWithin(1, 3);
  });

  test("keeps its deadline if the wall clock is set back", async () => {
    const bad = endpoint("old");
    const open = bad.open!;
    bad.open = (init) => {
      setSystemTime(new Date(Date.now() - 3600_000));
      return open(init);
    };
    try {
      const late = Bun.sleep(3000).then(() => "an hour later");
      const verifying = verifyVersion(bad, "new", {
        deadlineSeconds: 0.1,
        signal: AbortSignal.timeout(4000),
      });
      expect(await Promise.race([verifying, late])).toEqual({ ok: false, last: "old" });
    } finally {
      setSystemTime();
    }
  });

  test("sends nothing after an interruption", async () => {
    const service = endpoint("new");
    const reason = new Error("interrupted");
    await expect(verifyVersion(service, "new", { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    expect(service.asked).toEqual([]);
  });
});

test("fetchVersion returns the id, or the failure", async () => {
  const answerOf = (open: Endpoint["open"]) => fetchVersion({ url: "http://x/", open }, { signal });
  expect(await answerOf(async () => Response.json({ id: "a" }))).toEqual({ id: "a" });
  expect(await answerOf(async () => new Response("no", { status: 404 }))).toEqual({ failure: "status 404" });
  expect((await answerOf(async () => new Response("<html>"))).failure).toContain("JSON");
});

test("monitorAvailability runs two clients, and its report is one line", async () => {
  const service = endpoint("a", 503, new Error("reset"), "a");
  const stop = monitorAvailability(service, "b");
  await Bun.sleep(100);
  const seen = await stop();
  expect(seen).toMatchObject({ requests: service.asked.length, failed: 2, firstFailure: "status 503" });
  expect(seen.requests).toBeGreaterThan(3);
  expect(new Set(service.asked.map(({ keepalive }) => keepalive))).toEqual(new Set([true, false]));
  expect(await stop()).toEqual(seen);
  const [medianMs, p99Ms] = [1.25, 20];
  expect(
    describeAvailability({
      requests: 7,
      failed: 2,
      firstFailure: "reset",
      medianMs,
      p99Ms,
      gapSeconds: 0.25,
      buckets: [],
    }),
  ).toBe("2 of 7 requests failed during the rollout (reset, no response for 0.3 s), median 1.3 ms, p99 20.0 ms");
  expect(
    describeAvailability({
      requests: 7,
      failed: 0,
      firstFailure: undefined,
      medianMs,
      p99Ms,
      gapSeconds: 0,
      buckets: [],
    }),
  ).toStartWith("0 of 7 requests failed during the rollout, median");
});
