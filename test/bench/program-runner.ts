/** Runs programs for a benchmark: marks their processes, records their images, and ends them with the benchmark. */
import { killMarked, MARK_VARIABLE, secondsSince } from "./shared.ts";

export interface ProgramResult {
  seconds: number;
  stdout: string;
  /** Lines of stdout with their time (performance.now()). */
  lines: { at: number; line: string }[];
}

export class ProgramRunner {
  /** Images that this run may have imported into containerd. */
  readonly images = new Set<string>();
  /** Set when the benchmark is interrupted or ends. */
  isStopping = false;
  /** Environment variable's value that identifies the processes of this run. */
  readonly #mark = crypto.randomUUID();
  readonly #children = new Set<Bun.Subprocess>();
  readonly #image: RegExp;

  /**
   * @param service the service whose images are recorded
   * @param env additional environment variables for all programs, may be changed later
   */
  constructor(
    service: string,
    private readonly env: Record<string, string> = {},
  ) {
    this.#image = new RegExp(`\\b${service}:[0-9a-f]{12}\\b`, "g");
  }

  /** Runs a program to its end. @throws {Error} with the output if the exit code is not 0 */
  async execute(command: string[], cwd: string, env: Record<string, string> = {}): Promise<ProgramResult> {
    if (this.isStopping) throw new Error("interrupted");
    const start = performance.now();
    const child = Bun.spawn(command, {
      cwd,
      // Without a step summary, because each deploy would add a table in GitHub Actions.
      env: {
        ...process.env,
        ...this.env,
        [MARK_VARIABLE]: this.#mark,
        GITHUB_STEP_SUMMARY: undefined,
        ...env,
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#children.add(child);
    const lines: ProgramResult["lines"] = [];
    const read = async (stream: ReadableStream<Uint8Array>) => {
      const decoder = new TextDecoder();
      let [text, partialLine] = ["", ""];
      for await (const chunk of stream) {
        const part = decoder.decode(chunk, { stream: true });
        text += part;
        const complete = (partialLine + part).split("\n");
        partialLine = complete.pop()!;
        if (stream === child.stdout) lines.push(...complete.map((line) => ({ at: performance.now(), line })));
        // Recorded at once, so that images can be removed after an interruption.
        for (const [image] of text.matchAll(this.#image)) this.images.add(`docker.io/library/${image}`);
      }
      return text;
    };
    const [stdout, stderr, code] = await Promise.all([read(child.stdout), read(child.stderr), child.exited]);
    this.#children.delete(child);
    if (code === 0) return { seconds: secondsSince(start), stdout, lines };
    const last = stderr.split("\n").slice(-60).join("\n");
    throw new Error(`${command.join(" ")} exited with ${code}:\n${stdout}${last}`);
  }

  /** Sends SIGTERM to all programs. The pipeline then ends its own child processes. */
  interrupt(): void {
    this.isStopping = true;
    for (const child of this.#children) child.kill("SIGTERM");
  }

  /** Ends all programs, including orphaned child processes. */
  async end(): Promise<void> {
    this.interrupt();
    await Promise.all([...this.#children].map(({ exited }) => exited));
    killMarked(this.#mark);
  }
}

/** Extracts the error line from a failed program's output. */
export function extractCause({ message }: Error): string {
  const cause = /^error: .*/m.exec(message)?.[0] ?? message.split("\n")[0]!;
  return cause.replaceAll("|", "\\|");
}
