/** What a client sees of a version: when it counts as served, and what is said of the requests meanwhile. */
import { describe, expect, setSystemTime, test } from "bun:test";
import { describeAvailability, monitorAvailability } from "../deploy/availability.ts";
import { PipelineError } from "../core/errors.ts";
import { fetchVersion, verifyVersion, type Endpoint } from "../deploy/verify.ts";

const { signal } = new AbortController();

/** An endpoint that gives these answers in turn, the last one for ever; and how it was asked. */
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

describe("a version is served", () => {
  test("when 20 replies in a row carry its id, each over a connection of its own", async () => {
    const service = endpoint("new");
    expect(await verifyVersion(service, "new", { signal })).toMatchObject({ ok: true });
    expect(service.asked).toHaveLength(20);
    for (const { keepalive, headers } of service.asked)
      expect({ keepalive, headers }).toEqual({ keepalive: false, headers: { Connection: "close" } });
  });

  test("not before: one of another, or a failure, begins the row anew", async () => {
    const service = endpoint("new", "new", "old", "new", new Error("reset"), "new", 503, "new");
    expect(await verifyVersion(service, "new", { replies: 3, signal })).toEqual({
      ok: true,
      last: "status 503",
    });
    expect(service.asked).toHaveLength(7 + 3);
  });

  // A mistake once: a line that was silent while it was verified had a good version rolled back, as its own fault.
  test("is not said to be not, where it could not be asked", async () => {
    const gone = new PipelineError("environment", "shop is not reached");
    const asking = verifyVersion(endpoint("old", gone), "new", { deadlineSeconds: 0.1, signal });
    expect(await asking.catch((error: unknown) => error)).toBe(gone);
  });

  test.each([
    ["another id", "old", "old"],
    ["an error", new Error("connection refused"), "connection refused"],
    ["a status", 502, "status 502"],
  ])("never, while %s comes: says so when the time is over", async (_, answer, last) => {
    const service = endpoint(answer);
    expect(await verifyVersion(service, "new", { deadlineSeconds: 0.12, signal })).toEqual({
      ok: false,
      last,
    });
    expect(service.asked.length).toBeGreaterThan(1);
  });

  test.each([0, -5])("is asked once at least, with %d seconds left too", async (deadlineSeconds) => {
    const good = endpoint("new");
    expect(await verifyVersion(good, "new", { deadlineSeconds, signal })).toMatchObject({ ok: true });
    const bad = endpoint("old");
    // One millisecond is over by the second answer, if not by the first.
    expect(await verifyVersion(bad, "new", { deadlineSeconds, signal })).toEqual({ ok: false, last: "old" });
    expect(bad.asked.length).toBeWithin(1, 3);
  });

  test("never, also when the clock is set back meanwhile", async () => {
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

  test("is not asked any more by one who was interrupted", async () => {
    const service = endpoint("new");
    const reason = new Error("interrupted");
    await expect(verifyVersion(service, "new", { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    expect(service.asked).toEqual([]);
  });
});

test("an answer is an id, or what went wrong", async () => {
  const answerOf = (open: Endpoint["open"]) => fetchVersion({ url: "http://x/", open }, { signal });
  expect(await answerOf(async () => Response.json({ id: "a" }))).toEqual({ id: "a" });
  expect(await answerOf(async () => new Response("no", { status: 404 }))).toEqual({ failure: "status 404" });
  expect((await answerOf(async () => new Response("<html>"))).failure).toContain("JSON");
});

test("samples: two clients ask all the time, and what they saw is a line", async () => {
  const service = endpoint("a", 503, new Error("reset"), "a");
  const stop = monitorAvailability(service, "b");
  await Bun.sleep(100);
  const seen = await stop();
  expect(seen).toMatchObject({ requests: service.asked.length, failed: 2, first: "status 503" });
  expect(seen.requests).toBeGreaterThan(3);
  expect(new Set(service.asked.map(({ keepalive }) => keepalive))).toEqual(new Set([true, false]));
  expect(await stop()).toEqual(seen);
  const [median, p99] = [1.25, 20];
  expect(
    describeAvailability({ requests: 7, failed: 2, first: "reset", median, p99, gap: 0.25, buckets: [] }),
  ).toBe("meanwhile 2 of 7 requests failed (reset, none answered for 0.3 s), median 1.3 ms, p99 20.0 ms");
  expect(
    describeAvailability({ requests: 7, failed: 0, first: undefined, median, p99, gap: 0, buckets: [] }),
  ).toStartWith("meanwhile 0 of 7 requests failed, median");
});
