/**
 * Measures availability during a rollout with two clients. One keeps its connection, the other opens a new one for
 * each request.
 */
import { fetchVersion, type Endpoint } from "./verify-from-outside.ts";

/** Responses within a tenth of a second. */
export interface TimeBucket {
  /** From the old version, or any other than the new one. */
  old: number;
  new: number;
  failed: number;
}

export interface AvailabilityReport {
  requests: number;
  failed: number;
  /** Cause of the first failure. */
  firstFailure: string | undefined;
  /** Latency of successful requests in milliseconds. */
  medianMs: number;
  p99Ms: number;
  /** Seconds of the longest interval with failures and no response. 0 if no request failed. */
  gapSeconds: number;
  /** Buckets, each a tenth of a second, from the start. */
  buckets: TimeBucket[];
}

/** Milliseconds between two requests of a client. */
const PAUSE_MS = 25;
/** The same for a remote endpoint. */
const REMOTE_PAUSE_MS = 150;
/** Length of a bucket. */
const BUCKET_MS = 100;

/**
 * Starts the clients.
 *
 * @param id of the new version
 * @returns a function that stops the clients and returns the report
 */
export function monitorAvailability(endpoint: Endpoint, id: string): () => Promise<AvailabilityReport> {
  let isStopped = false;
  const ended = Promise.withResolvers<void>();
  const start = performance.now();
  const times: number[] = [];
  const buckets: TimeBucket[] = [];
  let failed = 0;
  let firstFailure: string | undefined;
  let lastResponse = start;
  let gapMs = 0;
  const bucketAt = (time: number): TimeBucket => {
    const index = Math.floor((time - start) / BUCKET_MS);
    while (buckets.length <= index) buckets.push({ old: 0, new: 0, failed: 0 });
    return buckets[index]!;
  };
  const client = async (keepalive: boolean) => {
    while (!isStopped) {
      const sent = performance.now();
      // A signal of its own: a request that the pipeline aborts would count as failed.
      const reply = await fetchVersion(endpoint, { keepalive, signal: new AbortController().signal });
      const now = performance.now();
      const bucket = bucketAt(now);
      if (reply.failure === undefined) {
        times.push(now - sent);
        bucket[reply.id === id ? "new" : "old"] += 1;
        lastResponse = now;
      } else {
        failed += 1;
        bucket.failed += 1;
        firstFailure ??= reply.failure;
        gapMs = Math.max(gapMs, now - lastResponse);
      }
      await Promise.race([Bun.sleep(endpoint.isRemote ? REMOTE_PAUSE_MS : PAUSE_MS), ended.promise]);
    }
  };
  const clients = [client(true), client(false)];
  let result: Promise<AvailabilityReport> | undefined;
  return () =>
    (result ??= (async () => {
      isStopped = true;
      ended.resolve();
      await Promise.all(clients);
      times.sort((a, b) => a - b);
      const quantileOf = (quantile: number) => times[Math.floor(times.length * quantile)] ?? 0;
      const requests = times.length + failed;
      return {
        requests,
        failed,
        firstFailure,
        medianMs: quantileOf(0.5),
        p99Ms: quantileOf(0.99),
        gapSeconds: gapMs / 1000,
        buckets,
      };
    })());
}

/** Formats the report as one line. */
export function describeAvailability({
  requests,
  failed,
  firstFailure,
  medianMs,
  p99Ms,
  gapSeconds,
}: AvailabilityReport): string {
  const latency = `median ${medianMs.toFixed(1)} ms, p99 ${p99Ms.toFixed(1)} ms`;
  const gap = failed > 0 ? `, no response for ${gapSeconds.toFixed(1)} s` : "";
  const cause = firstFailure ? ` (${firstFailure}${gap})` : "";
  return `${failed} of ${requests} requests failed during the rollout${cause}, ${latency}`;
}

/** Maximal number of characters in the timeline. */
const MAX_WIDTH = 60;
const blocks = { old: "░", both: "▒", new: "█", failed: "✗", none: " " };

/** Renders the rollout as a line of characters: old ░, both ▒, new █, a failed request ✗. */
export function renderTimeline(buckets: TimeBucket[]): string {
  if (buckets.length === 0) return "";
  const perCharacter = Math.ceil(buckets.length / MAX_WIDTH);
  const characters = Array.from({ length: Math.ceil(buckets.length / perCharacter) }, (_, i) => {
    const merged = buckets.slice(i * perCharacter, (i + 1) * perCharacter);
    const sum = (key: keyof TimeBucket) => merged.reduce((total, bucket) => total + bucket[key], 0);
    if (sum("failed") > 0) return blocks.failed;
    if (sum("old") > 0) return sum("new") > 0 ? blocks.both : blocks.old;
    return sum("new") > 0 ? blocks.new : blocks.none;
  });
  const seconds = (buckets.length / 10).toFixed(1);
  return `${characters.join("")} ${seconds} s`;
}

/** Renders the rollout as a chart for GitHub's Markdown. https://mermaid.js.org/syntax/xyChart.html */
export function renderMermaidChart(buckets: TimeBucket[]): string {
  const seconds = Array.from({ length: Math.ceil(buckets.length / 10) }, (_, i) => buckets.slice(i * 10, i * 10 + 10));
  const row = (key: keyof TimeBucket) =>
    seconds.map((tenths) => tenths.reduce((total, bucket) => total + bucket[key], 0)).join(", ");
  return [
    "```mermaid",
    "xychart-beta",
    '  title "Responses per second: old version, new version, failed"',
    `  x-axis "seconds" 0 --> ${seconds.length}`,
    '  y-axis "responses"',
    `  line [${row("old")}]`,
    `  line [${row("new")}]`,
    `  line [${row("failed")}]`,
    "```",
    "",
  ].join("\n");
}
