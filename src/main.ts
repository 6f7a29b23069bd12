/** The service's entry: reads arguments and environment, starts, handles signals. The only file in src/ with side effects. */
import { build } from "./build-info.ts";
import { type Config, ConfigError, loadConfig, settings, urlHost } from "./config.ts";
import { Lifecycle } from "slipway/service";
import { startServer } from "./server.ts";
import { createLogger, stdoutOutput } from "./telemetry/log.ts";

const usage = () => `${build.name} ${build.version}, build ${build.id}: a greeting over HTTP

usage: ${build.name} [--help | --version | --print-config | --health]

  --help           this text
  --version        name, version, build and Bun's version
  --print-config   the configuration that the environment gives, as JSON
  --health         ask the service on PORT for /healthz; exit 0 when it is alive, else 1: a health check without a shell

environment:
${Object.values(settings)
  .map(
    ({ variable, fallback, about }) =>
      `  ${variable.padEnd(24)} ${about}${fallback === "" ? "" : ` (${fallback})`}`,
  )
  .join("\n")}

exit codes: 0 ended as asked; 1 could not listen, or a second signal; 2 wrong arguments or configuration
`;

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

async function healthy({ host, port }: Config): Promise<boolean> {
  const address = host === "0.0.0.0" || host === "::" ? "localhost" : urlHost(host);
  const signal = AbortSignal.timeout(2000);
  return fetch(`http://${address}:${port}/healthz`, { signal }).then(
    ({ ok }) => ok,
    () => false,
  );
}

function serve(config: Config): void {
  const output = stdoutOutput();
  const log = createLogger(config.logLevel, output.write);
  const lifecycle = new Lifecycle((state) => log.info(state));
  const { url, adminUrl, servers } = startServer(config, { lifecycle, log, dropped: () => output.dropped });

  const stop = async (signal: string) => {
    if (lifecycle.state !== "ready") process.exit(1);
    log.info("signal", { signal });
    const { forced } = await lifecycle.drain(servers, {
      delaySeconds: config.drainDelaySeconds,
      timeoutSeconds: config.drainTimeoutSeconds,
    });
    if (forced) log.warn("requests were cut at the deadline", { timeoutSeconds: config.drainTimeoutSeconds });
    await output.flush();
    process.exit(0);
  };
  // As process 1 of a container the kernel drops signals that have no handler.
  process.on("SIGTERM", () => void stop("SIGTERM"));
  process.on("SIGINT", () => void stop("SIGINT"));

  log.info("listening", { url, admin: adminUrl, ...build });
  lifecycle.ready();
}

const [argument, ...more] = process.argv.slice(2);
if (more.length > 0) fail(2, `one argument at a time\n\n${usage()}`);
switch (argument) {
  case undefined:
    try {
      serve(configure());
    } catch (error) {
      // EADDRINUSE and EACCES say all there is to say in their message.
      fail(1, error instanceof Error ? error.message : String(error));
    }
    break;
  case "--help":
    console.log(usage());
    break;
  case "--version":
    console.log(`${build.name} ${build.version} (build ${build.id}, Bun ${build.bun})`);
    break;
  case "--print-config":
    // No setting is a secret; one that is must be left out here.
    console.log(JSON.stringify(configure(), null, 2));
    break;
  case "--health":
    void healthy(configure()).then((alive) => process.exit(alive ? 0 : 1));
    break;
  default:
    fail(2, `unknown argument ${argument}\n\n${usage()}`);
}

function fail(code: number, message: string): never {
  console.error(`${build.name}: ${message}`);
  process.exit(code);
}
