/**
 * Runs steps that depend on each other, each as soon as its needs are met.
 *
 * A flow declares its steps as data: name, needs, when a step is skipped, what undoes it. This file executes any such flow. It collects
 * all failures, undoes in reverse order, and reports each step under its name.
 */
import type { StepResult } from "./step-report.ts";

type Show = (text: string) => void;

/** Declaration of a step. `R` maps the names of all steps of the flow to their results. */
interface StepOptions<R, N extends keyof R, A extends keyof R, Returned> {
  /** Steps that have to succeed, or be skipped, before this one starts. Their results are passed to `run`. */
  needs?: readonly N[];
  /** Steps that may still run when this one starts: `run` gets their promises, and has to settle soon after one rejects. */
  awaits?: readonly A[];
  /** Skips the step: its result is undefined, and the steps that need it run. Default: it always runs. */
  skip?(results: Pick<R, N>): boolean;
  /** Does the work. A step that fails cleans up after itself. @param show displays progress until the step ends */
  run(results: Pick<R, N>, awaited: { [Name in A]: Promise<R[Name]> }, show: Show): Promise<Returned>;
  /**
   * Reverts the step after another one has failed. A step with an undo does not start once something has failed.
   *
   * @returns the error to report: `error`, or one that also says what could not be undone. It may throw that error instead.
   */
  undo?(error: unknown, results: Partial<R>): Promise<unknown>;
  /** Gives back what the step holds, like a lock. It runs last, after success and failure alike. */
  release?(results: Partial<R>): Promise<void>;
  /** From the start of this step on, nothing is undone. Default: false. */
  commits?: boolean;
  /** A failure ends the flow at once and is the error: of the other steps only those with `awaits` are waited for. Default: false. */
  isFatal?: boolean;
}

export interface FlowStep<R> extends StepOptions<R, keyof R, keyof R, unknown> {
  name: keyof R & string;
  /** Name in progress, timeline and report. Default: the step is not shown. */
  title?: string;
}

/** @returns functions that declare the steps of one flow, typed by their results */
export function stepsOf<R>() {
  return {
    /** Declares a step that is reported. @param title default: `name` */
    step: <K extends keyof R & string, N extends keyof R = never, A extends keyof R = never>(
      name: K,
      { title = name, ...options }: StepOptions<R, N, A, StepResult<R[K]>> & { title?: string },
    ): FlowStep<R> => ({ name, title, ...options }) as FlowStep<R>,
    /** Declares a step that takes too little time to be worth a line. */
    internal: <K extends keyof R & string, N extends keyof R = never, A extends keyof R = never>(
      name: K,
      options: StepOptions<R, N, A, R[K]>,
    ): FlowStep<R> => ({ name, ...options }) as FlowStep<R>,
  };
}

export interface RunStepsOptions<R> {
  /** The steps to reach. Steps that none of them needs are left out. */
  goals: readonly (keyof R & string)[];
  /** Results that are known, or on their way: these steps are not run. */
  given?: { [K in keyof R]?: R[K] | Promise<R[K]> };
  signal: AbortSignal;
  /** Runs a step under its title and reports how it ended. @param needs titles of the steps that it waited for */
  report<T>(title: string, work: (show: Show) => Promise<StepResult<T>>, needs: string[]): Promise<T>;
  /** Called at once for each failure, while other steps still run. */
  onFailure?(error: unknown): void;
  /** Chooses the failure to report of several. */
  choose(failures: unknown[]): unknown;
}

/**
 * Runs the steps that the goals need.
 *
 * @returns the results
 * @throws the chosen failure, as the undos of other steps left it; the signal's reason after an interruption
 */
export async function runSteps<R>(steps: readonly FlowStep<R>[], options: RunStepsOptions<R>): Promise<R> {
  const { goals, given = {}, signal, report, onFailure, choose } = options;
  const byName = new Map(steps.map((step) => [step.name as keyof R, step]));
  const results: Partial<R> = {};
  const running = new Map<keyof R, Promise<unknown>>();
  const failures: unknown[] = [];
  /** Steps to undo and release, in the order of their ends. */
  const finished: FlowStep<R>[] = [];
  const ended = new Set<keyof R>();
  let isCommitted = false;
  const fatal = Promise.withResolvers<[error: unknown]>();

  const start = (name: keyof R): Promise<unknown> => {
    const known = running.get(name);
    if (known) return known;
    const promise = execute(name);
    promise.catch(() => {});
    running.set(name, promise);
    return promise;
  };
  const attempt = async (name: keyof R, work: () => Promise<unknown>): Promise<unknown> => {
    try {
      return (results[name] = (await work()) as R[keyof R]);
    } catch (error) {
      // A step that awaits another may fail with its error.
      if (!failures.includes(error)) {
        failures.push(error);
        onFailure?.(error);
      }
      if (byName.get(name)?.isFatal) fatal.resolve([error]);
      throw error;
    }
  };
  async function execute(name: keyof R): Promise<unknown> {
    if (name in given) return attempt(name, async () => given[name as keyof typeof given]);
    const step = byName.get(name);
    if (!step) throw new Error(`the flow has no step ${String(name)}`);
    const awaited = Object.fromEntries((step.awaits ?? []).map((other) => [other, start(other)]));
    await Promise.all((step.needs ?? []).map(start));
    signal.throwIfAborted();
    if (step.undo && failures.length > 0) throw failures[0];
    if (step.skip?.(results as R)) return void ended.add(name);
    isCommitted ||= step.commits === true;
    const work = (show: Show) => step.run(results as R, awaited as never, show);
    const result = await attempt(name, () =>
      step.title === undefined
        ? work(() => {})
        : report(step.title, work as (show: Show) => Promise<StepResult<unknown>>, titlesBefore(step)),
    );
    finished.push(step);
    ended.add(name);
    return result;
  }
  /** Titles of the nearest shown steps that a step needs. */
  function titlesBefore(step: FlowStep<R>): string[] {
    const before = [...(step.needs ?? []), ...(step.awaits ?? [])].map((name) => byName.get(name));
    return [...new Set(before.flatMap((one) => (one ? (one.title ? [one.title] : titlesBefore(one)) : [])))];
  }

  for (const goal of goals) start(goal);
  const settled = Promise.allSettled([...running.values()]);
  const fatalError = await Promise.race([settled.then(() => undefined), fatal.promise]);
  const pending = [...running].filter(([name]) => failures.length === 0 || byName.get(name)?.awaits);
  await Promise.allSettled(pending.map(([, promise]) => promise));
  const hasFailed = failures.length > 0 || goals.some((goal) => !ended.has(goal));
  let error = fatalError ? fatalError[0] : failures.length > 0 ? choose(failures) : signal.reason;
  for (const step of finished.toReversed()) {
    if (hasFailed && !isCommitted && step.undo) {
      error = await step.undo(error, results).catch((undone: unknown) => undone);
    }
    await step.release?.(results);
  }
  if (hasFailed) throw error;
  return results as R;
}
