/** What a person sees of a run: a line for each step on the terminal, a table in GitHub's step summary. */
import { appendFile } from "node:fs/promises";

interface Step {
  name: string;
  outcome: "ok" | "failed";
  seconds: number;
  detail: string;
}

export class Report {
  readonly #steps: Step[] = [];
  readonly #start = performance.now();

  constructor(private readonly print: (line: string) => void = (line) => console.log(line)) {}

  /** A line about what goes on inside a step. */
  say(line: string): void {
    this.print(`  ${" ".repeat(8)} ${line}`);
  }

  /** Runs one step and shows how it ended. `work` returns what is worth a few words. */
  async step<T>(name: string, work: () => Promise<{ detail: string; value: T }>): Promise<T> {
    const start = performance.now();
    const ended = (outcome: Step["outcome"], detail: string) => {
      const seconds = (performance.now() - start) / 1000;
      this.#steps.push({ name, outcome, seconds, detail });
      this.print(
        `  ${name.padEnd(8)} ${outcome.padEnd(6)} ${seconds.toFixed(1).padStart(5)} s  ${detail}`.trimEnd(),
      );
    };
    try {
      const { detail, value } = await work();
      ended("ok", detail);
      return value;
    } catch (error) {
      ended("failed", "");
      throw error;
    }
  }

  get seconds(): number {
    return (performance.now() - this.#start) / 1000;
  }

  /** The run as a Markdown table, with `conclusion` under it. */
  summary(conclusion: string): string {
    const rows = this.#steps.map(
      ({ name, outcome, seconds, detail }) => `| ${name} | ${outcome} | ${seconds.toFixed(1)} | ${detail} |`,
    );
    return ["| step | outcome | seconds | |", "|---|---|---:|---|", ...rows, "", conclusion, ""].join("\n");
  }

  /** Adds the table to the step summary when this runs in GitHub Actions. */
  async publish(conclusion: string): Promise<void> {
    const file = process.env.GITHUB_STEP_SUMMARY;
    if (file) await appendFile(file, this.summary(conclusion));
  }
}
