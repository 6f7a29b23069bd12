import { describe, expect, test } from "bun:test";
import { ConfigError, loadConfig, settings } from "../../src/config.ts";

/** Returns the message of the ConfigError, or an empty string. */
function configErrorOf(env: Record<string, string>): string {
  try {
    loadConfig(env);
  } catch (error) {
    if (error instanceof ConfigError) return error.message;
    throw error;
  }
  return "";
}

test("unset variables get their defaults", () => {
  const config = loadConfig({});
  for (const [name, { fallback }] of Object.entries(settings)) {
    expect(config[name as keyof typeof config]).toBe(fallback);
  }
});

test("an empty variable counts as unset", () => {
  expect(loadConfig({ PORT: "", LOG_LEVEL: "" })).toEqual(loadConfig({}));
});

test("every variable is read", () => {
  const config = loadConfig({
    HOST: "127.0.0.1",
    PORT: "1",
    ADMIN_PORT: "2",
    GREETING: "Moin",
    POD_NAME: "p",
    LOG_LEVEL: "debug",
    ACCESS_LOG: "off",
    SLOW_REQUEST_SECONDS: "0.1",
    MAX_BODY_BYTES: "3",
    MAX_URL_BYTES: "100",
    MAX_HEADER_BYTES: "2000",
    MAX_IN_FLIGHT: "5",
    MAX_CONNECTIONS: "6",
    REQUEST_TIMEOUT_SECONDS: "2.5",
    IDLE_TIMEOUT_SECONDS: "4",
    DRAIN_DELAY_SECONDS: "0.5",
    DRAIN_TIMEOUT_SECONDS: "1.5",
  });
  expect(config).toEqual({
    host: "127.0.0.1",
    port: 1,
    adminPort: 2,
    greeting: "Moin",
    podName: "p",
    logLevel: "debug",
    accessLog: "off",
    slowRequestSeconds: 0.1,
    maxBodyBytes: 3,
    maxUrlBytes: 100,
    maxHeaderBytes: 2000,
    maxInFlight: 5,
    maxConnections: 6,
    requestTimeoutSeconds: 2.5,
    idleTimeoutSeconds: 4,
    drainDelaySeconds: 0.5,
    drainTimeoutSeconds: 1.5,
  });
});

describe("bad values", () => {
  test("are listed in one message", () => {
    const message = configErrorOf({ PORT: "x", LOG_LEVEL: "loud", IDLE_TIMEOUT_SECONDS: "256" });
    expect(message.split("\n")).toEqual([
      'PORT="x": expected a whole number from 0 to 65535',
      'LOG_LEVEL="loud": expected one of debug, info, warn, error',
      'IDLE_TIMEOUT_SECONDS="256": expected a whole number from 1 to 255',
    ]);
  });

  test.each(["-1", "65536", "80.5", "8080 ", "0x50", "1e3", "NaN", "Infinity", "８０"])("PORT=%s", (PORT) => {
    expect(configErrorOf({ PORT })).toStartWith("PORT=");
  });

  test("include the same port for PORT and ADMIN_PORT", () => {
    expect(configErrorOf({ PORT: "9090" })).toContain("ADMIN_PORT");
    expect(configErrorOf({ PORT: "0", ADMIN_PORT: "0" })).toBe("");
  });
});
