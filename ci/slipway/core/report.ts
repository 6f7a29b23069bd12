/**
 * What a person sees of a run: a line for each step; a table in GitHub's step summary; all of it as JSON on demand. Each step
 * tells how long it waited and worked, and whether it could use what was there.
 */
import { appendFile, writeFile } from "node:fs/promises";
import { Progress } from "./progress.ts";

export interface Step {
  name: string;
  outcome: "ok" | "failed";
  /** Seconds from the start of the run until the step began: what it waited for others. */
  wait: number;
  /** Seconds that it took. */
  work: number;
  /** Whether it did nothing, because what it makes or proves was there. */
  reused: boolean;
  detail: string;
}

/** What a step tells of itself when it has ended. */
export interface StepResult<T> {
  value: T;
  /** A few words. */
  detail?: string;
  reused?: boolean;
  /** Whether there was nothing to do for it in this project. */
  skipped?: boolean;
  /** Whether nobody needs it any more: then nothing is said of it. */
  cancelled?: boolean;
}

/** Seconds below which a step is no part of what one waits for. */
const NOTICED = 0.05;

export class Report {
  readonly #steps: Step[] = [];
  readonly #attached = new Map<string, { value: unknown; markdown: string }>();
  readonly #start = performance.now();

  readonly #progress: Progress;

  /** @param print takes each line; default: stdout, where on a terminal the running steps stand below, with their seconds */
  constructor(print?: (line: string) => void) {
    this.#progress = new Progress(print ?? ((line) => console.log(line)), print === undefined);
  }

  /** A line about what goes on inside a step. */
  log(line: string): void {
    this.#progress.print(`  ${" ".repeat(8)} ${line}`);
  }

  /** Adds something to what is published: a value to the JSON, and Markdown to the summary. */
  attach(name: string, value: unknown, markdown: string): void {
    this.#attached.set(name, { value, markdown });
  }

  /** Runs one step and shows how it ended. @param work may show how far it is; what it showed last stands for a detail */
  async step<T>(name: string, work: (show: (text: string) => void) => Promise<StepResult<T>>): Promise<T> {
    const wait = this.seconds;
    const running = this.#progress.begin(name);
    const ended = (
      outcome: Step["outcome"],
      { detail = running.detail ?? "", reused = false, skipped, cancelled }: Omit<StepResult<T>, "value">,
    ) => {
      if (cancelled) return this.#progress.end(running);
      const step = { name, outcome, wait, work: this.seconds - wait, reused, detail };
      this.#steps.push(step);
      this.#progress.end(running);
      const seconds = step.work.toFixed(1).padStart(5);
      const how = skipped ? "none" : outcome === "ok" && reused ? "reused" : outcome;
      this.#progress.print(`  ${name.padEnd(8)} ${how.padEnd(6)} ${seconds} s  ${detail}`.trimEnd());
    };
    try {
      const done = await work((text) => (running.detail = text));
      ended("ok", done);
      return done.value;
    } catch (error) {
      ended("failed", {});
      throw error;
    }
  }

  /** Seconds since the start. */
  get seconds(): number {
    return (performance.now() - this.#start) / 1000;
  }

  /** Takes what is shown of running steps off the screen, for somebody else's words. */
  clearProgress(): void {
    this.#progress.clear();
  }

  /** The run in brackets: its seconds, and its critical path, whose sum no faster step elsewhere would shorten. */
  summaryLine(): string {
    if (this.#steps.length === 0) return "";
    const path = criticalPath(this.#steps.filter(({ work }) => work >= NOTICED)).map(
      ({ name, work }) => `${name} ${work.toFixed(1)}`,
    );
    return ` (${this.seconds.toFixed(1)} s${path.length > 1 ? `: ${path.join(" > ")}` : ""})`;
  }

  /** The run as a Markdown table, with `conclusion` under it. */
  summary(conclusion: string): string {
    const critical = new Set(criticalPath(this.#steps));
    const rows = this.#steps.map((step) => {
      const { name, outcome, wait, work, reused, detail } = step;
      const how = outcome === "ok" && reused ? "reused" : outcome;
      const shown = critical.has(step) ? `**${name}**` : name;
      return `| ${shown} | ${how} | ${wait.toFixed(1)} | ${work.toFixed(1)} | ${detail.replaceAll("|", "\\|")} |`;
    });
    const head = ["| step | outcome | waited, s | worked, s | |", "|---|---|---:|---:|---|"];
    const note = critical.size > 0 ? "Bold: the critical path." : "";
    const more = [...this.#attached.values()].map(({ markdown }) => markdown);
    const end = `${conclusion} (${this.seconds.toFixed(1)} s). ${note}`;
    return [...head, ...rows, "", end, "", ...timeline(this.#steps, critical), ...more].join("\n");
  }

  /**
   * Adds the table to the step summary when this runs in GitHub Actions, and writes the run as JSON. What cannot be written is
   * said on stderr, and no more: what the run was for holds, or does not, without it.
   *
   * @param file where the JSON goes; default: nowhere
   */
  async publish(conclusion: string, file?: string): Promise<void> {
    const { GITHUB_STEP_SUMMARY } = process.env;
    if (GITHUB_STEP_SUMMARY) {
      const written = appendFile(GITHUB_STEP_SUMMARY, this.summary(conclusion));
      await written.catch(unwritten("step summary", GITHUB_STEP_SUMMARY));
    }
    if (file === undefined) return;
    const criticalNames = criticalPath(this.#steps).map(({ name }) => name);
    const attached = Object.fromEntries([...this.#attached].map(([name, { value }]) => [name, value]));
    const run = {
      conclusion,
      seconds: this.seconds,
      criticalPath: criticalNames,
      steps: this.#steps,
      ...attached,
    };
    const written = writeFile(file, `${JSON.stringify(run, undefined, 2)}\n`);
    await written.catch(unwritten("report", file));
  }
}

/** The steps on a line of seconds, as GitHub draws it; https://mermaid.js.org/syntax/gantt.html */
function timeline(steps: Step[], critical: Set<Step>): string[] {
  const noticed = steps.filter(({ work }) => work >= NOTICED).toSorted((a, b) => a.wait - b.wait);
  if (noticed.length < 2) return [];
  const rows = noticed.map((step) => {
    const [start, end] = [step.wait, step.wait + step.work].map((seconds) => Math.round(seconds * 1000));
    const tags = [step.outcome === "failed" && "active", critical.has(step) && "crit"].filter(Boolean);
    return `  ${step.name} ${step.work.toFixed(1)} s :${[...tags, start, end].join(", ")}`;
  });
  return ["```mermaid", "gantt", "  dateFormat x", "  axisFormat %S.%L", ...rows, "```", ""];
}

const unwritten = (what: string, file: string) => (error: NodeJS.ErrnoException) =>
  console.error(`the ${what} could not be written to ${file} (${error.code ?? error.message})`);

/**
 * The steps that the end had to wait for: the last one to end, before it the last one to end when that began, and so on.
 */
export function criticalPath(steps: Step[]): Step[] {
  const path: Step[] = [];
  let before = Infinity;
  for (;;) {
    // A step begins a moment after the one that it waited for has ended.
    const earlier = steps.filter((step) => !path.includes(step) && step.wait + step.work <= before + 0.001);
    const last = earlier.reduce<Step | undefined>(
      (latest, step) => (latest && latest.wait + latest.work >= step.wait + step.work ? latest : step),
      undefined,
    );
    if (!last) return path;
    path.unshift(last);
    before = last.wait;
  }
}
