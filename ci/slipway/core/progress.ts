/**
 * Lines on the screen, and below them, on a terminal, one for each step that has run for over a second: rewritten in place,
 * so that a person sees that it goes on. In a log a step is the one line at its end.
 */

/** Milliseconds after which a running step is shown, and between two looks at the clock. */
const SHOWN_AFTER_MS = 1000;
const EVERY_MS = 200;

interface Running {
  name: string;
  since: number;
  /** How far it is. */
  detail?: string;
}

export class Progress {
  readonly #running = new Set<Running>();
  /** Lines that stand below the last one that stays. */
  #below = 0;
  #timer: Timer | undefined;
  readonly #live: boolean;

  /** @param live whether `write` goes to stdout, which may be a terminal */
  constructor(
    private readonly write: (line: string) => void,
    live: boolean,
  ) {
    // A terminal that is "dumb" cannot move its cursor.
    this.#live = live && process.stdout.isTTY === true && process.env.TERM !== "dumb";
  }

  begin(name: string): Running {
    const running = { name, since: performance.now() };
    this.#running.add(running);
    if (this.#live) {
      this.#timer ??= setInterval(() => this.#show(), EVERY_MS);
      // What waits for a step is the step; the picture of it keeps nothing alive.
      this.#timer.unref();
    }
    return running;
  }

  end(running: Running): void {
    this.#running.delete(running);
    if (this.#running.size === 0) this.clear();
  }

  /** A line that stays. */
  print(line: string): void {
    this.#clear();
    this.write(line);
    this.#show();
  }

  /** Takes the running steps off the screen, for good or until the next line. */
  clear(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#clear();
  }

  #clear(): void {
    if (this.#below > 0) process.stdout.write(`\x1b[${this.#below}F\x1b[J`);
    this.#below = 0;
  }

  #show(): void {
    if (!this.#live) return;
    const now = performance.now();
    const lines = [...this.#running]
      .filter(({ since }) => now - since >= SHOWN_AFTER_MS)
      .map(
        ({ name, since, detail = "" }) =>
          `  ${name.padEnd(8)} …      ${((now - since) / 1000).toFixed(0).padStart(3)} s  ${detail}`,
      );
    this.#clear();
    const width = process.stdout.columns || 80;
    for (const line of lines) process.stdout.write(`${line.slice(0, width - 1)}\n`);
    this.#below = lines.length;
  }
}
