/**
 * The Dagger engine: each step in a container from the pinned base image, cached by what goes in. The C library of
 * the image is the base image's.
 *
 * The trees come back as directories and the archive is written here, as for the host engine, rather than by the
 * engine's own export: that one stamps the time of the build into the image and compresses for a registry that a
 * local import does not have.
 */
import { join } from "node:path";
import { connection, dag, ExecError, type Container, type Platform } from "@dagger.io/dagger";
import type { Built } from "../image/build.ts";
import { PipelineError } from "../ground/errors.ts";
import type { Architecture } from "../image/image.ts";
import { pins } from "../pins/pins.ts";
import type { Engine } from "./engine.ts";

const CA = "/run/secrets/ca.crt";
/** Where another architecture's base image is mounted. */
const ROOT = "/root-of-base";

/** Files that each step sees; an edit elsewhere leaves its cache alone. */
const inputs = {
  dependencies: ["package.json", "bun.lock", "bunfig.toml"],
  build: ["src", "ci", "tsconfig.json"],
  script: ["src", "ci", "test", "k8s", "Dockerfile", "tsconfig.json"],
};

/** Whether this process was started by `dagger run`. Without, the SDK would download a CLI. */
export function inSession(): boolean {
  return Boolean(process.env.DAGGER_SESSION_PORT && process.env.DAGGER_SESSION_TOKEN);
}

/**
 * Opens the session that `dagger run` has prepared, for as long as `use` takes.
 *
 * @param project the directory with package.json
 * @throws {PipelineError} "surroundings" when there is no session
 */
export async function withDagger<T>(project: string, use: (engine: Engine) => Promise<T>): Promise<T> {
  if (!inSession()) {
    throw new PipelineError("surroundings", "--engine dagger was asked for, but there is no Dagger session", {
      hint: "Start it with `dagger run bun ci/pipeline.ts`, or use --engine host.",
    });
  }
  let result: { value: T } | undefined;
  const session = connection(async () => {
    result = { value: await use(daggerEngine(project)) };
  });
  await explain("the session", session);
  return result!.value;
}

function daggerEngine(project: string): Engine {
  const source = (include: string[]) => dag.host().directory(project, { include });

  let installing = dag
    .container()
    .from(pins.baseImage)
    .withWorkdir("/src")
    .withDirectory(".", source(inputs.dependencies));
  const bundle = process.env.NODE_EXTRA_CA_CERTS;
  if (bundle) {
    installing = installing
      .withMountedFile(CA, dag.host().file(bundle))
      .withEnvVariable("NODE_EXTRA_CA_CERTS", CA);
  }
  const installed = installing
    .withExec(["bun", "run", "setup"])
    .withoutMount(CA)
    .withoutEnvVariable("NODE_EXTRA_CA_CERTS")
    .withEnvVariable("NO_COLOR", "1");
  const builder = installed.withDirectory(".", source(inputs.build));
  const checker = installed.withDirectory(".", source(inputs.script));

  const start = Date.now();
  /**
   * Runs a container's steps. The engine does not tell which of them it had, but a clock that is read after them is cached
   * with them: it shows when they ran.
   */
  const wasThere = async (container: Container): Promise<boolean> =>
    Number(await container.withExec(["date", "+%s%3N"]).stdout()) < start;

  /** For another architecture its base image is only read from, never run: no emulation. */
  const builderFor = (architecture?: Architecture): { container: Container; args: string[] } => {
    if (architecture === undefined) return { container: builder, args: [] };
    const platform = `linux/${architecture}` as Platform;
    const base = dag.container({ platform }).from(pins.baseImage).rootfs();
    return { container: builder.withMountedDirectory(ROOT, base), args: ["--root", ROOT] };
  };

  return {
    name: "dagger",
    async script(name) {
      const passed = checker.withExec(["bun", "run", "--silent", name]);
      return { unchanged: await explain(`bun run ${name}`, wasThere(passed)) };
    },
    async id(architecture) {
      const { container, args } = builderFor(architecture);
      const command = ["bun", "ci/slipway/image/build.ts", "--id", ...args];
      return (await explain("the id", container.withExec(command).stdout())).trim();
    },
    async build(dist, architecture) {
      const { container, args } = builderFor(architecture);
      const built = container.withExec(["bun", "run", "--silent", "build", ...args]);
      const exported = built.directory("dist").export(dist);
      const [reused] = await Promise.all([
        explain("bun run build", wasThere(built)),
        explain("bun run build", exported),
      ]);
      return { ...((await Bun.file(join(dist, "image.json")).json()) as Built), reused };
    },
  };
}

/** Gives an error of a step its own output, and one of the engine a hint. */
async function explain<T>(what: string, step: Promise<T>): Promise<T> {
  try {
    return await step;
  } catch (error) {
    if (error instanceof PipelineError) throw error;
    if (error instanceof ExecError) {
      throw new PipelineError("change", `${what} failed in its container`, {
        output: error.stdout + error.stderr,
        cause: error,
      });
    }
    throw new PipelineError("surroundings", `${what}: the Dagger engine failed: ${messageOf(error)}`, {
      hint: "Is the engine running and can it pull the base image? `dagger core version` asks it.",
      cause: error,
    });
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
