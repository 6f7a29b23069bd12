/** Unit tests of `slipway init`: detected facts, merged files and generated files. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmod, mkdir, mkdtemp, readdir, readFile, realpath, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { findEntry } from "../core/entry-detection.ts";
import { PipelineError } from "../core/errors.ts";
import { resolveService } from "../core/resolve-service.ts";
import { addComponents, components, componentsIn, componentFiles } from "../init/kustomize-components.ts";
import { findFacts, type ProjectFacts } from "../init/project-facts.ts";
import { generatedFiles } from "../init/files.ts";
import { addPatterns, addToDockerignore, addToGitignore, addToPackage } from "../init/merge.ts";
import { findPort, hasHardcodedPort } from "../init/port-detection.ts";
import { describeChoices } from "../init/describe-choices.ts";
import { undoAll, writeAll } from "../init/write-all-or-none.ts";
import { pins } from "../core/pins.ts";
import { optionDefinitions } from "../cli/options.ts";
import { root, service as helloapp } from "./helloapp-service.ts";

let directory: string;
let path: string | undefined;
beforeAll(async () => {
  directory = await realpath(await mkdtemp(join(tmpdir(), "slipway-init-")));
  // PATH holds git alone, so that no cluster influences the ports.
  path = process.env.PATH;
  await mkdir(join(directory, "bin"));
  const git = Bun.which("git");
  if (git) await symlink(git, join(directory, "bin/git"));
  process.env.PATH = join(directory, "bin");
});
afterAll(async () => {
  process.env.PATH = path;
  await rm(directory, { recursive: true });
});

type Files = Record<string, string | object>;

/** Writes files to a new directory. */
async function layOut(files: Files): Promise<string> {
  const at = join(await mkdtemp(join(directory, "at-")), "project");
  await mkdir(at);
  for (const [name, content] of Object.entries(files)) {
    await mkdir(dirname(join(at, name)), { recursive: true });
    await writeFile(join(at, name), typeof content === "string" ? content : JSON.stringify(content));
  }
  return at;
}

/** Detects the facts of the service in the subdirectory `member`. */
async function factsOf(files: Files, member = ""): Promise<ProjectFacts> {
  const at = await layOut({ "package.json": { name: "shop" }, "src/main.ts": "", ...files });
  return findFacts(resolveService(join(at, member), { identity: "shop" }), AbortSignal.timeout(60_000));
}

describe("the files that the service opens", () => {
  const files = {
    ".gitignore": "uploads/\n",
    "src/main.ts": 'import "./web.ts";\nmigrate(db, { migrationsFolder: "./drizzle" });\n',
    "src/web.ts":
      'serveStatic({ root: "./public" });\nawait Bun.file("./public/a.txt").text();\nBun.file(import.meta.dir + "/../views/" + name);\nBun.write("./uploads/a", "");\nBun.file("./later.txt");\n',
    "public/a.txt": "a",
    "views/a.ejs": "a",
    "drizzle/meta/_journal.json": "{}",
    "uploads/a": "",
    "unused/a.txt": "a",
  };

  test("are proposed for `files`, if git does not ignore them", async () => {
    const at = await layOut({ "package.json": { name: "shop" }, ...files });
    Bun.spawnSync(["git", "init", "-q"], { cwd: at });
    const facts = await findFacts(resolveService(at, { identity: "shop" }), AbortSignal.timeout(60_000));
    expect(facts.openedFiles).toEqual(["drizzle", "public", "views"]);
    const after = generatedFiles(facts).get("ci/pipeline.ts")!;
    expect(after).toContain(
      'await pipeline(import.meta, {\n  identity: "shop",\n  files: ["drizzle", "public", "views"],\n});',
    );
    const change = { path: join(at, "ci/pipeline.ts"), before: undefined, after };
    expect(describeChoices(facts, [change]).join("\n")).toContain("files    drizzle, public, views");
    expect(describeChoices(facts, []).join("\n")).not.toContain("files    ");
  });

  test("are none without literal paths", async () => {
    const facts = await factsOf({ ...files, "src/main.ts": "Bun.file(process.argv[2]!);\n" });
    expect(facts.openedFiles).toEqual([]);
    expect(generatedFiles(facts).get("ci/pipeline.ts")).toContain('await pipeline(import.meta, { identity: "shop" });');
  });
});

describe("the port", () => {
  test.each<[string, number | undefined]>([
    ["Bun.serve({port: 3000})", 3000],
    ["const server = Bun.serve({\n  routes: { '/': new Response('x') },\n  port: 3000,\n});", 3000],
    ["export default { port: 3000, fetch: app.fetch }", 3000],
    ["export default {\n  fetch: app.fetch,\n  port: 3000,\n} satisfies Serve", 3000],
    ["serve({ fetch: app.fetch, port: 8788 })", 8788],
    ["Bun.serve<Data>({ port: 3001 })", 3001],
    ["const port = Number(process.env.PORT) || 4000;", 4000],
    ["const port = process.env['PORT'] || 4000", 4000],
    ['port: Number(Bun.env.PORT ?? "5000")', 5000],
    ["parseInt(process.env.PORT || '5001', 10)", 5001],
    ["parseInt(process.env.PORT ?? `5002`)", 5002],
    ["process.env.PORT ? Number(process.env.PORT) : 5003", 5003],
    ["const { PORT = 5004, HOST } = process.env", 5004],
    ["z.object({ HOST: z.string(), PORT: z.coerce.number().int().default(5005) })", 5005],
    ["const PORT = 3001", 3001],
    ["const port: number = 3_002", 3002],
    ["http.createServer(handler).listen(8787, cb)", 8787],
    ["app.listen( 8788 )", 8788],
    ["new Elysia().listen({ hostname: '0.0.0.0', port: 8789 })", 8789],
    ['Deno.serve({ port: Number(Deno.env.get("PORT") ?? 8000) }, handler)', 8000],
    ["Deno.serve({ port: 8001 }, handler)", 8001],
    ["const config = { server: { port: 3003 } }; Bun.serve(config.server)", 3003],
    ['{ "port": 3004 }', 3004],
    // A privileged port counts too.
    ["Bun.serve({ port: 443, tls })", 443],
    ["createServer(options, handler).listen(443)", 443],
    // The default of $PORT takes precedence.
    ["Bun.serve({ port: 1234 }); const port = process.env.PORT ?? 4321", 4321],
    // No port in the source.
    ["", undefined],
    ["Bun.serve({ fetch: () => new Response() })", undefined],
    ["Bun.serve({ port: Number(process.env.PORT) })", undefined],
    ["Bun.serve({ port: 0 })", undefined],
    ["app.listen(process.env.PORT)", undefined],
    ["const PORT = 99999", undefined],
    // Ports in comments.
    ["// port: 3000\nBun.serve({})", undefined],
    ["/* app.listen(3000)\n   const PORT = 3000 */", undefined],
    ["app.listen(4000) // not .listen(3000)", 4000],
    ["const home = 'http://localhost//'; app.listen(4001)", 4001],
    // Ports of other services.
    ["await fetch('https://example.com:443/')", undefined],
    ["https.request({ host: 'example.com', port: 443 })", undefined],
    ["const pool = new Pool({ host, port: 5432 }); Bun.serve({ port: 3005 })", 3005],
    ["createClient({ socket: { host }, port: 6379 })", undefined],
    ["const db = Number(process.env.DB_PORT ?? 5432)", undefined],
    ["const dbPort = 5432; url.port = 5432; if (url.port === '443') x()", undefined],
    ["const version = 'port: 1.5'", undefined],
  ])("of %p is %p", (source, port) => {
    expect(findPort(source)).toBe(port);
  });

  test.each<[string, boolean]>([
    ['import http from "node:http"; http.createServer(f).listen(4000)', true],
    ['const app = require("express")(); app.listen(4000)', true],
    ['import http from "node:http"; http.createServer(f).listen(process.env.PORT ?? 4000)', false],
    // The build makes Bun.serve listen on $PORT.
    ["Bun.serve({ port: 4000 })", false],
    ['import http from "node:http"; http.createServer(f).listen(port)', false],
  ])("of %p ignores $PORT: %p", (source, fixed) => {
    expect(hasHardcodedPort(source)).toBe(fixed);
  });
});

test("the monitoring component: variable, container port, scraping and policy name one port", async () => {
  const written = generatedFiles(await factsOf({ "package.json": '{ "name": "shop" }' }), ["monitoring"]);
  const read = (file: string) => Bun.YAML.parse(written.get(`k8s/components/monitoring/${file}`)!) as any;
  const { patches, resources } = read("kustomization.yaml");
  const [container] = (Bun.YAML.parse(patches[0].patch) as any).spec.template.spec.containers;
  const base = Bun.YAML.parse(written.get("k8s/base/deployment.yaml")!) as any;
  // kustomize merges by these names.
  const [own] = base.spec.template.spec.containers;
  expect([container.name, patches[0].target.name]).toEqual([own.name, base.metadata.name]);
  const [port] = container.ports;
  expect(container.env).toEqual([{ name: "METRICS_PORT", value: String(port.containerPort) }]);
  expect(own.ports).not.toContainEqual(port);
  expect(read("podmonitor.yaml").spec.podMetricsEndpoints).toEqual([{ port: port.name, path: "/metrics" }]);
  const policy = read("networkpolicy.yaml");
  expect(policy.spec.ingress[0].ports).toEqual([{ port: port.name }]);
  expect(policy.spec.podSelector.matchLabels).toEqual(base.spec.selector.matchLabels);
  const files = [...written.keys()].filter((path) => path.startsWith("k8s/components/monitoring/"));
  expect(files.map((path) => path.split("/").at(-1)!)).toEqual(
    [...resources, "kustomization.yaml", "dashboard.json"].sort(),
  );
});

describe("facts", () => {
  test.each<[string, boolean]>([
    ["src/main.test.ts", true],
    ["test/main.spec.mjs", true],
    ["main_test.tsx", true],
    ["test/fixture.ts", false],
    ["src/contest.ts", false],
    ["node_modules/x/x.test.js", false],
    ["dist/main.test.js", false],
  ])("%s counts as a test: %p", async (file, hasTests) => {
    expect(await factsOf({ [file]: "" })).toMatchObject({ hasTests });
  });

  test("the test script that init adds counts as a script of the service", async () => {
    const found = await factsOf({ "main.test.ts": "" });
    expect(found.service.scripts).toEqual({ check: undefined, test: "test" });
  });

  // Regression: the image build ran npm's placeholder script, which always fails.
  test.each(['echo "Error: no test specified" && exit 1', "bun test --watch", "jest --watchAll"])(
    "the image build does not run the `test` script %p",
    async (script) => {
      const found = await factsOf({
        "main.test.ts": "",
        "package.json": { name: "shop", scripts: { test: script } },
      });
      expect(found).toMatchObject({ hasTests: true, service: { scripts: { test: undefined } } });
      expect(generatedFiles(found).get("Dockerfile")).not.toContain("bun run test");
    },
  );

  // Regression: the Dockerfile copied npm's lockfile instead of the one that `bun install` creates from it.
  test.each<[string[], string]>([
    [[], "bun.lock"],
    [["bun.lock"], "bun.lock"],
    [["bun.lockb"], "bun.lockb"],
    [["bun.lock", "bun.lockb"], "bun.lock"],
    [["package-lock.json"], "bun.lock"],
    [["yarn.lock"], "bun.lock"],
    [["pnpm-lock.yaml"], "bun.lock"],
  ])("with the lockfiles %p, the installation reads %s", async (files, lockfile) => {
    const found = await factsOf(Object.fromEntries(files.map((file) => [file, ""])));
    expect(found.lockfile as string).toBe(lockfile);
  });

  test("finds the members of a workspace and the service's directory in it", async () => {
    const found = await factsOf(
      {
        "package.json": { name: "all", workspaces: ["./apps/*", "packages/**", "!packages/old"] },
        "apps/api/package.json": { name: "@all/api", main: "index.ts" },
        "apps/api/index.ts": "app.listen(3000)",
        "packages/a/b/package.json": {},
        "packages/old/package.json": {},
        "packages/node_modules/x/package.json": {},
        "apps/none/index.ts": "",
        "packages/prices/prices.test.ts": "",
        "packages/prices/package.json": {},
      },
      "apps/api",
    );
    // Regression: members that a negated pattern excludes were listed.
    expect(found.members).toEqual(["apps/api", "packages/a/b", "packages/prices"]);
    expect(found).toMatchObject({ directory: "apps/api", workspace: ".", port: 3000, hasTests: false });
    expect(found.service.name).toBe("api");
  });

  test("supports a service in the root of a workspace with members", async () => {
    const found = await factsOf({
      "package.json": { name: "all", workspaces: { packages: ["packages/*"] } },
      "packages/prices/package.json": {},
      "packages/prices/prices.test.ts": "",
    });
    expect(found).toMatchObject({ members: ["packages/prices"], directory: ".", hasTests: true });
  });

  test("a workspace without patterns has no members", async () => {
    expect((await factsOf({ "package.json": { name: "shop", workspaces: {} } })).members).toEqual([]);
  });

  test("finds the inputs of an installation: settings, local packages, patches", async () => {
    const found = await factsOf({
      "package.json": {
        name: "shop",
        dependencies: {
          a: "file:vendor/a-1.tgz",
          b: "file:./vendor/gone.tgz",
          c: "1.0.0",
          d: "file:/etc/d.tgz",
        },
        patchedDependencies: { "c@1.0.0": "patches/c.patch" },
      },
      ".npmrc": "",
      "vendor/a-1.tgz": "",
      "patches/c.patch": "",
    });
    expect(found.installs).toEqual([".npmrc", "patches/c.patch", "vendor/a-1.tgz"]);
    expect(found.hasHooks).toBe(false);
  });

  test("local packages are inputs of the installation, and those outside the project are named", async () => {
    const found = await factsOf({
      "package.json": {
        name: "shop",
        dependencies: { a: "file:vendor/a", b: "link:./libs/b/", c: "./c", d: "file:../" },
        devDependencies: { e: "file:/etc" },
      },
      "vendor/a/package.json": { name: "a" },
      "libs/b/package.json": { name: "b" },
      "c/package.json": { name: "c" },
    });
    expect(found.installs).toEqual(["c", "libs/b", "vendor/a"]);
    expect(found.outside).toContain("/etc");
    const dockerfile = generatedFiles(found).get("Dockerfile")!;
    const first = dockerfile.slice(0, dockerfile.indexOf("RUN "));
    // COPY copies the contents of a directory.
    for (const path of found.installs) expect(first).toContain(`\nCOPY ${path} ${path}/\n`);
  });

  test("pnpm-workspace.yaml defines a workspace, unless it only has settings", async () => {
    const packages = {
      "package.json": { name: "all" },
      "apps/shop/package.json": { name: "shop" },
      "apps/shop/index.ts": "",
    };
    const workspace = await layOut({ ...packages, "pnpm-workspace.yaml": 'packages:\n  - "apps/*"\n' });
    expect(resolveService(join(workspace, "apps/shop")).root).toBe(workspace);
    const settings = await layOut({ ...packages, "pnpm-workspace.yaml": "onlyBuiltDependencies: [esbuild]\n" });
    expect(resolveService(join(settings, "apps/shop")).root).toBe(join(settings, "apps/shop"));
  });

  test.if(Boolean(Bun.which("git")))("finds a workspace below the root of the repository", async () => {
    const at = await layOut({ "backend/package.json": { name: "shop" }, "backend/index.ts": "" });
    Bun.spawnSync(["git", "init", "--quiet"], { cwd: at });
    const found = await findFacts(resolveService(join(at, "backend")), AbortSignal.timeout(60_000));
    expect(found).toMatchObject({ directory: ".", workspace: "backend" });
    const workflow = generatedFiles(found).get("../.github/workflows/slipway-shop.yml");
    const places = [...workflow!.matchAll(/working-directory: (.*)/g)].map(([, place]) => place);
    expect(places).toEqual(['"backend"', '"backend"', '"backend"']);
  });

  describe("the NodePort", () => {
    const overlay = "k8s/overlays/k3s/kustomization.yaml";

    test.each([
      ["path: /spec/ports/0/nodePort\n        value: 30999\n"],
      ["path: /spec/ports/0/nodePort\r\n        value: 30999\r\n"],
      // Regression: this form was detected, but its number was ignored.
      ["spec:\n  ports:\n    - nodePort: 30999\n"],
      [`patch: '[{"op":"add","path":"/spec/ports/0/nodePort","value":30999}]'`],
    ])("comes from the existing overlay: %p", async (text) => {
      expect((await factsOf({ [overlay]: text })).nodePort).toBe(30_999);
    });

    test("is derived from the name and differs between names", async () => {
      const portOf = async (name: string) => (await factsOf({ "package.json": { name } })).nodePort;
      const names = Array.from({ length: 20 }, (_, i) => `service-${i}`);
      const ports = await Promise.all(names.map(portOf));
      expect(await Promise.all(names.map(portOf))).toEqual(ports);
      expect(new Set(ports).size).toBe(20);
      for (const port of ports) expect(port).toBeWithin(30_100, 32_700);
    });

    /** Puts a k3s on PATH that lists these Services, as lines of `namespace/name ports`. */
    async function withCluster<T>(services: string, work: () => Promise<T>): Promise<T> {
      const k3s = join(directory, "bin/k3s");
      await writeFile(k3s, `#!/bin/sh\necho '${services}'\n`);
      await chmod(k3s, 0o755);
      try {
        return await work();
      } finally {
        await rm(k3s);
      }
    }

    test("is not taken by another Service of the cluster", async () => {
      const { nodePort } = await factsOf({});
      const next = withCluster(`a/a ${nodePort}\ndefault/kubernetes \nb/b ${nodePort + 1} 1`, () => factsOf({}));
      expect((await next).nodePort).toBe(nodePort + 2);
    });

    // Regression: a running service got another port after its overlay was removed.
    test("comes from the service's Service in the cluster", async () => {
      const own = withCluster(`a/a 30111\nshop/shop 30222`, () => factsOf({}));
      expect((await own).nodePort).toBe(30_222);
    });

    test("is not that of another project's Service of the same name", async () => {
      const ports = (owner: string) => withCluster(`shop/shop 30222\t${owner}`, () => factsOf({}));
      expect((await ports("shop")).nodePort).toBe(30_222);
      expect((await ports("blog")).nodePort).not.toBe(30_222);
    });

    test("of two projects with the same name differs, also without an origin and a cluster", async () => {
      const facts = async () => {
        const at = await layOut({ "package.json": { name: "shop" }, "src/main.ts": "" });
        const find = () => findFacts(resolveService(at), AbortSignal.timeout(60_000));
        expect(await find()).toEqual(await find());
        return find();
      };
      const [one, other] = [await facts(), await facts()];
      expect(one.nodePort).not.toBe(other.nodePort);
      expect(generatedFiles(one).get("ci/pipeline.ts")).toContain(`identity: ${JSON.stringify(one.writtenIdentity)}`);
    });
  });
});

describe("package.json", () => {
  const scripts = {
    dev: "bun --watch src/main.ts",
    build: "bun ci/pipeline.ts build",
    up: "bun install --silent && bun ci/pipeline.ts up",
  };

  async function added(text: string, files: Files = {}): Promise<string> {
    const facts = await factsOf({ ...files, "package.json": text });
    const after = addToPackage(text, facts);
    // A second run adds nothing.
    expect(addToPackage(after, facts)).toBe(after);
    return after;
  }

  test.each([
    ["two spaces", "  "],
    ["four spaces", "    "],
    ["tabs", "\t"],
  ])("added lines are indented with %s, and no other line changes", async (_, unit) => {
    const text = `{\n${unit}"name": "shop",\n${unit}"scripts": {\n${unit}${unit}"start": "bun src/main.ts"\n${unit}},\n${unit}"files": ["a", "b"]\n}\n`;
    const after = await added(text);
    const shown = JSON.stringify(scripts, null, unit).split("\n").slice(1, -1);
    const lines = text.split("\n");
    expect(after.split("\n")).toEqual([
      ...lines.slice(0, 3),
      `${unit}${unit}"start": "bun src/main.ts",`,
      ...shown.map((line) => unit + line),
      `${unit}},`,
      `${unit}"files": ["a", "b"],`,
      `${unit}"devDependencies": {`,
      expect.stringMatching(/^\s+"slipway": "\^\d+\.\d+\.\d+"$/),
      `${unit}}`,
      "}",
      "",
    ]);
  });

  test("keeps a trailing newline, its absence, and a byte order mark", async () => {
    expect(await added('{\n  "name": "shop"\n}')).toEndWith("  }\n}");
    expect(await added('{\n  "name": "shop"\n}\n\n')).toEndWith("  }\n}\n\n");
    const marked = await added('\uFEFF{\n  "name": "shop"\n}\n');
    expect(marked).toStartWith('\uFEFF{\n  "name": "shop",\n  "scripts": {\n    "dev":');
  });

  test("adds lines with CRLF to a file with CRLF", async () => {
    const after = await added('{\r\n  "name": "shop",\r\n  "scripts": {}\r\n}\r\n');
    expect(after.replaceAll("\r\n", "")).not.toContain("\n");
    expect(JSON.parse(after)).toMatchObject({ scripts });
  });

  // Regression: the line before an added line was reformatted.
  test("keeps the format of existing lines", async () => {
    const line = '  "devDependencies": { "typescript":"5.0.0",   "slipway": "1" }';
    const after = await added(`{\n  "name": "shop",\n${line}\n}\n`);
    expect(after).toContain(`\n${line},\n  "scripts": {\n    "dev"`);
  });

  test.each(['{"name":"shop"}', '{ "name": "shop", "scripts": { "start": "bun ." } }', '{"name":"shop","scripts":{}}'])(
    "adds to a file on a single line: %s",
    async (text) => {
      const after = await added(text);
      expect(JSON.parse(after)).toMatchObject({ ...JSON.parse(text), scripts });
    },
  );

  test("keeps existing scripts and adds `test` only if there are tests", async () => {
    const own = { dev: "a", build: "b", up: "c" };
    const text = JSON.stringify({ name: "shop", scripts: own, dependencies: { slipway: "0.0.1" } }, null, 2);
    expect(await added(text)).toBe(text);
    expect(JSON.parse(await added(text, { "a.test.ts": "" })).scripts).toEqual({ ...own, test: "bun test" });
    const tested = JSON.stringify({ name: "shop", scripts: { ...own, test: "d" } }, null, 2);
    const after = JSON.parse(await added(tested, { "a.test.ts": "" }));
    expect(after.scripts).toEqual({ ...own, test: "d" });
    expect(after.devDependencies).toEqual({ slipway: expect.stringMatching(/^\^\d/) });
  });

  test("adds an alias if the package is published under another name", async () => {
    const facts = { ...(await factsOf({})), slipway: { name: "@team/slipway", version: "2.0.0" } };
    expect(JSON.parse(addToPackage("{}", facts)).devDependencies).toEqual({
      slipway: "npm:@team/slipway@^2.0.0",
    });
  });

  test.each([
    ['{ "name": "shop", // ours\n }', "without comments"],
    ["[]", "is not a JSON object"],
    ["null", "is not a JSON object"],
    ["", "JSON"],
  ])("%p is refused with an error", async (text, words) => {
    const at = await layOut({ "package.json": text, "src/main.ts": "" });
    let error: unknown;
    try {
      resolveService(at);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(PipelineError);
    const { message, hint, kind } = error as PipelineError;
    expect(`${kind}: ${message}. ${hint}`).toContain(words);
    expect(message).toContain(join(at, "package.json"));
  });

  test("reads a license in the deprecated object form", async () => {
    const found = await factsOf({ "package.json": { name: "shop", license: { type: "MIT", url: "x" } } });
    expect(found.service.license).toBe("MIT");
    expect(generatedFiles(found).get("Dockerfile")).toContain('licenses="MIT"');
  });
});

describe("the entry", () => {
  test.each<[string, object, string[], string]>([
    ["a file name with .mts", { scripts: { start: "bun --hot src/a.mts" } }, ["src/a.mts"], "src/a.mts"],
    ["index.cjs", {}, ["index.cjs"], "index.cjs"],
    ["by `bun run --hot`", { scripts: { dev: "bun run --hot app/a.tsx" } }, ["app/a.tsx"], "app/a.tsx"],
    // Regression: after a build, the build output was the entry.
    [
      "the source instead of the build output",
      { main: "dist/index.js", scripts: { start: "bun dist/index.js" } },
      ["dist/index.js", "src/index.ts"],
      "src/index.ts",
    ],
    ["the build output if there is no source", { main: "dist/a.js" }, ["dist/a.js"], "dist/a.js"],
    [
      "the file of a script for Node, without another hint",
      { scripts: { dev: "tsx watch lib/a.ts" } },
      ["lib/a.ts"],
      "lib/a.ts",
    ],
    [
      "a script's file without its ending",
      { scripts: { start: "node lib/bin/www" } },
      ["lib/bin/www.js"],
      "lib/bin/www.js",
    ],
    ["a script's directory", { scripts: { dev: "tsx watch lib" } }, ["lib/index.ts"], "lib/index.ts"],
    ["main without its ending", { main: "lib/bin/www" }, ["lib/bin/www.js", "server.js"], "lib/bin/www.js"],
    ["main's directory", { main: "./lib/" }, ["lib/index.js", "server.js"], "lib/index.js"],
    ["a file in Bun's script without its ending", { scripts: { dev: "bun --watch lib/a" } }, ["lib/a.ts"], "lib/a.ts"],
    ["a file, not a script of the same name", { scripts: { start: "bun run build" } }, ["server.ts"], "server.ts"],
  ])("%s", async (_, packageJson, files, entry) => {
    const at = await layOut({
      "package.json": { name: "shop", ...packageJson },
      ...Object.fromEntries(files.map((file) => [file, ""])),
    });
    expect(resolveService(at).entry).toBe(entry);
  });
});

describe("the entry beside browser code", () => {
  const server = 'import express from "express";\nexpress().listen(3000);\n';
  const client = 'document.body.append("x");\n';

  test.each<[string, object, Record<string, string>, string]>([
    [
      "a script for the server wins over a usual name that a page loads",
      { scripts: { start: "vite", "start:server": "node server/index.js" } },
      {
        "index.html": '<script type="module" src="/src/index.tsx"></script>',
        "src/index.tsx": client,
        "server/index.js": server,
      },
      "server/index.js",
    ],
    [
      "a page in a subdirectory, with a relative path",
      {},
      {
        "web/index.html": "<script src=../src/main.ts></script>",
        "src/main.ts": client,
        "src/server.ts": server,
      },
      "src/server.ts",
    ],
    [
      "a script that changes the directory or sets variables first",
      { scripts: { "dev:api": "NODE_ENV=development tsx watch api/index.ts" } },
      { "index.html": '<script src="./app.js"></script>', "app.js": client, "api/index.ts": server },
      "api/index.ts",
    ],
  ])("%s", async (_, packageJson, files, entry) => {
    expect(resolveService(await layOut({ "package.json": { name: "shop", ...packageJson }, ...files })).entry).toBe(
      entry,
    );
  });

  test.each<[string, object, Record<string, string>, string]>([
    [
      "main, which is the library of the package",
      { main: "lib/proxy.js" },
      {
        "lib/proxy.js": "// Call server.listen(80).\nexports.createServer = function createServer() {};\n",
        "server.js": server,
      },
      "server.js",
    ],
    [
      "main, and the server has no usual name",
      { main: "src/index.js" },
      { "src/index.js": "export const cards = [];\n", "express.js": server },
      "express.js",
    ],
    [
      "a usual name, and a script for Node without an ending names the server",
      { scripts: { dev: "node gate" } },
      { "src/main.ts": "export const createApp = () => 1;\n", "gate.js": server },
      "gate.js",
    ],
    [
      "a usual name, and a script for Node with options and arguments names the server",
      { scripts: { dev: "node --watch --experimental-strip-types src/bin.ts data/db.json" } },
      { "src/app.ts": "export const createApp = () => 1;\n", "src/bin.ts": server },
      "src/bin.ts",
    ],
  ])("a module that starts no server is not the entry: %s", async (_, packageJson, files, entry) => {
    expect(resolveService(await layOut({ "package.json": { name: "shop", ...packageJson }, ...files })).entry).toBe(
      entry,
    );
  });

  test.each<[string, object, Record<string, string>, string]>([
    [
      "imports the server",
      { main: "a.js" },
      { "a.js": 'import "./b.js";\n', "b.js": server, "server.js": server },
      "a.js",
    ],
    [
      "is named by a script of Bun",
      { scripts: { dev: "bun a.ts" } },
      { "a.ts": "run();\n", "server.js": server },
      "a.ts",
    ],
    ["is alone with a server in a directory", { main: "a.ts" }, { "a.ts": "run();\n", "mocks/m.ts": server }, "a.ts"],
  ])("a module stays the entry that %s", async (_, packageJson, files, entry) => {
    expect(resolveService(await layOut({ "package.json": { name: "shop", ...packageJson }, ...files })).entry).toBe(
      entry,
    );
  });

  test("without a candidate, the error names the files that start a server", async () => {
    const at = await layOut({
      "package.json": { name: "shop" },
      "lib/boot.ts": "Bun.serve({ fetch: () => new Response() });\n",
      "lib/deep/other.ts": server,
      "lib/text.ts": "export const text = 1;\n",
      "lib/x.test.ts": server,
    });
    expect(() => resolveService(at)).toThrow(
      /no entry found in .*\. Files that start a server: lib\/boot\.ts, lib\/deep\/other\.ts$/,
    );
    const empty = await layOut({ "package.json": { name: "shop" }, "a/b.ts": "" });
    expect(() => resolveService(empty)).toThrow("no file starts a server");
  });

  test.each([
    ...["test.js", "lib/test.ts", "tests.mjs", "spec.ts", "lib/a.spec.ts", "lib/a_test.ts", "lib/a-spec.js"],
    ...[
      "lib/a.e2e-spec.ts",
      "e2e/a.ts",
      "spec/a.ts",
      "__mocks__/a.ts",
      "lib/a.stories.tsx",
      "fixtures/a.js",
      "bench.ts",
    ],
  ])("a file of tests starts no service: %s", async (path) => {
    const at = await layOut({ "package.json": { name: "shop" }, [path]: server, "lib/contest.ts": server });
    expect(() => resolveService(at)).toThrow(/Files that start a server: lib\/contest\.ts$/);
  });

  test.each<[string, Record<string, string>, string | undefined]>([
    ["the script dev runs tests", { dev: "bun test --watch lib/a.test.ts" }, undefined],
    ["the script start runs tests", { start: "bun test lib/a.test.ts" }, undefined],
    ["the script dev names it", { dev: "bun --watch test.js" }, undefined],
    ["the script start names it", { start: "bun test.js" }, "test.js"],
  ])("a file of tests is the entry only if the script start says so: %s", async (_, scripts, entry) => {
    const at = await layOut({ "package.json": { name: "shop", scripts }, "test.js": server, "lib/a.test.ts": server });
    expect(findEntry(at, { scripts })).toBe(entry);
  });

  test("several candidates are all named", async () => {
    const found = await factsOf({
      "package.json": { name: "shop", scripts: { dev: "bun src/index.ts" } },
      "src/index.ts": "",
      "server.ts": server,
    });
    const [first = ""] = describeChoices(found, []);
    expect(first).toContain(
      "src/index.ts  found by the script dev. Other candidates: src/main.ts, server.ts. Set `entry`",
    );
  });
});

describe("the port in a module that the entry imports", () => {
  test.each<[string, Record<string, string>, number, string]>([
    ["fastify", { "src/app/start.ts": "await fastify.listen({ port: 4000 });\n" }, 4000, "src/app/start.ts"],
    ["an index", { "src/web/index.ts": "app.listen(4100);\n" }, 4100, "src/web/index.ts"],
    [
      "a configuration",
      {
        "src/app/start.ts": 'export * from "../config";\n',
        "src/config.ts": "export const p = process.env.PORT || 4200;\n",
      },
      4200,
      "src/config.ts",
    ],
  ])("%s", async (_, files, port, module) => {
    const source = 'import "./db";\nimport "./web";\nimport { start } from "./app/start.js";\nstart();\n';
    // A database's port is none.
    const all = { "package.json": { name: "shop" }, "src/main.ts": source, "src/db.ts": "export const port = 5432;\n" };
    const found = await factsOf({ ...all, ...files });
    expect(found).toMatchObject({ port, portModule: module });
  });
});

test("an existing Dockerfile that builds another image is named", async () => {
  const found = await factsOf({ "package.json": { name: "shop" }, "index.ts": "", Dockerfile: "FROM node\n" });
  expect(describeChoices(found, []).join("\n")).toContain("kept     Dockerfile  slipway does not use it.");
  const own = await factsOf({
    "package.json": { name: "shop" },
    "index.ts": "",
    Dockerfile: "RUN bun ci/pipeline.ts build\n",
  });
  expect(describeChoices(own, []).join("\n")).not.toContain("Dockerfile");
});

test("undone changes leave the project as it was", async () => {
  const at = await layOut({ "package.json": { name: "shop" }, "k8s/own.yaml": "x" });
  const before = await readFile(join(at, "package.json"), "utf8");
  const changes = [
    { path: join(at, "package.json"), before, after: "{}" },
    { path: join(at, "ci/pipeline.ts"), before: undefined, after: "1" },
    { path: join(at, "k8s/base/a.yaml"), before: undefined, after: "1" },
  ];
  await writeAll(changes);
  await undoAll(changes);
  expect((await readdir(at, { recursive: true })).sort()).toEqual(["k8s", "k8s/own.yaml", "package.json"]);
  expect(await readFile(join(at, "package.json"), "utf8")).toBe(before);
});

describe("ignore files", () => {
  test("are created if they are missing", () => {
    expect(addPatterns(undefined, ["a", "b/"])).toBe("a\nb/\n");
    expect(addToGitignore(undefined)).toContain("node_modules/\n");
    expect(addToDockerignore(undefined)).toContain("**/node_modules\n");
  });

  test.each([
    ["a newline at the end", "x\n", "x\na\nb/\n"],
    ["no newline at the end", "x", "x\na\nb/\n"],
    ["no content", "", "a\nb/\n"],
    ["one of the patterns", "b\n", "b\na\n"],
    ["all patterns in another form", "/a/\n b \n", "/a/\n b \n"],
    ["all patterns and no newline", "a\nb", "a\nb"],
    // Regression: mixed line endings.
    ["CRLF", "x\r\n", "x\r\na\r\nb/\r\n"],
    ["CRLF and no newline at the end", "x\r\nb", "x\r\nb\r\na\r\n"],
    ["a comment of that name", "# a\n", "# a\na\nb/\n"],
  ])("get the missing patterns, with %s", (_, before, after) => {
    expect(addPatterns(before, ["a", "b/"])).toBe(after);
    expect(addPatterns(after, ["a", "b/"])).toBe(after);
  });

  test.each(["*\n!src\n", "# all\n**\n!src", "*/*\r\n!src\r\n"])(
    "a .dockerignore that is an allow-list stays unchanged: %p",
    (text) => {
      expect(addToDockerignore(text)).toBe(text);
    },
  );

  test("a .dockerignore with a * inside a pattern is no allow-list", () => {
    expect(addToDockerignore("*.log\n")).toStartWith("*.log\n.git\n");
  });
});

describe("files", () => {
  const write = async (files: Files = {}, member?: string) => generatedFiles(await factsOf(files, member));
  const builder = (dockerfile: string) => dockerfile.slice(0, dockerfile.indexOf("FROM scratch"));

  test("of a service in the root of its repository are complete, without open placeholders", async () => {
    const own = await write();
    expect([...own.keys()].sort()).toEqual([
      ".github/workflows/slipway.yml",
      "Dockerfile",
      "ci/pipeline.ts",
      "k8s/base/deployment.yaml",
      "k8s/base/kustomization.yaml",
      "k8s/base/namespace.yaml",
      "k8s/base/networkpolicy.yaml",
      "k8s/base/poddisruptionbudget.yaml",
      "k8s/base/service.yaml",
      "k8s/base/serviceaccount.yaml",
      "k8s/overlays/k3s/kustomization.yaml",
      "k8s/overlays/registry/kustomization.yaml",
    ]);
    for (const [path, text] of own) {
      expect(text, path).not.toMatch(/__[A-Z_]+__/);
      expect(text, path).toEndWith("\n");
      if (path.endsWith(".yaml")) expect(Bun.YAML.parse(text), path).toBeObject();
    }
    expect(own.get("ci/pipeline.ts")).toEndWith('await pipeline(import.meta, { identity: "shop" });\n');
  });

  test("ci/pipeline.ts contains the detected port unless it is the default", async () => {
    const lastLine = async (source: string) =>
      (await write({ "src/main.ts": source })).get("ci/pipeline.ts")!.trim().split("\n").at(-1)!;
    expect(await lastLine("app.listen(3000)")).toBe('await pipeline(import.meta, { port: 3000, identity: "shop" });');
    expect(await lastLine("app.listen(8080)")).toBe('await pipeline(import.meta, { identity: "shop" });');
  });

  test("Dockerfile of a minimal service", async () => {
    const dockerfile = (await write()).get("Dockerfile")!;
    const lines = builder(dockerfile).split("\n");
    expect(lines).toContain(`FROM ${pins.baseImage} AS builder`);
    expect(lines).toContain("COPY package.json bun.lock ./");
    expect(lines.filter((line) => line.startsWith("RUN bun "))).toEqual(["RUN bun ci/pipeline.ts build"]);
    expect(dockerfile).toContain("COPY --from=builder /src/dist/app/ /\n");
    expect(dockerfile).toContain('ENTRYPOINT ["/shop"]');
    expect(dockerfile).not.toContain("licenses");
    expect(dockerfile).not.toContain("-f ");
  });

  test("Dockerfile of a service with a check, tests and a licence", async () => {
    const packageJson = {
      name: "@team/My_Shop",
      version: "1.2.3",
      license: "MIT",
      scripts: { typecheck: "tsc" },
    };
    const dockerfile = (await write({ "package.json": packageJson, "a.test.ts": "" })).get("Dockerfile")!;
    expect(builder(dockerfile)).toContain("RUN bun run typecheck\nRUN bun run test\nRUN bun ci/pipeline.ts build\n");
    expect(dockerfile).toContain(`LABEL org.opencontainers.image.title="my-shop" \\
      org.opencontainers.image.version="1.2.3" \\
      org.opencontainers.image.licenses="MIT"\n`);
    expect(dockerfile).toContain('ENTRYPOINT ["/my-shop"]');
  });

  test("Dockerfile of a workspace member builds from the root and copies each member's package.json first", async () => {
    const own = await write(
      {
        "package.json": { name: "all", workspaces: ["apps/*", "packages/*"] },
        "apps/api/package.json": { name: "@all/api" },
        "apps/api/index.ts": "",
        "packages/two words/package.json": {},
        "bunfig.toml": "",
        "bun.lock": "",
      },
      "apps/api",
    );
    const dockerfile = own.get("Dockerfile")!;
    expect(dockerfile).toContain(" in the workspace's root:\n");
    expect(dockerfile).toContain(" -f apps/api/Dockerfile -t api .");
    const lines = builder(dockerfile)
      .split("\n")
      .filter((line) => /^(COPY|WORKDIR|RUN bun)/.test(line));
    expect(lines).toEqual([
      "WORKDIR /src",
      "COPY package.json bun.lock bunfig.toml ./",
      "COPY apps/api/package.json apps/api/",
      'COPY ["packages/two words/package.json","packages/two words/"]',
      "COPY . .",
      "WORKDIR /src/apps/api",
      "RUN bun ci/pipeline.ts build",
    ]);
    expect(dockerfile).toContain("COPY --from=builder /src/apps/api/dist/runtime/ /\n");
    const workflow = own.get("../../.github/workflows/slipway-api.yml")!;
    // Regression: the workflows of two members cancelled each other.
    expect(workflow).toContain("  group: slipway-api-${{ github.ref }}\n");
    expect(workflow).toContain('working-directory: "apps/api"\n        run: bun ci/pipeline.ts install-k3s\n');
  });

  // Regression: scripts, patches and local packages were copied after the installation, which needs them.
  test("the Dockerfile copies the inputs of the installation before it", async () => {
    const packageJson = { name: "shop", dependencies: { a: "file:vendor/a.tgz" } };
    const vendored = (await write({ "package.json": packageJson, "vendor/a.tgz": "" })).get("Dockerfile")!;
    expect(vendored).toContain("COPY package.json bun.lock ./\nCOPY vendor/a.tgz vendor/\n");
    const hooked = { ...packageJson, scripts: { postinstall: "bun scripts/generate.ts" } };
    const all = (await write({ "package.json": hooked, "vendor/a.tgz": "" })).get("Dockerfile")!;
    expect(builder(all).match(/^COPY .*$/gm)).toEqual(["COPY . ."]);
    expect(all.indexOf("COPY . .")).toBeLessThan(all.indexOf("bun install"));
  });

  test.each<[string, object, boolean]>([
    ["with", { devDependencies: { "@dagger.io/dagger": "0.21.9" } }, true],
    ["without", {}, false],
  ])("the workflow of a service %s @dagger.io/dagger uses the matching engine", async (_, more, hasDagger) => {
    const own = await write({ "package.json": { name: "shop", ...more } });
    const workflow = own.get(".github/workflows/slipway.yml")!;
    const { jobs } = Bun.YAML.parse(workflow) as {
      jobs: { deploy: { steps: { uses?: string; run?: string }[] } };
    };
    const { steps } = jobs.deploy;
    expect(steps.some(({ uses }) => uses?.startsWith("dagger/"))).toBe(hasDagger);
    expect(steps.at(-1)!.run).toBe(hasDagger ? "dagger run bun ci/pipeline.ts" : "bun ci/pipeline.ts");
    expect(workflow).toContain(`bun-version: ${pins.bun}\n`);
  });

  test.each<[string, object, string | undefined, boolean]>([
    ["no tsconfig.json", {}, undefined, false],
    ["Node's resolution", {}, '{ "compilerOptions": { "module": "NodeNext" } }', true],
    [
      "Node's resolution in an ESM package",
      { type: "module" },
      '{ "compilerOptions": { "module": "NodeNext" } }',
      false,
    ],
    ["a bundler's resolution", {}, '{ "compilerOptions": { "module": "Preserve" } }', false],
  ])("with %s, ci/package.json marks the pipeline as a module", async (_, more, tsconfig, expected) => {
    const generated = await write({
      "package.json": { name: "shop", ...more },
      ...(tsconfig && { "tsconfig.json": tsconfig }),
    });
    expect(generated.has("ci/package.json")).toBe(expected);
  });
});

describe("components", () => {
  const project = "/srv/shop";
  const file = join(project, "k8s/overlays/k3s/kustomization.yaml");
  const add = (text: string, ...names: string[]) => addComponents(text, file, project, names);
  const [egress, ingress] = ["../../components/egress", "../../components/ingress"];

  test.each<[string, string, string]>([
    [
      "resources before other fields",
      "resources:\n  - ../../base\n# why\npatches: []\n",
      `resources:\n  - ../../base\ncomponents:\n  - ${egress}\n  - ${ingress}\n# why\npatches: []\n`,
    ],
    [
      "resources on one line, with a comment",
      "resources: [../../base] # ours\npatches: []\n",
      `resources: [../../base] # ours\ncomponents:\n  - ${egress}\n  - ${ingress}\npatches: []\n`,
    ],
    [
      "no newline at the end",
      "resources:\n- ../../base",
      `resources:\n- ../../base\ncomponents:\n  - ${egress}\n  - ${ingress}\n`,
    ],
    ["no resources", "namespace: x\n", `namespace: x\ncomponents:\n  - ${egress}\n  - ${ingress}\n`],
    [
      "CRLF",
      "resources:\r\n  - ../../base\r\n",
      `resources:\r\n  - ../../base\r\ncomponents:\r\n  - ${egress}\r\n  - ${ingress}\r\n`,
    ],
    [
      "other components in another indentation",
      "components:\n-   ../mine # ours\nresources: [a]\n",
      `components:\n-   ../mine # ours\n-   ${egress}\n-   ${ingress}\nresources: [a]\n`,
    ],
    [
      "components on one line",
      "components: [ ../mine ]\nresources: [a]\n",
      `components: [ ../mine, ${egress}, ${ingress} ]\nresources: [a]\n`,
    ],
    [
      "one of the components in another form",
      "components:\n  - ./../../components/egress/\n",
      `components:\n  - ./../../components/egress/\n  - ${ingress}\n`,
    ],
  ])("are added to a kustomization with %s", (_, before, after) => {
    expect(add(before, "egress", "ingress")).toBe(after);
    expect(add(after, "ingress", "egress")).toBe(after);
    expect(componentsIn(after, file, project)).toEqual(["egress", "ingress"]);
  });

  // Regression: `init --check` assumed another order than the overlay's.
  test("are listed in the order of the kustomization", () => {
    const text = "components: [../../components/ingress, ../../components/autoscaler]\n";
    expect(componentsIn(text, file, project)).toEqual(["ingress", "autoscaler"]);
  });

  test("are all named by the help", () => {
    expect(optionDefinitions.with.about).toEndWith(components.join(", "));
  });

  test("with other names are ignored", () => {
    expect(componentsIn("components: [../../components/cache, ../ingress]\n", file, project)).toEqual([]);
  });

  test.each(["{ resources: [../../base] }\n", "components: []\nresources: [a]\n", "components:\n"])(
    "are not added to %p, with an error",
    (text) => {
      expect(() => add(text, "egress")).toThrow("cannot add a line to `components:`");
    },
  );

  test("an invalid kustomization is refused", () => {
    expect(() => add("resources: [\n", "egress")).toThrow("is not valid YAML");
  });

  test("are written on request with all their files, and listed in the overlay", async () => {
    const facts = await factsOf({});
    const plain = generatedFiles(facts);
    const own = generatedFiles(facts, components);
    const added = [...own.keys()].filter((path) => !plain.has(path));
    expect(added).toEqual(components.flatMap(componentFiles));
    for (const path of added) expect(own.get(path), path).not.toMatch(/__[A-Z_]+__/);
    const overlay = own.get("k8s/overlays/k3s/kustomization.yaml")!;
    expect(componentsIn(overlay, join(facts.service.project, "k8s/overlays/k3s/x"), facts.service.project)).toEqual(
      components,
    );
  });

  test("are the same in this repository, except that helloapp serves metrics of its own", async () => {
    const facts = { ...(await factsOf({})), service: { ...helloapp, project: root } };
    for (const [path, text] of generatedFiles(facts, components)) {
      if (!path.startsWith("k8s/components/") || path.startsWith("k8s/components/monitoring/")) continue;
      expect(await readFile(join(root, path), "utf8"), path).toBe(text);
    }
  });
});

describe("writing", () => {
  test("creates directories, and keeps the mode of existing files and symbolic links to them", async () => {
    const at = await layOut({ real: "a" });
    await chmod(join(at, "real"), 0o640);
    await symlink("real", join(at, "link"));
    await writeAll([
      { path: join(at, "x/y/new"), before: undefined, after: "new" },
      { path: join(at, "link"), before: "a", after: "b" },
    ]);
    expect(await readFile(join(at, "x/y/new"), "utf8")).toBe("new");
    expect(await readFile(join(at, "real"), "utf8")).toBe("b");
    expect((await stat(join(at, "real"))).mode & 0o777).toBe(0o640);
    expect((await readdir(at)).sort()).toEqual(["link", "real", "x"]);
  });

  test("writes no file if one of them cannot be written", async () => {
    const at = await layOut({ "package.json": "{}", ci: "a file, not a directory" });
    const failure = await writeAll([
      { path: join(at, "package.json"), before: "{}", after: '{"a":1}' },
      { path: join(at, "k8s/base/service.yaml"), before: undefined, after: "x" },
      { path: join(at, "ci/pipeline.ts"), before: undefined, after: "x" },
    ]).catch((error: unknown) => error);
    expect(failure).toMatchObject({
      kind: "environment",
      message: expect.stringContaining(`cannot write ${join(at, "ci/pipeline.ts")} (`),
    });
    expect(await readFile(join(at, "package.json"), "utf8")).toBe("{}");
    expect((await readdir(at)).sort()).toEqual(["ci", "package.json"]);
  });
});
