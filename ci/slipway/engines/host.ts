/** The host engine: Bun and nothing else. The C library of the image is this machine's. */
import { readFileSync } from "node:fs";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Built } from "../image/build.ts";
import { PipelineError } from "../ground/errors.ts";
import { imageId, ownArchitecture, runtimeIn, type Architecture } from "../image/image.ts";
import { run } from "../ground/process.ts";
import type { Engine } from "./engine.ts";
import { foreignRoot } from "./foreign.ts";

/** How many states of the files are remembered to have passed: going back to one is as good as not having left it. */
const REMEMBERED = 20;

/** @param project the directory with package.json */
export function hostEngine(project: string, signal: AbortSignal): Engine {
  const bun = async (args: string[], what: string) => {
    // A script runs in a shell, which would leave its child behind when the pipeline is interrupted.
    const command = [process.execPath, "--no-orphans", ...args];
    const { code, stdout, stderr } = await run(command, { cwd: project, env: { NO_COLOR: "1" }, signal });
    if (code !== 0) throw new PipelineError("change", `${what} failed`, { output: stdout + stderr });
  };
  const roots = new Map<Architecture, Promise<string>>();
  /** Where libraries and Bun for another architecture are; undefined for this machine's own. */
  const rootFor = (architecture: Architecture): Promise<string> | undefined => {
    if (architecture === ownArchitecture) return undefined;
    let root = roots.get(architecture);
    if (!root) {
      root = foreignRoot(architecture, join(project, "node_modules/.cache/pipeline", architecture), signal);
      roots.set(architecture, root);
    }
    return root;
  };
  return {
    name: "host",
    async script(name) {
      const digest = await digestOfFiles(project);
      const passed = join(project, "node_modules/.cache/pipeline", `${name}.passed`);
      const digests = (await readFile(passed, "utf8").catch(() => "")).split("\n");
      if (digests.includes(digest)) return { unchanged: true };
      await bun(["run", "--silent", name], `bun run ${name}`);
      // A file that was saved meanwhile may have been read before or after.
      if (digest === (await digestOfFiles(project))) {
        await mkdir(dirname(passed), { recursive: true });
        await writeFile(passed, [digest, ...digests].slice(0, REMEMBERED).join("\n"));
      }
      return { unchanged: false };
    },
    async id(architecture = ownArchitecture) {
      return imageId(project, runtimeIn(await rootFor(architecture)));
    },
    async build(dist, architecture = ownArchitecture) {
      const root = await rootFor(architecture);
      // A process of its own, so that an interrupted pipeline can end it.
      const command = ["ci/slipway/image/build.ts", dist, ...(root === undefined ? [] : ["--root", root])];
      await bun(command, "bun run build");
      return { ...((await Bun.file(join(dist, "image.json")).json()) as Built), reused: false };
    },
  };
}

/** Files that checks and unit tests may read: the project's own, without what was built or installed. */
const files = ["{src,test,ci,k8s,.github,.ci}/**", "*.{toml,lock,md,json}", "Dockerfile", ".*ignore"];

/** SHA-256 over the project's files and which Bun reads them. */
export async function digestOfFiles(project: string): Promise<string> {
  const options = { cwd: project, dot: true, onlyFiles: true };
  const found = await Promise.all(files.map((one) => Array.fromAsync(new Bun.Glob(one).scan(options))));
  // An SBOM beside an archive is built, too.
  const paths = found.flat().filter((path) => !path.endsWith(".cdx.json"));
  const hash = new Bun.CryptoHasher("sha256").update(Bun.version_with_sha);
  for (const path of paths.sort()) {
    const content = readFileSync(join(project, path));
    hash.update(`\n${path}\0${content.length}\0`).update(content);
  }
  return hash.digest("hex");
}
