/** Opens the session of `dagger run`. Its engine is usable before the SDK has loaded. */
import { PipelineError } from "../core/errors.ts";
import type { Service } from "../core/resolve-service.ts";
import type { Engine } from "./engine.ts";

/** Returns whether `dagger run` started this process. Without a session, the SDK would download a CLI. */
function isInSession(): boolean {
  return Boolean(process.env.DAGGER_SESSION_PORT && process.env.DAGGER_SESSION_TOKEN);
}

/**
 * Opens the session while `use` runs. `use` starts immediately, so that connecting to the cluster overlaps with loading the
 * SDK, which takes a third of a second. Calls to the engine wait for the SDK.
 *
 * @throws {PipelineError} "environment" if there is no session, or the SDK is not installed
 */
export async function withDagger<T>(
  service: Service,
  signal: AbortSignal,
  use: (engine: Engine) => Promise<T>,
): Promise<T> {
  if (!isInSession()) {
    throw new PipelineError("environment", "--engine dagger requires a Dagger session", {
      code: "dagger-unavailable",
      hint: "Start one with `dagger run bun ci/pipeline.ts`, or use --engine host.",
    });
  }
  const ready = Promise.withResolvers<Engine>();
  const finished = Promise.withResolvers<void>();
  const session = loadDagger().then(({ openSession }) =>
    openSession(service, signal, (engine) => (ready.resolve(engine), finished.promise)),
  );
  session.catch(ready.reject);
  ready.promise.catch(() => {});
  try {
    return await use(deferredEngine(ready.promise));
  } finally {
    finished.resolve();
    // An error of the session has already rejected every call to the engine.
    await session.catch(() => {});
  }
}

function deferredEngine(ready: Promise<Engine>): Engine {
  return {
    name: "dagger",
    startRun: () => void ready.then((engine) => engine.startRun?.()).catch(() => {}),
    runPrebuild: async () => (await ready).runPrebuild(),
    runScript: async (name) => (await ready).runScript(name),
    computeId: async (architecture) => (await ready).computeId(architecture),
    build: async (dist, architecture) => (await ready).build(dist, architecture),
  };
}

/**
 * Imports the Dagger engine on demand, because its SDK is an optional dependency.
 *
 * @throws {PipelineError} "environment" if the SDK is not installed
 */
async function loadDagger() {
  try {
    return await import("./dagger.ts");
  } catch (error) {
    if (!/@dagger\.io\/dagger/.test((error as Error).message)) throw error;
    throw new PipelineError(
      "environment",
      "the Dagger engine requires the package @dagger.io/dagger, which is not installed",
      {
        code: "dagger-unavailable",
        hint: "Run `bun add --dev --exact @dagger.io/dagger@0.21.9`, or use --engine host, which needs no package.",
        cause: error,
      },
    );
  }
}
