/**
 * Table of edits and their effects: another image ID, check and test run again, a new image. The pipeline's report is the
 * evidence, with both engines. All runs in the Dagger engine share a session, as in `watch`.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { appendFileSync, cpSync, existsSync, linkSync, mkdirSync, readFileSync, renameSync } from "node:fs";
import { rmSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readArchiveIndex } from "../../image/docker-archive-reader.ts";
import { pins } from "../../core/pins.ts";
import { daggerEngine, daggerSession, describeWith, must, sh, temporaryDirectory } from "./setup.ts";
import { commit, layOut, makeWorkspace } from "./monorepo-fixture.ts";

setDefaultTimeout(300_000);

/** Edits a workspace, or returns environment variables to set. */
type Edit = (workspace: string) => Record<string, string> | void;

const append =
  (path: string, text: string): Edit =>
  (workspace) =>
    appendFileSync(join(workspace, path), text);

const replace =
  (path: string, part: string, other: string): Edit =>
  (workspace) => {
    const before = readFileSync(join(workspace, path), "utf8");
    expect(before).toContain(part);
    writeFileSync(
      join(workspace, path),
      before.replace(part, () => other),
    );
  };

interface Row {
  change: string;
  edit: Edit;
  /** Whether the image ID changes and an image is built. */
  id: boolean;
  /** Whether check and test run again. On the host they may read any file, in the Dagger engine those of git. */
  steps: boolean | "host";
}

const both = { id: true, steps: true };
const stepsAlone = { id: false, steps: true };
const none = { id: false, steps: false };

const rows: Row[] = [
  { change: "nothing", edit: () => {}, ...none },
  { change: "a file that git ignores", edit: append("app/junk.log", "x\n"), id: false, steps: "host" },
  { change: "output of a script", edit: (at) => layOut(at, { "app/made/made.json": "1\n" }), ...none },
  { change: "a file's time", edit: (at) => utimesSync(join(at, "app/src/main.ts"), 1, 1), ...none },
  { change: "a variable that is not public", edit: () => ({ PRIVATE_NAME: "x" }), ...none },
  ...(Bun.which("git") ? [{ change: "a commit without changes", edit: commit, ...none }] : []),

  { change: "README.md", edit: append("app/README.md", "More.\n"), ...stepsAlone },
  { change: "the workspace's README.md", edit: append("README.md", "More.\n"), ...stepsAlone },
  { change: "a test", edit: append("app/test/main.test.ts", "// edited\n"), ...stepsAlone },
  { change: "a module that nothing imports", edit: append("app/src/new.ts", "export {};\n"), ...stepsAlone },
  {
    change: "a module with types only",
    edit: append("app/src/types.ts", "export type U = 1;\n"),
    ...stepsAlone,
  },
  { change: "a member that is not imported", edit: append("unused/index.ts", "// edited\n"), ...stepsAlone },
  { change: "a manifest", edit: append("app/k8s/base/service.yaml", "# edited\n"), ...stepsAlone },
  { change: "slipway's documentation", edit: append("slipway/README.md", "More.\n"), ...stepsAlone },

  { change: "the entry", edit: append("app/src/main.ts", "// edited\n"), ...both },
  { change: "a module", edit: append("app/src/local.ts", "// edited\n"), ...both },
  { change: "a member's module", edit: append("member/deep.ts", "// edited\n"), ...both },
  { change: "an embedded file", edit: append("app/src/bytes.bin", "more\n"), ...both },
  { change: "an imported text", edit: append("app/src/words.txt", "more\n"), ...both },
  { change: "imported JSON", edit: append("app/src/data.json", "\n"), ...both },
  { change: "a page", edit: append("app/src/page.html", "<!-- edited -->\n"), ...both },
  { change: "a page's CSS", edit: append("app/src/page.css", "p { color: blue }\n"), ...both },
  { change: "a page's script", edit: append("app/src/page.ts", "// edited\n"), ...both },
  { change: "a page's image", edit: append("app/src/page.svg", "\n"), ...both },
  { change: "a file that a plugin loads", edit: append("app/src/said.shout", "more\n"), ...both },
  { change: "a plugin", edit: append("app/ci/plugin.ts", "// edited\n"), ...both },
  { change: "an input of a prebuild script", edit: append("app/material/words.txt", "more\n"), ...both },
  { change: "tsconfig.json", edit: append("app/tsconfig.json", "\n"), ...both },
  { change: "the extended tsconfig", edit: append("tsconfig.base.json", "\n"), ...both },
  { change: "bunfig.toml", edit: append("bunfig.toml", "# edited\n"), ...both },
  { change: "package.json", edit: append("app/package.json", "\n"), ...both },
  { change: "the member's package.json", edit: append("member/package.json", "\n"), ...both },
  { change: "the lockfile", edit: append("bun.lock", "\n"), ...both },
  { change: "slipway's build code", edit: append("slipway/image/tar-writer.ts", "// edited\n"), ...both },
  {
    change: "slipway's injected endpoints",
    edit: append("slipway/service/attach.ts", "// edited\n"),
    ...both,
  },
  { change: "a file in the image", edit: append("app/public/robots.txt", "Disallow: /\n"), ...both },
  { change: "a new file in the image", edit: append("app/public/new.txt", "x\n"), ...both },
  { change: "a setting", edit: replace("app/ci/pipeline.ts", '"hello"', '"good evening"'), ...both },
  { change: "a public variable", edit: () => ({ PUBLIC_NAME: "x" }), ...both },
];

interface Engine {
  name: string;
  env: () => Record<string, string | undefined>;
}

/**
 * Runs the pipeline in `app`, where git ignores the archive. Keeps the archive in the directory `output` between runs.
 *
 * @returns the image ID, and for each step whether it did any work
 */
function runIn(app: string, output: string, { name, env }: Engine, more: Record<string, string> = {}) {
  mkdirSync(output, { recursive: true });
  const report = `${output}.json`;
  const command = ["ci/pipeline.ts", "--engine", name, "--target", "none", "--report", report];
  const files = ["small.tar", "small.cdx.json"];
  for (const file of files) if (existsSync(join(output, file))) renameSync(join(output, file), join(app, file));
  must([process.execPath, ...command], { cwd: app, env: { ...env(), ...more } });
  for (const file of files) renameSync(join(app, file), join(output, file));
  const { steps } = JSON.parse(readFileSync(report, "utf8")) as {
    steps: { name: string; reused: boolean; detail: string }[];
  };
  // The prebuild script runs again whenever the check does.
  const ran = Object.fromEntries(
    steps.filter(({ name }) => name !== "prebuild").map(({ name, reused }) => [name, !reused]),
  );
  const [, id] = /small:([0-9a-f]{12})$/.exec(steps.find(({ name }) => name === "image")!.detail) ?? [];
  return { id: id!, ran };
}

/** Makes the workspace unique, because engines cache every run. */
const edition = crypto.randomUUID();

/** Results by engine: image IDs by edit, and the layer with the C library. */
const found = new Map<string, { base: string; ids: Map<string, string>; libc: string }>();

function table(engine: Engine, directory: string): void {
  const workspace = join(directory, engine.name);
  const app = join(workspace, "app");
  const [saved, output] = [`${workspace}.saved`, `${workspace}.output`];
  const ids = new Map<string, string>();
  let base: string;

  beforeAll(async () => {
    cpSync(pristine, workspace, { recursive: true, verbatimSymlinks: true });
    base = runIn(app, output, engine).id;
    for (const end of [".tar", ".cdx.json"]) linkSync(join(output, `small${end}`), `${saved}${end}`);
    const { config } = (await readArchiveIndex(join(output, "small.tar")))!;
    found.set(engine.name, { base, ids, libc: config.rootfs.diff_ids[0]! });
  });

  /** Restores the workspace and the archive. */
  const restore = () => {
    for (const name of must(["ls", "-A", workspace]).split("\n").filter(Boolean)) {
      if (name !== "node_modules" && name !== "app") rmSync(join(workspace, name), { recursive: true });
    }
    for (const name of must(["ls", "-A", app]).split("\n").filter(Boolean)) {
      // node_modules holds the cache, and made/ the output of scripts.
      if (name !== "node_modules" && name !== "made") rmSync(join(app, name), { recursive: true });
    }
    const isFile = (path: string) => !path.endsWith("/node_modules");
    cpSync(pristine, workspace, { recursive: true, filter: isFile });
    for (const end of [".tar", ".cdx.json"]) {
      rmSync(join(output, `small${end}`), { force: true });
      linkSync(`${saved}${end}`, join(output, `small${end}`));
    }
  };

  test.each(rows)("after a change of $change: new ID $id, check and test run $steps", ({ change, edit, id, steps }) => {
    restore();
    const env = edit(workspace) ?? {};
    const after = runIn(app, output, engine, env);
    ids.set(change, after.id);
    const again = steps === "host" ? engine.name === "host" : steps;
    expect({ id: after.id !== base, ran: after.ran }).toEqual({ id, ran: { check: again, test: again, image: id } });
    if (engine.name !== "host") return;
    const command = [process.execPath, "ci/pipeline.ts", "build", "--id"];
    expect(must(command, { cwd: app, env }).trim()).toBe(after.id);
  });

  test("a reverted edit is served from the cache", () => {
    restore();
    runIn(app, output, engine);
    appendFileSync(join(app, "src/local.ts"), "// edited\n");
    runIn(app, output, engine);
    restore();
    const { id, ran } = runIn(app, output, engine);
    expect({ id, ran }).toEqual({ id: base, ran: { check: false, test: false, image: false } });
  });
}

const outside = {
  DAGGER_SESSION_PORT: undefined,
  DAGGER_SESSION_TOKEN: undefined,
  GITHUB_STEP_SUMMARY: undefined,
};
const directory = temporaryDirectory();
/** Workspace that each table copies. */
const pristine = join(directory, "pristine");
beforeAll(() => void makeWorkspace(pristine, edition));

describe("the host engine", () => table({ name: "host", env: () => outside }, directory));

describeWith(
  "the Dagger engine",
  [],
  () => {
    let session: Awaited<ReturnType<typeof daggerSession>>;
    beforeAll(async () => void (session = await daggerSession()));
    afterAll(() => session.end());
    table({ name: "dagger", env: () => ({ ...outside, ...session.env }) }, directory);
  },
  daggerEngine(),
);

describe("the image ID is the same", () => {
  test("in both engines after each edit, if the C library is the same", () => {
    const { host, dagger } = Object.fromEntries(found);
    if (host && dagger && host.libc === dagger.libc) expect(dagger.ids).toEqual(host.ids);
  });

  test.skipIf(!Bun.which("git"))("in a fresh clone in another directory", () => {
    const clone = join(directory, "elsewhere/deep/clone");
    must(["git", "clone", "--quiet", pristine, clone]);
    must([process.execPath, "install", "--frozen-lockfile"], { cwd: clone });
    const { id } = runIn(join(clone, "app"), join(directory, "clone.output"), {
      name: "host",
      env: () => outside,
    });
    expect(id).toBe(found.get("host")!.base);
  });
});

const base = () => sh(["buildah", "pull", "--quiet", pins.baseImage]).code === 0;
const bundle = process.env.NODE_EXTRA_CA_CERTS;

describeWith(
  "the image ID of the Dockerfile from init",
  ["buildah"],
  () => {
    test("is the same if the C library is the same", async () => {
      const workspace = join(directory, "by-dockerfile");
      cpSync(pristine, workspace, { recursive: true, verbatimSymlinks: true });
      expect(existsSync(join(workspace, "app/Dockerfile"))).toBe(true);
      const secret = bundle ? [`--secret=id=ca,src=${bundle}`] : [];
      const tag = `slipway-edits-${process.pid}`;
      const command = ["buildah", "bud", "--format", "docker", ...secret, "-f", "app/Dockerfile", "-t", tag, "."];
      const { code, output } = sh(command, { cwd: workspace });
      expect(code, output).toBe(0);
      const archive = join(directory, "by-dockerfile.tar");
      must(["buildah", "push", "--quiet", `${tag}:latest`, `docker-archive:${archive}`]);
      sh(["buildah", "rmi", "--force", tag]);
      const [, id] = /^small:([0-9a-f]{12})$/m.exec(output)!;
      const { config } = (await readArchiveIndex(archive))!;
      const same = [...found.values()].filter(({ libc }) => libc === config.rootfs.diff_ids[0]);
      for (const other of same) expect(id!).toBe(other.base);
    });
  },
  {
    name: `${pins.baseImage}, which cannot be pulled here`,
    isMet: Boolean(Bun.which("buildah")) && base(),
  },
);
