/**
 * Logs: one JSON object a line on stdout.
 *
 * Our own in place of pino: a line for every request takes 43 % of a bare handler's throughput with pino (asynchronous,
 * 8 KiB at a time) and 12 % here. `Logger` is what a library would have to offer to come back.
 */

export const levels = ["debug", "info", "warn", "error"] as const;
export type Level = (typeof levels)[number];

export interface Logger {
  debug(event: string, fields?: Record<string, unknown>): void;
  info(event: string, fields?: Record<string, unknown>): void;
  warn(event: string, fields?: Record<string, unknown>): void;
  error(event: string, fields?: Record<string, unknown>): void;
  enabled(level: Level): boolean;
  /** One request: the only event that comes thousands of times a second. */
  request(level: Level, access: Access): void;
}

/** What the access log says of a request. */
export interface Access {
  method: string;
  /** The route that answered; undefined where none did. */
  route: string | undefined;
  /** The path that was asked for, without the query, which may carry what does not belong in a log. */
  path: string;
  status: number;
  /** Bytes of the body that was sent. */
  bytes: number;
  milliseconds: number;
  /** Letters, digits, dot, dash and underscore only. */
  requestId: string;
  /** Hex digits only. */
  traceId: string | undefined;
  /** Took longer than SLOW_REQUEST_SECONDS. */
  slow: boolean;
}

/**
 * @param level the least severe level that is written
 * @param write takes one line, its newline included
 * @example
 * createLogger("info", write).info("ready", { port: 8080 })
 * // {"time":"2026-01-01T00:00:00.000Z","level":"info","event":"ready","port":8080}
 */
export function createLogger(level: Level, write: (line: string) => void): Logger {
  const threshold = levels.indexOf(level);
  const enabled = (level: Level) => levels.indexOf(level) >= threshold;
  const at = (level: Level) => {
    if (!enabled(level)) return () => {};
    return (event: string, fields: Record<string, unknown> = {}) =>
      write(JSON.stringify({ time: timestamp(), level, event, ...fields }) + "\n");
  };
  return {
    debug: at("debug"),
    info: at("info"),
    warn: at("warn"),
    error: at("error"),
    enabled,
    request(level, { method, route, path, status, bytes, milliseconds, requestId, traceId, slow }) {
      if (!enabled(level)) return;
      // Put together by hand, which costs less than JSON.stringify(). Only the path is the client's to choose; a method
      // is a token, and the rest has no character either that would need to be escaped.
      const safePath =
        path !== route && /["\\\x00-\x1f]/.test(path) ? JSON.stringify(path).slice(1, -1) : path;
      write(
        `{"time":"${timestamp()}","level":"${level}","event":"request","method":"${method}",` +
          `${route === undefined ? "" : `"route":"${route}",`}"path":"${safePath}","status":${status},"bytes":${bytes},"durationMs":${rounded(milliseconds)},` +
          `"requestId":"${requestId}"${traceId ? `,"traceId":"${traceId}"` : ""}${slow ? ',"slow":true' : ""}}\n`,
      );
    },
  };
}

/** Texts of 0 to 0.999 by their thousandths: most requests are that short, and a fraction takes long to format. */
const short: string[] = [];

/** A number of milliseconds to its thousandth. */
function rounded(milliseconds: number): string {
  const microseconds = Math.round(milliseconds * 1000);
  return microseconds < 1000
    ? (short[microseconds] ??= String(microseconds / 1000))
    : String(microseconds / 1000);
}

let lastMillisecond = 0;
let lastText = "";

/** The time as ISO 8601 in UTC; formatted once a millisecond. */
function timestamp(): string {
  const now = Date.now();
  if (now !== lastMillisecond) {
    lastMillisecond = now;
    lastText = new Date(now).toISOString();
  }
  return lastText;
}

export interface Output {
  write(line: string): void;
  /** Resolves when all that was written is out. */
  flush(): Promise<void>;
  /** Lines that were thrown away because nobody read the ones before. */
  readonly dropped: number;
}

/** Characters that may wait for a slow reader before lines are dropped: the service must not die of its log. */
const PATIENCE = 8 * 1024 * 1024;

/**
 * Writes lines, gathered for up to 10 ms or 64 KiB: under load one system call serves hundreds of requests.
 *
 * @param sink takes a text and resolves when it is out, like a writer of Bun.stdout
 */
export function bufferedOutput(sink: (text: string) => Promise<unknown> | unknown): Output {
  let waiting = "";
  let dropped = 0;
  let timer: Timer | undefined;
  let writing: Promise<void> | undefined;

  async function drain(): Promise<void> {
    clearTimeout(timer);
    timer = undefined;
    while (waiting !== "") {
      const text = waiting;
      waiting = "";
      try {
        await sink(text);
      } catch {
        // A reader that has gone away must not take the service with it.
      }
    }
    writing = undefined;
  }

  return {
    write(line) {
      if (waiting.length > PATIENCE) {
        dropped += 1;
        return;
      }
      waiting += line;
      if (writing) return;
      if (waiting.length > 64 * 1024) writing = drain();
      else timer ??= setTimeout(() => (writing ??= drain()), 10);
    },
    flush: () => (writing ??= drain()),
    get dropped() {
      return dropped;
    },
  };
}

/** The process's stdout. */
export function stdoutOutput(): Output {
  const writer = Bun.stdout.writer();
  return bufferedOutput((text) => {
    writer.write(text);
    return writer.flush();
  });
}
