/**
 * Runs each step in a container from the pinned base image, cached by the step's inputs. The image gets the base image's C
 * library.
 *
 * The engine exports directory trees, and slipway writes the archive, as it does for the host engine. Dagger's own image
 * export would store the build time in the image, and compress it for a registry that a local import does not need.
 */
import { join, relative } from "node:path";
import type { Container, Platform } from "@dagger.io/dagger";
import type { BuildResult } from "../image/build-image-files.ts";
import { PipelineError } from "../core/errors.ts";
import { trackedButIgnored } from "../core/project-files.ts";
import { explainInstallFailure, findInstallVariables, readInstallVariables } from "../core/install-access.ts";
import { findBunInstallInputs } from "../core/install-inputs.ts";
import type { Architecture } from "../image/architecture.ts";
import { findPublicVariables } from "../image/bundle-options.ts";
import { lockfiles } from "../image/inputs.ts";
import type { Service } from "../core/resolve-service.ts";
import { pins } from "../core/pins.ts";
import type { Engine } from "./engine.ts";
import { loadSdk } from "./load-dagger-sdk.ts";

const { connection, dag, ExecError } = await loadSdk();

const CA = "/run/secrets/ca.crt";
/** Mount point of another architecture's base image. */
const SYSROOT = "/root-of-base";

/** Inputs of the installation. Edits of other files do not repeat it. */
const INSTALL_INPUTS = ["**/package.json", ...lockfiles, "**/bunfig.toml", "**/.npmrc", "patches"];
/** Build outputs and installed packages, which are excluded even without a .gitignore. */
const GENERATED = [
  "**/node_modules",
  "**/dist",
  ".git",
  "**/*.tar",
  "**/*.tar.part",
  "**/*.cdx.json",
  "**/*.bun-build",
];

/** Escapes a path, so that it only matches itself as a pattern. */
const escapePattern = (path: string) => path.replace(/[\\*?[\]{}!]/g, "\\$&");

/**
 * Opens the session of `dagger run` until `use` ends.
 *
 * @throws {PipelineError} "environment" if the session does not work
 */
export async function openSession(
  service: Service,
  signal: AbortSignal,
  use: (engine: Engine) => Promise<void>,
): Promise<void> {
  const tracked = await trackedButIgnored(service.root, signal);
  await explain(
    "the session",
    connection(() => use(daggerEngine(service, tracked))),
  );
}

/** @param tracked files that git tracks although a .gitignore matches them. The engine would exclude them. */
function daggerEngine(service: Service, tracked: string[]): Engine {
  const { root, project, prebuild, bun = pins.bun } = service;
  const { files, hasHooks, members } = findBunInstallInputs(root);
  const variables = findInstallVariables(root, members);
  // Installation inputs are needed even if git ignores them, for example a package archive with `*.tgz` in .gitignore.
  const forced = [...new Set([...tracked, ...files])];
  const image = pins.baseImage.replace(/:[^:]*$/, `:${bun}`);
  // Without noCache, a session reads each directory only once, and `watch` would never notice a change.
  const directory = (options: object) => dag.host().directory(root, { noCache: true, ...options });
  const withSource = (container: Container, include?: string[]) => {
    const source = directory({ exclude: GENERATED, gitignore: true, ...(include && { include }) });
    const copied = container.withDirectory(".", source);
    const globs = include?.map((pattern) => new Bun.Glob(pattern));
    const included = globs ? forced.filter((path) => globs.some((glob) => glob.match(path))) : forced;
    if (included.length === 0) return copied;
    return copied.withDirectory(".", directory({ include: included.map(escapePattern) }));
  };

  /** Installs packages, copies the source and runs the prebuild scripts. */
  const prepare = (): Container => {
    // Install hooks may read any file.
    const include = hasHooks ? undefined : [...INSTALL_INPUTS, ...files.map(escapePattern)];
    let installing = withSource(dag.container().from(image).withWorkdir("/src"), include);
    const certificates = process.env.NODE_EXTRA_CA_CERTS;
    if (certificates) {
      installing = installing
        .withMountedFile(CA, dag.host().file(certificates))
        .withEnvVariable("NODE_EXTRA_CA_CERTS", CA);
    }
    // Secrets are neither in a layer nor in the output, and steps after the installation do not see them.
    const secrets = readInstallVariables(variables);
    for (const [name, value] of secrets) {
      installing = installing.withSecretVariable(name, dag.setSecret(`${service.name}-${name}`, value));
    }
    let installed = installing
      .withExec(["bun", "install", "--frozen-lockfile", "--no-progress", "--no-summary"])
      .withoutMount(CA)
      .withoutEnvVariable("NODE_EXTRA_CA_CERTS");
    for (const [name] of secrets) installed = installed.withoutSecretVariable(name);
    installed = installed.withEnvVariable("NO_COLOR", "1");
    let builder = withSource(installed).withWorkdir(join("/src", relative(root, project)));
    for (const [name, value] of Object.entries(findPublicVariables(service))) {
      builder = builder.withEnvVariable(name, value);
    }
    for (const name of prebuild) builder = builder.withExec(["bun", "run", "--silent", name]);
    return builder;
  };
  let prepared: Promise<Container> | undefined;
  /** Returns one container for all steps of a run, so that the source is read once. */
  const builder = () => (prepared ??= explain(undefined, prepare().sync(), variables));

  /** Runs a command that then prints the time. The output is cached too, so an old time shows that the step was cached. */
  const withTimestamp = (container: Container, command: string[]) =>
    container.withExec(["sh", "-c", '"$@" && date +%s%3N', "sh", ...command]);
  const isCached = async (container: Container, start = Date.now()): Promise<boolean> => {
    return Number((await container.stdout()).trimEnd().split("\n").at(-1)) < start;
  };

  /** Mounts the base image of another architecture. Nothing in it is executed, so no emulation is needed. */
  const builderFor = async (architecture?: Architecture): Promise<{ container: Container; args: string[] }> => {
    const container = await builder();
    if (architecture === undefined) return { container, args: [] };
    const platform = `linux/${architecture}` as Platform;
    const base = dag.container({ platform }).from(image).rootfs();
    return { container: container.withMountedDirectory(SYSROOT, base), args: ["--sysroot", SYSROOT] };
  };
  /** Container of the last computeId() call, and the call's start: a later timestamp means that the build was not cached. */
  let last: { architecture: Architecture | undefined; built: Container; start: number } | undefined;
  const build = async (architecture?: Architecture): Promise<Container> => {
    const { container, args } = await builderFor(architecture);
    return withTimestamp(container, ["bun", "ci/pipeline.ts", "build", "dist", ...args]);
  };

  return {
    name: "dagger",
    startRun: () => void (prepared = undefined),
    async runPrebuild() {
      const start = Date.now();
      const prepared = withTimestamp(await builder(), ["true"]);
      return { unchanged: await explain("the prebuild scripts", isCached(prepared, start)) };
    },
    async runScript(name) {
      const executed = withTimestamp(await builder(), ["bun", "run", "--silent", name]);
      return { unchanged: await explain(`bun run ${name}`, isCached(executed)) };
    },
    async computeId(architecture) {
      const start = Date.now();
      // sync() pins the container, so that later reads from it do not read the source again.
      const built = await explain("the build", (await build(architecture)).sync());
      last = { architecture, built, start };
      const result = await explain("the build", built.file("dist/image.json").contents());
      return (JSON.parse(result) as BuildResult).id;
    },
    async build(dist, architecture) {
      const previous = last?.architecture === architecture ? last : undefined;
      last = undefined;
      const built = previous?.built ?? (await build(architecture));
      const exported = built.directory("dist").export(dist);
      const [reused] = await Promise.all([
        explain("the build", isCached(built, previous?.start)),
        explain("the build", exported),
      ]);
      return { ...((await Bun.file(join(dist, "image.json")).json()) as BuildResult), reused };
    },
  };
}

/**
 * Adds the output to an error of a step, and a hint to an error of the engine.
 *
 * @param step description for messages. Default: the failed command.
 * @param variables names of variables that the installation needs
 */
async function explain<T>(step: string | undefined, result: Promise<T>, variables: string[] = []): Promise<T> {
  try {
    return await result;
  } catch (error) {
    if (error instanceof PipelineError) throw error;
    if (error instanceof ExecError) {
      const isInstall = error.cmd.slice(0, 2).join(" ") === "bun install";
      const refused = isInstall ? explainInstallFailure(error.stdout + error.stderr, variables) : undefined;
      if (refused) {
        throw new PipelineError("environment", `${refused.message}. Nothing was changed`, {
          code: "package-registry-refused",
          hint: refused.hint,
          output: error.stdout + error.stderr,
          cause: error,
        });
      }
      throw new PipelineError("project", `${step ?? error.cmd.join(" ")} failed in its container`, {
        code: step?.startsWith("bun run ") ? "script-failed" : "build-failed",
        output: error.stdout + error.stderr,
        cause: error,
      });
    }
    throw new PipelineError("environment", `the Dagger engine failed at ${step ?? "the source"}: ${messageOf(error)}`, {
      code: "dagger-failed",
      hint: "Check that the engine runs (`dagger core version`) and that it can pull the base image.",
      cause: error,
    });
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
