/**
 * Metrics in Prometheus' text format 0.0.4.
 *
 * The names of HTTP metrics follow OpenTelemetry's semantic conventions for HTTP (1.44) and its specification of
 * compatibility with Prometheus: `http.server.request.duration` in seconds is `http_server_request_duration_seconds`.
 * `process_*` are the names of Prometheus' client libraries. The other names are specific to this service.
 *
 * These counters cost 1 % of a bare handler's throughput, and prom-client costs 3-8 %. A request costs two look-ups and a
 * few additions, and all formatting happens at a scrape. A library could replace them by implementing `Metrics`.
 */
import { buildInfo } from "../build-info.ts";

/** Limits that reject a request. */
const REJECTION_REASONS = ["body", "length", "url", "in-flight", "time"] as const;
export type RejectionReason = (typeof REJECTION_REASONS)[number];

export interface Metrics {
  /** Number of requests in progress. */
  readonly inFlight: number;
  /** Number of connections closed because there were more than MAX_CONNECTIONS. */
  shedConnections: number;
  /**
   * Returns the metrics of a route. All servers share the series of a route.
   *
   * @param route must come from a fixed set, because each value is a new series. Pass undefined if no route matched
   */
  route(route: string | undefined): RouteMetrics;
  reject(reason: RejectionReason): void;
  render(): string;
}

export interface RouteMetrics {
  /** Counts the start of a request. Unknown methods count as `_OTHER`, because clients can invent any number of them. */
  begin(method: string): ActiveRequest;
}

export interface ActiveRequest {
  /** Counts the end of the request. Call it once. */
  end(status: number, seconds: number): void;
}

export const METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8";

/** Upper bounds of the histogram in seconds, as the conventions recommend. */
const bounds = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10];
/** The methods in the conventions. The list is fixed, because this service supports only three of them. */
const methods = "GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH QUERY _OTHER".split(" ");
/** A label that the conventions require. The service itself speaks plain HTTP, also behind a TLS proxy. */
const SCHEME = 'url_scheme="http"';

/** A map that creates missing values. */
class AutoMap<K, V> extends Map<K, V> {
  constructor(private readonly create: (key: K) => V) {
    super();
  }
  getOrCreate(key: K): V {
    const existing = this.get(key);
    if (existing !== undefined) return existing;
    const value = this.create(key);
    this.set(key, value);
    return value;
  }
}

interface Histogram {
  labels: string;
  count: number;
  sum: number;
  /** Counts that are not cumulative. The last bucket is above all bounds. */
  buckets: number[];
}

function createHistogram(route: string | undefined, method: string, status: number): Histogram {
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

/** Creates metrics. @param countDroppedLines returns the number of log lines dropped so far */
export function createMetrics({ countDroppedLines = () => 0 }: { countDroppedLines?: () => number } = {}): Metrics {
  const active = new AutoMap<string, { count: number }>(() => ({ count: 0 }));
  const rejected = new Map<RejectionReason, number>(REJECTION_REASONS.map((reason) => [reason, 0]));
  const startTime = Date.now() / 1000 - process.uptime();
  let inFlight = 0;

  /** Creates the counters for a method of a route. */
  function createCounters(route: string | undefined, method: string) {
    const gauge = active.getOrCreate(method);
    const histogramsByStatus = new AutoMap<number, Histogram>((status) => createHistogram(route, method, status));
    const end = (status: number, seconds: number) => {
      inFlight -= 1;
      gauge.count -= 1;
      const histogram = histogramsByStatus.getOrCreate(status);
      histogram.count += 1;
      histogram.sum += seconds;
      let bucket = 0;
      while (bucket < bounds.length && seconds > bounds[bucket]!) bucket += 1;
      histogram.buckets[bucket]! += 1;
    };
    return { gauge, histogramsByStatus, end };
  }
  const routes = new AutoMap((route: string | undefined) => {
    const byMethod = new AutoMap((method: string) => createCounters(route, method));
    const begin = (method: string): ActiveRequest => {
      const counters = byMethod.get(method) ?? byMethod.getOrCreate(methods.includes(method) ? method : "_OTHER");
      inFlight += 1;
      counters.gauge.count += 1;
      return counters;
    };
    return { byMethod, begin };
  });

  return {
    get inFlight() {
      return inFlight;
    },
    shedConnections: 0,
    route: (route) => routes.getOrCreate(route),
    reject(reason) {
      rejected.set(reason, rejected.get(reason)! + 1);
    },
    render() {
      const { user, system } = process.cpuUsage();
      const { rss, heapUsed, heapTotal } = process.memoryUsage();
      const all = [...routes.values()].flatMap(({ byMethod }) =>
        [...byMethod.values()].flatMap(({ histogramsByStatus }) => [...histogramsByStatus.values()]),
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
          "Requests rejected by a limit.",
          [...rejected].map(([reason, count]) => [`reason="${reason}"`, count]),
        ),
        metric("http_connections_shed_total", "counter", "Connections closed above the limit.", [
          ["", this.shedConnections],
        ]),
        metric("helloapp_build_info", "gauge", "Version and build; the value is always 1.", [
          [`version="${buildInfo.version}",build="${buildInfo.id}",bun="${buildInfo.bun}"`, 1],
        ]),
        metric("log_lines_dropped_total", "counter", "Log lines dropped because of a slow reader.", [
          ["", countDroppedLines()],
        ]),
        metric("process_cpu_seconds_total", "counter", "CPU time, user and system.", [["", (user + system) / 1e6]]),
        metric("process_resident_memory_bytes", "gauge", "Resident memory.", [["", rss]]),
        metric("process_open_fds", "gauge", "Open file descriptors, most of them connections.", [
          ["", countOpenFiles()],
        ]),
        metric("process_start_time_seconds", "gauge", "Start time in seconds since 1970.", [["", startTime]]),
        metric("javascript_heap_used_bytes", "gauge", "JavaScript heap in use.", [["", heapUsed]]),
        metric("javascript_heap_total_bytes", "gauge", "JavaScript heap reserved.", [["", heapTotal]]),
      ].join("");
    },
  };
}

/** Counts the open file descriptors of this process. */
export function countOpenFiles(): number {
  // Loaded at first use: the module takes longer to load than the service to start without it. An import or require()
  // would add 1.5 MB of bytecode to the binary.
  return process.getBuiltinModule("node:fs").readdirSync("/proc/self/fd").length;
}

function metric(name: string, type: string, help: string, values: [labels: string, value: number][]): string {
  const lines = values.map(([labels, value]) => `${name}${labels && `{${labels}}`} ${value}\n`);
  return `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${lines.join("")}`;
}

function histograms(name: string, help: string, all: Histogram[]): string {
  const lines = all.flatMap(({ labels, count, sum, buckets }) => {
    let cumulative = 0;
    return [
      ...bounds.map((bound, i) => `${name}_bucket{${labels},le="${bound}"} ${(cumulative += buckets[i]!)}\n`),
      `${name}_bucket{${labels},le="+Inf"} ${count}\n`,
      `${name}_sum{${labels}} ${sum}\n`,
      `${name}_count{${labels}} ${count}\n`,
    ];
  });
  return `# HELP ${name} ${help}\n# TYPE ${name} histogram\n${lines.join("")}`;
}
