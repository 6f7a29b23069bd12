/** The Dockerfile, the way its user builds and runs it; and that its image is the pipeline's. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { appendFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { readArchiveIndex } from "../../image/docker-archive-reader.ts";
import { APP_DIRECTORY } from "../../image/image-paths.ts";
import { pins } from "../../core/pins.ts";
import { image } from "../helloapp-service.ts";
import { copyProject, describeWith, eventually, fileTree, must, sh, shapeOf, temporaryDirectory } from "./setup.ts";

setDefaultTimeout(600_000);

/** How many files this process may open: no more may be asked for on a machine that may not raise limits. */
const files = sh(["sh", "-c", "ulimit -n"]).stdout.trim();

const base = () => sh(["buildah", "pull", "--quiet", pins.baseImage]).code === 0;
const bundle = process.env.NODE_EXTRA_CA_CERTS;

describeWith(
  "Dockerfile",
  ["buildah", "podman", "runc"],
  () => {
    const directory = temporaryDirectory();
    const project = copyProject(join(directory, "project"), { modules: false });
    const name = `helloapp-e2e-${process.pid}`;
    const names = new Set<string>();

    /** Builds as the README says, with the certificates of a proxy where there is one. */
    function bud(tag: string, ...options: string[]): string {
      names.add(tag);
      const secret = bundle ? [`--secret=id=ca,src=${bundle}`] : [];
      const { code, output } = sh(["buildah", "bud", "--format", "docker", ...secret, ...options, "-t", tag, "."], {
        cwd: project,
      });
      if (code !== 0) throw new Error(output);
      return output;
    }

    function push(tag: string): string {
      const file = join(directory, `${tag}.tar`);
      // A docker-archive that is there is not replaced but refused.
      rmSync(file, { force: true });
      must(["buildah", "push", "--quiet", `${tag}:latest`, `docker-archive:${file}`]);
      return file;
    }

    let log: string;
    beforeAll(() => void (log = bud(name)));
    afterAll(() => void sh(["buildah", "rmi", "--force", ...names]));

    test("checks, tests and builds with the project's own scripts", () => {
      expect(log).toContain("bun check --no-script && bun fmt --check");
      expect(log).toMatch(/\b0 fail\b/);
      expect(log).toMatch(/^helloapp:[0-9a-f]{12}$/m);
    });

    test("podman runs it: it greets, knows its id, and stops with 0", async () => {
      const container = `${name}-run`;
      // As the README has it for a machine that may not raise limits; where it may, they are limits like others.
      const limits = [`--ulimit=nofile=${files}:${files}`, "--ulimit=nproc=9000:9000"];
      const run = Bun.spawn(
        ["podman", "run", "--rm", "--name", container, ...limits, "--read-only", "-p", "127.0.0.1::8080", name],
        { stdout: "pipe", stderr: "pipe" },
      );
      const port = await eventually(async () => {
        // What does not start is said at once, in podman's words.
        if (run.exitCode !== null) return `ended: ${await new Response(run.stderr).text()}`;
        const { stdout } = sh(["podman", "port", container, "8080"]);
        return stdout.trim().split(":").at(-1) || undefined;
      });
      expect(port).toMatch(/^\d+$/);
      const greeting = await eventually(async () => (await fetch(`http://127.0.0.1:${port}/`)).text());
      expect(greeting).toBe("Hello from helloapp\n");
      const { id } = (await (await fetch(`http://127.0.0.1:${port}/version`)).json()) as { id: string };
      expect(log).toContain(`helloapp:${id}\n`);
      must(["podman", "stop", container]);
      expect(await run.exited).toBe(0);
    });

    test("its configuration is that of the pipeline's image", async () => {
      const { config } = (await readArchiveIndex(push(name)))!;
      expect(config.config).toMatchObject({
        User: image.user,
        Entrypoint: [image.binary],
        ExposedPorts: { [image.port]: {} },
        WorkingDir: APP_DIRECTORY,
        Labels: image.labels,
      });
      expect(config.config.Env).toEqual(
        expect.arrayContaining(Object.entries(image.env).map(([name, value]) => `${name}=${value}`)),
      );
    });

    test("its files are those of the host engine: path, type, mode, owner, time; bytes where the C library is the same", async () => {
      const host = join(directory, "host.tar");
      must([process.execPath, "ci/pipeline.ts", "image", "--engine", "host", "--output", host]);
      const [ours, theirs] = await Promise.all([fileTree(host), fileTree(push(name))]);
      const {
        names: [tag],
      } = (await readArchiveIndex(host))!;
      // The id is the same where the C library is, and then everything must be.
      if (log.includes(`${tag}\n`)) expect(theirs).toEqual(ours);
      expect(shapeOf(theirs)).toEqual(shapeOf(ours));
    });

    describe("in layers", () => {
      const tag = `${name}-layers`;

      test("two, with the same digests when all is built again", async () => {
        const built = [tag, `${tag}-again`].map((tag) => {
          bud(tag, "--layers", "--no-cache");
          return push(tag);
        });
        const [one, other] = await Promise.all(
          built.map(async (file) => (await readArchiveIndex(file))!.config.rootfs.diff_ids),
        );
        expect(one).toHaveLength(2);
        expect(other).toEqual(one!);
      });

      test("an edit of the source installs nothing again, and has another id", () => {
        bud(tag, "--layers");
        // Another edit each time: buildah remembers what this machine has built before, and prints nothing of it.
        appendFileSync(join(project, "src/build-info.ts"), `\n// edited ${crypto.randomUUID()}\n`);
        must([process.execPath, "fmt", "--no-script", "src/build-info.ts"], { cwd: project });
        const again = bud(tag, "--layers");
        const setup = again.slice(again.indexOf("bun run setup"), again.indexOf("COPY . ."));
        expect(setup).toContain("Using cache");
        const id = (text: string) => /^helloapp:([0-9a-f]{12})$/m.exec(text)?.[1];
        expect(id(again)).toBeString();
        expect(id(again)).not.toBe(id(log)!);
      });

      test("a red test stops the build", () => {
        const test = 'import { test } from "bun:test";\n\ntest("red", () => {\n  throw new Error("so red");\n});\n';
        appendFileSync(join(project, "test/src/red.test.ts"), test);
        expect(() => bud(tag, "--layers")).toThrow("so red");
      });
    });
  },
  {
    name: `${pins.baseImage}, which cannot be pulled here`,
    isMet: Boolean(Bun.which("buildah")) && base(),
  },
);
