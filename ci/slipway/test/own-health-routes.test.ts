/** Services with routes of their own at /version, /readyz or /healthz, or for all paths. */
import { afterAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { resolveService } from "../core/resolve-service.ts";
import { verifyVersion } from "../deploy/verify-from-outside.ts";
import { buildImage } from "../image/build-image-files.ts";
import { root } from "./helloapp-service.ts";
import { Service } from "./service/harness.ts";

/** Milliseconds. Generous, because the machine may be busy. */
const LONG = 60_000;
const work = mkdtempSync(join(tmpdir(), "own-paths-"));
const started: Service[] = [];
afterAll(() => {
  for (const service of started) service.kill("SIGKILL");
  rmSync(work, { recursive: true });
});

const OURS = "version of the build";
const express = (code: string) =>
  `import express from "express"; const app = express(); ${code} app.listen(process.env.PORT);`;
const hono = (code: string) => `import { Hono } from "hono"; const app = new Hono(); ${code} Bun.serve(app);`;
const ownVersion = `"/version": () => Response.json({ version: "own" })`;
type Expected = [version: string, readyz: string, healthz: string];
const defaults: Expected = [OURS, "200 ready", "200 ok"];
const sources: Record<string, [source: string, expected: Expected]> = {
  "own-version": [`Bun.serve({ routes: { ${ownVersion} } });`, [`200 {"version":"own"}`, "200 ready", "200 ok"]],
  "static-version": [`Bun.serve({ routes: { "/version": new Response("own") } });`, ["200 own", "200 ready", "200 ok"]],
  "post-only": [`Bun.serve({ routes: { "/version": { POST: () => new Response("set") } } });`, defaults],
  "base-path": [hono(`app.basePath("/api").get("/healthz", (c) => c.text("mine"));`), defaults],
  "other-service": [
    `const other = (base: string) => fetch(new URL("/version", base)); // serves "/healthz"
     Bun.serve({ routes: { "/": () => other("http://x") }, fetch: () => new Response("no", { status: 404 }) });`,
    defaults,
  ],
  computed: [
    hono(`for (const name of ["ready", "health"]) app.get("/" + name + "z", (c) => c.text("my " + name));`),
    [OURS, "200 my ready", "200 my health"],
  ],
  "not-healthy": [
    hono(`app.get("/healthz", (c) => c.text("no database", 503));`),
    [OURS, "200 ready", "503 no database"],
  ],
  login: [hono(`app.use(async (c) => c.text("log in", 401));`), ["401 log in", "200 ready", "200 ok"]],
  fallback: [`Bun.serve({ fetch: () => new Response("page") });`, ["200 page", "200 page", "200 page"]],
  wildcard: [
    `Bun.serve({ routes: { "/*": ({ url }) => new Response(new URL(url).pathname === "/x" ? "x" : "none", { status: 404 }) } });`,
    defaults,
  ],
  "wildcard-page": [`Bun.serve({ routes: { "/*": new Response("page") } });`, ["200 page", "200 page", "200 page"]],
  parameter: [
    `Bun.serve({ routes: { "/:name": ({ params }) => new Response(params.name) } });`,
    ["200 version", "200 readyz", "200 healthz"],
  ],
  "bundled-page": [`import page from "./page.html"; Bun.serve({ routes: { "/*": page } });`, defaults],
  throwing: [
    `Bun.serve({ fetch: ({ url }) => { if (url.endsWith("/version")) throw new Error("x"); return new Response(null, { status: 404 }); },
       error: () => new Response("broken", { status: 500 }) });`,
    ["500 broken", "200 ready", "200 ok"],
  ],
  express: [
    express(`app.get("/version", (_, reply) => void reply.json({ version: "own" }));`),
    [`200 {"version":"own"}`, "200 ready", "200 ok"],
  ],
  "express-login": [
    express(`app.use((_, reply) => void reply.status(401).send("log in"));`),
    ["401 log in", "200 ready", "200 ok"],
  ],
  node: [
    `import { createServer } from "node:http";
     createServer((request, reply) => {
       if (request.url === "/healthz") return void reply.writeHead(200, { "x-own": "1" }).end("mine");
       reply.writeHead(404, { "Content-Type": "text/html", "Content-Length": 4 });
       reply.write("no"); reply.end("ne");
     }).listen(process.env.PORT);`,
    [OURS, "200 ready", "200 mine"],
  ],
  "node-late": [
    `import { createServer } from "node:http";
     createServer(async (request, reply) => {
       await Bun.sleep(5); reply.statusCode = 404; reply.setHeader("content-encoding", "br"); reply.end("x");
     }).listen(process.env.PORT);`,
    defaults,
  ],
  "node-without-listener": [
    `import { createServer } from "node:http"; createServer().listen(process.env.PORT);`,
    defaults,
  ],
  ...Object.fromEntries(
    (["bun", "node"] as const).map((kind) => [
      `counts-${kind}`,
      [
        `let asked = 0;
         let hasRoute = false;
         const answer = (path: string): [number, string] => {
           if (path === "/asked") return [200, String(asked)];
           if (path === "/add") hasRoute = true;
           asked += 1;
           return path === "/healthz" && hasRoute ? [200, "late"] : [404, "none"];
         };
         ${
           kind === "bun"
             ? `Bun.serve({ fetch: ({ url }) => { const [status, body] = answer(new URL(url).pathname); return new Response(body, { status }); } });`
             : `import { createServer } from "node:http";
                createServer((request, reply) => { const [status, body] = answer(request.url!); reply.writeHead(status).end(body); }).listen(process.env.PORT);`
         }`,
        defaults,
      ],
    ]),
  ),
};

let built: Promise<{ binary: string; id: string }> | undefined;
async function build() {
  return (built ??= (async () => {
    mkdirSync(join(work, "src"));
    symlinkSync(join(root, "node_modules"), join(work, "node_modules"));
    writeFileSync(join(work, "package.json"), JSON.stringify({ name: "plain", version: "1.2.3" }));
    writeFileSync(join(work, "src/page.html"), "<p>page</p>");
    const cases = Object.entries(sources).map(([name, [source]]) => {
      writeFileSync(join(work, `src/${name}.ts`), `${source}\nexport {};`);
      return `${JSON.stringify(name)}: () => import("./${name}.ts")`;
    });
    const main = `const cases: Record<string, () => Promise<unknown>> = {\n${cases.join(",\n")} };
      await cases[process.env.CASE!]!(); export {};`;
    writeFileSync(join(work, "src/main.ts"), main);
    const { id } = await buildImage(resolveService(work), join(work, "dist"));
    return { binary: join(work, "dist/app/plain"), id };
  })());
}

// A rate limiter counts the probes of the node with the requests of clients, which have the same address.
test.each(["bun", "node"])(
  "a service without a route is asked for some seconds, and one with a late route for ever: %s",
  async (kind) => {
    const { binary } = await build();
    const service = await Service.onPort([binary], { CASE: `counts-${kind}` });
    started.push(service);
    const body = async (path: string) => (await service.ask(path)).body;
    expect([await body("/readyz"), await body("/healthz")]).toEqual(["ready", "ok"]);
    await body("/add");
    expect(await body("/healthz")).toBe("late");
    await Bun.sleep(6000);
    expect(await body("/healthz")).toBe("late");
    const asked = Number(await body("/asked"));
    for (let i = 0; i < 20; i += 1) expect(await body("/readyz")).toBe("ready");
    expect(Number(await body("/asked"))).toBe(asked);
    service.kill("SIGKILL");
  },
  LONG,
);

test.each(Object.entries(sources))(
  "%s",
  async (name, [, expected]) => {
    const { binary, id } = await build();
    const service = await Service.onPort([binary], { CASE: name });
    started.push(service);
    const version = { name: "plain", version: "1.2.3", id, bun: Bun.version };
    const replies = await Promise.all(
      ["/version", "/readyz", "/healthz"].map(async (path) => {
        const { status, body } = await service.ask(path);
        return path === "/version" && status === 200 && body === JSON.stringify(version) ? OURS : `${status} ${body}`;
      }),
    );
    expect(replies).toEqual(expected);
    const signal = new AbortController().signal;
    const url = `http://127.0.0.1:${service.port}/version`;
    const verified = await verifyVersion({ url }, id, { replies: 2, deadlineSeconds: 0, signal });
    // Only an exception in the service's own route hides the version.
    expect(verified).toMatchObject(name === "throwing" ? { ok: false, last: "status 500" } : { ok: true });
    expect((await service.ask("/healthz", { method: "HEAD" })).body).toBe("");
    service.kill();
    // Not ready during the drain, whatever the service replies.
    await service.until(503);
    expect((await service.ask("/readyz")).headers.get("connection")).toBe("close");
    service.kill("SIGKILL");
  },
  LONG,
);
