/**
 * Effects of the settings on a service: the built binary, the scripts that ran, and errors that changed
 * nothing.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, cpSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { hostEngine } from "../../engines/host.ts";
import { resolveService } from "../../core/resolve-service.ts";
import type { Settings } from "../../index.d.ts";
import { describeWith, eventually, must, root, sh, temporaryDirectory } from "./setup.ts";
import { layOut, type Files } from "./monorepo-fixture.ts";

setDefaultTimeout(300_000);

const directory = temporaryDirectory();
const outside = {
  DAGGER_SESSION_PORT: undefined,
  DAGGER_SESSION_TOKEN: undefined,
  GITHUB_STEP_SUMMARY: undefined,
};
let count = 0;

/**
 * Creates a project with these settings that uses the repository's slipway.
 * @param manifest more fields of package.json
 */
function project(files: Files, settings: Settings = {}, manifest: object = {}): string {
  const at = join(directory, `project-${(count += 1)}`);
  const call = `import { pipeline } from "slipway";\n\nawait pipeline(import.meta, ${JSON.stringify(settings)});\n`;
  layOut(at, {
    "package.json": JSON.stringify({ name: "small", version: "1.0.0", type: "module", ...manifest }),
    ".gitignore": "node_modules/\nmade/\n",
    "src/main.ts": "console.log(1);\n",
    "ci/pipeline.ts": call,
    ...files,
  });
  if ("dependencies" in manifest) must([process.execPath, "install"], { cwd: at });
  mkdirSync(join(at, "node_modules"), { recursive: true });
  symlinkSync(join(root, "ci/slipway"), join(at, "node_modules/slipway"));
  return at;
}

type Env = Record<string, string | undefined>;

const pipeline = (at: string, args: string[], env: Env = {}) =>
  sh([process.execPath, "ci/pipeline.ts", ...args], { cwd: at, env: { ...outside, ...env } });

/** Runs `build`. @returns the binary */
function build(at: string, { name = "small", env = {} as Env } = {}): string {
  const { code, output } = pipeline(at, ["build"], env);
  expect(code, output).toBe(0);
  return join(at, "dist/app", name);
}

/** Runs a server on a free port while `inspect` runs, then checks that it exits with 0. */
async function whileServing<T>(command: string[], inspect: (url: string) => Promise<T>): Promise<T> {
  const port = String(await freePort());
  const child = Bun.spawn(command, {
    cwd: "/",
    env: { PATH: process.env.PATH, PORT: port, NODE_ENV: "production", DRAIN_DELAY_SECONDS: "0" },
    stdio: ["ignore", "inherit", "inherit"],
  });
  try {
    const url = `http://127.0.0.1:${port}`;
    await eventually(async () => (await fetch(`${url}/readyz`)).ok || undefined, 20);
    const result = await inspect(url);
    child.kill("SIGTERM");
    expect(await child.exited).toBe(0);
    return result;
  } finally {
    child.kill("SIGKILL");
  }
}

async function freePort(): Promise<number> {
  const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response() });
  const { port } = server;
  await server.stop(true);
  return port!;
}

const text = async (url: string) => (await fetch(url)).text();

describe("entries", () => {
  const files = {
    "src/main.ts": 'export default { port: process.env.PORT, fetch: () => new Response("main") };\n',
    "src/migrate.ts": "console.log(JSON.stringify(process.argv.slice(2)), Bun.main === import.meta.path);\n",
  };
  const entries = { migrate: "src/migrate.ts" };

  test("the first argument selects the entry point, and the main one is served with health endpoints", async () => {
    const binary = build(project(files, { entries }));
    expect(must([binary, "migrate", "--to", "3"])).toStartWith('["--to","3"]');
    expect(must([binary, "migrate", "migrate"])).toStartWith('["migrate"]');
    // The service replies at every path, so the id is in the header alone.
    const [main, id] = await whileServing([binary], async (url) => [
      await text(url),
      (await fetch(`${url}/version`)).headers.get("Slipway-Build"),
    ]);
    expect(main).toBe("main");
    expect(id).toMatch(/^[0-9a-f]{12}$/);
  });

  test("the first argument selects the entry point without injected health endpoints", async () => {
    const answering = files["src/main.ts"].replace('"main"', '"main"), "/readyz": new Response("ok"');
    expect(answering).not.toBe(files["src/main.ts"]);
    const binary = build(project(files, { entries, attach: false }));
    expect(must([binary, "migrate"])).toStartWith("[]");
    const child = Bun.spawn([binary], { env: { PORT: String(await freePort()) }, stdout: "ignore" });
    try {
      await Bun.sleep(300);
      expect(child.exitCode).toBeNull();
    } finally {
      child.kill("SIGKILL");
    }
  });
});

test("compiles public variables and definitions into the binary", () => {
  const main = "declare const EDITION: string;\nconsole.log(EDITION, process.env.PUBLIC_A, process.env.OTHER_A);\n";
  const at = project({ "src/main.ts": main }, { attach: false, publicEnv: "PUBLIC_", define: { EDITION: '"first"' } });
  const binary = build(at, { env: { PUBLIC_A: "one", OTHER_A: "two" } });
  expect(must([binary], { env: { PUBLIC_A: undefined, OTHER_A: undefined } })).toBe("first one undefined\n");
});

test("copies files into the image, where modules find them by any kind of path", () => {
  const files = {
    "src/main.ts": `#!/usr/bin/env bun
import { fileURLToPath } from "node:url";
import paths from "./paths.ts";
import { common } from "./common.cjs";
import source from "./text.ts" with { type: "text" };
import { words } from "../lib/words.ts";

const isMain = import.meta.path === Bun.main && fileURLToPath(import.meta.url) === process.argv[1];
console.log(JSON.stringify({ paths: { ...paths, common }, isMain, words, source, read: await Bun.file("public/a.txt").text() }));
`,
    "src/paths.ts": `import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const __filename = fileURLToPath(import.meta.url);
const __dirname = dirname(__filename);
export default {
  dir: join(import.meta.dir, "../public/a.txt"),
  dirname: \`\${import.meta.dirname}/views/b.txt\`,
  url: new URL("./views/b.txt", import.meta.url).pathname,
  own: join(__dirname, "views", "b.txt"),
};
`,
    "src/common.cjs": '"use strict";\nexports.common = require("path").join(__dirname, "..", "public", "a.txt");\n',
    "src/text.ts": "export const here = import.meta.dir;\n",
    "lib/words.ts": 'export const words = "import.meta.dir, __dirname";\n',
    "src/views/b.txt": "b",
    "public/a.txt": "a",
  };
  const at = project(files, { attach: false, files: ["public", "src/views"] });
  const binary = build(at);
  const said = JSON.parse(must([binary], { cwd: join(at, "dist/app/srv") }));
  expect(said).toEqual({
    paths: {
      dir: "/srv/public/a.txt",
      dirname: "/srv/src/views/b.txt",
      url: "/srv/src/views/b.txt",
      own: "/srv/src/views/b.txt",
      common: "/srv/public/a.txt",
    },
    isMain: true,
    words: "import.meta.dir, __dirname",
    source: files["src/text.ts"],
    read: "a",
  });
  for (const path of Object.values<string>(said.paths)) expect(existsSync(join(at, "dist/app", path))).toBe(true);
});

test("converts an unusual package name to a binary name", async () => {
  const main =
    'import { odd } from "@Odd_Scope/p.k_g";\nBun.serve({ port: process.env.PORT, fetch: () => new Response(odd) });\n';
  const at = project(
    {
      "src/main.ts": main,
      "node_modules/@Odd_Scope/p.k_g/package.json": '{"name":"@Odd_Scope/p.k_g","version":"1.0.0-a.b+c","main":"i.js"}',
      "node_modules/@Odd_Scope/p.k_g/i.js": 'export const odd = "odd";\n',
    },
    {},
    { name: "@Team/My_Shop.js", version: "0.0.0-next.1+build" },
  );
  expect(await whileServing([build(at, { name: "my-shop-js" })], text)).toBe("odd");
  const { components } = JSON.parse(readFileSync(join(at, "dist/sbom.cdx.json"), "utf8"));
  expect(components).toContainEqual(expect.objectContaining({ group: "@Odd_Scope", name: "p.k_g" }));
});

test("shows warnings of the bundler and succeeds", () => {
  const at = project({
    "src/main.ts": 'import * as a from "./a.ts";\nconsole.log(a.nope);\n',
    "src/a.ts": "export const a = 1;\n",
  });
  const { code, output } = pipeline(at, ["image"]);
  expect(output).toMatch(/warn.*"nope" will always be undefined/);
  expect(output).toContain("src/main.ts:2");
  expect(code).toBe(0);
  const built = pipeline(at, ["build"]);
  expect(built.output).toContain('"nope" will always be undefined');
  expect(built.stdout.trim()).toMatch(/^small:[0-9a-f]{12}$/);
});

describe("prebuild scripts", () => {
  const log = join(directory, "ran");
  const ran = () => (existsSync(log) ? readFileSync(log, "utf8").split("\n").length - 1 : 0);
  const make = `await Bun.$\`echo ran >> ${log}\`;
await Bun.write("made/page.json", JSON.stringify(await Bun.file("src/source.txt").text()));
`;
  const main = 'import page from "../made/page.json";\nconsole.log(page);\n';
  const scripts = {
    "make:page": "bun make.ts",
    check: "test -f made/page.json",
    test: "test -f made/page.json",
  };

  test("run again only if their inputs or outputs changed, and before check and test", () => {
    const at = project(
      { "make.ts": make, "src/main.ts": main, "src/source.txt": "one" },
      { prebuild: ["make:page"], attach: false },
      { scripts },
    );
    if (Bun.which("git")) must(["git", "init", "--quiet"], { cwd: at });
    /** @returns the build ID and the number of times the script ran */
    const image = (...args: string[]) => {
      const before = ran();
      const command = [process.execPath, join(at, "ci/pipeline.ts"), "--target", "none", ...args];
      // The archive is not a file of the project.
      const result = sh(command, { cwd: directory, env: outside });
      expect(result.code, result.output).toBe(0);
      return { id: /small:([0-9a-f]{12})/.exec(result.output)![1]!, runs: ran() - before };
    };
    const { id, runs } = image();
    expect(runs).toBe(1);
    expect(image()).toEqual({ id, runs: 0 });
    rmSync(join(at, "made"), { recursive: true });
    expect(image()).toEqual({ id, runs: 1 });
    writeFileSync(join(at, "made/page.json"), '"made by somebody else"');
    expect(image()).toEqual({ id, runs: 1 });
    writeFileSync(join(at, "src/source.txt"), "two");
    const other = image();
    expect(other.runs).toBe(1);
    expect(other.id).not.toBe(id);
    // The outputs belong to the other input, so the script has to run again.
    writeFileSync(join(at, "src/source.txt"), "one");
    expect(image()).toEqual({ id, runs: 1 });
    expect(image()).toEqual({ id, runs: 0 });
  });

  test("run again after a change with the same engine, as in watch", async () => {
    const files = { "make.ts": make, "src/main.ts": main, "src/source.txt": "one" };
    const settings: Settings = { prebuild: ["make:page"], attach: false };
    const at = project(files, settings, { scripts });
    const engine = hostEngine(resolveService(at, settings), new AbortController().signal);
    const before = ran();
    const ids = [await engine.computeId(), await engine.computeId()];
    expect(ran() - before).toBe(1);
    writeFileSync(join(at, "src/source.txt"), "two");
    ids.push(await engine.computeId());
    expect(ran() - before).toBe(2);
    expect(new Set(ids).size).toBe(2);
  });

  test("are a project error if they fail, and run again the next time", () => {
    const scripts = { make: "echo so broken && exit 3" };
    const at = project({}, { prebuild: ["make"] }, { scripts });
    for (const _ of [1, 2]) {
      const { code, output } = pipeline(at, ["image"]);
      expect(output).toContain("so broken");
      expect(code).toBe(1);
    }
  });
});

describe("another version of Bun", () => {
  const untouched = (at: string) => {
    expect(existsSync(join(at, "small.tar"))).toBe(false);
    expect(existsSync(join(at, "node_modules/.cache"))).toBe(false);
    expect(existsSync(join(at, "ran"))).toBe(false);
  };
  const scripts = { check: "touch ran", make: "touch ran" };

  test.each<[string, Files, Settings, object]>([
    [".bun-version", { ".bun-version": "9.9.9\n" }, {}, {}],
    ["packageManager", {}, {}, { packageManager: "bun@9.9.9" }],
    ["the settings", {}, { bun: "9.9.9" }, {}],
  ])("pinned by %s: exits with 3 and the command to run, before any change", (_, files, settings, manifest) => {
    const at = project(files, settings, { scripts, ...manifest });
    for (const command of [["--target", "none"], ["image"], ["check"], ["build"], ["build", "--id"]]) {
      const { code, output } = pipeline(at, command);
      expect(output).toContain("npx -y bun@9.9.9 ci/pipeline.ts");
      expect({ command, code }).toEqual({ command, code: 3 });
    }
    untouched(at);
    expect(existsSync(join(at, "dist"))).toBe(false);
  });

  test.each<[string, Settings]>([
    ["check", {}],
    ["image", { prebuild: ["make"] }],
  ])("installed by a dependency: exits with 3 and its path, before %s", (command, settings) => {
    const at = project({ "node_modules/.bin/bun": "#!/bin/sh\necho 1.3.11\n" }, settings, { scripts });
    const shadowing = join(at, "node_modules/.bin/bun");
    chmodSync(shadowing, 0o755);
    const { code, output } = pipeline(at, [command]);
    expect(output).toContain("1.3.11");
    expect(output).toContain("node_modules/.bin/bun");
    expect(code).toBe(3);
    untouched(at);
  });
});

/** Copies the built files as they are in the image and runs the binary there, as the image's user. */
async function inImage<T>(at: string, inspect: (url: string) => Promise<T>): Promise<T> {
  const imageRoot = `${at}.root`;
  for (const tree of ["runtime", "app"])
    cpSync(join(at, "dist", tree), imageRoot, { recursive: true, verbatimSymlinks: true });
  for (const name of ["proc", "tmp"]) mkdirSync(join(imageRoot, name));
  const script = `mount -t proc none ${imageRoot}/proc && mount -t tmpfs -o mode=1777 none ${imageRoot}/tmp &&
    exec chroot --userspec=65532:65532 ${imageRoot} /small`;
  return whileServing(["unshare", "--mount", "sh", "-c", script], inspect);
}

const canChroot = sh(["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /mnt && chroot / true"]).code === 0;

describeWith(
  "native addons in the image",
  ["unshare", "mount", "chroot"],
  () => {
    const main = `import { hash, verify } from "@node-rs/argon2";
import sharp from "sharp";

const picture = () => sharp({ create: { width: 8, height: 8, channels: 3, background: "red" } }).png().toBuffer();
Bun.serve({
  port: process.env.PORT,
  routes: {
    "/embedded": async () => Response.json(await verify(await hash("x"), "x")),
    "/beside": async () => Response.json((await sharp(await picture()).metadata()).format),
  },
});
`;
    const dependencies = { "@node-rs/argon2": "2.2.1", sharp: "0.35.5" };

    test.each(["hoisted", "isolated"])(
      "works for an embedded addon and for one that is loaded by path, installed %s",
      async (linker) => {
        const bunfig = `[install]\nlinker = "${linker}"\n`;
        const at = project({ "src/main.ts": main, "bunfig.toml": bunfig }, {}, { dependencies });
        expect(build(at)).toEndWith("/small");
        const { components } = JSON.parse(readFileSync(join(at, "dist/sbom.cdx.json"), "utf8"));
        const names = components.map(({ name }: { name: string }) => name);
        expect(names).toEqual(expect.arrayContaining(["argon2", "sharp", "detect-libc"]));
        const seen = await inImage(at, (url) => Promise.all([text(`${url}/embedded`), text(`${url}/beside`)]));
        expect(seen).toEqual(["true", '"png"']);
      },
    );
  },
  { name: "the right to mount and chroot", isMet: canChroot },
);
