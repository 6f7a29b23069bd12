/** Copies of a project in directories of other names give identical binaries, which contain no path of the build. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Settings } from "../index.d.ts";
import { build, createProject, removeProjects, run, type Files } from "./built-service.ts";

setDefaultTimeout(60_000);
afterAll(removeProjects);

const attempt = (code: string) => `try { console.log(${code}); } catch (error) { console.log(error.code); }\n`;
const x = { "src/x.ts": "export const x = 1;\n" };

test.each<[string, Files, string, Settings?]>([
  ["require.resolve of a module", { ...x, "src/main.ts": attempt('require.resolve("./x.ts")') }, "MODULE_NOT_FOUND\n"],
  [
    "require.resolve without an extension, in CommonJS",
    { ...x, "src/main.cjs": attempt('require.resolve("./x")') },
    "MODULE_NOT_FOUND\n",
    { entry: "src/main.cjs" },
  ],
  [
    "require.resolve of data files",
    {
      "src/main.ts": attempt('require.resolve("../a.json")') + attempt('require.resolve("../a.txt")'),
      "a.json": "{}",
      "a.txt": "a",
    },
    "MODULE_NOT_FOUND\nMODULE_NOT_FOUND\n",
  ],
  [
    "require.resolve beside a macro, whose result is a part of the ID",
    {
      ...x,
      "src/main.ts": `import { two } from "./macro.ts" with { type: "macro" };
console.log(two());
${attempt('require.resolve("./x.ts")')}`,
      "src/macro.ts": "export const two = () => 2;\n",
    },
    "2\nMODULE_NOT_FOUND\n",
  ],
  [
    "import.meta.resolve and dynamic imports",
    { ...x, "src/main.ts": 'const { x } = await import("./x.ts");\nimport.meta.resolve("./x.ts");\nconsole.log(x);\n' },
    "1\n",
  ],
])("%s", async (_, files, expected, settings = {}) => {
  const copies = [createProject(files, "one"), createProject(files, "another-place")];
  const built = [];
  for (const at of copies) built.push(await build(at, settings));
  const [one, other] = built as [(typeof built)[0], (typeof built)[0]];
  expect(one.id).toBe(other.id);
  const bytes = readFileSync(one.binary);
  expect(Bun.hash(bytes)).toBe(Bun.hash(readFileSync(other.binary)));
  expect(bytes.includes(copies[0]!)).toBe(false);
  expect(run([one.binary])).toBe(expected);
});

test("require.resolve finds a file that is in the image", async () => {
  const at = createProject({
    "src/main.ts": 'console.log(require.resolve("../data/a.json"));\n',
    "data/a.json": "{}",
  });
  const { binary } = await build(at, { attach: false, files: ["data"] });
  const { existsSync } = await import("node:fs");
  // Without a container, /srv does not exist.
  expect(existsSync(`${at}/dist/app/srv/data/a.json`)).toBe(true);
  expect(readFileSync(binary).includes("/srv/data/a.json")).toBe(true);
});

describe("a directory with files of another program", () => {
  const files: Files = { "src/main.ts": "console.log(1);\n", "dist/client/index.html": "page", "dist/old.js": "" };
  const settings = { attach: false, files: ["dist/client"] };
  const entriesOf = (at: string) => readdirSync(join(at, "dist")).sort();

  test("keeps them, and loses the previous build", async () => {
    const at = createProject(files);
    const built = ["app", "client", "image.json", "old.js", "other.map", "runtime", "sbom.cdx.json"];
    await build(at, { name: "other", ...settings });
    expect(entriesOf(at)).toEqual(built);
    writeFileSync(join(at, "dist/app/stale"), "");
    await build(at, { name: "other", ...settings });
    expect(existsSync(join(at, "dist/app/stale"))).toBe(false);
    expect(readFileSync(join(at, "dist/client/index.html"), "utf8")).toBe("page");
    expect(readFileSync(join(at, "dist/app/srv/dist/client/index.html"), "utf8")).toBe("page");
  });

  test.each(["app", "runtime"])("is refused if the build needs the name %s", async (name) => {
    const at = createProject({ "src/main.ts": "console.log(1);\n", [`dist/${name}/index.html`]: "page" });
    await expect(build(at, { attach: false })).rejects.toThrow(`dist/${name} exists, and slipway did not write it`);
    expect(readFileSync(join(at, `dist/${name}/index.html`), "utf8")).toBe("page");
    expect(entriesOf(at)).toEqual([name]);
  });
});
