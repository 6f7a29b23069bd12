/**
 * The shape of the code: rooms that import downwards only, no circles, files that fit into a head; and a service that
 * knows of slipway its public face alone.
 */
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { dirname, join, relative, resolve, sep } from "node:path";
import { root } from "./helloapp-service.ts";

const slipway = join(root, "ci/slipway");

/** From the top: a file imports from its own room and from those below. Files directly in ci/slipway are the roof. */
const rooms = [
  "roof",
  "commands",
  "init",
  "cli",
  "engines",
  "targets",
  "smoke-test",
  "operations",
  "secrets",
  "deploy",
  "registry",
  "ssh",
  "image",
  "kubernetes",
  "core",
] as const;

/** What runs in services, not here: it imports nothing of the rooms, and none of them imports it. */
const APART = "service";

const MOST_LINES = 300;

/** What a module imports, types too, without running anything: `from "…"`, `import "…"`, `import("…")`. */
function importsOf(path: string): string[] {
  // Comments show imports that are none.
  const code = readFileSync(path, "utf8")
    .replace(/^\s*\/\*\*?[^]*?\*\//gm, "")
    .replace(/^\s*\/\/.*$/gm, "");
  const statement = /^\s*(?:import|export)\s(?:[^;"'`]*?\sfrom\s*)?["']([^"']+)["']/gm;
  const call = /\b(?:import|require)\(\s*["']([^"']+)["']\s*\)/g;
  return [statement, call].flatMap((form) => [...code.matchAll(form)].map(([, name]) => name!));
}

/** The files that a module imports of this project; packages are none. */
function filesImportedBy(path: string): string[] {
  return (
    importsOf(path)
      .filter((name) => name.startsWith("."))
      .map((name) => resolve(dirname(path), name.replace(/\.d$/, ".d.ts")))
      // A file that compares itself with its declarations names itself.
      .filter((file) => file !== path)
  );
}

const glob = (pattern: string, cwd: string) => [...new Bun.Glob(pattern).scanSync(cwd)].sort();
const files = glob("**/*.ts", slipway)
  .filter((path) => !/^(test|node_modules)\//.test(path))
  .map((path) => join(slipway, path));
const nameOf = (path: string) => relative(slipway, path);
const roomOf = (path: string) => {
  const [first, second] = nameOf(path).split(sep);
  return second === undefined ? "roof" : first!;
};
/** Words that everybody may know: the package's declarations hold nothing that runs. */
const isFace = (path: string) => path.endsWith(".d.ts") && roomOf(path) === "roof";

describe("ci/slipway", () => {
  test("is packed with all of its rooms", async () => {
    const { files } = (await import("../package.json")) as { files: string[] };
    expect(files).toEqual(expect.arrayContaining([...rooms.filter((room) => room !== "roof"), APART]));
  });

  test("is looked at as a whole: imports of all forms are seen", () => {
    expect(files.length).toBeGreaterThan(50);
    const edges = files.flatMap((file) => filesImportedBy(file).map((to) => `${nameOf(file)} > ${nameOf(to)}`));
    expect(edges).toContain("engines/dagger-session.ts > engines/dagger.ts");
    expect(edges).toContain("core/resolve-service.ts > index.d.ts");
    expect(edges).toContain("commands/up.ts > targets/k3s.ts");
    expect(edges).toContain("cli/context.ts > engines/engine.ts");
    // All that is named is there: nothing was taken for an import that is none.
    const missing = files.flatMap(filesImportedBy).filter((to) => !/\.(json|ts)$/.test(to) || !files.includes(to));
    expect(missing.filter((to) => !to.endsWith("package.json")).map(nameOf)).toEqual([]);
  });

  test("has no room that the order does not know", () => {
    const found = new Set(files.map(roomOf));
    const known: readonly string[] = [...rooms, APART];
    expect([...found].filter((room) => !known.includes(room))).toEqual([]);
    // Nor is there a name in the order without a room.
    expect(rooms.filter((room) => !found.has(room))).toEqual([]);
  });

  test("imports downwards only", () => {
    const level = (path: string) => rooms.indexOf(roomOf(path) as (typeof rooms)[number]);
    const mayImport = (file: string, to: string) =>
      [file, to].some((one) => roomOf(one) === APART) ? roomOf(file) === roomOf(to) : level(to) >= level(file);
    const upwards = files.flatMap((file) =>
      filesImportedBy(file)
        .filter((to) => !isFace(to) && to.endsWith(".ts") && !mayImport(file, to))
        .map((to) => `${nameOf(file)} imports ${nameOf(to)}`),
    );
    expect(upwards).toEqual([]);
  });

  test("has no circles between files, types included", () => {
    const circles: string[] = [];
    const done = new Set<string>();
    const visit = (file: string, way: string[]): void => {
      if (way.includes(file)) {
        circles.push([...way.slice(way.indexOf(file)), file].map(nameOf).join(" > "));
        return;
      }
      if (done.has(file) || !files.includes(file)) return;
      for (const to of filesImportedBy(file)) visit(to, [...way, file]);
      done.add(file);
    };
    for (const file of files) visit(file, []);
    expect(circles).toEqual([]);
  });

  test(`has no file of more than ${MOST_LINES} lines`, () => {
    const long = files.flatMap((file) => {
      const lines = readFileSync(file, "utf8").trimEnd().split("\n").length;
      return lines > MOST_LINES ? [`${nameOf(file)}: ${lines}`] : [];
    });
    expect(long).toEqual([]);
  });

  test("imports nothing from the service that it stands beside", () => {
    const outside = files.flatMap((file) =>
      filesImportedBy(file)
        .filter((to) => !to.startsWith(`${slipway}/`))
        .map((to) => `${nameOf(file)} imports ${relative(root, to)}`),
    );
    expect(outside).toEqual([]);
  });

  test("its tests import nothing from the service either", () => {
    const tests = glob("test/**/*.ts", slipway).map((path) => join(slipway, path));
    const outside = tests.flatMap((file) =>
      filesImportedBy(file)
        .filter((to) => !to.startsWith(`${slipway}/`) && to !== join(root, "package.json"))
        .map((to) => `${nameOf(file)} imports ${relative(root, to)}`),
    );
    expect(outside).toEqual([]);
  });
});

/** Files of the service, its tests and its settings. */
const serviceFiles = ["src/**/*.{ts,tsx}", "test/**/*.ts", "ci/pipeline.ts"].flatMap((pattern) => glob(pattern, root));

describe("ci/maintenance", () => {
  const maintenance = join(root, "ci/maintenance");
  const resolvedImports = (path: string) =>
    filesImportedBy(join(root, path)).map((to) => ({ to, text: `${path} imports ${relative(root, to)}` }));
  const own = glob("ci/maintenance/**/*.ts", root).filter((path) => !path.includes("node_modules/"));

  test("imports only from ci/slipway and from itself", () => {
    expect(own.length).toBeGreaterThan(5);
    const allowed = [`${maintenance}/`, `${slipway}/`, join(root, "package.json")];
    const outside = own.flatMap(resolvedImports).filter(({ to }) => !allowed.some((prefix) => to.startsWith(prefix)));
    expect(outside.map(({ text }) => text)).toEqual([]);
  });

  test("is imported by nothing else", () => {
    const others = [...serviceFiles, ...glob("ci/slipway/**/*.ts", root)].filter(
      (path) => !path.includes("node_modules/"),
    );
    const found = others.flatMap(resolvedImports).filter(({ to }) => to.startsWith(`${maintenance}/`));
    expect(found.map(({ text }) => text)).toEqual([]);
  });
});

test("the service imports of slipway its public face alone", () => {
  const face = ["slipway", "slipway/service"];
  // They look behind the face on purpose: documents held to code, what a machine makes of it, what it takes.
  const exempt = /^test\/(documented-settings\.test\.ts$|bench\/|e2e\/)/;
  expect(serviceFiles).toContain("ci/pipeline.ts");
  const behind = serviceFiles
    .filter((path) => !exempt.test(path))
    .flatMap((path) =>
      importsOf(join(root, path))
        .map((name) => (name.startsWith(".") ? relative(root, resolve(dirname(join(root, path)), name)) : name))
        .filter((name) => name.startsWith("ci/slipway/") || (/^slipway\b/.test(name) && !face.includes(name)))
        .map((name) => `${path} imports ${name}`),
    );
  expect(behind).toEqual([]);
});
