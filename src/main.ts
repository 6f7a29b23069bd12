/** The service's entry: reads the environment, starts, handles signals. The only file in src/ with side effects. */
import { build } from "./build.ts";
import { type Config, ConfigError, loadConfig } from "./config.ts";
import { Lifecycle } from "./lifecycle.ts";
import { startServer } from "./server.ts";
import { createLogger, stdoutWriter } from "./telemetry/log.ts";

function configure(): Config {
  try {
    return loadConfig(process.env);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    console.error(
      `helloapp: the configuration is wrong, nothing was started\n${error.message.replace(/^/gm, "  ")}`,
    );
    process.exit(2);
  }
}

const config = configure();
const output = stdoutWriter();
const log = createLogger(config.logLevel, output.write);
const lifecycle = new Lifecycle((state) => log.info(state));

function start() {
  try {
    return startServer(config, { lifecycle, log });
  } catch (error) {
    // EADDRINUSE and EACCES say all there is to say in their message.
    console.error(`helloapp: ${error instanceof Error ? error.message : error}`);
    process.exit(1);
  }
}

const { url, adminUrl, servers } = start();

async function stop(signal: string): Promise<void> {
  if (lifecycle.state !== "ready") process.exit(1);
  log.info("signal", { signal });
  const { forced } = await lifecycle.drain(servers, {
    delaySeconds: config.drainDelaySeconds,
    timeoutSeconds: config.drainTimeoutSeconds,
  });
  if (forced) log.warn("requests were cut at the deadline", { timeoutSeconds: config.drainTimeoutSeconds });
  await output.flush();
  process.exit(0);
}

// As process 1 of a container the kernel drops signals that have no handler.
process.on("SIGTERM", () => void stop("SIGTERM"));
process.on("SIGINT", () => void stop("SIGINT"));

log.info("listening", { url: url.href, admin: adminUrl.href, ...build });
lifecycle.ready();
