/** The programs that a bench runs beside others: marked, looked through for the images that they deliver, and ended with it. */
import { killMarked, MARK, secondsSince } from "./shared.ts";

export interface Ended {
  seconds: number;
  stdout: string;
  /** When each line of stdout came, on performance.now()'s clock. */
  lines: { at: number; line: string }[];
}

export class Programs {
  /** Images that may be in containerd because of this run. */
  readonly images = new Set<string>();
  /** Whether the bench was interrupted, or is over. */
  stopping = false;
  /** Marks the processes of this run in their environment. */
  readonly #mark = crypto.randomUUID();
  readonly #children = new Set<Bun.Subprocess>();
  readonly #image: RegExp;

  /**
   * @param service whose images are taken down
   * @param surroundings what all of them get beside the environment; may be filled later
   */
  constructor(
    service: string,
    private readonly surroundings: Record<string, string> = {},
  ) {
    this.#image = new RegExp(`\\b${service}:[0-9a-f]{12}\\b`, "g");
  }

  /** Runs a program to its end, while others go on. Anything other than exit 0 is an error that shows the output. */
  async execute(command: string[], cwd: string, env: Record<string, string> = {}): Promise<Ended> {
    if (this.stopping) throw new Error("interrupted");
    const start = performance.now();
    const child = Bun.spawn(command, {
      cwd,
      // In GitHub Actions each deploy would add a table to the summary.
      env: {
        ...process.env,
        ...this.surroundings,
        [MARK]: this.#mark,
        GITHUB_STEP_SUMMARY: undefined,
        ...env,
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#children.add(child);
    const lines: Ended["lines"] = [];
    const read = async (stream: ReadableStream<Uint8Array>) => {
      const decoder = new TextDecoder();
      let [text, begun] = ["", ""];
      for await (const chunk of stream) {
        const part = decoder.decode(chunk, { stream: true });
        text += part;
        const whole = (begun + part).split("\n");
        begun = whole.pop()!;
        if (stream === child.stdout) lines.push(...whole.map((line) => ({ at: performance.now(), line })));
        // Taken down at once: after an interruption nobody knows any more what was delivered.
        for (const [image] of text.matchAll(this.#image)) this.images.add(`docker.io/library/${image}`);
      }
      return text;
    };
    const [stdout, stderr, code] = await Promise.all([read(child.stdout), read(child.stderr), child.exited]);
    this.#children.delete(child);
    if (code === 0) return { seconds: secondsSince(start), stdout, lines };
    const last = stderr.split("\n").slice(-60).join("\n");
    throw new Error(`${command.join(" ")} ended with ${code}:\n${stdout}${last}`);
  }

  /** Has those that run end. The pipeline ends its own processes on SIGTERM. */
  interrupt(): void {
    this.stopping = true;
    for (const child of this.#children) child.kill("SIGTERM");
  }

  /** Ends them, and what they have left behind. */
  async end(): Promise<void> {
    this.interrupt();
    await Promise.all([...this.#children].map(({ exited }) => exited));
    killMarked(this.#mark);
  }
}

/** Of a program that broke, a line: it knows more of what was wrong with it than its exit code says. */
export function causeOf({ message }: Error): string {
  const cause = /^error: .*/m.exec(message)?.[0] ?? message.split("\n")[0]!;
  return cause.replaceAll("|", "\\|");
}
