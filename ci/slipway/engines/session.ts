/** The session that `dagger run` has prepared, and its engine, which is there before the SDK that speaks to it. */
import { PipelineError } from "../core/errors.ts";
import type { Service } from "../core/service-config.ts";
import type { Engine } from "./engine.ts";

/** Whether this process was started by `dagger run`. Without, the SDK would download a CLI. */
function inSession(): boolean {
  return Boolean(process.env.DAGGER_SESSION_PORT && process.env.DAGGER_SESSION_TOKEN);
}

/**
 * Opens the session for as long as `use` takes. That begins at once: the SDK takes a third of a second to load, in which the way to
 * the cluster is looked for. What it asks of the engine waits.
 *
 * @throws {PipelineError} "environment" when there is no session, or the SDK is not installed
 */
export async function withDagger<T>(
  service: Service,
  signal: AbortSignal,
  use: (engine: Engine) => Promise<T>,
): Promise<T> {
  if (!inSession()) {
    throw new PipelineError("environment", "--engine dagger was asked for, but there is no Dagger session", {
      hint: "Start it with `dagger run bun ci/pipeline.ts`, or use --engine host.",
    });
  }
  const there = Promise.withResolvers<Engine>();
  const over = Promise.withResolvers<void>();
  const session = loadDagger().then(({ openSession }) =>
    openSession(service, signal, (engine) => (there.resolve(engine), over.promise)),
  );
  session.catch(there.reject);
  there.promise.catch(() => {});
  try {
    return await use(onceThere(there.promise));
  } finally {
    over.resolve();
    // What it fails with, each question to the engine has failed with.
    await session.catch(() => {});
  }
}

/** An engine that is still to come. */
function onceThere(there: Promise<Engine>): Engine {
  return {
    name: "dagger",
    begin: () => void there.then((engine) => engine.begin?.()).catch(() => {}),
    script: async (name) => (await there).script(name),
    id: async (architecture) => (await there).id(architecture),
    build: async (dist, architecture) => (await there).build(dist, architecture),
  };
}

/**
 * Imported only when it is asked for: the SDK need not be installed.
 *
 * @throws {PipelineError} "environment" when it is not
 */
async function loadDagger() {
  try {
    return await import("./dagger.ts");
  } catch (error) {
    if (!/@dagger\.io\/dagger/.test((error as Error).message)) throw error;
    throw new PipelineError(
      "environment",
      "the Dagger engine takes the package @dagger.io/dagger, which is not installed",
      {
        hint: "`bun add --dev --exact @dagger.io/dagger@0.21.9` adds it; --engine host needs no package.",
        cause: error,
      },
    );
  }
}
