/**
 * Helpers of the end-to-end tests: requirements, copies of the project, programs and servers.
 *
 * `bun run test:unit` skips these tests. With E2E=required, a missing tool fails a test instead of skipping it.
 */
import { afterAll, describe, test } from "bun:test";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildImage, type BuildResult } from "../../image/build-image-files.ts";
import { filesInLayers, readImage, metadataOf as shapeOfFile, type ImageFile } from "../../image/compare.ts";
import { sha256 } from "../../core/hash.ts";
import { root, service } from "../helloapp-service.ts";
import { linkModules } from "../link-node-modules.ts";

export { root, service };

/** A requirement that cannot simply be installed: an engine, a cluster, a registry. */
export interface Requirement {
  name: string;
  isMet: boolean;
}

/** Declares tests with required tools and other requirements. The name of skipped tests lists the missing ones. */
export function describeWith(name: string, tools: string[], body: () => void, ...requirements: Requirement[]): void {
  const missingTools = tools.filter((tool) => !Bun.which(tool));
  const unmet = requirements.filter(({ isMet }) => !isMet).map(({ name }) => name);
  if (missingTools.length > 0 && process.env.E2E === "required") {
    return void test(`${name}: needs ${missingTools.join(", ")}`, () => {
      throw new Error(`not on PATH: ${missingTools.join(", ")}`);
    });
  }
  if (missingTools.length + unmet.length > 0) {
    return describe.skip(`${name} (needs ${[...missingTools, ...unmet].join(", ")})`, body);
  }
  describe(name, body);
}

/** Whether this machine has the namespaces that the smoke test needs. */
export const hasNamespaces =
  sh([
    ...["unshare", ...(process.getuid?.() === 0 ? [] : ["--user", "--map-root-user"])],
    ...["--mount", "--net", "--pid", "--fork", "--mount-proc", "true"],
  ]).code === 0;

/** Creates a directory that is removed after the test file. */
export function temporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), "helloapp-e2e-"));
  afterAll(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

const files = ["package.json", "bun.lock", "bunfig.toml", "tsconfig.json", "src", "test", "ci", "k8s", "Dockerfile"];

/** Copies the project. @param modules whether to link the installed packages. Default: true. */
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

/** Runs a program and returns its output. */
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

/** Runs a program. Throws an error with the output if the exit code is not 0. */
export function must(command: string[], options?: Parameters<typeof sh>[1]): string {
  const { code, output, stdout } = sh(command, options);
  if (code !== 0) throw new Error(`${command.join(" ")} ended with ${code}:\n${output}`);
  return stdout;
}

/** Compares two files. Unlike expect(), it prints no difference of 100 MB. */
export async function sameBytes(one: string, other: string): Promise<boolean> {
  const [a, b] = await Promise.all([one, other].map((path) => Bun.file(path).bytes()));
  return Buffer.compare(a!, b!) === 0;
}

let shared: Promise<BuildResult & { dist: string }> | undefined;

/** Builds the project once for all tests, in a directory that the next run replaces. */
export function builtProject(): Promise<BuildResult & { dist: string }> {
  return (shared ??= (async () => {
    const dist = join(tmpdir(), `helloapp-dist-${Bun.hash(root).toString(36)}`);
    return { ...(await buildImage(service, dist)), dist };
  })());
}

/** Waits until a service logs that it is ready, returns its URLs and closes the log's pipe. */
export async function untilReady(stdout: ReadableStream<Uint8Array>): Promise<{ url: string; admin: string }> {
  let text = "";
  for await (const chunk of stdout) {
    text += new TextDecoder().decode(chunk);
    if (text.includes('"ready"')) break;
  }
  return JSON.parse(text.split("\n").find((line) => line.includes("listening"))!);
}

/** Retries until `attempt` returns something other than undefined. Ignores errors until the timeout. */
export async function eventually<T>(attempt: () => Promise<T | undefined>, seconds = 60): Promise<T> {
  const end = Date.now() + seconds * 1000;
  for (;;) {
    const value = await attempt().catch((error: unknown) => {
      if (Date.now() > end) throw error;
      return undefined;
    });
    if (value !== undefined) return value;
    if (Date.now() > end) throw new Error(`timed out after ${seconds} s`);
    await Bun.sleep(50);
  }
}

/** Returns the image's merged files: path -> type, mode, owner, time, size and digest of the content. */
export async function fileTree(archive: string): Promise<Record<string, string[]>> {
  const files = filesInLayers((await readImage(archive)).layers);
  const describe = (file: ImageFile) => [...Object.values(shapeOfFile(file)), String(file.size), sha256(file.content)];
  return Object.fromEntries([...files].map(([path, file]) => [path, describe(file)]));
}

/** Returns path, type, mode, owner and time of each file, which do not depend on the C library. */
export function shapeOf(tree: Record<string, string[]>): string[][] {
  return Object.entries(tree).map(([path, entry]) => [path, ...entry.slice(0, 4)]);
}

/** Checks that the Dagger CLI can reach an engine. */
export function daggerEngine(): Requirement {
  const command = ["timeout", "20", "dagger", "--progress=plain", "run", "true"];
  return { name: "a Dagger engine", isMet: Boolean(Bun.which("dagger")) && sh(command).code === 0 };
}

/** Opens a Dagger session for several commands. @returns the environment of the commands, and a function that ends it */
export async function daggerSession(): Promise<{ env: Record<string, string>; end(): Promise<void> }> {
  const names = ["DAGGER_SESSION_PORT", "DAGGER_SESSION_TOKEN"];
  const script = `${names.map((name) => `echo ${name}=$${name}`).join("; ")}; exec cat`;
  const child = Bun.spawn(["dagger", "--progress=plain", "run", "sh", "-c", script], {
    // The session ends when stdin is closed.
    stdin: "pipe",
    stdout: "pipe",
    stderr: "ignore",
  });
  let text = "";
  for await (const chunk of child.stdout) {
    text += new TextDecoder().decode(chunk);
    if (text.split("\n").length > names.length) break;
  }
  return {
    env: Object.fromEntries([...text.matchAll(/^(DAGGER_\w+)=(.*)$/gm)].map(([, name, value]) => [name, value])),
    async end() {
      child.stdin.end();
      await child.exited;
    },
  };
}

/**
 * Starts Debian's docker-registry on a free port, until stopRegistries().
 *
 * @param directory is created for the registry's data
 * @param more additional configuration in YAML
 * @returns `host:port`
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
/** Stops all registries of startRegistry(). */
export async function stopRegistries(): Promise<void> {
  for (const registry of registries) {
    registry.kill();
    await registry.exited;
  }
  registries.clear();
}
