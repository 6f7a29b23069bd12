/**
 * Configuration: environment variables in, one typed and validated object out.
 *
 * Every problem is reported at once and by the variable's name, so that a wrong deployment is corrected in one round.
 */

/** How one setting is read. `parse` throws a RangeError that says what it expected. */
interface Setting<T> {
  variable: string;
  fallback: T;
  about: string;
  parse(text: string): T;
}

function text(variable: string, fallback: string, about: string): Setting<string> {
  return { variable, fallback, about, parse: (text) => text };
}

function number(
  variable: string,
  fallback: number,
  { min, max, whole = true }: { min: number; max: number; whole?: boolean },
  about: string,
): Setting<number> {
  const parse = (text: string) => {
    const value = /^\d+(\.\d+)?$/.test(text) ? Number(text) : NaN;
    const fits = value >= min && value <= max && (!whole || Number.isInteger(value));
    if (!fits) throw new RangeError(`${whole ? "a whole number" : "a number"} from ${min} to ${max}`);
    return value;
  };
  return { variable, fallback, about, parse };
}

function choice<const T extends string>(
  variable: string,
  fallback: NoInfer<T>,
  values: readonly T[],
  about: string,
): Setting<T> {
  const parse = (text: string) => {
    const value = values.find((value) => value === text);
    if (value === undefined) throw new RangeError(`one of ${values.join(", ")}`);
    return value;
  };
  return { variable, fallback, about, parse };
}

/** All settings of the service: variable, default, meaning. The table in the README is held to this one by a test. */
export const settings = {
  host: text("HOST", "0.0.0.0", "address to listen on"),
  port: number("PORT", 8080, { min: 0, max: 65535 }, "port of the service; 0 takes a free one"),
  adminPort: number("ADMIN_PORT", 9090, { min: 0, max: 65535 }, "port of /metrics; 0 takes a free one"),
  greeting: text("GREETING", "Hello from helloapp", "the greeting"),
  podName: text("POD_NAME", "", "name shown as the one who answered; empty: the host's name"),
  logLevel: choice(
    "LOG_LEVEL",
    "info",
    ["debug", "info", "warn", "error"],
    "least severe level that is logged",
  ),
  accessLog: choice(
    "ACCESS_LOG",
    "on",
    ["on", "off"],
    "one log line for each request; probes at level debug",
  ),
  slowRequestSeconds: number(
    "SLOW_REQUEST_SECONDS",
    1,
    { min: 0, max: 3600, whole: false },
    "a request that takes this long is logged as a warning, also with the access log off",
  ),
  maxBodyBytes: number(
    "MAX_BODY_BYTES",
    65536,
    { min: 0, max: 2 ** 30 },
    "largest request body, in bytes: above it 413",
  ),
  maxUrlBytes: number(
    "MAX_URL_BYTES",
    8192,
    { min: 64, max: 2 ** 20 },
    "longest URL of a path that is not there, in bytes: above it 414 instead of 404",
  ),
  maxHeaderBytes: number(
    "MAX_HEADER_BYTES",
    16384,
    { min: 1024, max: 2 ** 20 },
    "largest request head, in bytes: above it 431",
  ),
  maxInFlight: number(
    "MAX_IN_FLIGHT",
    1000,
    { min: 1, max: 1_000_000 },
    "most requests that are answered at once: above it 503",
  ),
  maxConnections: number(
    "MAX_CONNECTIONS",
    10_000,
    { min: 1, max: 1_000_000 },
    "while there are more connections than this, each reply ends its own",
  ),
  idleTimeoutSeconds: number(
    "IDLE_TIMEOUT_SECONDS",
    10,
    { min: 1, max: 255 },
    "a connection that is silent this long after a request is closed",
  ),
  requestTimeoutSeconds: number(
    "REQUEST_TIMEOUT_SECONDS",
    30,
    { min: 0.001, max: 250, whole: false },
    "longest time that a request is worked on: then 503",
  ),
  drainDelaySeconds: number(
    "DRAIN_DELAY_SECONDS",
    2,
    { min: 0, max: 300, whole: false },
    "after SIGTERM: how long to go on accepting, with `Connection: close` on every reply",
  ),
  drainTimeoutSeconds: number(
    "DRAIN_TIMEOUT_SECONDS",
    10,
    { min: 0, max: 3600, whole: false },
    "after that: how long requests in flight may take before they are cut",
  ),
};

/** The validated configuration: one property for each of `settings`. */
export type Config = {
  [Name in keyof typeof settings]: (typeof settings)[Name] extends Setting<infer T> ? T : never;
};

/** At least one variable has a value that the service does not accept. The message names each. */
export class ConfigError extends Error {
  override name = "ConfigError";
}

/** An address as it stands in a URL: one of IPv6 in brackets. */
export function urlHost(address: string): string {
  return address.includes(":") ? `[${address}]` : address;
}

/**
 * Reads the configuration from environment variables. An unset or empty variable takes its default.
 *
 * @throws {ConfigError} naming every variable with a bad value
 * @example
 * loadConfig({ PORT: "8081" }).port // 8081
 */
export function loadConfig(env: Record<string, string | undefined>): Config {
  const problems: string[] = [];
  const values: Record<string, unknown> = {};
  for (const [name, setting] of Object.entries(settings)) {
    const given = env[setting.variable];
    values[name] = setting.fallback;
    if (given === undefined || given === "") continue;
    try {
      values[name] = setting.parse(given);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      problems.push(`${setting.variable}=${JSON.stringify(given)}: expected ${error.message}`);
    }
  }
  // Each value was made by the setting of that name, which the compiler cannot follow through entries.
  const config = values as Config;
  if (config.port && config.port === config.adminPort) {
    problems.push(`ADMIN_PORT: expected another port than PORT, both are ${config.port}`);
  }
  if (problems.length > 0) throw new ConfigError(problems.join("\n"));
  return config;
}
