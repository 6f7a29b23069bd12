/**
 * What is edited against what changes: the id, whether check and test run again, whether an image is built. In both engines,
 * by what the pipeline itself reports. In the Dagger engine all of it goes on in one session, as `watch` does.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { appendFileSync, cpSync, existsSync, linkSync, readFileSync, rmSync, utimesSync } from "node:fs";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { readArchive } from "../../image/archive-reader.ts";
import { pins } from "../../core/pins.ts";
import { daggerEngine, daggerSession, describeWith, must, sh, temporaryDirectory } from "./setup.ts";
import { commit, layOut, makeWorkspace } from "./monorepo-fixture.ts";

setDefaultTimeout(300_000);

/** An edit of a workspace, or of the environment, which it gives back. */
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
  what: string;
  edit: Edit;
  /** Whether the id is another one, and an image is built. */
  id: boolean;
  /** Whether check and test run again: for all that git does not ignore, because they may read it. */
  steps: boolean;
}

const both = { id: true, steps: true };
const stepsAlone = { id: false, steps: true };
const nothing = { id: false, steps: false };

const rows: Row[] = [
  { what: "nothing", edit: () => {}, ...nothing },
  { what: "a file that git ignores", edit: append("app/junk.log", "x\n"), ...nothing },
  { what: "what a script made", edit: (at) => layOut(at, { "app/made/made.json": "1\n" }), ...nothing },
  { what: "a file's time", edit: (at) => utimesSync(join(at, "app/src/main.ts"), 1, 1), ...nothing },
  { what: "a variable that is not public", edit: () => ({ PRIVATE_NAME: "x" }), ...nothing },
  ...(Bun.which("git") ? [{ what: "a commit alone", edit: commit, ...nothing }] : []),

  { what: "README.md", edit: append("app/README.md", "More.\n"), ...stepsAlone },
  { what: "the workspace's README.md", edit: append("README.md", "More.\n"), ...stepsAlone },
  { what: "a test", edit: append("app/test/main.test.ts", "// edited\n"), ...stepsAlone },
  { what: "a module that nothing imports", edit: append("app/src/new.ts", "export {};\n"), ...stepsAlone },
  { what: "types alone", edit: append("app/src/types.ts", "export type U = 1;\n"), ...stepsAlone },
  { what: "a member that is not imported", edit: append("unused/index.ts", "// edited\n"), ...stepsAlone },
  { what: "a manifest", edit: append("app/k8s/base/service.yaml", "# edited\n"), ...stepsAlone },
  { what: "slipway's words", edit: append("slipway/README.md", "More.\n"), ...stepsAlone },

  { what: "the entry", edit: append("app/src/main.ts", "// edited\n"), ...both },
  { what: "a module", edit: append("app/src/local.ts", "// edited\n"), ...both },
  { what: "a member's module", edit: append("member/deep.ts", "// edited\n"), ...both },
  { what: "a file that is embedded", edit: append("app/src/bytes.bin", "more\n"), ...both },
  { what: "an imported text", edit: append("app/src/words.txt", "more\n"), ...both },
  { what: "imported JSON", edit: append("app/src/data.json", "\n"), ...both },
  { what: "a page", edit: append("app/src/page.html", "<!-- edited -->\n"), ...both },
  { what: "a page's CSS", edit: append("app/src/page.css", "p { color: blue }\n"), ...both },
  { what: "a page's script", edit: append("app/src/page.ts", "// edited\n"), ...both },
  { what: "a page's image", edit: append("app/src/page.svg", "\n"), ...both },
  { what: "what a plugin loads", edit: append("app/src/said.shout", "more\n"), ...both },
  { what: "a plugin", edit: append("app/ci/plugin.ts", "// edited\n"), ...both },
  { what: "what a script makes a file of", edit: append("app/material/words.txt", "more\n"), ...both },
  { what: "tsconfig.json", edit: append("app/tsconfig.json", "\n"), ...both },
  { what: "the tsconfig that it extends", edit: append("tsconfig.base.json", "\n"), ...both },
  { what: "bunfig.toml", edit: append("bunfig.toml", "# edited\n"), ...both },
  { what: "package.json", edit: append("app/package.json", "\n"), ...both },
  { what: "the member's package.json", edit: append("member/package.json", "\n"), ...both },
  { what: "the lockfile", edit: append("bun.lock", "\n"), ...both },
  { what: "slipway's build code", edit: append("slipway/image/tar-writer.ts", "// edited\n"), ...both },
  { what: "what slipway attaches", edit: append("slipway/service/attach.ts", "// edited\n"), ...both },
  { what: "a file in the image", edit: append("app/public/robots.txt", "Disallow: /\n"), ...both },
  { what: "a further file in the image", edit: append("app/public/new.txt", "x\n"), ...both },
  { what: "a setting", edit: replace("app/ci/pipeline.ts", '"hello"', '"good evening"'), ...both },
  { what: "a public variable", edit: () => ({ PUBLIC_NAME: "x" }), ...both },
];

interface Engine {
  name: string;
  env: () => Record<string, string | undefined>;
}

/** The id that a run in `app` finds, and which steps did something. */
function runIn(app: string, output: string, { name, env }: Engine, more: Record<string, string> = {}) {
  const report = `${output}.json`;
  const command = ["ci/pipeline.ts", "--engine", name, "--target", "none", "--output", output];
  must([process.execPath, ...command, "--report", report], { cwd: app, env: { ...env(), ...more } });
  const { steps } = JSON.parse(readFileSync(report, "utf8")) as {
    steps: { name: string; reused: boolean; detail: string }[];
  };
  const ran = Object.fromEntries(steps.map(({ name, reused }) => [name, !reused]));
  const [, id] = /small:([0-9a-f]{12})$/.exec(steps.find(({ name }) => name === "image")!.detail) ?? [];
  return { id: id!, ran };
}

/** An engine keeps what it has ever run: what is looked at is new each time. */
const edition = crypto.randomUUID();

/** The ids that an engine has found, by what was edited, and the C library's layer of its images. */
const found = new Map<string, { base: string; ids: Map<string, string>; libc: string }>();

function table(engine: Engine, directory: string): void {
  const workspace = join(directory, engine.name);
  const app = join(workspace, "app");
  const [kept, output] = [`${workspace}.kept`, `${workspace}.tar`];
  const ids = new Map<string, string>();
  let base: string;

  beforeAll(async () => {
    cpSync(pristine, workspace, { recursive: true, verbatimSymlinks: true });
    base = runIn(app, output, engine).id;
    for (const end of [".tar", ".cdx.json"]) linkSync(`${workspace}${end}`, `${kept}${end}`);
    const { config } = (await readArchive(output))!;
    found.set(engine.name, { base, ids, libc: config.rootfs.diff_ids[0]! });
  });

  /** Puts back what an edit may have changed, and the archive of what there was before it. */
  const restore = () => {
    for (const name of must(["ls", "-A", workspace]).split("\n").filter(Boolean)) {
      if (name !== "node_modules" && name !== "app") rmSync(join(workspace, name), { recursive: true });
    }
    for (const name of must(["ls", "-A", app]).split("\n").filter(Boolean)) {
      // What passed is remembered there; and what scripts have made is for them to look after.
      if (name !== "node_modules" && name !== "made") rmSync(join(app, name), { recursive: true });
    }
    const isFile = (path: string) => !path.endsWith("/node_modules");
    cpSync(pristine, workspace, { recursive: true, filter: isFile });
    for (const end of [".tar", ".cdx.json"]) {
      rmSync(`${workspace}${end}`, { force: true });
      linkSync(`${kept}${end}`, `${workspace}${end}`);
    }
  };

  test.each(rows)("$what: another id, $id; check and test again, $steps", ({ what, edit, id, steps }) => {
    restore();
    const env = edit(workspace) ?? {};
    const after = runIn(app, output, engine, env);
    ids.set(what, after.id);
    expect({ id: after.id !== base, ran: after.ran }).toEqual({
      id,
      ran: { check: steps, test: steps, image: id },
    });
    if (engine.name !== "host") return;
    const command = [process.execPath, "ci/pipeline.ts", "build", "--id"];
    expect(must(command, { cwd: app, env }).trim()).toBe(after.id);
  });

  test("what it was before an edit has passed before", () => {
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
/** What all begin with. */
const pristine = join(directory, "pristine");
beforeAll(() => void makeWorkspace(pristine, edition));

describe("an edit, in the host engine", () => table({ name: "host", env: () => outside }, directory));

describeWith(
  "an edit, in the Dagger engine",
  [],
  () => {
    let session: Awaited<ReturnType<typeof daggerSession>>;
    beforeAll(async () => void (session = await daggerSession()));
    afterAll(() => session.end());
    table({ name: "dagger", env: () => ({ ...outside, ...session.env }) }, directory);
  },
  daggerEngine(),
);

describe("the id is the same", () => {
  test("from the other engine after each edit, where the C library is the same", () => {
    const { host, dagger } = Object.fromEntries(found);
    if (host && dagger && host.libc === dagger.libc) expect(dagger.ids).toEqual(host.ids);
  });

  test.skipIf(!Bun.which("git"))("from a fresh clone in another directory", () => {
    const clone = join(directory, "elsewhere/deep/clone");
    must(["git", "clone", "--quiet", pristine, clone]);
    must([process.execPath, "install", "--frozen-lockfile"], { cwd: clone });
    const { id } = runIn(join(clone, "app"), join(directory, "clone.tar"), {
      name: "host",
      env: () => outside,
    });
    expect(id).toBe(found.get("host")!.base);
  });
});

const base = () => sh(["buildah", "pull", "--quiet", pins.baseImage]).code === 0;
const bundle = process.env.NODE_EXTRA_CA_CERTS;

describeWith(
  "the id from the Dockerfile that init writes",
  ["buildah"],
  () => {
    test("is the same, where the C library is", async () => {
      const workspace = join(directory, "by-dockerfile");
      cpSync(pristine, workspace, { recursive: true, verbatimSymlinks: true });
      expect(existsSync(join(workspace, "app/Dockerfile"))).toBe(true);
      const secret = bundle ? [`--secret=id=ca,src=${bundle}`] : [];
      const tag = `slipway-edits-${process.pid}`;
      const command = [
        "buildah",
        "bud",
        "--format",
        "docker",
        ...secret,
        "-f",
        "app/Dockerfile",
        "-t",
        tag,
        ".",
      ];
      const { code, output } = sh(command, { cwd: workspace });
      expect(code, output).toBe(0);
      const archive = join(directory, "by-dockerfile.tar");
      must(["buildah", "push", "--quiet", `${tag}:latest`, `docker-archive:${archive}`]);
      sh(["buildah", "rmi", "--force", tag]);
      const [, id] = /^small:([0-9a-f]{12})$/m.exec(output)!;
      const { config } = (await readArchive(archive))!;
      const same = [...found.values()].filter(({ libc }) => libc === config.rootfs.diff_ids[0]);
      for (const other of same) expect(id!).toBe(other.base);
    });
  },
  {
    name: `${pins.baseImage}, which cannot be pulled here`,
    isMet: Boolean(Bun.which("buildah")) && base(),
  },
);
