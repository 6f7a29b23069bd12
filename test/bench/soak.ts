/**
 * Soak test: sends a day of load in an hour and measures memory. Each minute has the requests that a service with 100 requests
 * a second receives in 24 minutes.
 *
 * Requests come in bursts, so that the machine is idle in between. They include unique IDs, paths, methods and headers, which
 * a service could keep in memory by mistake, as well as errors, the page and scrapes.
 */
import { JSON_HEADERS, median, residentMegabytes, logLine, TRACE_HEADERS } from "./shared.ts";

/** A running service. */
export interface SoakTarget {
  url: string;
  adminUrl: string;
  pid: number;
  /** Sends requests at full speed over 64 connections. @returns the number of requests */
  load(url: string, seconds: number, headers: string[]): Promise<number>;
}

export interface SoakResult {
  minutes: number;
  requests: number;
  /** Resident memory at the end of each minute, in MiB. */
  megabytes: number[];
  /** Medians of the first and last sixth in MiB, without the warm-up. */
  early: number;
  late: number;
}

const REQUESTS_PER_MINUTE = 24 * 60 * 100;
/** Number of unique requests in each minute. */
const UNIQUE_REQUESTS = 2000;
/** Minutes until the service has loaded and compiled everything. */
const WARM_UP_MINUTES = 2;

const kinds: [path: string, headers: string[]][] = [
  ["", JSON_HEADERS],
  ["", TRACE_HEADERS],
  ["", ["Accept: text/html,application/xhtml+xml"]],
  ["version", []],
  ["openapi.json", []],
  ["healthz", []],
];

export async function soak({ url, adminUrl, pid, load }: SoakTarget, minutes: number): Promise<SoakResult> {
  const megabytes: number[] = [];
  let requests = 0;
  for (let minute = 1; minute <= minutes; minute += 1) {
    const end = performance.now() + 60_000;
    await sendUniqueRequests(url, UNIQUE_REQUESTS);
    requests += UNIQUE_REQUESTS;
    for (let turn = 0; requests < REQUESTS_PER_MINUTE * minute; turn += 1) {
      const [path, headers] = kinds[turn % kinds.length]!;
      requests += await load(url + path, 1, headers);
    }
    await (await fetch(`${adminUrl}metrics`)).text();
    await Bun.sleep(end - performance.now());
    megabytes.push(residentMegabytes(pid));
    logLine(`soak, minute ${minute} of ${minutes}: ${requests} requests, ${megabytes.at(-1)!.toFixed(1)} MB`);
  }
  const warm = megabytes.slice(Math.min(WARM_UP_MINUTES, minutes - 1));
  const part = Math.max(1, Math.floor(warm.length / 6));
  return {
    minutes,
    requests,
    megabytes,
    early: median(warm.slice(0, part)),
    late: median(warm.slice(-part)),
  };
}

/** Sends requests with a unique path, ID, media type or method. */
async function sendUniqueRequests(url: string, count: number): Promise<void> {
  const senders = [
    (unique: string) => fetch(`${url}nowhere/${unique}?${unique}`),
    (unique: string) => fetch(url, { headers: { "X-Request-Id": unique } }),
    (unique: string) => fetch(url, { headers: { Accept: `text/plain, x/${unique};q=0.5` } }),
    (unique: string) => fetch(`${url}version`, { method: `M${unique.slice(0, 8).toUpperCase()}` }),
    (unique: string) => fetch(`${url}version`, { method: "POST", body: unique }),
  ];
  for (let i = 0; i < count; i += 1) {
    const reply = await senders[i % senders.length]!(crypto.randomUUID());
    await reply.arrayBuffer();
  }
}
