/** Types of slipway/service in a strict project, with and without other types installed. */
import { afterAll, expect, test } from "bun:test";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { tmpdir } from "node:os";

const slipway = resolve(import.meta.dir, "..");
const installed = dirname(dirname(Bun.resolveSync("bun-types/package.json", slipway)));
const work = mkdtempSync(join(tmpdir(), "service-types-"));
afterAll(() => rmSync(work, { recursive: true }));

const strict = {
  target: "ESNext",
  module: "ESNext",
  moduleResolution: "bundler",
  noEmit: true,
  strict: true,
  noUncheckedIndexedAccess: true,
  exactOptionalPropertyTypes: true,
  noPropertyAccessFromIndexSignature: true,
  verbatimModuleSyntax: true,
  skipLibCheck: false,
};

/** Compiles a project of one file. @returns the compiler's output */
async function check(name: string, options: object, source: string, packages: string[] = []): Promise<string> {
  const project = join(work, name);
  mkdirSync(join(project, "node_modules/slipway"), { recursive: true });
  mkdirSync(join(project, "node_modules/@types"));
  for (const each of packages) symlinkSync(join(installed, each), join(project, "node_modules", each));
  copyFileSync(join(slipway, "service/service.d.ts"), join(project, "node_modules/slipway/service.d.ts"));
  const exports = { "./service": { types: "./service.d.ts" } };
  await Bun.write(join(project, "node_modules/slipway/package.json"), JSON.stringify({ exports }));
  await Bun.write(
    join(project, "use.ts"),
    `import { serve, build, version, Lifecycle } from "slipway/service";\n${source}`,
  );
  const config = { compilerOptions: { ...strict, ...options }, files: ["use.ts"] };
  await Bun.write(join(project, "tsconfig.json"), JSON.stringify(config));
  const child = Bun.spawn([join(installed, ".bin/tsc"), "-p", project], { stdout: "pipe", cwd: project });
  return new Response(child.stdout).text();
}

test("works without any other types", async () => {
  const source = `
    const id: string = build.id;
    const name: string | undefined = build.name;
    const status: number = version().status;
    const bun = serve({ port: 3000, fetch: (request) => ({ seen: request.url }), idleTimeout: 10 });
    const port: number | undefined = bun.port;
    serve({ routes: { "/": 1 as unknown } }, { ready: Promise.resolve(), drainDelaySeconds: 1, customPaths: ["/version"] });
    class Server {
      listen(port: number): this { return this; }
      close(callback?: (error?: Error) => void): this { return this; }
      closeIdleConnections(): void {}
      closeAllConnections(): void {}
      emit(event: string | symbol, ...values: any[]): boolean { return true; }
    }
    const node: Server = serve(new Server().listen(3000), { drainTimeoutSeconds: 1 });
    const life = new Lifecycle((state) => state === "ready");
    const cut: Promise<{ forced: boolean }> = life.drain([bun], { delaySeconds: 0, timeoutSeconds: 0 });
    // @ts-expect-error
    serve({ fetch() {} }, { customPaths: ["/elsewhere"] });
    // @ts-expect-error
    serve({ fetch: "none" });
    export { id, name, status, port, node, cut };`;
  expect(await check("nothing", { lib: ["ESNext"], types: [] }, source)).toBe("");
}, 60_000);

test("works with the DOM types", async () => {
  const source = `
    const app = { fetch: (request: Request, env?: object): Response | Promise<Response> => new Response(request.url) };
    serve({ fetch: app.fetch });
    serve({ fetch: (request) => new Response(request.headers.get("accept")) });
    export const reply: Response = version();`;
  expect(await check("dom", { lib: ["ESNext", "DOM"], types: [] }, source)).toBe("");
}, 60_000);

test("works with @types/node", async () => {
  const source = `
    import { createServer, type Server } from "node:http";
    import * as https from "node:https";
    const server: Server = serve(createServer((_, reply) => void reply.end()).listen(3000));
    const secure: https.Server = serve(https.createServer({}), { customPaths: ["/version"] });
    export const reply: Response = version();
    export { server, secure };`;
  const packages = ["@types/node", "undici-types"];
  expect(await check("node", { lib: ["ESNext"], types: ["node"] }, source, packages)).toBe("");
}, 60_000);

test("infers handler types as Bun.serve does with bun-types", async () => {
  const source = `
    import { createServer, type Server } from "node:http";
    const server: Bun.Server<undefined> = serve({
      routes: {
        "/users/:id": ({ params }) => new Response(params.id),
        "/static": new Response("static"),
        "/methods": { GET: () => new Response(), POST: async (request) => Response.json(await request.json()) },
        "/version": false,
      },
      fetch(request, server) { return new Response(request.url + server.requestIP(request)?.address); },
    }, { ready: Promise.resolve() });
    const sockets: Bun.Server<undefined> = serve({
      fetch(request, server) { return server.upgrade(request) ? undefined : new Response(); },
      websocket: { message(socket, message) { socket.send(message); } },
    });
    const typed = serve<{ user: string }>({
      fetch(request, server) { server.upgrade(request, { data: { user: "one" } }); },
      websocket: { message(socket) { const user: string = socket.data.user; socket.send(user); } },
    });
    // @ts-expect-error
    serve({ routes: { "/users/:id": ({ params }) => new Response(params.name) } });
    // @ts-expect-error
    serve({ fetch: () => "no reply" });
    const node: Server = serve(createServer().listen(3000));
    export const reply: Response = version();
    export { server, sockets, typed, node };`;
  // Bun's own types have errors.
  const options = { lib: ["ESNext"], types: ["bun-types"], skipLibCheck: true };
  const packages = ["bun-types", "@types/node", "undici-types"];
  expect(await check("bun", options, source, packages)).toBe("");
}, 60_000);
