/**
 * Serves metrics of requests on a port of its own, if METRICS_PORT is set. Prometheus scrapes them, and clients do not see
 * them.
 *
 * Names follow OpenTelemetry's semantic conventions for HTTP and its compatibility with Prometheus. `process_*` are the
 * names of Prometheus' client libraries. https://opentelemetry.io/docs/specs/semconv/http/http-metrics/
 */

/** Upper bounds of the histogram in seconds, as the conventions recommend. */
const bounds = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10];
/** Methods of the conventions. Clients can invent any number of others. */
const methods = new Set("GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH QUERY".split(" "));
const METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8";

const { env } = process;

/** Port of the metrics. Undefined if they are off. */
const metricsPort = env.METRICS_PORT ? resolveMetricsPort(env.METRICS_PORT) : undefined;
/** Whether metrics are on. */
export const hasMetrics = metricsPort !== undefined;

function resolveMetricsPort(given: string): number | undefined {
  const port = Number(given);
  if (Number.isInteger(port) && port > 0 && port <= 65535 && given !== env.PORT) return port;
  // Metrics are not worth the service.
  console.error(`no metrics: METRICS_PORT is ${JSON.stringify(given)}. It must be a port other than PORT.`);
  return undefined;
}

interface Series {
  labels: string;
  count: number;
  sum: number;
  /** Counts that are not cumulative. */
  buckets: number[];
}

/** Requests in progress by method. */
const active = new Map<string, { count: number }>();
const counters = new Map<string | undefined, RouteCounter>();

/** Counts the requests of a route. */
export class RouteCounter {
  private readonly methods = new Map<string, MethodCounter>();

  /** @param route pattern of the router. undefined: the service routes by itself */
  private constructor(private readonly route: string | undefined) {}

  /** Returns the counter of a route. All servers share it. */
  static of(route: string | undefined): RouteCounter {
    let counter = counters.get(route);
    if (!counter) counters.set(route, (counter = new RouteCounter(route)));
    return counter;
  }

  begin(method: string): ActiveRequest {
    const counter = this.methods.get(method) ?? this.add(method);
    counter.active.count += 1;
    return { counter, start: Bun.nanoseconds(), isOver: false };
  }

  private add(method: string): MethodCounter {
    const name = methods.has(method) ? method : "_OTHER";
    const counter = this.methods.get(name) ?? new MethodCounter(name, this.route);
    this.methods.set(name, counter);
    return counter;
  }

  get series(): Series[] {
    return [...this.methods.values()].flatMap(({ series }) => [...series.values()]);
  }
}

class MethodCounter {
  readonly series = new Map<number, Series>();
  readonly active: { count: number };
  /** The series of the last request, which is usually that of the next. */
  lastStatus = 0;
  lastSeries: Series | undefined;

  constructor(
    private readonly method: string,
    private readonly route: string | undefined,
  ) {
    this.active = active.get(method) ?? { count: 0 };
    active.set(method, this.active);
  }

  find(status: number): Series {
    const found = this.series.get(status) ?? this.add(status);
    this.lastStatus = status;
    this.lastSeries = found;
    return found;
  }

  private add(status: number): Series {
    const { method, route } = this;
    const labels = [
      `http_request_method="${method}"`,
      ...(route === undefined ? [] : [`http_route="${route.replace(/["\\]/g, "\\$&")}"`]),
      `http_response_status_code="${status}"`,
      'url_scheme="http"',
      ...(status >= 500 ? [`error_type="${status}"`] : []),
    ];
    const added = { labels: labels.join(), count: 0, sum: 0, buckets: bounds.map(() => 0) };
    this.series.set(status, added);
    return added;
  }
}

/** A request in progress. A plain object, because each request makes one. */
export interface ActiveRequest {
  counter: MethodCounter;
  start: number;
  isOver: boolean;
}

/** Counts the end of a request, at the first call. */
export function endRequest(request: ActiveRequest, status: number): void {
  if (request.isOver) return;
  request.isOver = true;
  const { counter, start } = request;
  counter.active.count -= 1;
  const series = counter.lastStatus === status ? counter.lastSeries! : counter.find(status);
  const seconds = (Bun.nanoseconds() - start) / 1e9;
  series.count += 1;
  series.sum += seconds;
  let bucket = 0;
  while (seconds > bounds[bucket]!) bucket += 1;
  if (bucket < bounds.length) series.buckets[bucket]! += 1;
}

let server: { unref(): void; stop(force: boolean): unknown } | undefined;
let isYielded = false;

/**
 * Starts the server of the metrics, once. It serves until the process exits, also during the drain, and never keeps the
 * process alive.
 *
 * @param listen the original `Bun.serve`
 */
export function serveMetrics(listen: typeof Bun.serve): void {
  if (metricsPort === undefined || server || isYielded) return;
  try {
    server = listen({
      port: metricsPort,
      hostname: "0.0.0.0",
      reusePort: false,
      development: false,
      routes: { "/metrics": () => new Response(renderMetrics(), { headers: { "Content-Type": METRICS_TYPE } }) },
      fetch: () => new Response(null, { status: 404 }),
    });
    server.unref();
  } catch (error) {
    isYielded = true;
    console.error(`no metrics: port ${metricsPort}: ${(error as Error).message}`);
  }
}

/** Leaves the port to the service, if it listens there itself: METRICS_PORT is a variable of its own then. */
export function yieldMetricsPort(port: unknown): void {
  if (metricsPort === undefined || isYielded || Number(port) !== metricsPort) return;
  isYielded = true;
  server?.stop(true);
}

function renderMetrics(): string {
  const { user, system } = process.cpuUsage();
  const name = "http_server_request_duration_seconds";
  const histogram = [...counters.values()]
    .flatMap(({ series }) => series)
    .flatMap(({ labels, count, sum, buckets }) => {
      let total = 0;
      return [
        ...bounds.map((bound, at) => `${name}_bucket{${labels},le="${bound}"} ${(total += buckets[at]!)}`),
        `${name}_bucket{${labels},le="+Inf"} ${count}`,
        `${name}_sum{${labels}} ${sum}`,
        `${name}_count{${labels}} ${count}`,
      ];
    });
  const requests = [...active].map(([method, { count }]) => {
    return [`{http_request_method="${method}",url_scheme="http"}`, count] as const;
  });
  const lines = [
    `# HELP ${name} Duration of HTTP server requests.`,
    `# TYPE ${name} histogram`,
    ...histogram,
    ...metric("http_server_active_requests", "gauge", "Number of active HTTP server requests.", requests),
    ...metric("process_cpu_seconds_total", "counter", "User and system CPU time.", [["", (user + system) / 1e6]]),
    ...metric("process_resident_memory_bytes", "gauge", "Resident memory.", [["", process.memoryUsage.rss()]]),
    ...metric("process_start_time_seconds", "gauge", "Start of the process.", [
      ["", Date.now() / 1000 - process.uptime()],
    ]),
    ...metric("process_open_fds", "gauge", "Open file descriptors.", [["", countOpenFiles()]]),
  ];
  return `${lines.join("\n")}\n`;
}

function metric(name: string, type: string, help: string, values: (readonly [labels: string, value: number])[]) {
  return [
    `# HELP ${name} ${help}`,
    `# TYPE ${name} ${type}`,
    ...values.map(([labels, value]) => `${name}${labels} ${value}`),
  ];
}

function countOpenFiles(): number {
  try {
    // The directory itself is open meanwhile.
    return process.getBuiltinModule("node:fs").readdirSync("/proc/self/fd").length - 1;
  } catch {
    return 0;
  }
}
