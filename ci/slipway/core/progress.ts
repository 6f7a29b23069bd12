/**
 * Prints lines, and on a terminal a live line below them for each step that has run for over a second. In a log, each step
 * is a single line when it ends.
 */

/** Time after which a running step is shown, and the refresh interval. */
const SHOW_AFTER_MS = 1000;
const REFRESH_MS = 200;

interface Running {
  name: string;
  startTime: number;
  /** Progress of the step. */
  detail?: string;
}

export class Progress {
  readonly #running = new Set<Running>();
  /** Number of live lines below the permanent ones. */
  #liveLines = 0;
  #timer: Timer | undefined;
  readonly #isLive: boolean;

  /** @param isStdout whether `write` writes to stdout, which may be a terminal */
  constructor(
    private readonly write: (line: string) => void,
    isStdout: boolean,
  ) {
    // A "dumb" terminal cannot move the cursor.
    this.#isLive = isStdout && process.stdout.isTTY === true && process.env.TERM !== "dumb";
  }

  begin(name: string): Running {
    const running = { name, startTime: performance.now() };
    this.#running.add(running);
    if (this.#isLive) {
      this.#timer ??= setInterval(() => this.#draw(), REFRESH_MS);
      // The display must not keep the process alive.
      this.#timer.unref();
    }
    return running;
  }

  end(running: Running): void {
    this.#running.delete(running);
    if (this.#running.size === 0) this.clear();
  }

  /** Prints a permanent line. */
  print(line: string): void {
    this.#erase();
    this.write(line);
    this.#draw();
  }

  /** Removes the live lines until the next print() or begin(). */
  clear(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#erase();
  }

  #erase(): void {
    if (this.#liveLines > 0) process.stdout.write(`\x1b[${this.#liveLines}F\x1b[J`);
    this.#liveLines = 0;
  }

  #draw(): void {
    if (!this.#isLive) return;
    const now = performance.now();
    const lines = [...this.#running]
      .filter(({ startTime }) => now - startTime >= SHOW_AFTER_MS)
      .map(
        ({ name, startTime, detail = "" }) =>
          `  ${name.padEnd(8)} …      ${((now - startTime) / 1000).toFixed(0).padStart(3)} s  ${detail}`,
      );
    this.#erase();
    const width = process.stdout.columns || 80;
    for (const line of lines) process.stdout.write(`${line.slice(0, width - 1)}\n`);
    this.#liveLines = lines.length;
  }
}
