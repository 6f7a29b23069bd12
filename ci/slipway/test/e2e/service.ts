/** A second, different service, carried by this pipeline as README.md's "A service of your own" says. */
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { must, root } from "./setup.ts";

const source = `declare const BUILD_ID: string;
const id = typeof BUILD_ID === "undefined" ? "dev" : BUILD_ID;
const server = Bun.serve({
  port: Number(process.env.PORT ?? 8080),
  development: false,
  routes: {
    "/": () => new Response(new Date().toISOString()),
    "/version": () => Response.json({ id }),
    "/readyz": () => new Response("ready"),
    "/healthz": () => new Response("well"),
  },
});
process.on("SIGTERM", () => void server.stop().then(() => process.exit(0)));
`;

const unitTest = `import { expect, test } from "bun:test";
test("time has a year", () => expect(new Date().toISOString()).toMatch(/^\\d{4}-/));
`;

/** The commands of README.md's section, as they stand there; the first copies from `path/to/helloapp`. */
export const commands = [
  "cp -r path/to/helloapp/{ci,k8s,Dockerfile,.dockerignore,.gitignore,package.json,bun.lock,bunfig.toml,tsconfig.json} .",
  "grep -rl helloapp ci/app.ts k8s Dockerfile package.json | xargs sed -i s/helloapp/clock/g",
  "sed -i 's#test/src test/ci#test/src#' package.json",
];

/** Makes the service `clock` in an empty directory. */
export function otherService(project: string, place = { namespace: "clock", port: 30080 }): void {
  for (const directory of ["src", "test/src"]) mkdirSync(join(project, directory), { recursive: true });
  writeFileSync(join(project, "src/main.ts"), source);
  writeFileSync(join(project, "test/src/time.test.ts"), unitTest);
  for (const command of commands) {
    must(["bash", "-c", command.replace("path/to/helloapp", root)], { cwd: project });
  }
  symlinkSync(join(root, "node_modules"), join(project, "node_modules"));
  const edit = (path: string, before: string, after: string) => {
    const file = join(project, path);
    writeFileSync(file, readFileSync(file, "utf8").replace(before, after));
  };
  edit("ci/app.ts", 'namespace: "clock"', `namespace: "${place.namespace}"`);
  edit("k8s/base/kustomization.yaml", "namespace: clock", `namespace: ${place.namespace}`);
  edit("k8s/base/namespace.yaml", "name: clock", `name: ${place.namespace}`);
  edit("k8s/overlays/k3s/kustomization.yaml", "30080", String(place.port));
}
