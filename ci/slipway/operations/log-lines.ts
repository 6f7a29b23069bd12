/** Reads the log of one container over the API, and resumes after a lost connection without doubles. */
import type { ApiClient } from "../kubernetes/api.ts";

export interface LogLine {
  /** Time of the container runtime: RFC 3339 with nanoseconds. */
  time: string;
  /** Image ID of the version that wrote the line. */
  version: string;
  pod: string;
  container: string;
  line: string;
}

export interface LogSource {
  pod: string;
  container: string;
  version: string;
}

export interface LogQuery {
  /** Lines from the end. Default: all. */
  tailLines?: number | undefined;
  sinceSeconds?: number | undefined;
  /** Lines from this time on, RFC 3339. */
  sinceTime?: string | undefined;
  /** The container before its last restart. */
  previous?: boolean;
  /** Keeps the stream open. */
  follow?: boolean;
}

/**
 * Reads lines until the log ends.
 *
 * @throws {Error} if the connection is lost before the end
 */
export async function* readLog(
  api: ApiClient,
  { pod, container, version }: LogSource,
  query: LogQuery,
  signal: AbortSignal,
): AsyncGenerator<LogLine> {
  const path = `${api.collection("/api/v1", "pods")}/${pod}/log`;
  const parameters = Object.entries({ container, timestamps: true, ...query }).filter(
    ([, value]) => value !== undefined,
  );
  const search = new URLSearchParams(parameters.map(([name, value]): [string, string] => [name, `${value}`]));
  const response = await api.open(`${path}?${search}`, { signal });
  // The pod is gone, or the container has no such log.
  if (response.status === 404 || response.status === 400) return;
  if (!response.ok) throw new Error(`${pod}: the API server answers ${response.status}: ${await response.text()}`);
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of response.body ?? []) {
    const lines = (rest + decoder.decode(chunk as Uint8Array, { stream: true })).split("\n");
    rest = lines.pop()!;
    for (const line of lines) yield parseLine(line);
  }
  if (rest !== "") yield parseLine(rest);

  function parseLine(text: string): LogLine {
    const space = text.indexOf(" ");
    const [time, line] = space < 0 ? [text, ""] : [text.slice(0, space), text.slice(space + 1)];
    return { time, version, pod, container, line };
  }
}

/** Merges logs by time. Lines of one log stay in its order, even if a time goes back. */
export function mergeLogs(logs: LogLine[][]): LogLine[] {
  const keyed = logs.flatMap((lines) => {
    const keyOf = createSortKeys();
    return lines.map((line) => ({ line, key: keyOf(line) }));
  });
  return keyed.sort((a, b) => compareTimes(a.key, b.key)).map(({ line }) => line);
}

/** Returns a function that gives each line of a log the latest time until then. */
export function createSortKeys(): (line: LogLine) => string {
  let latest = "";
  return ({ time }) => (latest = latest === "" || compareTimes(time, latest) > 0 ? time : latest);
}

/** Orders lines by time. Times of a container runtime have trailing zeros removed. */
export function compareTimes(a: string, b: string): number {
  const [x, y] = [normaliseTime(a), normaliseTime(b)];
  return x < y ? -1 : x > y ? 1 : 0;
}

function normaliseTime(time: string): string {
  const [, seconds = time, fraction = ""] = /^(.{19})(?:\.(\d+))?/.exec(time) ?? [];
  return `${seconds}.${fraction.padEnd(9, "0")}`;
}

/** Drops lines that were read before the connection was lost. */
export class LogPosition {
  /** The latest second of which a line was read, and the number of its lines. */
  #second = "";
  #count = 0;
  #skip = 0;
  /** The last line that is known from elsewhere, until it comes. */
  #known: LogLine | undefined;
  #after = "";

  /** @param after the last line that is known, or a time. Default: none is. */
  constructor(after?: LogLine | string) {
    if (typeof after === "object") this.#known = after;
    else this.#after = after ?? "";
    this.#second = secondOf(typeof after === "object" ? after.time : (after ?? ""));
  }

  /** Returns the query for the lines after the position. The API ignores fractions of a second. */
  resume(): LogQuery {
    this.#skip = this.#count;
    return this.#second === "" ? {} : { sinceTime: `${this.#second}Z` };
  }

  /** @returns whether the line is new */
  accept({ time, line }: LogLine): boolean {
    const second = secondOf(time);
    if (second === this.#second && this.#skip > 0) {
      this.#skip -= 1;
      return false;
    }
    if (second === this.#second) this.#count += 1;
    if (second > this.#second) [this.#second, this.#count, this.#skip] = [second, 1, 0];
    if (this.#known) {
      const { time: knownTime, line: knownLine } = this.#known;
      const isKnown = time === knownTime && line === knownLine;
      // The line is gone if the log was rotated.
      const isPast = second > secondOf(knownTime);
      if (isKnown || isPast) this.#known = undefined;
      return isPast;
    }
    return this.#after === "" || compareTimes(time, this.#after) > 0;
  }
}

const secondOf = (time: string) => time.slice(0, 19);
