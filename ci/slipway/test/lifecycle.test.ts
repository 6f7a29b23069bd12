import { describe, expect, test } from "bun:test";
import { Lifecycle } from "../service/lifecycle.ts";
import type { State, Stoppable } from "../service/service.d";

/** A server whose requests in flight finish when `finished` resolves. */
function server(finished: Promise<void>): Stoppable & { calls: (boolean | undefined)[] } {
  const calls: (boolean | undefined)[] = [];
  return {
    calls,
    stop(force) {
      calls.push(force);
      return force ? Promise.resolve() : finished;
    },
  };
}

test("moves from starting to ready, draining and stopped", async () => {
  const states: State[] = [];
  const lifecycle = new Lifecycle((state) => states.push(state));
  expect(lifecycle.state).toBe("starting");
  lifecycle.ready();
  const drained = lifecycle.drain([], { delaySeconds: 0, timeoutSeconds: 0 });
  expect(lifecycle.state).toBe("draining");
  await drained;
  expect(states).toEqual(["ready", "draining", "stopped"]);
});

describe("drain", () => {
  test("lets requests in flight finish", async () => {
    const one = server(Promise.resolve());
    const { forced } = await new Lifecycle().drain([one], { delaySeconds: 0, timeoutSeconds: 60 });
    expect(forced).toBe(false);
    expect(one.calls).toEqual([undefined]);
  });

  test("closes the remaining connections of every server at the deadline", async () => {
    const [stuck, done] = [server(new Promise(() => {})), server(Promise.resolve())];
    const { forced } = await new Lifecycle().drain([stuck, done], { delaySeconds: 0, timeoutSeconds: 0.01 });
    expect(forced).toBe(true);
    expect(stuck.calls).toEqual([undefined, true]);
    expect(done.calls).toEqual([undefined, true]);
  });

  test("keeps accepting while requests come, for half of the timeout", async () => {
    for (const [quietAfterMs, minMs, maxMs] of [
      [100, 100, 900],
      [Infinity, 950, 5000],
    ] as const) {
      const one = server(Promise.resolve());
      const start = performance.now();
      const isQuiet = () => performance.now() - start > quietAfterMs;
      await new Lifecycle().drain([one], { delaySeconds: 0.01, timeoutSeconds: 2, isQuiet });
      const took = performance.now() - start;
      expect(took).toBeGreaterThanOrEqual(minMs);
      expect(took).toBeLessThan(maxMs);
      expect(one.calls).toEqual([undefined]);
    }
    const start = performance.now();
    await new Lifecycle().drain([], { delaySeconds: 0, timeoutSeconds: 60, isQuiet: () => false });
    expect(performance.now() - start).toBeLessThan(10_000);
  });

  test("keeps accepting during the delay", async () => {
    const one = server(Promise.resolve());
    const drained = new Lifecycle().drain([one], { delaySeconds: 0.05, timeoutSeconds: 1 });
    await Promise.resolve();
    expect(one.calls).toEqual([]);
    await drained;
    expect(one.calls).toEqual([undefined]);
  });
});
