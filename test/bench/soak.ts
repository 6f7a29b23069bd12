/**
 * A day's load in an hour: each minute has what a service of 100 requests a second gets in 24. It comes in bursts, so that the machine
 * is free between them, and holds what might be kept by mistake: ids, paths, methods and headers that come once and never again,
 * errors, the page, scrapes.
 */
import { JSON_PLEASE, median, residentMegabytes, say, TRACED } from "./shared.ts";

/** A service under load, and how to bring it there. */
export interface Soaked {
  url: string;
  adminUrl: string;
  pid: number;
  /** Sends requests as fast as it can, over 64 connections. @returns how many */
  load(url: string, seconds: number, headers: string[]): Promise<number>;
}

export interface Soak {
  minutes: number;
  requests: number;
  /** Resident megabytes at the end of each minute. */
  megabytes: number[];
  /** Medians of the first and of the last sixth, without the minutes in which the compiler is at work. */
  early: number;
  late: number;
}

const PER_MINUTE = 24 * 60 * 100;
/** Of each minute's requests, those that no other is like. */
const SINGLE = 2000;
/** Minutes after which what a service loads once has been loaded. */
const WARM = 2;

const kinds: [path: string, headers: string[]][] = [
  ["", JSON_PLEASE],
  ["", TRACED],
  ["", ["Accept: text/html,application/xhtml+xml"]],
  ["version", []],
  ["openapi.json", []],
  ["healthz", []],
];

export async function soak({ url, adminUrl, pid, load }: Soaked, minutes: number): Promise<Soak> {
  const megabytes: number[] = [];
  let requests = 0;
  for (let minute = 1; minute <= minutes; minute += 1) {
    const end = performance.now() + 60_000;
    await ones(url, SINGLE);
    requests += SINGLE;
    for (let turn = 0; requests < PER_MINUTE * minute; turn += 1) {
      const [path, headers] = kinds[turn % kinds.length]!;
      requests += await load(url + path, 1, headers);
    }
    await (await fetch(`${adminUrl}metrics`)).text();
    await Bun.sleep(end - performance.now());
    megabytes.push(residentMegabytes(pid));
    say(`soak, minute ${minute} of ${minutes}: ${requests} requests, ${megabytes.at(-1)!.toFixed(1)} MB`);
  }
  const warm = megabytes.slice(Math.min(WARM, minutes - 1));
  const part = Math.max(1, Math.floor(warm.length / 6));
  return {
    minutes,
    requests,
    megabytes,
    early: median(warm.slice(0, part)),
    late: median(warm.slice(-part)),
  };
}

/** Requests each of which has a path, an id, a media type or a method of its own. */
async function ones(url: string, count: number): Promise<void> {
  const asked = [
    (unique: string) => fetch(`${url}nowhere/${unique}?${unique}`),
    (unique: string) => fetch(url, { headers: { "X-Request-Id": unique } }),
    (unique: string) => fetch(url, { headers: { Accept: `text/plain, x/${unique};q=0.5` } }),
    (unique: string) => fetch(`${url}version`, { method: `M${unique.slice(0, 8).toUpperCase()}` }),
    (unique: string) => fetch(`${url}version`, { method: "POST", body: unique }),
  ];
  for (let i = 0; i < count; i += 1) {
    const reply = await asked[i % asked.length]!(crypto.randomUUID());
    await reply.arrayBuffer();
  }
}
