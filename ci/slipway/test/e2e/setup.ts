/**
 * What end-to-end tests share: which tools are there, a project of their own to build, servers to wait for.
 *
 * `bun run test:unit` leaves them out. E2E=required turns a missing tool from a skipped test into a failed one.
 */
import { afterAll, describe, test } from "bun:test";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildImage, type BuildResult } from "../../image/build.ts";
import { filesInLayers, readImage, metadataOf as shapeOfFile, type ImageFile } from "../../image/compare.ts";
import { sha256 } from "../../core/hash.ts";
import { root, service } from "../helloapp-fixture.ts";
import { linkModules } from "../link-node-modules.ts";

export { root, service };

/** What the surroundings may lack without anybody being able to install it: an engine, a cluster, a registry. */
export interface Surroundings {
  name: string;
  answers: boolean;
}

/**
 * Declares tests that need tools on PATH, and maybe surroundings. Skipped ones carry in their name what is missing.
 */
export function describeWith(
  name: string,
  tools: string[],
  body: () => void,
  ...surroundings: Surroundings[]
): void {
  const missing = tools.filter((tool) => !Bun.which(tool));
  const silent = surroundings.filter(({ answers }) => !answers).map(({ name }) => name);
  if (missing.length > 0 && process.env.E2E === "required") {
    return void test(`${name}: needs ${missing.join(", ")}`, () => {
      throw new Error(`not on PATH: ${missing.join(", ")}`);
    });
  }
  if (missing.length + silent.length > 0) {
    return describe.skip(`${name} (needs ${[...missing, ...silent].join(", ")})`, body);
  }
  describe(name, body);
}

/** Whether this machine has the namespaces that the smoke test needs. */
export const hasNamespaces =
  sh([
    ...["unshare", ...(process.getuid?.() === 0 ? [] : ["--user", "--map-root-user"])],
    ...["--mount", "--net", "--pid", "--fork", "--mount-proc", "true"],
  ]).code === 0;

/** A directory that is gone after the test file. */
export function temporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), "helloapp-e2e-"));
  afterAll(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

const files = [
  "package.json",
  "bun.lock",
  "bunfig.toml",
  "tsconfig.json",
  "src",
  "test",
  "ci",
  "k8s",
  "Dockerfile",
];

/** A copy of the project, to edit and build in. `modules` links the installed packages into it. */
export function copyProject(target: string, { modules = true } = {}): string {
  for (const file of [...files, ".dockerignore", ".gitignore"]) {
    cpSync(join(root, file), join(target, file), { recursive: true });
  }
  if (modules) linkModules(target);
  return target;
}

/** Replaces a part of a file. @throws {Error} if the file does not contain the part */
export function rewrite(file: string, part: string | RegExp, replacement: string): void {
  const before = readFileSync(file, "utf8");
  const after = before.replace(part, () => replacement);
  if (after === before) throw new Error(`${file} has no ${part} to replace`);
  writeFileSync(file, after);
}

/** Runs a program to its end and gives all that it printed. */
export function sh(
  command: string[],
  { cwd = root, env = {} }: { cwd?: string; env?: Record<string, string | undefined> } = {},
): { code: number; output: string; stdout: string } {
  const { exitCode, stdout, stderr } = Bun.spawnSync(command, {
    cwd,
    env: { ...process.env, ...env },
    stdin: "ignore",
  });
  return { code: exitCode, stdout: stdout.toString(), output: stdout.toString() + stderr.toString() };
}

/** As `sh`, but anything other than exit 0 is an error that shows the output. */
export function must(command: string[], options?: Parameters<typeof sh>[1]): string {
  const { code, output, stdout } = sh(command, options);
  if (code !== 0) throw new Error(`${command.join(" ")} ended with ${code}:\n${output}`);
  return stdout;
}

/** Whether two files are equal, without a message of 100 MB when they are not. */
export async function sameBytes(one: string, other: string): Promise<boolean> {
  const [a, b] = await Promise.all([one, other].map((path) => Bun.file(path).bytes()));
  return Buffer.compare(a!, b!) === 0;
}

let shared: Promise<BuildResult & { dist: string }> | undefined;

/** The project's own build, made once for all tests, where the next run replaces it. */
export function builtProject(): Promise<BuildResult & { dist: string }> {
  return (shared ??= (async () => {
    const dist = join(tmpdir(), `helloapp-dist-${Bun.hash(root).toString(36)}`);
    return { ...(await buildImage(service, dist)), dist };
  })());
}

/** Waits for a service's log to say that it is ready, and where; closes the pipe then: nobody reads the log any more. */
export async function untilReady(
  stdout: ReadableStream<Uint8Array>,
): Promise<{ url: string; admin: string }> {
  let text = "";
  for await (const chunk of stdout) {
    text += new TextDecoder().decode(chunk);
    if (text.includes('"ready"')) break;
  }
  return JSON.parse(text.split("\n").find((line) => line.includes("listening"))!);
}

/** Waits until `attempt` gives something other than undefined; an error is another attempt. */
export async function eventually<T>(attempt: () => Promise<T | undefined>, seconds = 60): Promise<T> {
  const end = Date.now() + seconds * 1000;
  for (;;) {
    const value = await attempt().catch((error: unknown) => {
      if (Date.now() > end) throw error;
      return undefined;
    });
    if (value !== undefined) return value;
    if (Date.now() > end) throw new Error(`not within ${seconds} s`);
    await Bun.sleep(50);
  }
}

/** What an image's files are, layer by layer merged: path -> type, mode, owner, time, size and digest of the content. */
export async function fileTree(archive: string): Promise<Record<string, string[]>> {
  const files = filesInLayers((await readImage(archive)).layers);
  const describe = (file: ImageFile) => [
    ...Object.values(shapeOfFile(file)),
    String(file.size),
    sha256(file.content),
  ];
  return Object.fromEntries([...files].map(([path, file]) => [path, describe(file)]));
}

/** Of a file tree, what is the same also where the C library is another: path, type, mode, owner and time. */
export function shapeOf(tree: Record<string, string[]>): string[][] {
  return Object.entries(tree).map(([path, entry]) => [path, ...entry.slice(0, 4)]);
}

/** A Dagger engine, if one answers the CLI. */
export function daggerEngine(): Surroundings {
  const command = ["timeout", "20", "dagger", "--progress=plain", "run", "true"];
  return { name: "a Dagger engine", answers: Boolean(Bun.which("dagger")) && sh(command).code === 0 };
}

/** A session of the Dagger engine that outlasts one command. @returns the environment of what runs in it, and how it ends */
export async function daggerSession(): Promise<{ env: Record<string, string>; end(): Promise<void> }> {
  const wanted = ["DAGGER_SESSION_PORT", "DAGGER_SESSION_TOKEN"];
  const script = `${wanted.map((name) => `echo ${name}=$${name}`).join("; ")}; exec cat`;
  const child = Bun.spawn(["dagger", "--progress=plain", "run", "sh", "-c", script], {
    // It ends with its input.
    stdin: "pipe",
    stdout: "pipe",
    stderr: "ignore",
  });
  let text = "";
  for await (const chunk of child.stdout) {
    text += new TextDecoder().decode(chunk);
    if (text.split("\n").length > wanted.length) break;
  }
  return {
    env: Object.fromEntries(
      [...text.matchAll(/^(DAGGER_\w+)=(.*)$/gm)].map(([, name, value]) => [name, value]),
    ),
    async end() {
      child.stdin.end();
      await child.exited;
    },
  };
}

/**
 * Starts Debian's docker-registry on a free port of its own; it ends with the test file.
 *
 * @param directory where it keeps all that it has; made
 * @param more configuration, as YAML
 * @returns its `host:port`
 */
export async function startRegistry(directory: string, more = ""): Promise<string> {
  mkdirSync(directory);
  const file = join(directory, "config.yml");
  const config = `version: 0.1
log: { accesslog: { disabled: true } }
storage: { filesystem: { rootdirectory: "${directory}" } }
http: { addr: "127.0.0.1:0" }
${more}
`;
  writeFileSync(file, config);
  const log = Bun.file(join(directory, "log"));
  const child = Bun.spawn(["docker-registry", "serve", file], { stdout: "ignore", stderr: log });
  registries.add(child);
  return eventually(async () => /listening on (127\.0\.0\.1:\d+)/.exec(await log.text())?.[1], 20);
}

const registries = new Set<Bun.Subprocess>();
/** Ends the registries that startRegistry() has started. */
export async function stopRegistries(): Promise<void> {
  for (const registry of registries) {
    registry.kill();
    await registry.exited;
  }
  registries.clear();
}
