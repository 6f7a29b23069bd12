/** Services on Bun.serve, and the process around it. */
import { differences } from "../differences.ts";
import { post, serverSentEvents, upload, websocket, type Row } from "../row.ts";

export const bunRows: Row[] = [
  {
    name: "the text of a function, which libraries search for parameters",
    files: `
const handler = ({ query, ...rest }: any, [first = 1, second]: any[] = []) => [query, rest.user.id, first, second];
class Service { constructor(private database: object, log = "a, b") {} method( a: number ) { return a; } }
console.log(String(handler), Service.toString().includes("constructor(database, log"), Service.prototype.method.toString());
`,
  },
  {
    name: "Bun.serve: routes, methods and a fallback",
    files: `
const users = [{ id: 1, name: "Ada" }];
Bun.serve({
  port: process.env.PORT,
  routes: {
    "/": new Response("hello"),
    "/users": { GET: () => Response.json(users), POST: async (request) => Response.json(await request.json(), { status: 201 }) },
    "/users/:id": ({ params }) => Response.json(users.find(({ id }) => String(id) === params.id) ?? null),
    "/old": Response.redirect("/users", 308),
  },
  fetch: ({ url }) => new Response("no " + new URL(url).pathname, { status: 404 }),
});
`,
    requests: ["/", "/users", "/users/1", "/old", post("/users", { name: "Bob" }), { path: "/x", status: 404 }],
  },
  {
    name: "Bun.serve: default export",
    differs: { because: differences.address, at: ["stdout"] },
    files: `export default { port: process.env.PORT, fetch: (request: Request) => new Response(request.method) };`,
    requests: ["/", { path: "/", method: "DELETE" }],
  },
  {
    name: "Bun.serve: an error handler and an uncaught error in a handler",
    files: `
class Missing extends Error {}
Bun.serve({
  port: process.env.PORT,
  routes: { "/a": () => { throw new Missing("a"); }, "/b": async () => { throw new TypeError("b"); } },
  error: (error) => new Response(error.name + " " + error.message + " " + error.constructor.name, { status: 500 }),
});
`,
    requests: [
      { path: "/a", status: 500 },
      { path: "/b", status: 500 },
    ],
  },
  {
    name: "Bun.serve: websocket with topics",
    files: `
Bun.serve({
  port: process.env.PORT,
  fetch: (request, server) => (server.upgrade(request, { data: {} }) ? undefined : new Response("no", { status: 426 })),
  websocket: {
    open: (socket) => { socket.subscribe("all"); socket.send("welcome"); },
    message: (socket, text) => { socket.send("echo " + text); socket.publishText("all", "x"); },
  },
});
`,
    requests: [websocket("/ws", ["a", "b"], 3), { path: "/", status: 426 }],
  },
  {
    name: "Bun.serve: server-sent events and a stream",
    files: `
const stream = (lines: string[]) => new ReadableStream({
  async pull(controller) {
    const line = lines.shift();
    if (line === undefined) return controller.close();
    await Bun.sleep(1);
    controller.enqueue(new TextEncoder().encode(line));
  },
});
Bun.serve({
  port: process.env.PORT,
  routes: {
    "/events": () => new Response(stream(["data: 1\\n\\n", "data: 2\\n\\n", "event: end\\ndata: 3\\n\\n"]), { headers: { "content-type": "text/event-stream" } }),
    "/stream": () => new Response(stream(["a", "b", "c"])),
    "/generator": () => new Response(async function* () { yield "one "; yield "two"; }),
  },
});
`,
    requests: [serverSentEvents("/events", 3), "/stream", "/generator"],
  },
  {
    name: "Bun.serve: uploads and forms",
    files: `
Bun.serve({
  port: process.env.PORT,
  async fetch(request) {
    const form = await request.formData();
    const entries = await Promise.all([...form].map(async ([name, value]) => [name, typeof value === "string" ? value : [value.name, value.type, await value.text()]]));
    return Response.json(entries);
  },
});
`,
    requests: [upload("/", { a: "first", b: "second" })],
  },
  {
    name: "Bun.serve: two servers, the first one on another port",
    files: `
const metrics = Bun.serve({ port: 9090, fetch: () => new Response("metrics") });
const app = Bun.serve({
  port: process.env.PORT,
  fetch: async () => Response.json([metrics.port, app.port, await (await fetch("http://127.0.0.1:9090")).text()]),
});
`,
    requests: ["/"],
  },
  {
    name: "Bun.serve: port 0 and a unix socket beside the app",
    files: `
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
const free = Bun.serve({ port: 0, fetch: () => new Response("free") });
const path = join(mkdtempSync(join(tmpdir(), "x-")), "socket");
const socket = Bun.serve({ unix: path, fetch: () => new Response("socket") });
Bun.serve({
  port: process.env.PORT,
  fetch: async () => Response.json([free.port !== 3000, await (await fetch(free.url)).text(), await (await fetch("http://x/", { unix: path })).text()]),
});
`,
    requests: ["/"],
  },
  {
    name: "Bun.serve: own /healthz and /version",
    differs: { because: differences.ownPaths, at: ["GET /healthz", "GET /version"] },
    files: `
Bun.serve({
  port: process.env.PORT,
  routes: { "/healthz": Response.json({ database: "up" }), "/version": new Response("mine") },
  fetch: () => new Response("fallback"),
});
`,
    requests: ["/healthz", "/version", "/"],
  },
  {
    name: "Bun.serve: own /healthz in a table of handlers",
    files: `
const handlers = new Map([["health" + "z", () => new Response("computed")]]);
Bun.serve({
  port: process.env.PORT,
  fetch: ({ url }) => handlers.get(new URL(url).pathname.slice(1))?.() ?? new Response("none", { status: 404 }),
});
`,
    requests: ["/healthz", { path: "/x", status: 404 }],
  },
  {
    name: "import { serve } from bun in a module that is loaded later",
    files: {
      "src/index.ts": `await import("./server.ts");\n`,
      "src/server.ts": `
import { serve } from "bun";
const server = serve({ port: process.env.PORT, fetch: () => new Response("later") });
process.on("SIGTERM", async () => { await server.stop(); console.log("stopped"); process.exit(0); });
`,
    },
    requests: ["/"],
  },
  {
    name: "import.meta.main in the entry",
    files: `if (import.meta.main) Bun.serve({ port: process.env.PORT, fetch: () => new Response("main") });`,
    requests: ["/"],
  },
  {
    name: "require.main === module in a CommonJS entry",
    manifest: { type: "commonjs" },
    files: {
      "src/index.cjs": `
const http = require("node:http");
function start() { http.createServer((_, reply) => reply.end("main")).listen(process.env.PORT); }
if (require.main === module) start();
module.exports = { start };
`,
    },
    settings: { entry: "src/index.cjs" },
    requests: ["/"],
  },
  {
    name: "import.meta.main of a module that is not the entry",
    files: {
      "src/index.ts": `import { isMain } from "./tool.ts";\nconsole.log("entry", import.meta.main, isMain);\n`,
      "src/tool.ts": `export const isMain = import.meta.main;\nif (import.meta.main) console.log("runs as a tool");\n`,
    },
  },
  {
    name: "paths of modules",
    differs: { because: differences.fileNames, at: ["stdout"] },
    files: {
      "src/index.ts": `
import { fileURLToPath } from "node:url";
import nested from "./a/nested.ts";
console.log(import.meta.dir, import.meta.dirname, import.meta.file, fileURLToPath(new URL("../data.txt", import.meta.url)));
console.log(nested, process.cwd());
`,
      "src/a/nested.ts": `export default [import.meta.dir, __dirname, __filename];\n`,
    },
  },
  {
    name: "names of classes and functions",
    files: `
class Animal { kind = this.constructor.name; }
class Dog extends Animal {}
function makeCat() {}
const arrow = () => {};
const Anonymous = class {};
class NotFoundError extends Error { override name = this.constructor.name; }
console.log(new Dog().kind, makeCat.name, arrow.name, Anonymous.name, new NotFoundError("x").name, String(new NotFoundError("x")));
`,
  },
  {
    name: "an uncaught error ends the process",
    files: `
class ConfigError extends Error { override name = "ConfigError"; }
console.log("before");
throw new ConfigError("PORT is missing");
`,
    exit: 1,
  },
  {
    name: "an unhandled rejection and process.exitCode",
    files: `
process.on("unhandledRejection", (error: Error) => { console.log("unhandled", error.message); process.exitCode = 3; });
process.on("exit", (code) => console.log("exit", code));
void Promise.reject(new Error("no"));
`,
    exit: 3,
  },
  {
    name: "arguments, environment and standard streams",
    files: `
import { parseArgs } from "node:util";
const { values, positionals } = parseArgs({ args: process.argv.slice(2), options: { to: { type: "string" } }, allowPositionals: true });
console.log(values.to, positionals, process.env.NODE_ENV, process.env.GREETING, Bun.env.GREETING, Bun.argv.length);
console.error("on stderr");
process.exit(4);
`,
    args: ["migrate", "--to", "3"],
    env: { GREETING: "hello there" },
    exit: 4,
  },
  {
    name: "signal handler that closes the server",
    files: `
const server = Bun.serve({ port: process.env.PORT, fetch: () => new Response("x") });
for (const signal of ["SIGTERM", "SIGINT"] as const) {
  process.on(signal, async (received) => { console.log("received", received); await server.stop(); process.exit(0); });
}
`,
    requests: ["/"],
    signal: "SIGINT",
  },
  {
    name: "signal handler that exits with its own code",
    files: `
Bun.serve({ port: process.env.PORT, fetch: () => new Response("x") });
process.once("SIGTERM", () => { console.log("bye"); process.exit(7); });
`,
    requests: ["/"],
    exit: 7,
  },
  {
    name: "signal sent again by the process itself",
    files: `
Bun.serve({ port: process.env.PORT, fetch: () => new Response("x") });
process.once("SIGTERM", () => { console.log("again"); process.kill(process.pid, "SIGTERM"); });
`,
    requests: ["/"],
  },
  {
    name: "process.off and the list of listeners",
    files: `
const removed = () => { console.log("removed handler ran"); process.exit(9); };
const kept = () => { console.log("kept handler ran"); process.exit(0); };
process.on("SIGTERM", removed);
process.on("SIGTERM", kept);
process.off("SIGTERM", removed);
const seen = [process.listenerCount("SIGTERM"), process.listeners("SIGTERM").includes(kept)];
Bun.serve({ port: process.env.PORT, fetch: () => Response.json(seen) });
`,
    requests: ["/"],
  },
  {
    name: "no HTTP: a timer that handles SIGTERM",
    files: `
const timer = setInterval(() => {}, 1000);
process.on("SIGTERM", () => { clearInterval(timer); console.log("stopped"); });
console.log("started");
`,
    until: "started",
  },
  {
    name: "no HTTP: a timer without a handler",
    files: `setInterval(() => {}, 1000);\nconsole.log("started");\n`,
    until: "started",
  },
  {
    name: "Worker from a file",
    files: {
      "src/index.ts": `
const worker = new Worker(new URL("./worker.ts", import.meta.url).href);
const ask = (n: number) => new Promise<number>((resolve) => { worker.onmessage = ({ data }) => resolve(data); worker.postMessage(n); });
setTimeout(() => { console.log("no reply"); process.exit(1); }, 10_000).unref();
console.log(await ask(7));
worker.terminate();
process.exit(0);
`,
      "src/worker.ts": `declare var self: Worker;\nself.onmessage = ({ data }) => self.postMessage(data * 6);\n`,
    },
  },
  {
    name: "worker_threads from a file",
    files: {
      "src/index.ts": `
import { Worker } from "node:worker_threads";
const worker = new Worker(new URL("./worker.ts", import.meta.url), { workerData: { n: 5 } });
worker.on("message", (text) => { console.log(text); void worker.terminate(); });
worker.on("error", (error) => { console.log("failed", error.message); process.exit(1); });
`,
      "src/worker.ts": `
import { parentPort, workerData } from "node:worker_threads";
parentPort!.postMessage("worker " + workerData.n * 2);
`,
    },
  },
  {
    name: "child_process.fork of a module",
    files: {
      "src/index.ts": `
import { fork } from "node:child_process";
if (process.env.IS_JOB) { console.log("the service started itself"); process.exit(1); }
const child = fork(new URL("./job.ts", import.meta.url).pathname, { env: { ...process.env, IS_JOB: "1" } });
child.on("message", (text) => console.log(text));
child.on("exit", (code) => console.log("job ended", code));
`,
      "src/job.ts": `process.send!("from the job");\nprocess.disconnect();\n`,
    },
  },
  {
    name: "several entries",
    files: {
      "src/index.ts": `console.log("main");\n`,
      "src/migrate.ts": `if (import.meta.main) console.log("migrated", process.argv.slice(2));\n`,
    },
    settings: { entries: { migrate: "src/migrate.ts" } },
    command: { source: ["src/migrate.ts", "--all"], image: ["migrate", "--all"] },
  },
  {
    name: "preload of the start script",
    manifest: { scripts: { start: "bun --preload ./src/instrument.ts src/index.ts" } },
    files: {
      "src/instrument.ts": `(globalThis as any).instrumented = true;\nconsole.log("instrumented");\n`,
      "src/index.ts": `console.log("main", (globalThis as any).instrumented);\n`,
    },
    command: { source: ["--preload", "./src/instrument.ts", "src/index.ts"], image: [] },
  },
  {
    name: "declarations of __dirname and __filename",
    files: {
      "src/index.ts": `
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { root } from "./utils.ts";
const __filename = fileURLToPath(import.meta.url), __dirname = dirname(__filename);
console.log(__dirname, __filename, root);
`,
      "src/utils.ts": `import __dirname from "./directory.ts";\nexport const root = __dirname;\n`,
      "src/directory.ts": `export default "own";\n`,
    },
  },
  {
    name: "import of a computed path",
    differs: { because: differences.computedImport, at: ["start"] },
    files: {
      "src/index.ts": `
const name = process.env.ROUTE ?? "users";
const { route } = await import("./routes/" + name + ".ts");
Bun.serve({ port: process.env.PORT, fetch: () => new Response(route) });
`,
      "src/routes/users.ts": `export const route = "users";\n`,
    },
    requests: ["/"],
  },
  {
    name: "JSON, TOML, YAML and text imports",
    files: {
      "src/index.ts": `
import json from "./data.json";
import toml from "./data.toml";
import yaml from "./data.yaml";
import text from "./data.txt" with { type: "text" };
console.log(JSON.stringify([json, toml, yaml, text]));
`,
      "src/data.json": `{"a":1}`,
      "src/data.toml": `a = 2\n[b]\nc = "d"\n`,
      "src/data.yaml": `a: 3\nb: [x, y]\n`,
      "src/data.txt": "plain\n",
    },
  },
  {
    name: "HTML import with a script and a style",
    files: {
      "src/index.ts": `
import page from "./page.html";
Bun.serve({ port: process.env.PORT, development: false, routes: { "/": page, "/api": Response.json(1) } });
`,
      "src/page.html": `<!doctype html><html><head><link rel="stylesheet" href="./page.css" /></head><body><script type="module" src="./page.ts"></script></body></html>`,
      "src/page.css": `body { color: red; }`,
      "src/page.ts": `document.body.append("hi");`,
    },
    requests: [
      "/api",
      {
        name: "page",
        async run(origin) {
          const page = await (await fetch(origin)).text();
          const types = [...page.matchAll(/(?:src|href)="([^"]+)"/g)].map(async ([, path]) => {
            const reply = await fetch(new URL(path!, origin));
            return [reply.status, reply.headers.get("content-type"), (await reply.text()).includes("file:")];
          });
          return { page: page.replace(/-[a-z0-9]{8}\./g, "-HASH."), types: await Promise.all(types) };
        },
      },
    ],
  },
  {
    name: "tsconfig paths, JSX and decorators",
    files: {
      "tsconfig.json": `{"compilerOptions":{"paths":{"#lib/*":["./src/lib/*"]},"jsx":"react-jsx","jsxImportSource":"#jsx","experimentalDecorators":true}}`,
      "src/index.ts": `
import { greet } from "#lib/greet.ts";
const seen: string[] = [];
const log = (_target: object, key: string) => void seen.push(key);
class Service { @log run() { return greet("x"); } @log stop() {} }
console.log(new Service().run(), seen);
`,
      "src/lib/greet.ts": "export const greet = (name: string) => `hello ${name}`;\n",
    },
  },
  {
    name: "top-level await, timers and AsyncLocalStorage",
    files: `
import { AsyncLocalStorage } from "node:async_hooks";
const storage = new AsyncLocalStorage<string>();
const value = await new Promise((resolve) => setTimeout(resolve, 5, "awaited"));
Bun.serve({
  port: process.env.PORT,
  fetch: ({ url }) => storage.run(new URL(url).pathname, async () => { await Bun.sleep(2); return new Response(value + " " + storage.getStore()); }),
});
`,
    requests: ["/a", "/b"],
  },
  {
    name: "SQLite file in the working directory",
    files: `
import { Database } from "bun:sqlite";
try {
  const database = new Database("data.sqlite");
  database.run("create table t (a)");
  console.log("written");
} catch (error) { console.log("refused", (error as Error).message); }
`,
    differs: { because: differences.readOnly, at: ["stdout"] },
  },
  {
    name: ".env and bunfig.toml in the working directory",
    files: { ".env": "SECRET=from-file\n", "src/index.ts": `console.log("SECRET", process.env.SECRET);\n` },
    settings: { files: [".env"] },
    differs: { because: differences.dotenv, at: ["stdout"] },
  },
  {
    name: "password hashing, glob, shell and compression of Bun",
    files: `
import { $ } from "bun";
const hash = await Bun.password.hash("secret", { algorithm: "bcrypt", cost: 4 });
console.log(await Bun.password.verify("secret", hash), Bun.hash("x"), Bun.gunzipSync(Bun.gzipSync("zip")).length);
console.log(await $\`echo built in\`.text(), [...new Bun.Glob("*.ts").scanSync("src")]);
`,
    settings: { files: ["src"] },
  },
];
