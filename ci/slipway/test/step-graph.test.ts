/** The runner of flows: order, overlap, skipping, undo and release, without a cluster. */
import { describe, expect, test } from "bun:test";
import { runSteps, stepsOf, type RunStepsOptions, type FlowStep } from "../core/step-graph.ts";

interface Results {
  a: number;
  b: number | undefined;
  c: number;
  d: number;
}
const { step, internal } = stepsOf<Results>();
const value = <T>(value: T) => ({ value });

/** Runs steps, and records titles, undos and releases in their order. */
function run(steps: FlowStep<Results>[], options: Partial<RunStepsOptions<Results>> = {}) {
  const reported: [string, string[]][] = [];
  const promise = runSteps(steps, {
    goals: ["d"],
    signal: new AbortController().signal,
    async report(title, work, needs) {
      reported.push([title, needs]);
      return (await work(() => {})).value;
    },
    choose: ([first]) => first,
    ...options,
  });
  return { promise, reported };
}
const failureOf = (promise: Promise<unknown>) =>
  promise.then(
    () => expect.unreachable(),
    (error: Error) => error.message,
  );
const fail = (message: string) => async () => {
  throw new Error(message);
};

describe("steps", () => {
  test("get the results that they need, each as soon as its needs are met", async () => {
    const gate = Promise.withResolvers<void>();
    const order: string[] = [];
    const { promise } = run([
      internal("a", { run: async () => (await gate.promise, order.push("a"), 1) }),
      internal("b", { run: async () => (order.push("b"), 2) }),
      internal("c", { needs: ["b"], run: async ({ b }) => (order.push("c"), gate.resolve(), b! + 1) }),
      internal("d", { needs: ["a", "c"], run: async ({ a, c }) => a + c }),
    ]);
    expect((await promise).d).toBe(4);
    // While a still runs, c does.
    expect(order).toEqual(["b", "c", "a"]);
  });

  test("that no goal needs do not run", async () => {
    const { promise } = run([internal("a", { run: fail("must not run") }), internal("d", { run: async () => 1 })]);
    expect((await promise).d).toBe(1);
  });

  test("whose results are given do not run", async () => {
    const { promise } = run(
      [internal("a", { run: fail("must not run") }), internal("d", { needs: ["a"], run: async ({ a }) => a })],
      { given: { a: Promise.resolve(7) } },
    );
    expect((await promise).d).toBe(7);
  });

  test("that are skipped have no result, and others go on", async () => {
    const { promise, reported } = run([
      internal("a", { run: async () => 1 }),
      step("b", { needs: ["a"], skip: ({ a }) => a === 1, run: fail("must not run") }),
      internal("d", { needs: ["b"], run: async ({ b }) => (b === undefined ? 5 : 6) }),
    ]);
    expect((await promise).d).toBe(5);
    expect(reported).toEqual([]);
  });

  test("are reported by their titles, with the titles of the steps that they waited for", async () => {
    const { promise, reported } = run([
      step("a", { run: async () => value(1) }),
      step("b", { title: "second", run: async () => value(2) }),
      internal("c", { needs: ["a", "b"], run: async () => 3 }),
      step("d", { needs: ["c"], run: async () => value(4) }),
    ]);
    await promise;
    expect(reported).toEqual([
      ["a", []],
      ["second", []],
      ["d", ["a", "second"]],
    ]);
  });

  test("may start before a result is known, and cancel when it does not come", async () => {
    const { promise } = run([
      internal("a", { run: fail("no connection"), isFatal: true }),
      internal("b", {
        awaits: ["a"],
        run: (_, { a }) => a.then((known) => known).catch(() => undefined),
      }),
      internal("c", { run: () => new Promise<number>(() => {}) }),
      internal("d", { needs: ["a", "b", "c"], run: async () => 4 }),
    ]);
    // A fatal failure does not wait for c, which never ends.
    expect(await failureOf(promise)).toBe("no connection");
  });

  test("whose failure is fatal decide the error, whatever else has failed before", async () => {
    const failed = Promise.withResolvers<void>();
    const { promise } = run(
      [
        internal("a", { run: fail("red") }),
        internal("b", { isFatal: true, run: async () => (await failed.promise, fail("no connection")()) as never }),
        internal("d", { needs: ["a", "b"], run: async () => 4 }),
      ],
      { onFailure: () => failed.resolve() },
    );
    expect(await failureOf(promise)).toBe("no connection");
  });
});

describe("after a failure", () => {
  test("all that runs ends, each failure is told at once, and one is chosen", async () => {
    const seen: string[] = [];
    const { promise } = run(
      [
        internal("a", { run: fail("first") }),
        internal("b", { run: async () => (await Bun.sleep(5), fail("second")()) as never }),
        internal("c", { needs: ["a"], run: fail("must not run") }),
        internal("d", { needs: ["a", "b", "c"], run: async () => 4 }),
      ],
      {
        onFailure: (error) => void seen.push((error as Error).message),
        choose: (failures) => failures.at(-1),
      },
    );
    expect(await failureOf(promise)).toBe("second");
    expect(seen).toEqual(["first", "second"]);
  });

  const undone = (order: string[]) => [
    internal("a", {
      run: async () => 1,
      undo: async (error) => (order.push("undo a"), new Error(`${(error as Error).message}, a undone`)),
      release: async ({ a }) => void order.push(`release a=${a}`),
    }),
    internal("b", {
      needs: ["a"],
      run: async () => 2,
      undo: async (error) => {
        order.push("undo b");
        throw new Error(`${(error as Error).message}, b undone`);
      },
      release: async () => void order.push("release b"),
    }),
  ];

  test("steps are undone and released in reverse order, and each undo may say more", async () => {
    const order: string[] = [];
    const { promise } = run([
      ...undone(order),
      internal("d", { needs: ["b"], run: fail("broken"), undo: fail("must not run") as never }),
    ]);
    expect(await failureOf(promise)).toBe("broken, b undone, a undone");
    expect(order).toEqual(["undo b", "release b", "undo a", "release a=1"]);
  });

  test("nothing is undone once a step that commits has started", async () => {
    const order: string[] = [];
    const { promise } = run([...undone(order), internal("d", { needs: ["b"], run: fail("broken"), commits: true })]);
    expect(await failureOf(promise)).toBe("broken");
    expect(order).toEqual(["release b", "release a=1"]);
  });

  test("a step with an undo does not start", async () => {
    const failed = Promise.withResolvers<void>();
    const { promise } = run(
      [
        internal("a", { run: fail("red") }),
        internal("b", { run: () => failed.promise as Promise<undefined> }),
        internal("c", { needs: ["b"], run: fail("must not run"), undo: async (error) => error }),
        internal("d", { needs: ["a", "c"], run: async () => 4 }),
      ],
      { onFailure: () => failed.resolve(), choose: (failures) => new Error(failures.join()) },
    );
    expect(await failureOf(promise)).toBe("Error: red");
  });

  test("success releases as well", async () => {
    const order: string[] = [];
    const { promise } = run([...undone(order), internal("d", { needs: ["b"], run: async () => 4 })]);
    await promise;
    expect(order).toEqual(["release b", "release a=1"]);
  });
});

test("an interruption starts nothing new, undoes, and is the error", async () => {
  const interruption = new AbortController();
  const order: string[] = [];
  const { promise } = run(
    [
      internal("a", {
        run: async () => (interruption.abort(new Error("interrupted")), 1),
        undo: async (error) => (order.push("undo a"), error),
      }),
      internal("d", { needs: ["a"], run: fail("must not run") }),
    ],
    { signal: interruption.signal },
  );
  expect(await failureOf(promise)).toBe("interrupted");
  expect(order).toEqual(["undo a"]);
});
