/** Services of the frameworks. */
import { differences } from "../differences.ts";
import { post, serverSentEvents, upload, websocket, type Row } from "../row.ts";

export const frameworkRows: Row[] = [
  {
    name: "Hono: routes, middleware, cookies and errors",
    differs: { because: differences.address, at: ["stdout"] },
    packages: ["hono"],
    files: `
import { Hono } from "hono";
import { cors } from "hono/cors";
import { setCookie } from "hono/cookie";
import { HTTPException } from "hono/http-exception";
import { logger } from "hono/logger";
const app = new Hono();
app.use(logger(), cors());
app.get("/", (c) => c.text("hello"));
app.get("/users/:id", (c) => { setCookie(c, "seen", c.req.param("id")); return c.json({ id: c.req.param("id"), q: c.req.query() }); });
app.get("/denied", () => { throw new HTTPException(403, { message: "denied" }); });
export default { port: process.env.PORT, fetch: app.fetch };
`,
    requests: ["/", "/users/7?x=1", { path: "/denied", status: 403 }, { path: "/none", status: 404 }],
    until: "--> GET /none",
  },
  {
    name: "Hono: default export of the app on PORT",
    differs: { because: differences.address, at: ["stdout"] },
    packages: ["hono"],
    files: `import { Hono } from "hono";\nconst app = new Hono();\napp.get("/", (c) => c.text("default"));\nexport default app;\n`,
    requests: ["/"],
  },
  {
    name: "Hono: basePath with an own /api/healthz and /healthz",
    differs: { because: differences.address, at: ["stdout"] },
    packages: ["hono"],
    files: `
import { Hono } from "hono";
const api = new Hono().basePath("/api");
api.get("/healthz", (c) => c.json({ api: "up" }));
const app = new Hono();
app.route("/", api);
app.notFound((c) => c.text("nothing at " + c.req.path, 404));
export default { port: process.env.PORT, fetch: app.fetch };
`,
    requests: ["/api/healthz", { path: "/other", status: 404 }],
  },
  {
    name: "Hono: serveStatic from ./public",
    differs: { because: differences.address, at: ["stdout"] },
    packages: ["hono"],
    files: {
      "src/index.ts": `
import { Hono } from "hono";
import { serveStatic } from "hono/bun";
const app = new Hono();
app.use("/*", serveStatic({ root: "./public" }));
export default { port: process.env.PORT, fetch: app.fetch };
`,
      "public/index.html": "<h1>home</h1>\n",
      "public/app.js": "console.log(1);\n",
      "public/deep/a b.txt": "spaces\n",
    },
    settings: { files: ["public"] },
    requests: ["/", "/app.js", "/deep/a%20b.txt", { path: "/none.txt", status: 404 }],
  },
  {
    name: "Hono: JSX, streaming and websockets",
    differs: { because: differences.address, at: ["stdout"] },
    packages: ["hono"],
    files: {
      "src/index.ts": `export { default } from "./app.tsx";\n`,
      "src/app.tsx": `
/** @jsxImportSource hono/jsx */
import { Hono } from "hono";
import { upgradeWebSocket, websocket } from "hono/bun";
import { streamSSE, streamText } from "hono/streaming";
const app = new Hono();
const Page = ({ name }: { name: string }) => <html><body><b title="&">{name}</b></body></html>;
app.get("/", (c) => c.html(<Page name="<x>" />));
app.get("/text", (c) => streamText(c, async (stream) => { await stream.write("a"); await stream.write("b"); }));
app.get("/events", (c) => streamSSE(c, async (stream) => { for (const id of ["1", "2"]) await stream.writeSSE({ data: "n" + id, id }); }));
app.get("/ws", upgradeWebSocket(() => ({ onMessage: (event, ws) => void ws.send("re: " + event.data) })));
export default { port: process.env.PORT, fetch: app.fetch, websocket };
`,
    },
    requests: ["/", "/text", serverSentEvents("/events", 2), websocket("/ws", ["x", "y"])],
  },
  {
    name: "Elysia: routes, validation and errors",
    packages: ["elysia"],
    files: `
import { Elysia, t } from "elysia";
class TeapotError extends Error { status = 418; }
new Elysia()
  .error({ TEAPOT: TeapotError })
  .onError(({ code, error, set }) => { if (code === "TEAPOT") { set.status = 418; return error.constructor.name; } })
  .get("/", () => "hello")
  .get("/users/:id", ({ params }) => params, { params: t.Object({ id: t.Number() }) })
  .post("/users", ({ body }) => body, { body: t.Object({ name: t.String({ minLength: 2 }) }) })
  .get("/tea", () => { throw new TeapotError("short"); })
  .listen(process.env.PORT ?? 3000);
`,
    requests: [
      "/",
      "/users/7",
      { path: "/users/x", status: 422 },
      post("/users", { name: "Ada" }),
      { ...post("/users", { name: "A" }), headers: { "x-short": "1" }, status: 422, path: "/users?short" },
      { path: "/tea", status: 418 },
    ],
  },
  {
    name: "Elysia: hooks with rest parameters, which it reads in their text",
    packages: ["elysia"],
    files: `
import { Elysia } from "elysia";
new Elysia()
  .onError({ as: "global" }, ({ error, ...other }) => {
    const { user, path } = other as any;
    return \`\${error instanceof Error} \${user?.id} \${path}\`;
  })
  .derive(({ headers, ...rest }) => ({ user: { id: headers["x-id"] }, rest: Object.keys(rest).includes("query") }))
  .get("/", ({ user, ...rest }) => { const { query } = rest; return { user, query }; })
  .get("/fails", () => { throw new Error("bad"); })
  .listen(process.env.PORT ?? 3000);
`,
    requests: [
      { path: "/?a=1", headers: { "x-id": "7" } },
      { path: "/fails", status: 500 },
      { path: "/none", status: 404 },
    ],
  },
  {
    name: "Elysia: plugins, cookies, websocket and upload",
    packages: ["elysia"],
    files: `
import { Elysia, t } from "elysia";
const users = new Elysia({ name: "users", prefix: "/users" }).decorate("db", ["Ada"]).get("/", ({ db }) => db);
new Elysia()
  .use(users)
  .derive(({ headers }) => ({ agent: headers["x-agent"] ?? "none" }))
  .get("/agent", ({ agent, cookie: { seen } }) => { seen!.value = "yes"; return agent; })
  .ws("/ws", { message: (ws, text) => void ws.send({ text }) })
  .post("/upload", async ({ body: { a } }) => [a.name, await a.text()], { body: t.Object({ a: t.File() }) })
  .listen({ port: process.env.PORT, hostname: "0.0.0.0" }, ({ port }) => console.log("listening on", port));
`,
    requests: ["/users", "/agent", websocket("/ws", ["hi"]), upload("/upload", { a: "content" })],
  },
  {
    name: "Elysia: static plugin",
    packages: ["elysia", "@elysiajs/static"],
    files: {
      "src/index.ts": `
import { Elysia } from "elysia";
import { staticPlugin } from "@elysiajs/static";
new Elysia().use(await staticPlugin({ assets: "public", prefix: "/assets" })).get("/", "home").listen(process.env.PORT!);
`,
      "public/a.txt": "asset\n",
      "public/b.json": `{"b":1}`,
    },
    settings: { files: ["public"] },
    requests: ["/", "/assets/a.txt", "/assets/b.json"],
  },
  {
    name: "Express: routers, JSON, redirects and an error handler",
    packages: ["express"],
    files: `
import express from "express";
class NotFoundError extends Error { status = 404; }
const app = express();
app.use(express.json());
app.get("/", (_, reply) => void reply.send("hello"));
const router = express.Router();
router.get("/:id", (request, reply) => { if (request.params.id === "0") throw new NotFoundError("no user 0"); reply.json({ id: request.params.id }); });
router.post("/", (request, reply) => void reply.status(201).location("/users/1").json(request.body));
app.use("/users", router);
app.get("/old", (_, reply) => reply.redirect(301, "/users/1"));
app.use((error: any, _request: any, reply: any, _next: any) => void reply.status(error.status ?? 500).json({ name: error.constructor.name, message: error.message }));
app.listen(process.env.PORT, () => console.log("express is ready"));
`,
    requests: [
      "/",
      "/users/7",
      { path: "/users/0", status: 404 },
      post("/users", { name: "Ada" }),
      "/old",
      { path: "/x", status: 404 },
    ],
  },
  {
    name: "Express: static files, compression, helmet and cookies",
    packages: ["express", "compression", "helmet", "cookie-parser", "morgan"],
    files: {
      "src/index.ts": `
import express from "express";
import compression from "compression";
import helmet from "helmet";
import cookieParser from "cookie-parser";
import morgan from "morgan";
import { join } from "node:path";
const app = express();
app.use(morgan(":method :url :status"), helmet(), compression({ threshold: 0 }), cookieParser("secret"));
app.use(express.static(join(import.meta.dirname, "../public"), { etag: false, lastModified: false }));
app.get("/cookie", (request, reply) => void reply.cookie("a", "1", { signed: true, httpOnly: true }).json(request.cookies));
app.listen(process.env.PORT);
`,
      "public/index.html": "<h1>home</h1>\n",
      "public/big.txt": "text ".repeat(500),
    },
    settings: { files: ["public"] },
    requests: ["/", "/big.txt", { path: "/cookie", headers: { cookie: "x=y" } }, { path: "/none", status: 404 }],
    until: "GET /none 404",
  },
  {
    name: "Express: EJS views",
    packages: ["express", "ejs"],
    files: {
      "src/index.ts": `
import express from "express";
const app = express();
app.set("view engine", "ejs");
app.get("/", (_, reply) => reply.render("index", { title: "<hi>", items: [1, 2] }));
app.listen(process.env.PORT);
`,
      "views/index.ejs":
        "<%- include('head', { title }) %><% for (const item of items) { %><li><%= item %></li><% } %>\n",
      "views/head.ejs": "<title><%= title %></title>\n",
    },
    settings: { files: ["views"] },
    requests: ["/"],
  },
  {
    name: "Express: Handlebars views with a layout",
    packages: ["express", "express-handlebars"],
    files: {
      "src/index.ts": `
import express from "express";
import { engine } from "express-handlebars";
const app = express();
app.engine("handlebars", engine({ helpers: { loud: (text: string) => text.toUpperCase() } }));
app.set("view engine", "handlebars");
app.set("views", "./views");
app.get("/", (_, reply) => reply.render("home", { name: "Ada" }));
app.listen(process.env.PORT);
`,
      "views/layouts/main.handlebars": "<html>{{{body}}}</html>\n",
      "views/home.handlebars": "<b>{{loud name}}</b>\n",
    },
    settings: { files: ["views"] },
    requests: ["/"],
  },
  {
    name: "Express: Pug views",
    packages: ["express", "pug"],
    files: {
      "src/index.ts": `
import express from "express";
const app = express();
app.set("view engine", "pug");
app.get("/", (_, reply) => reply.render("page", { items: ["a", "b"] }));
app.listen(process.env.PORT);
`,
      "views/page.pug": "ul\n  each item in items\n    li= item\n",
    },
    settings: { files: ["views"] },
    requests: ["/"],
  },
  {
    name: "Express: sessions and Passport",
    packages: ["express", "express-session", "passport", "passport-local"],
    files: `
import express from "express";
import session from "express-session";
import passport from "passport";
import { Strategy } from "passport-local";
passport.use(new Strategy((name, password, done) => done(null, password === "secret" ? { name } : false)));
passport.serializeUser((user: any, done) => done(null, user.name));
passport.deserializeUser((name: string, done) => done(null, { name }));
const app = express();
app.use(express.json(), session({ secret: "s", resave: false, saveUninitialized: false, genid: () => "fixed" }), passport.session());
app.post("/login", passport.authenticate("local"), (request: any, reply) => void reply.json(request.user));
app.get("/me", (request: any, reply) => void reply.json(request.user ?? null));
app.listen(process.env.PORT);
`,
    requests: [
      { path: "/me" },
      { ...post("/login", { username: "ada", password: "wrong" }), path: "/login?wrong", status: 401 },
    ],
  },
  {
    name: "Express: multer uploads",
    packages: ["express", "multer"],
    files: `
import express from "express";
import multer from "multer";
const app = express();
const upload = multer({ storage: multer.memoryStorage() });
app.post("/", upload.any(), (request: any, reply) => void reply.json(request.files.map((file: any) => [file.fieldname, file.originalname, file.buffer.toString()])));
app.listen(process.env.PORT);
`,
    requests: [upload("/", { a: "one", b: "two" })],
  },
  {
    name: "Express: swagger-ui-express",
    packages: ["express", "swagger-ui-express"],
    files: {
      "src/index.ts": `
import express from "express";
import swagger from "swagger-ui-express";
const app = express();
app.use("/docs", swagger.serve, swagger.setup({ openapi: "3.0.0", info: { title: "api", version: "1" }, paths: {} }));
app.listen(process.env.PORT);
`,
      "config/private.json": `{"password":"secret"}`,
    },
    settings: { files: ["config"] },
    requests: [
      "/docs/",
      { path: "/docs/config/private.json", status: 200 },
      "/docs/swagger-ui-init.js",
      "/docs/swagger-ui.css",
      "/docs/swagger-ui-bundle.js",
    ],
  },
  {
    name: "Fastify: routes, schemas, hooks and its logger",
    packages: ["fastify"],
    files: `
import Fastify from "fastify";
const app = Fastify({ logger: true });
app.addHook("onSend", async (_request, reply) => void reply.header("x-hook", "yes"));
app.get("/", async () => ({ hello: "world" }));
app.get("/users/:id", { schema: { params: { type: "object", properties: { id: { type: "integer" } } }, response: { 200: { type: "object", properties: { id: { type: "integer" } } } } } }, async (request: any) => ({ id: request.params.id, hidden: 1 }));
app.get("/boom", async () => { throw Object.assign(new Error("boom"), { statusCode: 418 }); });
await app.listen({ port: Number(process.env.PORT), host: "127.0.0.1" });
`,
    requests: [
      "/",
      "/users/7",
      { path: "/users/x", status: 400 },
      { path: "/boom", status: 418 },
      { path: "/none", status: 404 },
    ],
    until: '"reqId":"req-5","res":{"statusCode":404}',
  },
  {
    name: "Fastify: logger with pino-pretty",
    packages: ["fastify", "pino-pretty"],
    files: `
import Fastify from "fastify";
const app = Fastify({ logger: { transport: { target: "pino-pretty", options: { colorize: false, ignore: "pid,hostname,time" } } } });
app.get("/", async () => "hello");
await app.listen({ port: Number(process.env.PORT), host: "127.0.0.1" });
process.on("SIGTERM", async () => { await app.close(); process.exit(0); });
`,
    requests: ["/"],
    until: "responseTime",
  },
  {
    name: "Fastify: static files, views and multipart",
    packages: ["fastify", "@fastify/static", "@fastify/view", "@fastify/multipart", "ejs"],
    files: {
      "src/index.ts": `
import Fastify from "fastify";
import ejs from "ejs";
import { join } from "node:path";
const app = Fastify();
await app.register(import("@fastify/static"), { root: join(import.meta.dirname, "../public"), prefix: "/public/", lastModified: false, etag: false });
await app.register(import("@fastify/view"), { engine: { ejs }, root: "views" });
await app.register(import("@fastify/multipart"));
app.get("/", (_, reply) => reply.viewAsync("page.ejs", { name: "Ada" }));
app.post("/upload", async (request: any) => { const file = await request.file(); return [file.fieldname, (await file.toBuffer()).toString()]; });
await app.listen({ port: Number(process.env.PORT) });
`,
      "public/a.css": "a { color: blue; }\n",
      "views/page.ejs": "<b><%= name %></b>\n",
    },
    settings: { files: ["public", "views"] },
    requests: ["/", "/public/a.css", upload("/upload", { a: "content" })],
  },
  {
    name: "Fastify: websocket",
    packages: ["fastify", "@fastify/websocket"],
    files: `
import Fastify from "fastify";
import websocket from "@fastify/websocket";
const app = Fastify();
await app.register(websocket);
app.get("/ws", { websocket: true }, (socket) => socket.on("message", (text: Buffer) => socket.send("re: " + text)));
await app.listen({ port: Number(process.env.PORT) });
`,
    requests: [websocket("/ws", ["a", "b"])],
  },
  {
    name: "Fastify: Swagger document",
    packages: ["fastify", "@fastify/swagger"],
    files: `
import Fastify from "fastify";
import swagger from "@fastify/swagger";
const app = Fastify();
await app.register(swagger, { openapi: { info: { title: "api", version: "1.0.0" } } });
app.get("/users", { schema: { tags: ["users"], response: { 200: { type: "array", items: { type: "string" } } } } }, async () => ["Ada"]);
app.get("/openapi.json", { schema: { hide: true } }, async () => app.swagger());
await app.listen({ port: Number(process.env.PORT) });
`,
    requests: ["/users", "/openapi.json"],
  },
  {
    name: "NestJS: modules, injection, pipes and filters",
    packages: [
      "@nestjs/core",
      "@nestjs/common",
      "@nestjs/platform-express",
      "reflect-metadata",
      "rxjs",
      "class-validator",
      "class-transformer",
    ],
    files: {
      "tsconfig.json": `{"compilerOptions":{"experimentalDecorators":true,"emitDecoratorMetadata":true}}`,
      "src/index.ts": `
import "reflect-metadata";
import { Body, Controller, Get, Injectable, Module, NotFoundException, Param, ParseIntPipe, Post, ValidationPipe } from "@nestjs/common";
import { NestFactory } from "@nestjs/core";
import { IsString, MinLength } from "class-validator";
class CreateUser { @IsString() @MinLength(2) name!: string; }
@Injectable() class UsersService { private users = ["Ada"]; find(id: number) { const user = this.users[id]; if (!user) throw new NotFoundException("no user " + id); return { user, by: this.constructor.name }; } }
@Controller("users") class UsersController {
  constructor(private readonly service: UsersService) {}
  @Get(":id") get(@Param("id", ParseIntPipe) id: number) { return this.service.find(id); }
  @Post() create(@Body() body: CreateUser) { return { created: body.name, type: body.constructor.name }; }
}
@Module({ controllers: [UsersController], providers: [UsersService] }) class AppModule {}
const app = await NestFactory.create(AppModule);
app.useGlobalPipes(new ValidationPipe({ transform: true }));
await app.listen(process.env.PORT!);
`,
    },
    requests: [
      "/users/0",
      { path: "/users/9", status: 404 },
      { path: "/users/x", status: 400 },
      post("/users", { name: "Bob" }),
      { ...post("/users?short", { name: "B" }), status: 400 },
    ],
  },
  {
    name: "NestJS: shutdown hooks",
    packages: ["@nestjs/core", "@nestjs/common", "@nestjs/platform-express", "reflect-metadata", "rxjs"],
    files: {
      "tsconfig.json": `{"compilerOptions":{"experimentalDecorators":true,"emitDecoratorMetadata":true}}`,
      "src/index.ts": `
import "reflect-metadata";
import { Controller, Get, Injectable, Module } from "@nestjs/common";
import { NestFactory } from "@nestjs/core";
@Injectable() class Closing { beforeApplicationShutdown(signal?: string) { console.log("closing after", signal); } }
@Controller() class AppController { @Get() get() { return "nest"; } }
@Module({ controllers: [AppController], providers: [Closing] }) class AppModule {}
const app = await NestFactory.create(AppModule, { logger: ["error", "warn"] });
app.enableShutdownHooks();
await app.listen(process.env.PORT!);
`,
    },
    requests: ["/"],
  },
  {
    name: "tRPC: standalone and fetch adapters",
    packages: ["@trpc/server", "zod"],
    files: `
import { initTRPC, TRPCError } from "@trpc/server";
import { fetchRequestHandler } from "@trpc/server/adapters/fetch";
import { z } from "zod";
const t = initTRPC.create();
const router = t.router({
  greet: t.procedure.input(z.object({ name: z.string() })).query(({ input }) => "hello " + input.name),
  add: t.procedure.input(z.array(z.number())).mutation(({ input }) => input.reduce((a, b) => a + b, 0)),
  deny: t.procedure.query(() => { throw new TRPCError({ code: "FORBIDDEN", message: "denied" }); }),
});
Bun.serve({ port: process.env.PORT, fetch: (req) => fetchRequestHandler({ endpoint: "/trpc", req, router }) });
`,
    requests: [
      '/trpc/greet?input={"name":"Ada"}',
      post("/trpc/add", [1, 2, 3]),
      { path: "/trpc/deny", status: 403 },
      { path: "/trpc/greet", status: 400 },
    ],
  },
  {
    name: "tRPC: standalone server on node:http",
    packages: ["@trpc/server"],
    files: `
import { initTRPC } from "@trpc/server";
import { createHTTPServer } from "@trpc/server/adapters/standalone";
const t = initTRPC.create();
const router = t.router({ ping: t.procedure.query(() => ({ pong: true })) });
createHTTPServer({ router }).listen(Number(process.env.PORT));
`,
    requests: ["/ping"],
  },
  {
    name: "H3: routes and errors",
    packages: ["h3"],
    files: `
import * as h3 from "h3";
const app = "H3" in h3 ? new (h3 as any).H3() : (h3 as any).createApp();
const router = "H3" in h3 ? app : (h3 as any).createRouter();
router.get("/", () => "hello");
router.get("/users/:id", (event: any) => ({ id: h3.getRouterParam(event, "id"), q: h3.getQuery(event) }));
router.get("/deny", () => { throw "HTTPError" in h3 ? new (h3 as any).HTTPError({ status: 403, message: "denied" }) : h3.createError({ statusCode: 403, message: "denied" }); });
if (router !== app) app.use(router);
if ("H3" in h3) Bun.serve({ port: process.env.PORT, fetch: app.fetch });
else (await import("node:http")).createServer((h3 as any).toNodeListener(app)).listen(process.env.PORT);
`,
    requests: ["/", "/users/7?x=1", { path: "/deny", status: 403 }, { path: "/none", status: 404 }],
  },
  {
    name: "node:http: methods, chunks and headers",
    files: `
import { createServer } from "node:http";
const server = createServer(async (request, reply) => {
  let body = "";
  for await (const chunk of request) body += chunk;
  reply.setHeader("x-method", request.method!);
  if (request.url === "/chunks") { reply.write("a"); reply.write("b"); return void reply.end("c"); }
  reply.writeHead(request.url === "/" ? 200 : 404, { "content-type": "text/plain" });
  reply.end(request.url + " " + body);
});
server.listen(process.env.PORT, () => console.log("listening", (server.address() as any).port));
`,
    requests: ["/", "/chunks", { path: "/", method: "PUT", body: () => "text" }, { path: "/none", status: 404 }],
  },
  {
    name: "node:http: signal handler with server.close",
    files: `
import http from "node:http";
const server = http.createServer((_, reply) => void reply.end("x"));
server.listen({ port: process.env.PORT });
server.on("close", () => console.log("closed"));
process.on("SIGTERM", () => { server.close(() => process.exit(0)); server.closeAllConnections(); });
`,
    requests: ["/"],
  },
  {
    name: "node:http: ws and an upgrade",
    packages: ["ws"],
    files: `
import { createServer } from "node:http";
import { WebSocketServer } from "ws";
const server = createServer((_, reply) => void reply.end("plain"));
new WebSocketServer({ server, path: "/ws" }).on("connection", (socket) => socket.on("message", (text) => socket.send("re: " + text)));
server.listen(process.env.PORT);
`,
    requests: ["/", websocket("/ws", ["a", "b"])],
  },
  {
    name: "socket.io: polling handshake and the client's files",
    packages: ["socket.io"],
    files: `
import { createServer } from "node:http";
import { Server } from "socket.io";
const server = createServer((_, reply) => void reply.end("plain"));
new Server(server).on("connection", (socket) => socket.on("ask", (text, reply) => reply("re: " + text)));
server.listen(process.env.PORT);
`,
    requests: [
      "/",
      "/socket.io/socket.io.js",
      "/socket.io/socket.io.esm.min.js",
      "/socket.io/socket.io.js.map",
      {
        name: "socket.io",
        async run(origin) {
          const url = `${origin}/socket.io/?EIO=4&transport=polling`;
          const opened = await (await fetch(url)).text();
          const { sid, upgrades } = JSON.parse(opened.slice(1)) as { sid: string; upgrades: string[] };
          const session = `${url}&sid=${sid}`;
          const send = async (body: string) => (await fetch(session, { method: "POST", body })).text();
          const receive = async () => (await (await fetch(session)).text()).replace(/"sid":"[^"]+"/, "");
          return [upgrades, await send("40"), await receive(), await send('421["ask","x"]'), await receive()];
        },
      },
    ],
  },
  {
    name: "Koa: router, body parser, static files and errors",
    packages: ["koa", "@koa/router", "koa-static", "koa-bodyparser"],
    files: {
      "src/index.ts": `
import Koa from "koa";
import Router from "@koa/router";
import serve from "koa-static";
import bodyParser from "koa-bodyparser";
const app = new Koa();
const router = new Router();
app.use(async (ctx, next) => { try { await next(); } catch (error: any) { ctx.status = error.status ?? 500; ctx.body = error.message; } });
app.use(bodyParser()).use(serve("public"));
router.get("/users/:id", (ctx) => { ctx.body = { id: ctx.params.id }; });
router.post("/users", (ctx) => { ctx.status = 201; ctx.body = ctx.request.body; });
router.get("/deny", (ctx) => ctx.throw(403, "denied"));
app.use(router.routes()).use(router.allowedMethods());
app.listen(process.env.PORT);
`,
      "public/a.txt": "static\n",
    },
    settings: { files: ["public"] },
    requests: [
      "/users/7",
      post("/users", { name: "Ada" }),
      "/a.txt",
      { path: "/deny", status: 403 },
      { path: "/users/7", method: "DELETE", status: 405 },
    ],
  },
];
