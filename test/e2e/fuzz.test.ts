/**
 * Fuzz test: sends 100,000 malformed, oversized, truncated and pipelined inputs. The binary must reply to valid requests, reject
 * invalid requests, and keep running. Set FUZZ_SEED for another run. A failure reports its seed.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { builtProject, describeWith, eventually, untilReady } from "../../ci/slipway/test/e2e/setup.ts";

setDefaultTimeout(600_000);

const SEED = Number(process.env.FUZZ_SEED ?? 20260101);
const COUNT = Number(process.env.FUZZ_COUNT ?? 100_000);

/** Creates a random number generator (Mulberry32). */
function createRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

interface Input {
  kind: string;
  bytes: string;
  /** Marks the HEAD requests, whose replies have no body. */
  heads?: boolean[];
  /** Returns the problem with the replies, or undefined if they are correct. */
  check(statuses: number[]): string | undefined;
}

/** Valid replies to an input of unknown validity. */
const allowedStatuses = new Set([200, 204, 400, 404, 405, 406, 411, 413, 414, 417, 431, 501, 505]);

function generate(seed: number): Input {
  const next = createRandom(seed);
  const below = (n: number) => Math.floor(next() * n);
  const pick = <T>(values: readonly T[]): T => values[below(values.length)]!;
  const letters = (n: number) =>
    Array.from({ length: n }, () => pick([..."abcdefghijklmnopqrstuvwxyz0123456789-_"])).join("");

  /** Generates a valid request and its expected status. */
  function request(last = false): { text: string; status: number; head: boolean } {
    const [path, known] = pick([
      ["/", true],
      ["/?q=" + letters(below(50)), true],
      ["/version", true],
      ["/healthz", true],
      ["/readyz", true],
      ["/openapi.json", true],
      ["/" + letters(1 + below(30)) + "x", false],
    ] as const);
    const method = pick(["GET", "GET", "GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH"]);
    const body = method === "POST" || method === "PUT" ? letters(below(200)) : "";
    const accept = pick(["*/*", "text/html", "application/json", "image/png", undefined]);
    const headers = [
      "Host: fuzz",
      ...(accept ? [`Accept: ${accept}`] : []),
      ...(body ? [`Content-Length: ${body.length}`] : []),
      ...(next() < 0.2 ? [`X-Request-Id: ${letters(10)}`] : []),
      ...(next() < 0.2 ? [`X-${letters(5)}: ${letters(below(100))}`] : []),
      ...(last ? ["Connection: close"] : []),
    ];
    const isGet = method === "GET" || method === "HEAD";
    const isGreeting = path === "/" || path.startsWith("/?");
    const status =
      method === "OPTIONS" ? 204 : !isGet ? 405 : !known ? 404 : isGreeting && accept === "image/png" ? 406 : 200;
    return {
      text: `${method} ${path} HTTP/1.1\r\n${headers.join("\r\n")}\r\n\r\n${body}`,
      status,
      head: method === "HEAD",
    };
  }

  const expectStatuses = (expected: number[]) => (statuses: number[]) =>
    statuses.join() === expected.join() ? undefined : `expected ${expected}, got ${statuses}`;
  const expectRejection = (statuses: number[]) =>
    statuses.length <= 1 && statuses.every((status) => status >= 400 && status !== 500 && status !== 503)
      ? undefined
      : `expected at most one rejection, got ${statuses}`;

  const kinds: Record<string, () => Omit<Input, "kind">> = {
    pipelined() {
      const count = 1 + below(8);
      const requests = Array.from({ length: count }, (_, i) => request(i === count - 1));
      return {
        bytes: requests.map(({ text }) => text).join(""),
        heads: requests.map(({ head }) => head),
        check: expectStatuses(requests.map(({ status }) => status)),
      };
    },
    truncated() {
      const { text } = request();
      const end = text.indexOf("\r\n\r\n") + 4;
      return { bytes: text.slice(0, below(end)), check: expectRejection };
    },
    oversized() {
      return pick([
        () => ({
          bytes: `GET /${"a".repeat(8192 + below(4000))} HTTP/1.1\r\nHost: x\r\n\r\n`,
          check: expectStatuses([414]),
        }),
        () => ({
          bytes: `GET / HTTP/1.1\r\nHost: x\r\nX: ${"a".repeat(16384 + below(9000))}\r\n\r\n`,
          check: expectStatuses([431]),
        }),
        () => ({
          bytes: `POST / HTTP/1.1\r\nHost: x\r\nContent-Length: ${65537 + below(1e9)}\r\n\r\n`,
          check: expectStatuses([413]),
        }),
        () => ({
          bytes: `POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n`,
          check: expectStatuses([411]),
        }),
      ])();
    },
    malformed() {
      const bytes = pick([
        `GET / HTTP/1.1\r\n\r\n`,
        `GET / HTTP/${1 + below(9)}.${2 + below(8)}\r\nHost: x\r\n\r\n`,
        `G@T / HTTP/1.1\r\nHost: x\r\n\r\n`,
        `GET / HTTP/1.1\r\nHost : x\r\n\r\n`,
        `GET / HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n`,
        `GET / HTTP/1.1\r\nHost: x\r\nX: a\0${letters(3)}\r\n\r\n`,
        `GET / HTTP/1.1\nHost: x\n\n`,
        `POST / HTTP/1.1\r\nHost: x\r\nContent-Length: ${letters(3)}z\r\n\r\n`,
        `POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -${1 + below(9)}\r\n\r\n`,
        `POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab`,
        `POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
        `\x16\x03\x01${letters(below(200))}\r\n\r\n`,
        `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n`,
        `${letters(below(300))}\r\n\r\n`,
      ]);
      return { bytes, check: expectRejection };
    },
    mutated() {
      const characters = [...request(true).text];
      for (let i = 0; i <= below(4); i += 1) {
        characters.splice(
          below(characters.length),
          below(3),
          ...pick([[], [String.fromCharCode(below(256))], ["\r\n"], [" ", ":"]]),
        );
      }
      const expectAllowed = (statuses: number[]) =>
        statuses.every((status) => allowedStatuses.has(status)) ? undefined : `got ${statuses}`;
      return { bytes: characters.join(""), check: expectAllowed };
    },
  };
  const kind = pick(Object.keys(kinds));
  return { kind, ...kinds[kind]!() };
}

/** Parses the statuses of pipelined replies. @throws {Error} if a reply is invalid or incomplete */
function parseStatuses(text: string, heads: boolean[]): number[] {
  const statuses: number[] = [];
  let rest = text;
  while (rest !== "") {
    const end = rest.indexOf("\r\n\r\n");
    const status = /^HTTP\/1\.1 (\d{3}) /.exec(rest)?.[1];
    if (!status || end < 0) throw new Error(`not a reply: ${JSON.stringify(rest.slice(0, 60))}`);
    const length = /^content-length: (\d+)\r?$/im.exec(rest.slice(0, end + 2))?.[1];
    // A reply to HEAD has Content-Length but no body.
    const body = heads[statuses.length] ? 0 : Number(length ?? 0);
    if (rest.length < end + 4 + body) throw new Error(`incomplete reply: ${JSON.stringify(rest.slice(0, 60))}`);
    statuses.push(Number(status));
    rest = rest.slice(end + 4 + body);
  }
  return statuses;
}

/** Returns the result of the first attempt that does not throw. */
function firstSuccess<T>(attempts: (() => T)[]): T {
  const [attempt, ...others] = attempts;
  try {
    return attempt!();
  } catch (error) {
    if (others.length === 0) throw error;
    return firstSuccess(others);
  }
}

describeWith("fuzz", [], () => {
  let child: Bun.Subprocess;
  let url: URL;
  let admin: URL;

  beforeAll(async () => {
    const { dist } = await builtProject();
    const env = {
      HOST: "127.0.0.1",
      PORT: "0",
      ADMIN_PORT: "0",
      ACCESS_LOG: "off",
      DRAIN_DELAY_SECONDS: "0",
    };
    const started = Bun.spawn([join(dist, "app/helloapp")], { env, stdout: "pipe", stderr: "inherit" });
    child = started;
    const listening = await untilReady(started.stdout);
    [url, admin] = [new URL(listening.url), new URL(listening.admin)];
  });
  afterAll(() => child.kill("SIGKILL"));

  /** Sends an input, shuts down the write side and returns everything received. */
  function send(bytes: string): Promise<string> {
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    let text = "";
    Bun.connect({
      hostname: url.hostname,
      port: Number(url.port),
      socket: {
        open(socket) {
          socket.write(Buffer.from(bytes, "latin1"));
          socket.shutdown();
        },
        data: (_, data) => void (text += data.toString("latin1")),
        close: () => resolve(text),
        // A rejection with unread data resets the connection. The data received so far counts.
        error: () => resolve(text),
      },
    }).catch(reject);
    return promise;
  }

  test(`${COUNT} inputs from seed ${SEED}: correct replies, and the process keeps running`, async () => {
    const failures: string[] = [];
    const counts: Record<string, number> = {};
    let number = 0;
    const worker = async () => {
      while (number < COUNT && failures.length < 20) {
        const seed = SEED + (number += 1);
        const { kind, bytes, heads, check } = generate(seed);
        counts[kind] = (counts[kind] ?? 0) + 1;
        const text = await send(bytes);
        const problem = (() => {
          try {
            // A mutation may add or remove a HEAD, so the replies are parsed both ways.
            const attempts = heads ? [heads] : [[], Array.from({ length: 9 }, () => true)];
            return check(firstSuccess(attempts.map((heads) => () => parseStatuses(text, heads))));
          } catch (error) {
            return (error as Error).message;
          }
        })();
        if (problem)
          failures.push(
            `FUZZ_SEED=${seed - 1} FUZZ_COUNT=1 (${kind}): ${problem}: ${JSON.stringify(bytes.slice(0, 300))}`,
          );
      }
    };
    await Promise.all(Array.from({ length: 32 }, worker));
    expect(failures).toEqual([]);
    expect(child.exitCode).toBeNull();
    expect(Object.keys(counts).sort()).toEqual(["malformed", "mutated", "oversized", "pipelined", "truncated"]);
    expect((await fetch(url)).status).toBe(200);
    // All requests have ended.
    await eventually(async () => {
      const text = await (await fetch(new URL("/metrics", admin))).text();
      const active = [...text.matchAll(/^http_server_active_requests\{.*\} (\d+)$/gm)].map(([, n]) => n);
      // The only active request is this request for metrics.
      return active.toSorted().join("") === "0".repeat(active.length - 1) + "1" || undefined;
    });
  });
});
