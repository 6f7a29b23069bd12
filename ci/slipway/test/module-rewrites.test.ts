/** The image changes expressions of the server's modules, and neither names of modules nor browser code. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { build, createProject, removeProjects, run, runSource } from "./built-service.ts";

setDefaultTimeout(60_000);
afterAll(removeProjects);

test.each([
  ["a default import", 'import __dirname from "./utils.js";\nconsole.log(__dirname);\n'],
  [
    "a named import",
    'import { __dirname, directory as __filename } from "./utils.js";\nconsole.log(__dirname, __filename);\n',
  ],
  ["constants", 'const __filename = "/own/x.ts", __dirname = "/own";\nconsole.log(__dirname, __filename);\n'],
  ["a parameter", "const f = (__dirname: string) => __dirname;\nconsole.log(f('/own'));\n"],
  [
    "names like those of a bundler",
    "const directoryInImage = 1, urlInImage = 2, __slipway = 3;\nconsole.log(directoryInImage, urlInImage, __slipway, typeof import.meta.dir);\n",
  ],
])("own names: %s", async (_, source) => {
  const at = createProject({
    "src/main.ts": source,
    "src/utils.js": 'const directory = "/own";\nexport { directory, directory as __dirname, directory as default };\n',
  });
  const { binary } = await build(at, { attach: false });
  expect(run([binary])).toBe(runSource(at, "src/main.ts"));
});

test.each([
  ["with the attachment", {}],
  ["without the attachment", { attach: false }],
])("browser code holds no path of the image, %s", async (_, settings) => {
  const page = '<!doctype html><script type="module" src="./page.ts"></script>';
  const script =
    'const image = new URL("./x.png", import.meta.url);\nexport const shown = ["seen only in the browser", image.href];\nconsole.log(shown);\n';
  const main = (more: string) =>
    `import page from "./page.html";\n${more}console.log(typeof page);\nexport default page;\n`;
  const chunk = async (source: string) => {
    const at = createProject({ "src/main.ts": source, "src/page.html": page, "src/page.ts": script });
    const text = readFileSync((await build(at, settings)).binary).toString("latin1");
    const start = text.indexOf("seen only in the browser");
    return text.slice(text.lastIndexOf("\0", start) + 1, text.indexOf("\0", start));
  };
  const plain = await chunk(main(""));
  expect(plain).toContain("import.meta.url");
  expect(await chunk(main("console.log(import.meta.dir, __dirname, new URL('.', import.meta.url).href);\n"))).toBe(
    plain,
  );
});
