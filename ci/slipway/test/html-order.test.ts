/** Tests that builds with several HTML imports (pages) are reproducible. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { cp, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sha256 } from "../core/hash.ts";
import type { Settings } from "../index.d.ts";

setDefaultTimeout(60_000);

const numbers = [0, 1, 2, 3, 4, 5, 6, 7];
/** With 8 pages, the chance of an equal order is 1 in 40,320. */
const pages: Record<string, string> = {
  "package.json": '{"name":"pages"}',
  "src/main.ts": [
    ...numbers.map((n) => `import page${n} from "./routes/${n}.ts";`),
    'import text from "./mail.html" with { type: "text" };',
    `const routes = { ${numbers.map((n) => `"/${n}": page${n}`).join(", ")} };`,
    "const server = Bun.serve({ port: 0, routes });",
    "const asked = Object.keys(routes).map(async (path) => (await fetch(new URL(path, server.url))).text());",
    "console.log(JSON.stringify([...(await Promise.all(asked)), text]));",
    "process.exit(0);",
  ].join("\n"),
  "src/shared.ts": 'import "./shared.css";\nimport image from "./shared.svg";\nexport const shared = image;\n',
  "src/migrate.ts": "console.log(1);",
  "src/mail.html": "<p>no page, but text</p>",
  "src/shared.css": 'p { background: url("./shared.svg") }',
  "src/shared.svg": `<svg>${" ".repeat(200_000)}</svg>`,
};
for (const n of numbers) {
  pages[`src/page${n}.html`] =
    `<!doctype html><title>page ${n}</title><link rel="stylesheet" href="./style${n}.css"><script type="module" src="./client${n}.ts"></script>`;
  pages[`src/style${n}.css`] = `@import "./shared.css"; .page${n} { color: #00000${n} }`;
  pages[`src/client${n}.ts`] =
    `import { shared } from "./shared.ts";\nimport "./more${n}.css";\nconsole.log(${n}, shared);\n`;
  pages[`src/more${n}.css`] = `.more${n} { color: #00000${n} }`;
  pages[`src/routes/${n}.ts`] = `import page from "../page${n}.html";\nexport default page;\n`;
}

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "slipway-pages-"));
  for (const [path, content] of Object.entries(pages)) {
    const file = join(directory, "project", path);
    await mkdir(join(file, ".."), { recursive: true });
    await writeFile(file, content);
  }
});
afterAll(() => rm(directory, { recursive: true }));

/** Copies the project to another directory. */
async function copy(name: string, files: Record<string, string> = {}): Promise<string> {
  const at = join(directory, name);
  await cp(join(directory, "project"), at, { recursive: true });
  for (const [path, content] of Object.entries(files)) await writeFile(join(at, path), content);
  return at;
}

/** Runs Bun in a directory. @returns its output */
function run(cwd: string, ...command: string[]): string {
  const { exitCode, stdout, stderr } = Bun.spawnSync([process.execPath, ...command], { cwd });
  if (exitCode !== 0) throw new Error(stderr.toString());
  return stdout.toString();
}

const bundled = (project: string, settings: Settings = {}) =>
  run(project, join(import.meta.dir, "print-bundle.ts"), JSON.stringify(settings)).split("\n");

// Found with a public service: the order of the pages differed between host and container, with one ID.
test.each<[string, Settings]>([
  ["default settings", {}],
  ["attach: false", { attach: false }],
  ["an additional entry", { entries: { migrate: "src/migrate.ts" } }],
])("bundles the same files in the same order: %s", async (name, settings) => {
  const expected = bundled(await copy(`${name} 0`), settings);
  expect(expected.filter((line) => line.includes(".css "))).toHaveLength(numbers.length);
  for (const n of [1, 2, 3, 4]) expect(bundled(await copy(`${name} ${n}`), settings)).toEqual(expected);
});

// The output of plugins is an input, so the ID must not depend on the bundler's order.
test("computes the same ID with a plugin that defers stylesheets", async () => {
  const files = {
    "bunfig.toml": '[serve.static]\nplugins = ["./held.ts"]\n',
    "held.ts": `export default {
      name: "held",
      setup(build) {
        build.onLoad({ filter: /\\.css$/ }, async ({ path, defer }) => {
          await defer();
          return { contents: (await Bun.file(path).text()) + ".held { color: red }", loader: "css" };
        });
      },
    };`,
  };
  const expected = bundled(await copy("held 0", files));
  expect(expected.filter((line) => line.includes(".css "))).toHaveLength(numbers.length);
  for (const n of [1, 2, 3]) expect(bundled(await copy(`held ${n}`, files))).toEqual(expected);
});

test("builds identical binaries that serve the pages", async () => {
  const build = `
    import { buildImage } from ${JSON.stringify(join(import.meta.dir, "../image/build-image-files.ts"))};
    import { resolveService } from ${JSON.stringify(join(import.meta.dir, "../core/resolve-service.ts"))};
    console.log(JSON.stringify((await buildImage(resolveService(process.cwd()), "dist")).warnings));
  `;
  const binaries = await Promise.all(["one place", "another"].map((name) => copy(name, { "build.ts": build })));
  const digests = binaries.map(async (project) => {
    expect(run(project, "build.ts")).toBe("[]\n");
    return sha256(await Bun.file(join(project, "dist/app/pages")).bytes());
  });
  const [one, other] = await Promise.all(digests);
  expect(one).toBe(other!);
  const said = JSON.parse(Bun.spawnSync([join(binaries[0]!, "dist/app/pages")], { cwd: directory }).stdout.toString());
  expect(said.pop()).toBe(pages["src/mail.html"]!);
  for (const n of numbers) {
    expect(said[n]).toContain(`<title>page ${n}</title>`);
    expect(said[n]).toMatch(/href="\/chunk-\w+\.css".*src="\/chunk-\w+\.js"/);
  }
});
