/**
 * Reports a run: a line for each step, a table in GitHub's step summary, and optionally JSON. Each step has its wait time, its
 * work time, and whether its result was reused.
 */
import { appendFile, writeFile } from "node:fs/promises";
import { Progress } from "./progress.ts";

export interface Step {
  name: string;
  outcome: "ok" | "failed";
  /** Seconds from the start of the run until the step began. */
  wait: number;
  /** Seconds that the step took. */
  work: number;
  /** Whether the step was skipped because its result already existed. */
  reused: boolean;
  detail: string;
  /** Names of the steps that it waited for. Undefined: not declared, so the times tell. */
  needs?: string[];
}

/** Result of a step. */
export interface StepResult<T> {
  value: T;
  /** Short description for the step's line. */
  detail?: string;
  reused?: boolean;
  /** Whether the project has nothing to do for this step. */
  skipped?: boolean;
  /** Whether the result is no longer needed. The step is not reported then. */
  cancelled?: boolean;
}

export const describeWarningCount = (count: number): string => `${count} ${count === 1 ? "warning" : "warnings"}`;

/** Shorter steps are left out of the critical path and the timeline. */
const MIN_SECONDS = 0.05;

export class Report {
  readonly #steps: Step[] = [];
  readonly #attached = new Map<string, { value: unknown; markdown: string }>();
  readonly #start = performance.now();
  #warnings = 0;

  readonly #progress: Progress;

  /** @param print prints a line. Default: stdout, with live lines for running steps on a terminal. */
  constructor(print?: (line: string) => void) {
    this.#progress = new Progress(print ?? ((line) => console.log(line)), print === undefined);
  }

  /** Prints a line about a running step. */
  log(line: string): void {
    this.#progress.print(`  ${" ".repeat(8)} ${line}`);
  }

  /** Prints a warning, and counts it for the last line. */
  warn(line: string): void {
    this.#warnings += 1;
    this.log(line);
  }

  /** Adds a value to the JSON and Markdown to the summary. */
  attach(name: string, value: unknown, markdown: string): void {
    this.#attached.set(name, { value, markdown });
  }

  /**
   * Runs a step and prints its result.
   *
   * @param work can show its progress. The last text is the default for `detail`.
   * @param needs names of the steps that it waited for. Default: not declared.
   */
  async step<T>(
    name: string,
    work: (show: (text: string) => void) => Promise<StepResult<T>>,
    needs?: string[],
  ): Promise<T> {
    const wait = this.seconds;
    const running = this.#progress.begin(name);
    const finish = (
      outcome: Step["outcome"],
      { detail = running.detail ?? "", reused = false, skipped, cancelled }: Omit<StepResult<T>, "value">,
    ) => {
      if (cancelled) return this.#progress.end(running);
      const step = { name, outcome, wait, work: this.seconds - wait, reused, detail, ...(needs && { needs }) };
      this.#steps.push(step);
      this.#progress.end(running);
      const seconds = step.work.toFixed(1).padStart(5);
      const status = skipped ? "none" : outcome === "ok" && reused ? "reused" : outcome;
      this.#progress.print(`  ${name.padEnd(8)} ${status.padEnd(6)} ${seconds} s  ${detail}`.trimEnd());
    };
    try {
      const result = await work((text) => (running.detail = text));
      finish("ok", result);
      return result.value;
    } catch (error) {
      finish("failed", {});
      throw error;
    }
  }

  /** Seconds since the start. */
  get seconds(): number {
    return (performance.now() - this.#start) / 1000;
  }

  /** Removes the live lines, so that other output can be printed. */
  clearProgress(): void {
    this.#progress.clear();
  }

  /** Returns the duration, the critical path and the number of warnings in brackets. Only faster steps on that path would shorten the run. */
  summaryLine(): string {
    if (this.#steps.length === 0) return "";
    const path = criticalPath(this.#steps.filter(({ work }) => work >= MIN_SECONDS)).map(
      ({ name, work }) => `${name} ${work.toFixed(1)}`,
    );
    const warnings = this.#warnings > 0 ? `; ${describeWarningCount(this.#warnings)}` : "";
    return ` (${this.seconds.toFixed(1)} s${path.length > 1 ? `: ${path.join(" > ")}` : ""}${warnings})`;
  }

  /** Returns the run as a Markdown table, followed by `conclusion`. */
  summary(conclusion: string): string {
    const critical = new Set(criticalPath(this.#steps));
    const rows = this.#steps.map((step) => {
      const { name, outcome, wait, work, reused, detail } = step;
      const status = outcome === "ok" && reused ? "reused" : outcome;
      const label = critical.has(step) ? `**${name}**` : name;
      return `| ${label} | ${status} | ${wait.toFixed(1)} | ${work.toFixed(1)} | ${detail.replaceAll("|", "\\|")} |`;
    });
    const head = ["| step | outcome | waited, s | worked, s | |", "|---|---|---:|---:|---|"];
    const note = critical.size > 0 ? "Bold: the critical path." : "";
    const attachments = [...this.#attached.values()].map(({ markdown }) => markdown);
    const end = `${conclusion} (${this.seconds.toFixed(1)} s). ${note}`;
    return [...head, ...rows, "", end, "", ...timeline(this.#steps, critical), ...attachments].join("\n");
  }

  /**
   * Adds the table to the step summary in GitHub Actions, and writes the run as JSON. A write error is only printed to stderr,
   * because it does not affect the result of the run.
   *
   * @param file path of the JSON file. Default: no file.
   * @param errorCode code of the error that ended the run
   */
  async publish(conclusion: string, file?: string, errorCode?: string): Promise<void> {
    const { GITHUB_STEP_SUMMARY } = process.env;
    if (GITHUB_STEP_SUMMARY) {
      const written = appendFile(GITHUB_STEP_SUMMARY, this.summary(conclusion));
      await written.catch(printWriteError("step summary", GITHUB_STEP_SUMMARY));
    }
    if (file === undefined) return;
    const criticalNames = criticalPath(this.#steps).map(({ name }) => name);
    const attached = Object.fromEntries([...this.#attached].map(([name, { value }]) => [name, value]));
    const run = {
      conclusion,
      errorCode,
      seconds: this.seconds,
      criticalPath: criticalNames,
      steps: this.#steps,
      ...attached,
    };
    const written = writeFile(file, `${JSON.stringify(run, undefined, 2)}\n`);
    await written.catch(printWriteError("report", file));
  }
}

/** Renders the steps as a Mermaid chart, which GitHub displays. https://mermaid.js.org/syntax/gantt.html */
function timeline(steps: Step[], critical: Set<Step>): string[] {
  const shown = steps.filter(({ work }) => work >= MIN_SECONDS).toSorted((a, b) => a.wait - b.wait);
  if (shown.length < 2) return [];
  const rows = shown.map((step) => {
    const [start, end] = [step.wait, step.wait + step.work].map((seconds) => Math.round(seconds * 1000));
    const tags = [step.outcome === "failed" && "active", critical.has(step) && "crit"].filter(Boolean);
    return `  ${step.name} ${step.work.toFixed(1)} s :${[...tags, start, end].join(", ")}`;
  });
  return ["```mermaid", "gantt", "  dateFormat x", "  axisFormat %S.%L", ...rows, "```", ""];
}

const printWriteError = (name: string, file: string) => (error: NodeJS.ErrnoException) =>
  console.error(`cannot write the ${name} to ${file} (${error.code ?? error.message})`);

/**
 * Returns the steps that determined the duration: the last step to end, before it the need that ended last, and so on. If a step
 * declares no needs, any step that ended before it began counts as one.
 */
export function criticalPath(steps: Step[]): Step[] {
  const path: Step[] = [];
  for (;;) {
    const [next] = path;
    // Tolerates rounding between the end of a step and the start of the next.
    const isEarlier = (step: Step) => !next || step.wait + step.work <= next.wait + 0.001;
    const candidates = steps.filter((step) => !path.includes(step) && isEarlier(step));
    const needed = candidates.filter(({ name }) => next?.needs?.includes(name));
    const last = (needed.length > 0 ? needed : candidates).reduce<Step | undefined>(
      (latest, step) => (latest && latest.wait + latest.work >= step.wait + step.work ? latest : step),
      undefined,
    );
    if (!last) return path;
    path.unshift(last);
  }
}
