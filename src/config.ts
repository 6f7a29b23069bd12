/**
 * Reads environment variables into a typed and validated configuration.
 *
 * All invalid variables are reported at once and by name, so that you can fix a deployment in one round.
 */

/** An environment variable with its default. `parse` throws a RangeError that describes the expected value. */
interface Setting<T> {
  variable: string;
  fallback: T;
  description: string;
  parse(text: string): T;
}

function text(variable: string, fallback: string, description: string): Setting<string> {
  return { variable, fallback, description, parse: (text) => text };
}

function number(
  variable: string,
  fallback: number,
  { min, max, whole = true }: { min: number; max: number; whole?: boolean },
  description: string,
): Setting<number> {
  const parse = (text: string) => {
    const value = /^\d+(\.\d+)?$/.test(text) ? Number(text) : NaN;
    const isValid = value >= min && value <= max && (!whole || Number.isInteger(value));
    if (!isValid) throw new RangeError(`${whole ? "a whole number" : "a number"} from ${min} to ${max}`);
    return value;
  };
  return { variable, fallback, description, parse };
}

function choice<const T extends string>(
  variable: string,
  fallback: NoInfer<T>,
  values: readonly T[],
  description: string,
): Setting<T> {
  const parse = (text: string) => {
    const value = values.find((value) => value === text);
    if (value === undefined) throw new RangeError(`one of ${values.join(", ")}`);
    return value;
  };
  return { variable, fallback, description, parse };
}

/** All settings of the service. A test compares them with the table in README.md. */
export const settings = {
  host: text("HOST", "0.0.0.0", "address to listen on"),
  port: number("PORT", 8080, { min: 0, max: 65535 }, "port of the service (0: any free port)"),
  adminPort: number("ADMIN_PORT", 9090, { min: 0, max: 65535 }, "port of /metrics (0: any free port)"),
  greeting: text("GREETING", "Hello from helloapp", "greeting text"),
  podName: text("POD_NAME", "", "pod name in replies (empty: the host name)"),
  logLevel: choice("LOG_LEVEL", "info", ["debug", "info", "warn", "error"], "lowest level that is logged"),
  accessLog: choice("ACCESS_LOG", "on", ["on", "off"], "log a line for each request (probes at level debug)"),
  slowRequestSeconds: number(
    "SLOW_REQUEST_SECONDS",
    1,
    { min: 0, max: 3600, whole: false },
    "log slower requests as a warning, also with the access log off",
  ),
  maxBodyBytes: number("MAX_BODY_BYTES", 65536, { min: 0, max: 2 ** 30 }, "maximum request body in bytes (above: 413)"),
  maxUrlBytes: number(
    "MAX_URL_BYTES",
    8192,
    { min: 64, max: 2 ** 20 },
    "maximum URL length of an unknown path in bytes (above: 414 instead of 404)",
  ),
  maxHeaderBytes: number(
    "MAX_HEADER_BYTES",
    16384,
    { min: 1024, max: 2 ** 20 },
    "maximum size of the request headers in bytes (above: 431)",
  ),
  maxInFlight: number(
    "MAX_IN_FLIGHT",
    1000,
    { min: 1, max: 1_000_000 },
    "maximum number of concurrent requests (above: 503)",
  ),
  maxConnections: number(
    "MAX_CONNECTIONS",
    10_000,
    { min: 1, max: 1_000_000 },
    "maximum number of connections (above: each reply closes its connection)",
  ),
  idleTimeoutSeconds: number(
    "IDLE_TIMEOUT_SECONDS",
    10,
    { min: 1, max: 255 },
    "close a connection after this time without data",
  ),
  requestTimeoutSeconds: number(
    "REQUEST_TIMEOUT_SECONDS",
    30,
    { min: 0.001, max: 250, whole: false },
    "maximum time to handle a request (above: 503)",
  ),
  drainDelaySeconds: number(
    "DRAIN_DELAY_SECONDS",
    2,
    { min: 0, max: 300, whole: false },
    "after SIGTERM: keep accepting requests this long, with `Connection: close` on every reply",
  ),
  drainTimeoutSeconds: number(
    "DRAIN_TIMEOUT_SECONDS",
    10,
    { min: 0, max: 3600, whole: false },
    "after the drain delay: wait this long for requests in flight, then abort them",
  ),
};

/** The validated configuration, with a property for each of `settings`. */
export type Config = {
  [Name in keyof typeof settings]: (typeof settings)[Name] extends Setting<infer T> ? T : never;
};

/** Invalid environment variables. The message has a line for each of them. */
export class ConfigError extends Error {
  override name = "ConfigError";
}

/** Formats an address for a URL: IPv6 addresses get brackets. */
export function formatUrlHost(address: string): string {
  return address.includes(":") ? `[${address}]` : address;
}

/**
 * Reads the configuration from environment variables. Unset and empty variables get their default.
 *
 * @throws {ConfigError} if variables are invalid. The message lists all of them
 * @example
 * loadConfig({ PORT: "8081" }).port // 8081
 */
export function loadConfig(env: Record<string, string | undefined>): Config {
  const problems: string[] = [];
  const values: Record<string, unknown> = {};
  for (const [name, setting] of Object.entries(settings)) {
    const text = env[setting.variable];
    values[name] = setting.fallback;
    if (text === undefined || text === "") continue;
    try {
      values[name] = setting.parse(text);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      problems.push(`${setting.variable}=${JSON.stringify(text)}: expected ${error.message}`);
    }
  }
  // Each value comes from the setting of the same name, which TypeScript cannot infer through Object.entries().
  const config = values as Config;
  if (config.port && config.port === config.adminPort) {
    problems.push(`ADMIN_PORT: expected a port other than PORT (both are ${config.port})`);
  }
  if (problems.length > 0) throw new ConfigError(problems.join("\n"));
  return config;
}
