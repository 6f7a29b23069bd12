/**
 * Metrics in Prometheus' text format 0.0.4.
 *
 * Names of requests are those of OpenTelemetry's semantic conventions for HTTP (1.44) as its specification of
 * compatibility with Prometheus spells them: `http.server.request.duration` in seconds is
 * `http_server_request_duration_seconds`. `process_*` are those of Prometheus' own client libraries. The rest is ours.
 *
 * Our own counters in place of prom-client, which takes 3-8 % of a bare handler's throughput where these take 1 %: a
 * request costs two look-ups and a few additions, and all formatting happens when somebody scrapes. `Metrics` is what a
 * library would have to offer to come back.
 */
import { build } from "../build-info.ts";

/** Why a request was refused before it reached its route. */
export const reasons = ["body", "length", "url", "in-flight", "time"] as const;
export type Reason = (typeof reasons)[number];

export interface Metrics {
  /** Requests that have begun and not ended. */
  readonly inFlight: number;
  /** Connections that were told to end because there were more than MAX_CONNECTIONS. */
  shed: number;
  /**
   * Counts requests of one route; undefined: of none. `route` must come from a closed set: each value is a series for
   * ever. The same name is the same series, whichever server asks.
   */
  route(route: string | undefined): RouteMetrics;
  reject(reason: Reason): void;
  render(): string;
}

export interface RouteMetrics {
  /** A request has begun. An unusual method counts as `_OTHER`, since clients can invent them without end. */
  begin(method: string): Begun;
}

export interface Begun {
  /** It has ended; to be called once. */
  end(status: number, seconds: number): void;
}

export const metricsType = "text/plain; version=0.0.4; charset=utf-8";

/** Upper bounds of the histogram in seconds: those that the conventions advise. */
const bounds = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10];
/** The methods that the conventions know. There is no way to name others, because this service answers to three of them. */
const methods = "GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH QUERY _OTHER".split(" ");
/** What the conventions want to be told of every request. Whatever a proxy spoke with the client, this service speaks: */
const SCHEME = 'url_scheme="http"';

/** A map whose values are made when they are first asked for. */
class Made<K, V> extends Map<K, V> {
  constructor(private readonly make: (key: K) => V) {
    super();
  }
  of(key: K): V {
    const known = this.get(key);
    if (known !== undefined) return known;
    const value = this.make(key);
    this.set(key, value);
    return value;
  }
}

interface Histogram {
  labels: string;
  count: number;
  sum: number;
  /** Not cumulative; the last one is for what is above all bounds. */
  buckets: number[];
}

function histogramOf(route: string | undefined, method: string, status: number): Histogram {
  const labels = [
    `http_request_method="${method}"`,
    ...(route === undefined ? [] : [`http_route="${route}"`]),
    `http_response_status_code="${status}"`,
    SCHEME,
    ...(status >= 500 ? [`error_type="${status}"`] : []),
  ];
  return {
    labels: labels.join(),
    count: 0,
    sum: 0,
    buckets: new Array<number>(bounds.length + 1).fill(0),
  };
}

/** @param dropped lines that the log has thrown away so far */
export function createMetrics({ dropped = () => 0 }: { dropped?: () => number } = {}): Metrics {
  const active = new Made<string, { count: number }>(() => ({ count: 0 }));
  const rejected = new Map<Reason, number>(reasons.map((reason) => [reason, 0]));
  const started = Date.now() / 1000 - process.uptime();
  let inFlight = 0;

  /** What is counted of one route's requests of one method. */
  function counting(route: string | undefined, method: string) {
    const begun = active.of(method);
    const ended = new Made<number, Histogram>((status) => histogramOf(route, method, status));
    const end = (status: number, seconds: number) => {
      inFlight -= 1;
      begun.count -= 1;
      const histogram = ended.of(status);
      histogram.count += 1;
      histogram.sum += seconds;
      let bucket = 0;
      while (bucket < bounds.length && seconds > bounds[bucket]!) bucket += 1;
      histogram.buckets[bucket]! += 1;
    };
    return { begun, ended, end };
  }
  const routes = new Made((route: string | undefined) => {
    const byMethod = new Made((method: string) => counting(route, method));
    const begin = (method: string): Begun => {
      const counted = byMethod.get(method) ?? byMethod.of(methods.includes(method) ? method : "_OTHER");
      inFlight += 1;
      counted.begun.count += 1;
      return counted;
    };
    return { byMethod, begin };
  });

  return {
    get inFlight() {
      return inFlight;
    },
    shed: 0,
    route: (route) => routes.of(route),
    reject(reason) {
      rejected.set(reason, rejected.get(reason)! + 1);
    },
    render() {
      const { user, system } = process.cpuUsage();
      const { rss, heapUsed, heapTotal } = process.memoryUsage();
      const all = [...routes.values()].flatMap(({ byMethod }) =>
        [...byMethod.values()].flatMap(({ ended }) => [...ended.values()]),
      );
      return [
        histograms("http_server_request_duration_seconds", "Duration of HTTP server requests.", all),
        metric(
          "http_server_active_requests",
          "gauge",
          "Number of active HTTP server requests.",
          [...active].map(([method, { count }]) => [`http_request_method="${method}",${SCHEME}`, count]),
        ),
        metric(
          "http_requests_rejected_total",
          "counter",
          "Requests refused at a limit.",
          [...rejected].map(([reason, count]) => [`reason="${reason}"`, count]),
        ),
        metric("http_connections_shed_total", "counter", "Connections ended because of too many.", [
          ["", this.shed],
        ]),
        metric("helloapp_build_info", "gauge", "What runs; the value is always 1.", [
          [`version="${build.version}",build="${build.id}",bun="${build.bun}"`, 1],
        ]),
        metric("log_lines_dropped_total", "counter", "Log lines that nobody read in time.", [
          ["", dropped()],
        ]),
        metric("process_cpu_seconds_total", "counter", "CPU time, user and system.", [
          ["", (user + system) / 1e6],
        ]),
        metric("process_resident_memory_bytes", "gauge", "Resident memory.", [["", rss]]),
        metric("process_open_fds", "gauge", "Open file descriptors; all but a few are connections.", [
          ["", openFiles()],
        ]),
        metric("process_start_time_seconds", "gauge", "Start, in seconds since 1970.", [["", started]]),
        metric("javascript_heap_used_bytes", "gauge", "JavaScript heap in use.", [["", heapUsed]]),
        metric("javascript_heap_total_bytes", "gauge", "JavaScript heap reserved.", [["", heapTotal]]),
      ].join("");
    },
  };
}

/** Open file descriptors of this process. */
export function openFiles(): number {
  // Loaded when it is first needed: the module takes longer to load than the service to start without it. An import or
  // require() of it would put 1.5 MB of bytecode into the binary.
  return process.getBuiltinModule("node:fs").readdirSync("/proc/self/fd").length;
}

function metric(name: string, type: string, help: string, values: [labels: string, value: number][]): string {
  const lines = values.map(([labels, value]) => `${name}${labels && `{${labels}}`} ${value}\n`);
  return `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${lines.join("")}`;
}

function histograms(name: string, help: string, all: Histogram[]): string {
  const lines = all.flatMap(({ labels, count, sum, buckets }) => {
    let below = 0;
    return [
      ...bounds.map((bound, i) => `${name}_bucket{${labels},le="${bound}"} ${(below += buckets[i]!)}\n`),
      `${name}_bucket{${labels},le="+Inf"} ${count}\n`,
      `${name}_sum{${labels}} ${sum}\n`,
      `${name}_count{${labels}} ${count}\n`,
    ];
  });
  return `# HELP ${name} ${help}\n# TYPE ${name} histogram\n${lines.join("")}`;
}
