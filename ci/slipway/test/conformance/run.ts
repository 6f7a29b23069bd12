/** Runs a row from source and as the image that the package builds. */
import { cpSync, mkdirSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { PipelineError } from "../../core/errors.ts";
import { resolveService } from "../../core/resolve-service.ts";
import { buildImage } from "../../image/build-image-files.ts";
import { createImageSpec } from "../../image/image-spec.ts";
import { linkPackages, type Installed } from "./install.ts";
import type { Behaviour, Row } from "./row.ts";
import type { Run } from "./sandbox.ts";

export interface Places {
  /** Directory for projects, which are removed after their row. */
  work: string;
  installed: Installed;
  /** Directory of PostgreSQL's socket. */
  sockets?: string | undefined;
}

/** @returns the behaviour from source and in the image */
export async function runRow(row: Row, { work, installed, sockets }: Places): Promise<[Behaviour, Behaviour]> {
  const directory = join(work, Bun.hash(row.name).toString(36));
  const project = join(directory, "project");
  const temporary = join(directory, "tmp");
  mkdirSync(temporary, { recursive: true });
  writeProject(row, project, installed);
  const more = { row: row.name, ...(row.needs === "postgresql" && sockets && { sockets }) };
  try {
    return await Promise.all([
      runInNamespaces({ ...more, directory: project, temporary }),
      runImage(row, project, join(directory, "dist"), more),
    ]);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

function writeProject({ files, packages = [], manifest }: Row, project: string, installed: Installed): void {
  const dependencies = Object.fromEntries(packages.map((name) => [name, installed.versions[name]]));
  const all = {
    "package.json": JSON.stringify({ name: "row", version: "1.0.0", type: "module", dependencies, ...manifest }),
    ...(typeof files === "string" ? { "src/index.ts": files } : files),
  };
  for (const [path, content] of Object.entries(all)) {
    mkdirSync(dirname(join(project, path)), { recursive: true });
    writeFileSync(join(project, path), content);
    // Like the image's files, so that `Last-Modified` is equal.
    utimesSync(join(project, path), 0, 0);
  }
  linkPackages(project, packages, installed);
}

async function runImage(
  { settings }: Row,
  project: string,
  dist: string,
  more: Pick<Run, "row" | "sockets">,
): Promise<Behaviour> {
  const service = resolveService(project, { port: 3000, ...settings });
  try {
    await buildImage(service, dist);
  } catch (error) {
    if (!(error instanceof PipelineError)) throw error;
    return { build: error.message, stderr: error.output ?? "" };
  }
  // The two layers of the image become one root.
  const root = join(dist, "app");
  cpSync(join(dist, "runtime"), root, { recursive: true });
  return runInNamespaces({ ...more, directory: root, binary: createImageSpec(service).binary });
}

const isRoot = process.getuid?.() === 0;

async function runInNamespaces(run: Omit<Run, "isUserNamespace">): Promise<Behaviour> {
  const namespaces = ["--mount", "--net", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc"];
  const child = Bun.spawn(
    [
      ...["unshare", ...(isRoot ? [] : ["--user", "--map-root-user"]), ...namespaces, "--"],
      ...[process.execPath, join(import.meta.dir, "sandbox.ts"), JSON.stringify({ ...run, isUserNamespace: !isRoot })],
    ],
    { cwd: import.meta.dir, env: { ...process.env, NO_COLOR: "1" }, stdio: ["ignore", "pipe", "pipe"] },
  );
  const [stdout, stderr] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (stdout === "") throw new Error(`the sandbox of ${run.row} failed: ${stderr}`);
  return JSON.parse(stdout) as Behaviour;
}
