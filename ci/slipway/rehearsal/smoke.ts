/** The smoke test for a machine without a cluster: the archive's own files, unpacked and run on the host. */
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { readArchive, readLayer } from "./archive.ts";
import { ask } from "../cluster/verify.ts";
import { readElf } from "./elf.ts";
import { PipelineError } from "../ground/errors.ts";
import type { Service } from "../ground/service.ts";
import { describeImage } from "./image.ts";
import { readTar } from "./tar.ts";

/**
 * Unpacks the archive, starts its binary with its own C library and asks it who it is.
 *
 * The loader is the host's, because a compiled Bun finds its code through /proc/self/exe: the image's libraries can
 * be tried only where the two are the same file, which is so for an image that the host engine made.
 *
 * @throws {PipelineError} "change" when the binary does not start, is another build, or loads a library that is not in
 * the image; "surroundings" when the image was made for another system
 */
export async function smoke(service: Service, archive: string, id: string): Promise<void> {
  const root = await mkdtemp(join(tmpdir(), `${service.name}-smoke-`));
  try {
    await unpack(archive, root);
    const binary = join(root, describeImage(service).binary);
    const loader = readElf(binary).interpreter!;
    const same = await sameFile(loader, join(root, loader));
    if (!same) {
      throw new PipelineError(
        "surroundings",
        `the image brings another C library than this machine's: not run here`,
        {
          hint: `\`podman load -i ${archive}\` and \`podman run\` try it.`,
        },
      );
    }
    await runOnce(service, binary, { root, loader, id });
  } finally {
    await rm(root, { recursive: true });
  }
}

async function unpack(archive: string, root: string): Promise<void> {
  const { layers, packed } = (await readArchive(archive))!;
  const unpacked = join(root, "layer.tar");
  for (const layer of layers) {
    if (packed) await Bun.write(unpacked, await readLayer(archive, layer));
    const [tar, start] = packed ? [unpacked, 0] : [archive, layer.offset];
    for (const entry of readTar(tar, start, packed ? undefined : start + layer.size)) {
      const target = join(root, entry.path);
      if (entry.type === "directory") {
        await mkdir(target, { recursive: true });
      } else {
        const content = Bun.file(tar).slice(entry.offset, entry.offset + entry.size);
        await mkdir(dirname(target), { recursive: true });
        await writeFile(target, await content.bytes(), { mode: entry.mode });
      }
    }
  }
}

async function sameFile(a: string, b: string): Promise<boolean> {
  const [one, other] = await Promise.all([a, b].map((path) => readFile(path).catch(() => undefined)));
  return one !== undefined && other !== undefined && one.equals(other);
}

async function runOnce(
  service: Service,
  binary: string,
  { root, loader, id }: { root: string; loader: string; id: string },
): Promise<void> {
  const libraries = (await Array.fromAsync(new Bun.Glob("**/*.so.*").scan(root))).map((path) =>
    dirname(join(root, path)),
  );
  const port = await freePort();
  const child = Bun.spawn([binary], {
    cwd: "/",
    env: {
      ...describeImage(service).env,
      ...service.smoke,
      PORT: String(port),
      LD_LIBRARY_PATH: [...new Set(libraries)].join(":"),
    },
    stdin: "ignore",
    stdout: "ignore",
    stderr: "pipe",
    timeout: 20_000,
    killSignal: "SIGKILL",
  });
  const failed = (message: string, output = "") =>
    new PipelineError("change", `smoke test: ${message}`, { output });
  try {
    const answer = await firstAnswer(`http://127.0.0.1:${port}${service.versionPath}`, child);
    if (child.exitCode !== null) {
      throw failed("the binary ended before it answered", await new Response(child.stderr).text());
    }
    if (answer.id !== id) {
      throw failed(`the binary answers on $PORT with ${answer.id ?? answer.failure}, not ${id}`);
    }
    const maps = await readFile(`/proc/${child.pid}/maps`, "utf8");
    const foreign = [...maps.matchAll(/\/\S+\.so[.\d]*$/gm)]
      .map(([path]) => path)
      .filter((path) => !path.startsWith(root));
    const missing = foreign.filter((path) => !path.endsWith(loader.slice(loader.lastIndexOf("/"))));
    if (missing.length > 0)
      throw failed(`the binary loads what the image does not hold: ${missing.join(", ")}`);
    child.kill("SIGTERM");
    const code = await child.exited;
    if (code !== 0) throw failed(`after SIGTERM the binary ends with ${code}`);
  } finally {
    child.kill("SIGKILL");
  }
}

/** Asks until the first answer, or until the binary has ended, or for ten seconds. */
async function firstAnswer(url: string, { exited }: Bun.Subprocess) {
  const ended = new AbortController();
  void exited.then(() => ended.abort());
  const end = Date.now() + 10_000;
  for (;;) {
    const answer = await ask({ url, open: (init) => fetch(url, { ...init, proxy: false }) }, ended);
    if (answer.id !== undefined || ended.signal.aborted || Date.now() > end) return answer;
    await Bun.sleep(10);
  }
}

/** A port that nothing listens on. */
async function freePort(): Promise<number> {
  const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response() });
  const { port } = server;
  await server.stop(true);
  return port!;
}
