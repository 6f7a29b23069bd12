/** Entry point: reads arguments and environment, starts the service, handles signals. No other file in src/ has side effects. */
import { buildInfo } from "./build-info.ts";
import { type Config, ConfigError, formatUrlHost, loadConfig, settings } from "./config.ts";
import { Lifecycle } from "slipway/service";
import { startServer } from "./server.ts";
import { createLogger, createStdoutOutput } from "./telemetry/log.ts";

const usage = () => `${buildInfo.name} ${buildInfo.version}, build ${buildInfo.id}: serves a greeting over HTTP

usage: ${buildInfo.name} [--help | --version | --print-config | --health]

  --help           Show this help
  --version        Show name, version, build and Bun's version
  --print-config   Show the configuration from the environment as JSON
  --health         Request /healthz on PORT: exit 0 if the service is alive, else 1

environment:
${Object.values(settings)
  .map(
    ({ variable, fallback, description }) =>
      `  ${variable.padEnd(24)} ${description}${fallback === "" ? "" : ` [default: ${fallback}]`}`,
  )
  .join("\n")}

exit codes: 0 success; 1 cannot listen, or a second signal; 2 invalid arguments or configuration
`;

function configure(): Config {
  try {
    return loadConfig(process.env);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    console.error(
      `helloapp: invalid configuration, the service was not started\n${error.message.replace(/^/gm, "  ")}`,
    );
    process.exit(2);
  }
}

async function checkHealth({ host, port }: Config): Promise<boolean> {
  const address = host === "0.0.0.0" || host === "::" ? "localhost" : formatUrlHost(host);
  const signal = AbortSignal.timeout(2000);
  return fetch(`http://${address}:${port}/healthz`, { signal }).then(
    ({ ok }) => ok,
    () => false,
  );
}

function serve(config: Config): void {
  const output = createStdoutOutput();
  const log = createLogger(config.logLevel, output.write);
  const lifecycle = new Lifecycle((state) => log.info(state));
  const { url, adminUrl, servers } = startServer(config, {
    lifecycle,
    log,
    countDroppedLines: () => output.dropped,
  });

  const stop = async (signal: string) => {
    if (lifecycle.state !== "ready") process.exit(1);
    log.info("signal", { signal });
    const { forced } = await lifecycle.drain(servers, {
      delaySeconds: config.drainDelaySeconds,
      timeoutSeconds: config.drainTimeoutSeconds,
    });
    if (forced) log.warn("requests aborted at the drain timeout", { timeoutSeconds: config.drainTimeoutSeconds });
    await output.flush();
    process.exit(0);
  };
  // The kernel ignores signals without a handler for process 1 of a container.
  process.on("SIGTERM", () => void stop("SIGTERM"));
  process.on("SIGINT", () => void stop("SIGINT"));

  log.info("listening", { url, admin: adminUrl, ...buildInfo });
  lifecycle.ready();
}

const [argument, ...more] = process.argv.slice(2);
if (more.length > 0) fail(2, `expected at most one argument\n\n${usage()}`);
switch (argument) {
  case undefined:
    try {
      serve(configure());
    } catch (error) {
      // The message of EADDRINUSE and EACCES needs no stack trace.
      fail(1, error instanceof Error ? error.message : String(error));
    }
    break;
  case "--help":
    console.log(usage());
    break;
  case "--version":
    console.log(`${buildInfo.name} ${buildInfo.version} (build ${buildInfo.id}, Bun ${buildInfo.bun})`);
    break;
  case "--print-config":
    // No setting is a secret. A secret setting must be left out here.
    console.log(JSON.stringify(configure(), null, 2));
    break;
  case "--health":
    void checkHealth(configure()).then((isAlive) => process.exit(isAlive ? 0 : 1));
    break;
  default:
    fail(2, `unknown argument ${argument}\n\n${usage()}`);
}

function fail(code: number, message: string): never {
  console.error(`${buildInfo.name}: ${message}`);
  process.exit(code);
}
