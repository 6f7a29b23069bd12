/** Tests how packages that are loaded by name are found, and how names of modules are resolved and matched. */
import { afterAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { exactly, resolveFrom } from "../image/module-names.ts";
import { findNamedPackages } from "../image/named-packages.ts";
import { readPathExpressions } from "../image/path-expressions.ts";
import { createProject, removeProjects } from "./built-service.ts";

afterAll(removeProjects);

const manifest = (name: string, more: object = {}) => JSON.stringify({ name, version: "1.0.0", ...more });

describe("findNamedPackages", () => {
  const at = createProject({
    "package.json": manifest("small", {
      dependencies: { orm: "1", driver: "1", optional: "1", plugin: "1", unnamed: "1", absent: "1" },
      devDependencies: { tool: "1" },
    }),
    "node_modules/orm/package.json": manifest("orm", {
      peerDependencies: { driver: "1", absent: "1", tool: "1" },
      peerDependenciesMeta: { optional: { optional: true } },
    }),
    "node_modules/orm/index.js": "",
    ...Object.fromEntries(
      ["driver", "optional", "plugin", "unnamed", "tool"].map((name) => [
        `node_modules/${name}/package.json`,
        manifest(name),
      ]),
    ),
  });
  const orm = join(at, "node_modules/orm/index.js");
  const find = (strings: string[], opened: string[], external: string[] = []) =>
    findNamedPackages({ project: at, external }, new Set(strings), opened).sort();

  test.each<[string, string[], string[], string[], string[]]>([
    ["peers of a bundled package, also optional ones", [], [orm], [], ["driver", "optional"]],
    ["a dependency that a string names", ["plugin", "tool", "other"], [], [], ["plugin"]],
    ["nothing for a package that is not installed", ["absent"], [orm], ["driver", "optional"], []],
    ["no package that is bundled", ["orm"], [orm, join(at, "node_modules/driver/x.js")], [], ["optional"]],
    ["no package that is external", ["plugin"], [], ["plugin"], []],
  ])("finds %s", (_, strings, opened, external, expected) => {
    expect(find(strings, opened, external)).toEqual(expected);
  });
});

describe("specifiers that createRequire() loads", () => {
  test.each([
    ['const load = createRequire(import.meta.url); load("../package.json");', ["../package.json"]],
    ['createRequire(import.meta.url)("plugin");', ["plugin"]],
    ['const load = (0, module_1.createRequire)(__filename); load("#font");', ["#font"]],
    ['import module from "module"; const load = module.createRequire(import.meta.url); load("a");', ["a"]],
    ['const load = require("module").createRequire(__filename); load("a"); load("b/c");', ["a", "b/c"]],
    ['const load = createRequire(import.meta.url); load("./data/" + name);', ["./data/"]],
    ['const load = other(import.meta.url); load("a");', []],
  ])("are found in %s", (code, expected) => {
    expect([...readPathExpressions(code, "/project/src/main.ts", "/project").required]).toEqual(expected);
  });
});

describe("names of modules", () => {
  test("match exactly, also with characters of patterns", () => {
    const filter = exactly(["@a/b.c", "a+b", "$x"]);
    for (const name of ["@a/b.c", "a+b", "$x"]) expect(filter.test(name)).toBe(true);
    for (const name of ["@a/bxc", "aab", "x", "@a/b.c/d", "y@a/b.c"]) expect(filter.test(name)).toBe(false);
    expect(exactly(["main.ts"], "(?:.*/)?").test("/x/main.ts")).toBe(true);
  });

  test("are resolved from the importer, or not at all", () => {
    const at = createProject({
      "src/a.ts": "",
      "src/b.json": "{}",
      "node_modules/pack/package.json": manifest("pack", { main: "lib.js", exports: { ".": "./lib.js" } }),
      "node_modules/pack/lib.js": "",
    });
    const from = join(at, "src/main.ts");
    expect(resolveFrom("./a", from)).toBe(join(at, "src/a.ts"));
    expect(resolveFrom("./b.json", from)).toBe(join(at, "src/b.json"));
    expect(resolveFrom("pack", from)).toBe(join(at, "node_modules/pack/lib.js"));
    expect(resolveFrom("pack/hidden", from)).toBeUndefined();
    expect(resolveFrom("./none", from)).toBeUndefined();
  });
});
