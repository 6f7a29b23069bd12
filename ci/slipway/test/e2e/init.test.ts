/**
 * Runs `slipway init` of the packed package in services outside this repository, then `bun run up`. With E2E_CLUSTER=k3s, two
 * of the services are deployed to a cluster.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { readArchiveIndex } from "../../image/docker-archive-reader.ts";
import { findSharedLibraries } from "../../image/image-spec.ts";
import { sha256 } from "../../core/hash.ts";
import { pins } from "../../core/pins.ts";
import manifest from "../../package.json";
import { describeWith, fileTree, hasNamespaces, must, root, sh, temporaryDirectory } from "./setup.ts";

setDefaultTimeout(600_000);

const directory = temporaryDirectory();
const bin = join(directory, "bin");
const archive = join(directory, `slipway-${manifest.version}.tgz`);
/** The package outside of a service, as `bunx` installs it. */
const tool = join(directory, "tool");
const slipway = `file:${archive}`;

const registry = {
  name: "npm's registry",
  isMet: sh([process.execPath, "pm", "view", "hono", "version"]).code === 0,
};

/** Environment without a Dagger session and without k3s. */
const env = {
  PATH: bin,
  DAGGER_SESSION_PORT: undefined,
  DAGGER_SESSION_TOKEN: undefined,
  GITHUB_STEP_SUMMARY: undefined,
};

type Files = Record<string, string | object>;

/** Creates a git repository with these files. */
function makeService(name: string, files: Files): string {
  const at = join(directory, "services", name);
  mkdirSync(at, { recursive: true });
  must(["git", "init", "--quiet"], { cwd: at });
  write(at, files);
  return at;
}

function write(at: string, files: Files): void {
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(at, name)), { recursive: true });
    const text = typeof content === "string" ? content : `${JSON.stringify(content, null, 2)}\n`;
    writeFileSync(join(at, name), text);
  }
}

function commit(at: string): void {
  must(["git", "add", "--all"], { cwd: at });
  must(["git", "-c", "user.name=me", "-c", "user.email=me@example.com", "commit", "--quiet", "-m", "x"], {
    cwd: at,
  });
}

const init = (cwd: string, ...args: string[]) =>
  sh([process.execPath, join(tool, "node_modules/slipway/cli/bin.ts"), "init", ...args], { cwd, env });
const up = (cwd: string) => sh([process.execPath, "run", "up"], { cwd, env });
const read = (at: string, name: string) => readFileSync(join(at, name), "utf8");

/** Runs init and up. @returns the output of both */
async function initAndUp(at: string, name: string): Promise<{ wrote: string; ran: string }> {
  const { code, output: wrote } = init(at);
  expect(code, wrote).toBe(0);
  expect(wrote).toContain("next: bun run up");
  const { code: ended, output: ran } = up(at);
  expect(ended, ran).toBe(0);
  expect(ran).toMatch(hasNamespaces ? /^  smoke    ok .*\bdrain\b/m : /^  smoke    none .*skipped/m);
  const { names } = (await readArchiveIndex(join(at, `${name}.tar`)))!;
  expect(ran).toContain(`${name}.tar holds ${names[0]}`);
  return { wrote, ran };
}

/** Expects that a second init changes nothing. */
function expectUnchanged(at: string): void {
  const top = must(["git", "rev-parse", "--show-toplevel"], { cwd: at }).trim();
  commit(top);
  const { code, output } = init(at);
  expect(code, output).toBe(0);
  expect(output).toContain("nothing to write: all files exist");
  expect(must(["git", "status", "--porcelain"], { cwd: top })).toBe("");
  const check = init(at, "--check");
  expect(check.code, check.output).toBe(0);
}

const hono: Files = {
  "package.json": {
    name: "init-greeter",
    version: "1.0.0",
    license: "MIT",
    type: "module",
    scripts: { start: "bun src/index.ts" },
    dependencies: { hono: "4.13.19", zod: "^4.0.0" },
    devDependencies: { slipway },
  },
  "src/index.ts": `import { Hono } from "hono";
import { z } from "zod";

const query = z.object({ name: z.string().default("you") });
const app = new Hono();
app.get("/", (c) => c.text(\`Hello, \${query.parse(c.req.query()).name}\`));

export default { port: Number(process.env.PORT ?? 3000), fetch: app.fetch };
`,
  "test/index.test.ts": `import { expect, test } from "bun:test";
import app from "../src/index.ts";

test("greets", async () => {
  expect(await (await app.fetch(new Request("http://x/?name=me"))).text()).toBe("Hello, me");
});
`,
};

const node: Files = {
  "package.json": {
    name: "init-clock",
    type: "module",
    scripts: { start: "bun server.js" },
    devDependencies: { "@types/node": "24", typescript: "5", slipway },
  },
  "server.js": `import { createServer } from "node:http";

createServer((_, reply) => reply.end("one o'clock")).listen(process.env.PORT || 4000);
`,
  "tsconfig.json": {
    compilerOptions: {
      strict: true,
      noEmit: true,
      target: "ES2022",
      module: "NodeNext",
      types: ["node"],
      allowJs: true,
      checkJs: true,
      skipLibCheck: false,
      exactOptionalPropertyTypes: true,
      noUncheckedIndexedAccess: true,
      verbatimModuleSyntax: true,
    },
  },
};

/** A workspace whose service, apps/api, imports packages/prices. */
const workspace = (version: string): Files => ({
  "package.json": { name: "all", private: true, workspaces: ["apps/*", "packages/*"] },
  "packages/prices/package.json": { name: "@all/prices", version: "1.0.0", module: "index.ts" },
  "packages/prices/index.ts": "export const prices = { apple: 3 };\n",
  "apps/api/package.json": {
    name: "@all/init-api",
    module: "src/index.ts",
    dependencies: { elysia: "1.4.30", "@all/prices": "workspace:*" },
    devDependencies: { slipway: version },
  },
  "apps/api/src/index.ts": `import { prices } from "@all/prices";
import { Elysia } from "elysia";

new Elysia().get("/", () => prices).listen(process.env.PORT ?? 3100);
`,
});

const plain = (manifest: object = {}, entry = "index.ts"): Files => ({
  "package.json": { ...manifest, devDependencies: { slipway } },
  [entry]: 'Bun.serve({ port: 3000, fetch: () => new Response("plain") });\n',
});

beforeAll(() => {
  mkdirSync(bin);
  for (const tool of ["bun", "sh", "git", "diff", "cat", "sleep", "tar", "true", "rm", "unshare"]) {
    const found = tool === "bun" ? process.execPath : Bun.which(tool);
    if (found) symlinkSync(found, join(bin, tool));
  }
  must([process.execPath, "pm", "pack", "--quiet", "--destination", directory], {
    cwd: join(root, "ci/slipway"),
  });
  write(tool, { "package.json": { dependencies: { slipway } } });
  must([process.execPath, "install"], { cwd: tool });
});

describeWith(
  "slipway init, then bun run up",
  ["git", "diff"],
  () => {
    describe("Hono, with zod and tests", () => {
      let at: string;
      beforeAll(() => void (at = makeService("greeter", hono)));

      test("runs, with its tests", async () => {
        const { wrote, ran } = await initAndUp(at, "init-greeter");
        expect(wrote).toContain('+    "test": "bun test",');
        expect(wrote).toContain("no `check` script");
        expect(ran).toMatch(/test +ok/);
        expect(read(at, "ci/pipeline.ts")).toContain('{ port: 3000, identity: "init-greeter-');
      });

      test("a second init changes nothing", () => expectUnchanged(at));

      test("--check shows an edit, and init keeps it", () => {
        const edited = read(at, "k8s/base/deployment.yaml").replace("replicas: 2", "replicas: 3");
        write(at, { "k8s/base/deployment.yaml": edited });
        const { code, output } = init(at, "--check");
        expect(code, output).toBe(1);
        expect(output).toContain("--- a/k8s/base/deployment.yaml\n+++ b/k8s/base/deployment.yaml\n");
        expect(output).toContain("\n-  replicas: 3\n+  replicas: 2\n");
        expect(output).toContain("files that differ from the templates: 1");
        expect(init(at).code).toBe(0);
        expect(read(at, "k8s/base/deployment.yaml")).toBe(edited);
        must(["git", "checkout", "--quiet", "."], { cwd: at });
      });

      test("--check reports a removed file, and init writes it again", () => {
        rmSync(join(at, "Dockerfile"));
        const { code, output } = init(at, "--check");
        expect(code, output).toBe(1);
        expect(output).toContain("files to write with `slipway init`: 1");
        expect(must(["git", "status", "--porcelain"], { cwd: at })).toBe(" D Dockerfile\n");
        expect(init(at).output).toMatch(/new +Dockerfile/);
        expect(must(["git", "status", "--porcelain"], { cwd: at })).toBe("");
      });

      test("a manifest that its kustomization no longer lists is not written again", () => {
        const name = "k8s/base/poddisruptionbudget.yaml";
        rmSync(join(at, name));
        const less = read(at, "k8s/base/kustomization.yaml").replace("  - poddisruptionbudget.yaml\n", "");
        write(at, { "k8s/base/kustomization.yaml": less });
        expect(init(at).output).toContain("nothing to write");
        must(["git", "checkout", "--quiet", "."], { cwd: at });
      });

      // Regression: without installed packages, the settings of ci/pipeline.ts were ignored.
      test("in a fresh clone, init uses the settings of ci/pipeline.ts before an installation", () => {
        const clone = join(directory, "services/clone");
        must(["git", "clone", "--quiet", at, clone]);
        const settings = { "ci/pipeline.ts": read(at, "ci/pipeline.ts").replace("port: 3000", "port: 3333") };
        write(clone, settings);
        rmSync(join(clone, "Dockerfile"));
        expect(init(clone).code).toBe(0);
        expect(read(clone, "Dockerfile")).toContain("PORT=3333");
      });

      test("up fails if a test fails", () => {
        write(at, {
          "test/red.test.ts": 'import { test } from "bun:test";\ntest("red", () => { throw new Error("so red"); });\n',
        });
        const { code, output } = up(at);
        rmSync(join(at, "test/red.test.ts"));
        expect(code, output).toBe(1);
        expect(output).toContain("so red");
      });
    });

    describe("node:http alone, in JavaScript, with a strict tsconfig and no tests", () => {
      let at: string;
      beforeAll(() => void (at = makeService("clock", node)));

      test("runs", async () => {
        const { wrote, ran } = await initAndUp(at, "init-clock");
        expect(wrote).toContain("no tests were found");
        expect(ran).toMatch(/test +none/);
      });

      const tsc = (cwd: string) => must([process.execPath, "x", "--no-install", "tsc"], { cwd });

      test("its tsc, which also checks declarations, accepts ci/pipeline.ts", () => {
        expect(must([process.execPath, "x", "--no-install", "tsc", "--listFilesOnly"], { cwd: at })).toContain(
          "/ci/pipeline.ts\n",
        );
        tsc(at);
        // tsc finds an error in the file.
        const text = read(at, "ci/pipeline.ts");
        write(at, { "ci/pipeline.ts": text.replace("port: 4000", 'port: "4000"') });
        expect(() => tsc(at)).toThrow("TS2322");
        write(at, { "ci/pipeline.ts": text });
      });

      test("tsc accepts ci/pipeline.ts in a CommonJS package too", () => {
        const other = makeService("common", {
          ...node,
          "package.json": { ...(node["package.json"] as object), name: "init-common", type: "commonjs" },
          "server.js":
            "const { createServer } = require('node:http');\ncreateServer().listen(process.env.PORT || 4000);\n",
          "tsconfig.json": {
            compilerOptions: {
              ...(node["tsconfig.json"] as { compilerOptions: object }).compilerOptions,
              verbatimModuleSyntax: false,
            },
          },
        });
        expect(init(other).code).toBe(0);
        tsc(other);
        expectUnchanged(other);
      });

      test("a second init changes nothing", () => expectUnchanged(at));
    });

    describe("Elysia, in a workspace", () => {
      let top: string;
      let at: string;
      beforeAll(() => {
        top = makeService("all", workspace(slipway));
        at = join(top, "apps/api");
      });

      test("runs from the member's directory", async () => {
        const { wrote } = await initAndUp(at, "init-api");
        expect(wrote).toMatch(/new +\.\.\/\.\.\/\.github\/workflows\/slipway-init-api\.yml/);
        expect(must(["git", "status", "--porcelain"], { cwd: top })).not.toContain("node_modules");
      });

      test("a second init changes nothing", () => expectUnchanged(at));
    });

    describe("components", () => {
      const overlay = "k8s/overlays/k3s/kustomization.yaml";
      let at: string;
      beforeAll(() => void (at = makeService("parts", plain({ name: "init-parts" }))));
      const status = () => must(["git", "status", "--porcelain", "-uall"], { cwd: at });

      test("are written on request and listed in the overlay", () => {
        const { code, output } = init(at, "--with", "ingress,autoscaler");
        expect(code, output).toBe(0);
        expect(output).toContain("  k8s/components/ingress: read its comments");
        expect(read(at, "k8s/components/ingress/ingress.yaml")).toContain("host: init-parts.example.com");
        expect(Bun.YAML.parse(read(at, overlay))).toMatchObject({
          components: ["../../components/ingress", "../../components/autoscaler"],
        });
        expectUnchanged(at);
      });

      test("another component adds a line to the overlay and its files", () => {
        const edited = read(at, overlay).replace("resources:\n", "# ours\nresources:\n");
        write(at, { [overlay]: edited });
        commit(at);
        expect(init(at, "--with", "egress,ingress,egress").code).toBe(0);
        const last = "  - ../../components/autoscaler\n";
        expect(read(at, overlay)).toBe(edited.replace(last, `${last}  - ../../components/egress\n`));
        expect(status().split("\n").filter(Boolean)).toEqual([
          ` M ${overlay}`,
          "?? k8s/components/egress/kustomization.yaml",
          "?? k8s/components/egress/networkpolicy.yaml",
        ]);
        commit(at);
      });

      test("init restores the files of components in the overlay only", () => {
        rmSync(join(at, "k8s/components/ingress"), { recursive: true });
        rmSync(join(at, "k8s/components/egress"), { recursive: true });
        const less = read(at, overlay).replace("  - ../../components/egress\n", "");
        write(at, { [overlay]: less });
        const check = init(at, "--check");
        expect(check.code).toBe(1);
        expect(check.output).toContain("files to write with `slipway init`: 2");
        expect(init(at).code).toBe(0);
        expect(status().split("\n").filter(Boolean)).toEqual([
          " D k8s/components/egress/kustomization.yaml",
          " D k8s/components/egress/networkpolicy.yaml",
          ` M ${overlay}`,
        ]);
        must(["git", "checkout", "--quiet", "."], { cwd: at });
      });

      test.each([
        [["--with", "ingress,nothing"], 2, 'unknown component "nothing"'],
        [["--with", "ingress", "--check"], 2, "--check cannot be combined with --with"],
      ])("%p: refused", (args, code, words) => {
        const refused = init(at, ...args);
        expect(refused.code).toBe(code);
        expect(refused.output).toContain(words);
        expect(status()).toBe("");
      });

      test("nothing is written if no line can be added to the overlay", () => {
        const flow = "{ resources: [../../base] }\n";
        write(at, { [overlay]: flow });
        commit(at);
        const refused = init(at, "--with", "monitoring");
        expect(refused.code, refused.output).toBe(1);
        expect(refused.output).toContain("Add it by hand: components: [../../components/monitoring]");
        expect(status()).toBe("");
      });
    });

    test("existing files stay unchanged, byte for byte", () => {
      const own: Files = {
        "package.json": {
          name: "init-own",
          scripts: {
            dev: "bun index.ts",
            build: "bun build index.ts",
            test: "bun test",
            up: "docker compose up",
          },
          devDependencies: { slipway },
        },
        "index.ts": 'Bun.serve({ port: 3000, fetch: () => new Response("own") });\n',
        "index.test.ts": "",
        ".gitignore": "node_modules\n/dist\n*.tar\n*.tar.part\n*.cdx.json\n*.cdx.json.part\n.*.bun-build",
        ".dockerignore": "*\r\n!index.ts",
        Dockerfile: "FROM scratch",
        "tsconfig.json": "{ /* mine */ }",
        "bunfig.toml": "[test]\n# mine\n",
        ".github/workflows/slipway.yml": "name: mine\n",
        "k8s/base/deployment.yaml": "kind: Deployment # mine\n",
        "k8s/base/kustomization.yaml": "resources: [deployment.yaml]\n",
        "k8s/overlays/k3s/kustomization.yaml": "resources: [../../base] # nodePort: 30777\n",
        "k8s/mine.yaml": "",
      };
      const at = makeService("own", own);
      const texts = Object.keys(own).map((name) => [name, read(at, name)]);
      const { code, output } = init(at);
      expect(code, output).toBe(0);
      expect(Object.keys(own).map((name) => [name, read(at, name)])).toEqual(texts);
      // Missing files are added, except manifests that the existing kustomization does not list.
      const added = must(["git", "ls-files", "--others", "--exclude-standard"], { cwd: at }).trim().split("\n");
      expect(added.filter((name) => !(name in own)).sort()).toEqual([
        "bun.lock",
        "ci/package.json",
        "ci/pipeline.ts",
        "k8s/overlays/registry/kustomization.yaml",
      ]);
      expect(output).toContain("the script `build` (bun build index.ts) is unchanged");
      expect(output).toContain(".dockerignore is an allow-list");
    });

    describe("unusual names", () => {
      test.each<[string, string, object, string]>([
        ["a scope, capitals and _", "scope", { name: "@Acme/Init_Service" }, "init-service"],
        ["a directory with a space, and no name", "Init Odd.dir", {}, "init-odd-dir"],
        ["no name", "init-nameless", {}, "init-nameless"],
      ])("%s", async (_, directory, manifest, name) => {
        const at = makeService(directory, plain(manifest));
        await initAndUp(at, name);
        expect(read(at, "Dockerfile")).toContain(`ENTRYPOINT ["/${name}"]`);
        expectUnchanged(at);
      });
    });

    describe("common kinds of services", () => {
      test.each<[string, Files, string]>([
        [
          "CommonJS",
          {
            ...plain({ name: "init-cjs", type: "commonjs", main: "server.js" }),
            "server.js": 'require("node:http").createServer((_, r) => r.end("x")).listen(process.env.PORT || 4000);\n',
          },
          "init-cjs",
        ],
        [
          "started by `bun run --hot`, in .mts",
          plain({ name: "init-mts", scripts: { dev: "bun run --hot src/a.mts" } }, "src/a.mts"),
          "init-mts",
        ],
        [
          "an entry with JSX that exports its server",
          {
            "package.json": { name: "init-tsx", devDependencies: { slipway } },
            "index.tsx": 'export default { port: 3000, fetch: () => new Response("x") };\n',
          },
          "init-tsx",
        ],
        [
          "a package.json with a byte order mark and CRLF",
          {
            ...plain(),
            "package.json": `\uFEFF{\r\n  "name": "init-mark",\r\n  "devDependencies": { "slipway": "${slipway}" }\r\n}\r\n`,
          },
          "init-mark",
        ],
        [
          "the root of a workspace with members",
          {
            ...plain(),
            "package.json": {
              name: "init-root",
              workspaces: ["packages/*"],
              dependencies: { "@x/text": "workspace:*" },
              devDependencies: { slipway },
            },
            "packages/text/package.json": { name: "@x/text", module: "index.ts" },
            "packages/text/index.ts": 'export const text = "x";\n',
            "index.ts": 'import { text } from "@x/text";\nBun.serve({ fetch: () => new Response(text) });\n',
          },
          "init-root",
        ],
        [
          "only yarn's lockfile",
          { ...plain({ name: "init-yarn" }), "yarn.lock": "# yarn lockfile v1\n\n\n" },
          "init-yarn",
        ],
        [
          "only npm's lockfile",
          {
            ...plain({ name: "init-npm", version: "1.0.0" }),
            "package-lock.json": {
              name: "init-npm",
              version: "1.0.0",
              lockfileVersion: 3,
              requires: true,
              packages: { "": { name: "init-npm", version: "1.0.0" } },
            },
          },
          "init-npm",
        ],
      ])("%s", async (name, files, service) => {
        const at = makeService(name.replace(/\W+/g, "-"), files);
        await initAndUp(at, service);
        expect(read(at, "Dockerfile")).toMatch(/^COPY package\.json bun\.lock \.\/$/m);
        expectUnchanged(at);
      });
    });

    test("the workflow of a service in a subdirectory is in the root of the repository", () => {
      const top = makeService("below", {});
      write(join(top, "backend"), plain({ name: "init-backend" }));
      expect(init(join(top, "backend")).code).toBe(0);
      expect(read(top, ".github/workflows/slipway-init-backend.yml")).toContain('working-directory: "backend"');
      expectUnchanged(join(top, "backend"));
    });

    test.each<[string, Files, string]>([
      ["an empty directory", {}, "package.json not found"],
      ["a package without an entry", { "package.json": { name: "x" } }, "error: no entry found in "],
      ["a package.json with comments", { "package.json": "{ // x\n}" }, "without comments"],
      ["a package.json that is a list", { "package.json": [] }, "is not a JSON object"],
      ["a name without letters", plain({ name: "123" }), 'error: invalid name ""'],
      ["a directory of that name", { ...plain({ name: "x" }), "Dockerfile/x": "" }, "Dockerfile: EISDIR"],
    ])("%s: exit 1 with an error, and no file is written", (name, files, words) => {
      const at = makeService(name.replace(/\W+/g, "-"), files);
      const before = must(["git", "status", "--porcelain", "-uall"], { cwd: at });
      const { code, output, stdout } = init(at);
      expect(code, output).toBe(1);
      expect(stdout).toBe("");
      expect(output).toContain(words);
      expect(output).not.toMatch(/^ +at /m);
      expect(must(["git", "status", "--porcelain", "-uall"], { cwd: at })).toBe(before);
    });

    test("a directory that cannot be created: exit 3 with an error, and no file is written", () => {
      const at = makeService("part", { ...plain({ name: "x" }), k8s: "a file" });
      const { code, output } = init(at);
      expect(code, output).toBe(3);
      expect(output).toMatch(/error: cannot write .*\/k8s\/base\/.* Nothing was changed\./);
      expect(must(["git", "status", "--porcelain", "-uall"], { cwd: at })).toBe(
        "?? index.ts\n?? k8s\n?? package.json\n",
      );
    });
  },
  registry,
);

describeWith(
  "slipway init in a directory that is read-only",
  ["git", "unshare", "mount"],
  () => {
    test("exit 3 with an error, and no file is written", () => {
      const at = makeService("read-only", plain({ name: "x" }));
      const command = `mount --bind "${at}" "${at}" && mount -o remount,ro,bind "${at}" && cd "${at}" && PATH="${bin}" exec ${process.execPath} ${tool}/node_modules/slipway/cli/bin.ts init`;
      const { code, output } = sh(["unshare", "--mount", "sh", "-c", command]);
      expect(code, output).toBe(3);
      expect(output).toMatch(/error: cannot write .*package\.json \(EROFS\)\. Nothing was changed\./);
      expect(must(["git", "status", "--porcelain", "-uall"], { cwd: at })).toBe("?? index.ts\n?? package.json\n");
    });
  },
  { name: "the right to mount", isMet: sh(["unshare", "--mount", "true"]).code === 0 },
);

const bundle = process.env.NODE_EXTRA_CA_CERTS;

describeWith(
  "the Dockerfile of init",
  ["git", "buildah", "runc"],
  () => {
    const tags = new Set<string>();
    afterAll(() => void (tags.size > 0 && sh(["buildah", "rmi", "--force", ...tags])));

    /** Copies the package into the build context. */
    function vendor(at: string): void {
      mkdirSync(join(at, "vendor"));
      cpSync(archive, join(at, "vendor/slipway.tgz"));
    }

    /** Builds the image with the command in the Dockerfile's comment, and compares the image ID with the host's. */
    async function expectSameImage(at: string, service: string, name: string): Promise<void> {
      const first = read(service, "Dockerfile")
        .split("\n")[1]!
        .replace(/^# +buildah bud /, "");
      const [, dockerfile = "Dockerfile"] = /-f (\S+)/.exec(first) ?? [];
      const tag = `slipway-init-${process.pid}-${name}`;
      tags.add(tag);
      const secret = bundle ? [`--secret=id=ca,src=${bundle}`] : [];
      const log = must(["buildah", "bud", "--format", "docker", ...secret, "-f", dockerfile, "-t", tag, "."], {
        cwd: at,
        env: { BUILDAH_ISOLATION: "chroot" },
      });
      const [, id] = new RegExp(`^${name}:([0-9a-f]{12})$`, "m").exec(log) ?? [];
      expect(id, log).toBeString();
      const file = join(directory, `${tag}.tar`);
      must(["buildah", "push", "--quiet", `${tag}:latest`, `docker-archive:${file}`]);
      const tree = await fileTree(file);
      expect(Object.keys(tree)).toContain(`/${name}`);
      // The id differs if the C library differs.
      const isSame = [...findSharedLibraries().files].every(
        ([path, source]) => tree[path]?.at(-1) === sha256(readFileSync(source)),
      );
      const host = must([process.execPath, "ci/pipeline.ts", "build", "--id"], { cwd: service, env }).trim();
      expect(id === host, `${id} in the image, ${host} here`).toBe(isSame);
    }

    test("Hono: runs the tests and builds slipway's image", async () => {
      const manifest = hono["package.json"] as object;
      const at = makeService("vendored", {
        ...hono,
        "package.json": { ...manifest, devDependencies: { slipway: "file:vendor/slipway.tgz" } },
      });
      vendor(at);
      expect(init(at).code).toBe(0);
      expect(read(at, "Dockerfile")).toContain("COPY vendor/slipway.tgz vendor/\n");
      await expectSameImage(at, at, "init-greeter");
    });

    test("Elysia in a workspace: builds from the root", async () => {
      const top = makeService("vendored-all", workspace("file:./vendor/slipway.tgz"));
      vendor(join(top, "apps/api"));
      expect(init(join(top, "apps/api")).code).toBe(0);
      await expectSameImage(top, join(top, "apps/api"), "init-api");
    });
  },
  registry,
  {
    name: `${pins.baseImage}, which cannot be pulled here`,
    isMet: Boolean(Bun.which("buildah")) && sh(["buildah", "pull", "--quiet", pins.baseImage]).code === 0,
  },
);

const allowed = process.env.E2E_CLUSTER === "k3s" && sh(["sh", "-c", "k3s kubectl get nodes"]).code === 0;

describeWith(
  "two services of init in one cluster",
  ["git"],
  () => {
    /** Environment with k3s, where init finds free ports and `up` deploys. */
    const here = { ...env, PATH: process.env.PATH };
    const names = ["init-greeter", "init-clock"] as const;
    const services = new Map<string, string>();
    const run = (at: string, ...args: string[]) => sh([process.execPath, ...args], { cwd: at, env: here });

    const remove = () => {
      for (const name of names) sh(["k3s", "kubectl", "delete", "namespace", name, "--ignore-not-found"]);
      const images = sh(["k3s", "ctr", "-n", "k8s.io", "images", "ls", "-q"]).stdout.split("\n");
      for (const image of images) {
        if (names.some((name) => image.startsWith(`docker.io/library/${name}:`)))
          sh(["k3s", "ctr", "-n", "k8s.io", "images", "rm", image]);
      }
    };
    beforeAll(remove);
    afterAll(remove);

    const portOf = (name: string) =>
      Number(/value: (\d{5})/.exec(read(services.get(name)!, "k8s/overlays/k3s/kustomization.yaml"))![1]);
    const request = (name: string, path: string) =>
      fetch(`http://127.0.0.1:${portOf(name)}${path}`, { keepalive: false, proxy: "" });
    const served = async (name: string) => ((await (await request(name, "/version")).json()) as { id: string }).id;
    const idOf = (name: string) =>
      must([process.execPath, "ci/pipeline.ts", "build", "--id"], {
        cwd: services.get(name)!,
        env: here,
      }).trim();

    test.each([
      ["init-greeter", hono, "Hello, you"],
      ["init-clock", node, "one o'clock"],
    ] as const)("%s is deployed and responds on its own port", async (name, files, greeting) => {
      const at = makeService(`deployed-${name}`, files);
      services.set(name, at);
      const wrote = run(at, join(tool, "node_modules/slipway/cli/bin.ts"), "init");
      expect(wrote.code, wrote.output).toBe(0);
      const { code, output } = run(at, "run", "up");
      expect(code, output).toBe(0);
      expect(output).toContain(`${name}:${idOf(name)} serves at`);
      expect(await (await request(name, "/")).text()).toBe(greeting);
      expect(await served(name)).toBe(idOf(name));
    });

    test("an edit of one service does not affect the other", async () => {
      const [before, other] = [await served("init-clock"), await served("init-greeter")];
      const at = services.get("init-clock")!;
      write(at, { "server.js": read(at, "server.js").replace("one", "two") });
      const { code, output } = run(at, "run", "up");
      expect(code, output).toBe(0);
      expect(await served("init-clock")).toBe(idOf("init-clock"));
      expect(await served("init-clock")).not.toBe(before);
      expect(await (await request("init-clock", "/")).text()).toBe("two o'clock");
      expect(await served("init-greeter")).toBe(other);
    });

    test("a regenerated overlay keeps the port", () => {
      const at = services.get("init-clock")!;
      const name = "k8s/overlays/k3s/kustomization.yaml";
      const before = read(at, name);
      rmSync(join(at, name));
      expect(run(at, join(tool, "node_modules/slipway/cli/bin.ts"), "init").code).toBe(0);
      expect(read(at, name)).toBe(before);
    });
  },
  registry,
  { name: "E2E_CLUSTER=k3s, and a reachable k3s", isMet: allowed },
);
