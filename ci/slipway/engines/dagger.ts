/**
 * The Dagger engine: each step in a container from the pinned base image, cached by what goes in. The C library of
 * the image is the base image's.
 *
 * The trees come back as directories and the archive is written here, as for the host engine, rather than by the
 * engine's own export: that one stamps the time of the build into the image and compresses for a registry that a
 * local import does not have.
 */
import { join, relative } from "node:path";
import type { Container, Platform } from "@dagger.io/dagger";
import type { BuildResult } from "../image/build.ts";
import { PipelineError } from "../core/errors.ts";
import { trackedButIgnored } from "../core/project-files.ts";
import { findInstallInputs } from "../core/install-inputs.ts";
import type { Architecture } from "../image/platform.ts";
import { findPublicVariables } from "../image/bundle.ts";
import { lockfiles } from "../image/inputs.ts";
import type { Service } from "../core/service-config.ts";
import { pins } from "../core/pins.ts";
import type { Engine } from "./engine.ts";
import { loadSdk } from "./sdk.ts";

const { connection, dag, ExecError } = await loadSdk();

const CA = "/run/secrets/ca.crt";
/** Where another architecture's base image is mounted. */
const ROOT = "/root-of-base";

/** What the dependencies are installed from; an edit elsewhere does not install them again. */
const MANIFESTS = ["**/package.json", ...lockfiles, "**/bunfig.toml", "**/.npmrc", "patches"];
/** What is built or installed here, where no .gitignore says so. */
const MADE = [
  "**/node_modules",
  "**/dist",
  ".git",
  "**/*.tar",
  "**/*.tar.part",
  "**/*.cdx.json",
  "**/*.bun-build",
];

/** A path as what matches it alone. */
const asPattern = (path: string) => path.replace(/[\\*?[\]{}!]/g, "\\$&");

/**
 * Opens the session that `dagger run` has prepared, for as long as `use` takes.
 *
 * @throws {PipelineError} "environment" when it cannot be used
 */
export async function openSession(
  service: Service,
  signal: AbortSignal,
  use: (engine: Engine) => Promise<void>,
): Promise<void> {
  const kept = await trackedButIgnored(service.root, signal);
  await explain(
    "the session",
    connection(() => use(daggerEngine(service, kept))),
  );
}

/** @param known files that git knows although a .gitignore has them, which the engine would pass over */
function daggerEngine(service: Service, known: string[]): Engine {
  const { root, project, prebuild, bun = pins.bun } = service;
  const { files, hasHooks } = findInstallInputs(root);
  // What is installed from is needed whether git knows it or not: an archive, where `*.tgz` is ignored.
  const kept = [...new Set([...known, ...files])];
  const image = pins.baseImage.replace(/:[^:]*$/, `:${bun}`);
  // A session sees each directory once, if nothing else is said: `watch` would never see a save.
  const directory = (options: object) => dag.host().directory(root, { noCache: true, ...options });
  const withSource = (container: Container, include?: string[]) => {
    const given = directory({ exclude: MADE, gitignore: true, ...(include && { include }) });
    const added = container.withDirectory(".", given);
    const globs = include?.map((pattern) => new Bun.Glob(pattern));
    const others = globs ? kept.filter((path) => globs.some((glob) => glob.match(path))) : kept;
    if (others.length === 0) return added;
    return added.withDirectory(".", directory({ include: others.map(asPattern) }));
  };

  /** Packages, source, and what scripts make of it. */
  const prepare = (): Container => {
    // Scripts of its own may read all of it.
    const read = hasHooks ? undefined : [...MANIFESTS, ...files.map(asPattern)];
    let installing = withSource(dag.container().from(image).withWorkdir("/src"), read);
    const bundle = process.env.NODE_EXTRA_CA_CERTS;
    if (bundle) {
      installing = installing
        .withMountedFile(CA, dag.host().file(bundle))
        .withEnvVariable("NODE_EXTRA_CA_CERTS", CA);
    }
    const installed = installing
      .withExec(["bun", "install", "--frozen-lockfile", "--no-progress", "--no-summary"])
      .withoutMount(CA)
      .withoutEnvVariable("NODE_EXTRA_CA_CERTS")
      .withEnvVariable("NO_COLOR", "1");
    let builder = withSource(installed).withWorkdir(join("/src", relative(root, project)));
    for (const [name, value] of Object.entries(findPublicVariables(service))) {
      builder = builder.withEnvVariable(name, value);
    }
    for (const name of prebuild) builder = builder.withExec(["bun", "run", "--silent", name]);
    return builder;
  };
  let prepared: Promise<Container> | undefined;
  /** The same for all steps of a run, so that the source is read once. */
  const builder = () => (prepared ??= explain(undefined, prepare().sync()));

  /** A command that says when it has ended. The engine does not tell which steps it had, but what they said is cached with them. */
  const timed = (container: Container, command: string[]) =>
    container.withExec(["sh", "-c", '"$@" && date +%s%3N', "sh", ...command]);
  const wasThere = async (container: Container, start = Date.now()): Promise<boolean> => {
    return Number((await container.stdout()).trimEnd().split("\n").at(-1)) < start;
  };

  /** For another architecture its base image is only read from, never run: no emulation. */
  const builderFor = async (
    architecture?: Architecture,
  ): Promise<{ container: Container; args: string[] }> => {
    const container = await builder();
    if (architecture === undefined) return { container, args: [] };
    const platform = `linux/${architecture}` as Platform;
    const base = dag.container({ platform }).from(image).rootfs();
    return { container: container.withMountedDirectory(ROOT, base), args: ["--sysroot", ROOT] };
  };
  /** Of the last id, what it was built in, and when that was asked for: what it made since is not from before. */
  let last: { architecture: Architecture | undefined; built: Container; asked: number } | undefined;
  const build = async (architecture?: Architecture): Promise<Container> => {
    const { container, args } = await builderFor(architecture);
    return timed(container, ["bun", "ci/pipeline.ts", "build", "dist", ...args]);
  };

  return {
    name: "dagger",
    begin: () => void (prepared = undefined),
    async script(name) {
      const passed = timed(await builder(), ["bun", "run", "--silent", name]);
      return { unchanged: await explain(`bun run ${name}`, wasThere(passed)) };
    },
    async id(architecture) {
      const asked = Date.now();
      // Named by what it is, so that the source is not read again for what is taken out of it.
      const built = await explain("the build", (await build(architecture)).sync());
      last = { architecture, built, asked };
      const told = await explain("the build", built.file("dist/image.json").contents());
      return (JSON.parse(told) as BuildResult).id;
    },
    async build(dist, architecture) {
      const known = last?.architecture === architecture ? last : undefined;
      last = undefined;
      const built = known?.built ?? (await build(architecture));
      const exported = built.directory("dist").export(dist);
      const [reused] = await Promise.all([
        explain("the build", wasThere(built, known?.asked)),
        explain("the build", exported),
      ]);
      return { ...((await Bun.file(join(dist, "image.json")).json()) as BuildResult), reused };
    },
  };
}

/**
 * Gives an error of a step its own output, and one of the engine a hint.
 *
 * @param what default: the command that failed
 */
async function explain<T>(what: string | undefined, step: Promise<T>): Promise<T> {
  try {
    return await step;
  } catch (error) {
    if (error instanceof PipelineError) throw error;
    if (error instanceof ExecError) {
      throw new PipelineError("project", `${what ?? error.cmd.join(" ")} failed in its container`, {
        output: error.stdout + error.stderr,
        cause: error,
      });
    }
    throw new PipelineError(
      "environment",
      `${what ?? "the source"}: the Dagger engine failed: ${messageOf(error)}`,
      {
        hint: "Is the engine running and can it pull the base image? `dagger core version` asks it.",
        cause: error,
      },
    );
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
