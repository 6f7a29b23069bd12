/**
 * A small service in a workspace with every kind of build input: a member, an HTML import, imported files, a plugin and a file
 * in the image. A copy of slipway is a member too, so that a container can install it from the project.
 */
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { must, root } from "./setup.ts";

export type Files = Record<string, string>;

/** Writes files to a directory. */
export function layOut(directory: string, files: Files): void {
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(directory, path)), { recursive: true });
    writeFileSync(join(directory, path), content);
  }
}

const main = `import { member } from "member";
import made from "../made/made.json";
import bytes from "./bytes.bin" with { type: "file" };
import data from "./data.json";
import page from "./page.html";
import said from "./said.shout";
import words from "./words.txt" with { type: "text" };
import { local } from "@/local.ts";

declare const GREETING: string;
const all = [GREETING, member, bytes, data.name, made, said, words, local, process.env.PUBLIC_NAME];
Bun.serve({ port: process.env.PORT, routes: { "/": page, "/all": () => Response.json(all) } });
`;

const files: Files = {
  "package.json": '{ "name": "all", "private": true, "workspaces": ["app", "member", "unused", "slipway"] }\n',
  "bunfig.toml": '[install]\nlinker = "hoisted"\n',
  "tsconfig.base.json": '{ "compilerOptions": { "module": "Preserve" } }\n',
  ".gitignore": "node_modules/\ndist/\nmade/\n*.tar\n*.cdx.json\n*.log\n",
  "README.md": "All.\n",
  "member/package.json": '{ "name": "member", "version": "1.0.0", "module": "index.ts" }\n',
  "member/index.ts": 'export { member } from "./deep.ts";\n',
  "member/deep.ts": "export const member = Math.random();\n",
  "unused/package.json": '{ "name": "unused", "version": "1.0.0" }\n',
  "unused/index.ts": "export const unused = 1;\n",
  "app/tsconfig.json":
    '{ "extends": "../tsconfig.base.json", "compilerOptions": { "paths": { "@/*": ["./src/*"] } } }\n',
  "app/ci/plugin.ts": `export const plugin: Bun.BunPlugin = {
  name: "shout",
  setup(build) {
    build.onLoad({ filter: /\\.shout$/ }, async ({ path }) => ({
      contents: \`export default \${JSON.stringify((await Bun.file(path).text()).toUpperCase())};\`,
      loader: "js",
    }));
  },
};
`,
  "app/ci/pipeline.ts": `import { pipeline } from "slipway";
import { plugin } from "./plugin.ts";

await pipeline(import.meta, {
  prebuild: ["make"],
  files: ["public"],
  define: { GREETING: '"hello"' },
  publicEnv: "PUBLIC_",
  plugins: [plugin],
});
`,
  "app/ci/make.ts": 'await Bun.write("made/made.json", JSON.stringify(await Bun.file("material/words.txt").text()));\n',
  "app/material/words.txt": "material\n",
  "app/src/main.ts": main,
  "app/src/local.ts": "export const local = 1;\n",
  "app/src/bytes.bin": "bytes\n",
  "app/src/data.json": '{ "name": "data" }\n',
  "app/src/words.txt": "words\n",
  "app/src/said.shout": "said\n",
  "app/src/page.html": `<!doctype html>
<html>
  <head><link rel="stylesheet" href="./page.css" /></head>
  <body><img src="./page.svg" /><script type="module" src="./page.ts"></script></body>
</html>
`,
  "app/src/page.css": "body { color: red }\n",
  "app/src/page.svg": '<svg xmlns="http://www.w3.org/2000/svg"></svg>\n',
  "app/src/page.ts": 'document.body.append("page");\n',
  "app/src/types.ts": "export type T = number;\n",
  "app/public/robots.txt": "User-agent: *\n",
  "app/test/main.test.ts": 'import { expect, test } from "bun:test";\n\ntest("one", () => expect(1).toBe(1));\n',
  "app/README.md": "The service.\n",
};

/**
 * Creates the workspace, with the versions of this repository's lockfile.
 *
 * @param edition text that makes the workspace unique
 * @returns the service's directory
 */
export function makeWorkspace(directory: string, edition = ""): string {
  layOut(directory, { ...files, "member/deep.ts": `${files["member/deep.ts"]}// ${edition}\n` });
  const slipway = join(root, "ci/slipway");
  const isPart = (path: string) => !/^\/(test|node_modules)(\/|$)/.test(path.slice(slipway.length));
  cpSync(slipway, join(directory, "slipway"), { recursive: true, filter: isPart });
  const manifest = join(directory, "slipway/package.json");
  const { devDependencies: _, ...own } = JSON.parse(readFileSync(manifest, "utf8"));
  writeFileSync(manifest, `${JSON.stringify(own, undefined, 2)}\n`);
  const { devDependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const service = {
    name: "small",
    version: "1.0.0",
    type: "module",
    // The tests check whether these scripts run.
    scripts: {
      check: "test -f made/made.json",
      test: "bun test",
      dev: "bun src/main.ts",
      make: "bun ci/make.ts",
    },
    dependencies: { member: "workspace:*" },
    devDependencies: { slipway: "workspace:*", "@dagger.io/dagger": devDependencies["@dagger.io/dagger"] },
  };
  layOut(directory, { "app/package.json": `${JSON.stringify(service, undefined, 2)}\n` });
  cpSync(join(root, "bun.lock"), join(directory, "bun.lock"));
  must([process.execPath, "install"], { cwd: directory });
  const app = join(directory, "app");
  must([process.execPath, "../slipway/cli/bin.ts", "init"], { cwd: app });
  if (Bun.which("git")) {
    must(["git", "init", "--quiet"], { cwd: directory });
    commit(directory);
  }
  return app;
}

/** Commits all files, with a fixed author. */
export function commit(directory: string): void {
  must(["git", "add", "--all"], { cwd: directory });
  const author = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"];
  must(["git", ...author, "commit", "--quiet", "--allow-empty", "-m", "x"], { cwd: directory });
}
