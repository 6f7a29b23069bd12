/** What clients see while versions change: one that keeps its connection, and one that opens new ones, all the time. */
import { fetchVersion, type Endpoint } from "./verify.ts";

/** What was answered within a tenth of a second. */
export interface TimeBucket {
  /** The version before, or any other. */
  old: number;
  new: number;
  failed: number;
}

export interface AvailabilityReport {
  requests: number;
  failed: number;
  /** What the first failure was. */
  first: string | undefined;
  /** Of those that were answered, in milliseconds. */
  median: number;
  p99: number;
  /** Seconds of the longest time in which no request was answered; 0 where none failed. */
  gap: number;
  /** By tenths of a second from the start. */
  buckets: TimeBucket[];
}

/** Milliseconds between two requests of one client. */
const PAUSE = 25;
const FAR_PAUSE = 150;
const TENTH = 100;

/** @param id of the new version @returns ends it, and gives what was seen */
export function monitorAvailability(endpoint: Endpoint, id: string): () => Promise<AvailabilityReport> {
  let over = false;
  const ended = Promise.withResolvers<void>();
  const start = performance.now();
  const times: number[] = [];
  const moments: TimeBucket[] = [];
  let failed = 0;
  let first: string | undefined;
  let answered = start;
  let gap = 0;
  const momentAt = (time: number): TimeBucket => {
    const at = Math.floor((time - start) / TENTH);
    while (moments.length <= at) moments.push({ old: 0, new: 0, failed: 0 });
    return moments[at]!;
  };
  const client = async (keepalive: boolean) => {
    while (!over) {
      const asked = performance.now();
      // Not ended with the others: a request that we cut ourselves would look like a failed one.
      const answer = await fetchVersion(endpoint, { keepalive, signal: new AbortController().signal });
      const now = performance.now();
      const moment = momentAt(now);
      if (answer.failure === undefined) {
        times.push(now - asked);
        moment[answer.id === id ? "new" : "old"] += 1;
        answered = now;
      } else {
        failed += 1;
        moment.failed += 1;
        first ??= answer.failure;
        gap = Math.max(gap, now - answered);
      }
      await Promise.race([Bun.sleep(endpoint.isRemote ? FAR_PAUSE : PAUSE), ended.promise]);
    }
  };
  const clients = [client(true), client(false)];
  let result: Promise<AvailabilityReport> | undefined;
  return () =>
    (result ??= (async () => {
      over = true;
      ended.resolve();
      await Promise.all(clients);
      times.sort((a, b) => a - b);
      const at = (quantile: number) => times[Math.floor(times.length * quantile)] ?? 0;
      const requests = times.length + failed;
      return { requests, failed, first, median: at(0.5), p99: at(0.99), gap: gap / 1000, buckets: moments };
    })());
}

/** What they saw, as a line for a person. */
export function describeAvailability({
  requests,
  failed,
  first,
  median,
  p99,
  gap,
}: AvailabilityReport): string {
  const times = `median ${median.toFixed(1)} ms, p99 ${p99.toFixed(1)} ms`;
  const silence = failed > 0 ? `, none answered for ${gap.toFixed(1)} s` : "";
  return `meanwhile ${failed} of ${requests} requests failed${first ? ` (${first}${silence})` : ""}, ${times}`;
}

/** Characters of the picture: at most so many, each for as many tenths as it takes. */
const WIDTH = 60;
const blocks = { old: "░", both: "▒", new: "█", failed: "✗", none: " " };

/** The rollout as a picture, a character for each while: old ░, both ▒, new █, a failed request ✗. */
export function renderTimeline(moments: TimeBucket[]): string {
  if (moments.length === 0) return "";
  const each = Math.ceil(moments.length / WIDTH);
  const drawn = Array.from({ length: Math.ceil(moments.length / each) }, (_, i) => {
    const seen = moments.slice(i * each, (i + 1) * each);
    const sum = (key: keyof TimeBucket) => seen.reduce((all, one) => all + one[key], 0);
    if (sum("failed") > 0) return blocks.failed;
    if (sum("old") > 0) return sum("new") > 0 ? blocks.both : blocks.old;
    return sum("new") > 0 ? blocks.new : blocks.none;
  });
  const seconds = (moments.length / 10).toFixed(1);
  return `${drawn.join("")} ${seconds} s`;
}

/** The same as a chart that GitHub draws in Markdown. https://mermaid.js.org/syntax/xyChart.html */
export function renderMermaidChart(moments: TimeBucket[]): string {
  const seconds = Array.from({ length: Math.ceil(moments.length / 10) }, (_, i) =>
    moments.slice(i * 10, i * 10 + 10),
  );
  const row = (key: keyof TimeBucket) =>
    seconds.map((tenths) => tenths.reduce((all, one) => all + one[key], 0)).join(", ");
  return [
    "```mermaid",
    "xychart-beta",
    '  title "Replies a second: the version before, the new one, failed"',
    `  x-axis "seconds" 0 --> ${seconds.length}`,
    '  y-axis "replies"',
    `  line [${row("old")}]`,
    `  line [${row("new")}]`,
    `  line [${row("failed")}]`,
    "```",
    "",
  ].join("\n");
}
