/** Logging, telemetry, authentication, validation, GraphQL, queues and workers. */
import { post, serverSentEvents, type Row } from "../row.ts";

export const libraryRows: Row[] = [
  {
    name: "pino: levels, children, serializers and redaction",
    packages: ["pino"],
    files: `
import pino from "pino";
const log = pino({ redact: ["password"], base: { service: "x" }, timestamp: pino.stdTimeFunctions.isoTime });
log.info({ user: "ada", password: "secret" }, "signed in");
log.child({ request: 1 }).error(new TypeError("bad"), "failed");
console.log("after");
`,
  },
  {
    name: "pino: transport by name",
    packages: ["pino", "pino-pretty"],
    files: `
import pino from "pino";
const transport = pino.transport({ target: "pino-pretty", options: { colorize: false, ignore: "pid,hostname,time" } });
const log = pino(transport);
transport.on("ready", () => { log.info("pretty"); log.flush(() => transport.end()); });
`,
  },
  {
    name: "pino: pino-pretty as a stream",
    packages: ["pino", "pino-pretty"],
    files: `
import pino from "pino";
import pretty from "pino-pretty";
pino(pretty({ colorize: false, ignore: "pid,hostname,time", sync: true })).info({ a: 1 }, "pretty");
`,
  },
  {
    name: "pino-http with Express",
    packages: ["pino-http", "express"],
    files: `
import express from "express";
import { pinoHttp } from "pino-http";
const app = express();
app.use(pinoHttp({ genReqId: () => "fixed", quietReqLogger: true }));
app.get("/", (request, reply) => { request.log.info("inside"); reply.send("logged"); });
app.listen(process.env.PORT);
`,
    requests: ["/"],
    until: "request completed",
  },
  {
    name: "winston: formats and transports",
    packages: ["winston"],
    files: `
import winston from "winston";
const { combine, errors, json, label, printf } = winston.format;
const log = winston.createLogger({ level: "debug", format: combine(errors({ stack: false }), label({ label: "app" }), json()), transports: [new winston.transports.Console()] });
log.info("hello", { a: 1 });
log.error(new Error("bad"));
winston.createLogger({ format: printf(({ level, message }) => level + ": " + message), transports: [new winston.transports.Console({ stderrLevels: ["warn"] })] }).warn("careful");
`,
  },
  {
    name: "OpenTelemetry: spans, context and a console exporter",
    packages: ["@opentelemetry/api", "@opentelemetry/sdk-trace-base"],
    files: `
import { trace } from "@opentelemetry/api";
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from "@opentelemetry/sdk-trace-base";
const exporter = new InMemorySpanExporter();
trace.setGlobalTracerProvider(new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }));
const tracer = trace.getTracer("conformance");
Bun.serve({
  port: process.env.PORT,
  fetch: ({ url }) => tracer.startActiveSpan("GET " + new URL(url).pathname, (span) => { span.setAttribute("a", 1); span.end(); return Response.json(exporter.getFinishedSpans().map(({ name, attributes }) => [name, attributes])); }),
});
`,
    requests: ["/a", "/b"],
  },
  {
    name: "OpenTelemetry: NodeSDK with node:http",
    packages: ["@opentelemetry/api", "@opentelemetry/sdk-node", "@opentelemetry/sdk-trace-base"],
    files: {
      "src/index.ts": `import "./instrument.ts";\nimport "./server.ts";\n`,
      "src/instrument.ts": `
import { NodeSDK } from "@opentelemetry/sdk-node";
import { InMemorySpanExporter, SimpleSpanProcessor } from "@opentelemetry/sdk-trace-base";
export const exporter = new InMemorySpanExporter();
export const sdk = new NodeSDK({ serviceName: "row", spanProcessors: [new SimpleSpanProcessor(exporter)] as any, metricReaders: [], logRecordProcessors: [], autoDetectResources: false });
sdk.start();
`,
      "src/server.ts": `
import { trace } from "@opentelemetry/api";
import { createServer } from "node:http";
import { exporter, sdk } from "./instrument.ts";
const server = createServer((request, reply) => { trace.getTracer("t").startSpan(request.url!).end(); reply.end(exporter.getFinishedSpans().map(({ name, resource }) => name + " " + resource.attributes["service.name"]).join()); });
server.listen(process.env.PORT);
process.on("SIGTERM", async () => { await sdk.shutdown(); console.log("flushed"); process.exit(0); });
`,
    },
    env: { OTEL_TRACES_EXPORTER: "none", OTEL_METRICS_EXPORTER: "none", OTEL_LOGS_EXPORTER: "none" },
    requests: ["/a"],
  },
  {
    name: "Sentry: events of errors",
    packages: ["@sentry/bun"],
    files: `
import * as Sentry from "@sentry/bun";
class PaymentError extends Error { override name = this.constructor.name; }
const events: unknown[] = [];
Sentry.init({
  dsn: "https://key@127.0.0.1/1", tracesSampleRate: 0,
  transport: () => ({ send: async () => ({}), flush: async () => true }),
  beforeSend: (event) => { const [value] = event.exception!.values!; events.push([value!.type, value!.value, event.tags]); return event; },
});
Bun.serve({
  port: process.env.PORT,
  fetch: async () => { Sentry.withScope((scope) => { scope.setTag("a", "b"); Sentry.captureException(new PaymentError("declined")); }); await Sentry.flush(1000); return Response.json(events); },
});
`,
    requests: ["/"],
  },
  {
    name: "prom-client: metrics",
    packages: ["prom-client"],
    files: `
import { Counter, Histogram, register } from "prom-client";
const counter = new Counter({ name: "requests_total", help: "Requests.", labelNames: ["path"] });
new Histogram({ name: "seconds", help: "Seconds.", buckets: [1, 2] }).observe(1.5);
Bun.serve({
  port: process.env.PORT,
  routes: { "/metrics": async () => new Response(await register.metrics(), { headers: { "content-type": register.contentType } }) },
  fetch: ({ url }) => { counter.inc({ path: new URL(url).pathname }); return new Response("counted"); },
});
`,
    requests: ["/a", "/metrics"],
  },
  {
    name: "GraphQL Yoga: queries, errors and subscriptions",
    packages: ["graphql", "graphql-yoga"],
    files: `
import { createSchema, createYoga } from "graphql-yoga";
const schema = createSchema({
  typeDefs: "type Query { hello(name: String): String! boom: Int } type Subscription { count(to: Int!): Int! }",
  resolvers: {
    Query: { hello: (_, { name }) => "hello " + (name ?? "you"), boom: () => { throw new Error("secret"); } },
    Subscription: { count: { subscribe: async function* (_: unknown, { to }: { to: number }) { for (let at = 1; at <= to; at += 1) yield { count: at }; } } },
  },
});
const yoga = createYoga({ schema, logging: false });
Bun.serve({ port: process.env.PORT, fetch: (request) => yoga.fetch(request) });
`,
    requests: [
      post("/graphql", { query: '{ hello(name: "Ada") }' }),
      post("/graphql?error", { query: "{ boom }" }),
      serverSentEvents("/graphql?query=" + encodeURIComponent("subscription { count(to: 2) }"), 2),
    ],
  },
  {
    name: "Apollo Server: standalone",
    packages: ["graphql", "@apollo/server"],
    files: `
import { ApolloServer } from "@apollo/server";
import { startStandaloneServer } from "@apollo/server/standalone";
const server = new ApolloServer({ typeDefs: "type Query { add(a: Int!, b: Int!): Int! }", resolvers: { Query: { add: (_, { a, b }) => a + b } } });
const { url } = await startStandaloneServer(server, { listen: { port: Number(process.env.PORT) } });
console.log("ready at", url);
`,
    requests: [post("/", { query: "{ add(a: 1, b: 2) }" }), { ...post("/?bad", { query: "{ none }" }), status: 400 }],
  },
  {
    name: "jose: signed and encrypted tokens",
    packages: ["jose"],
    files: `
import * as jose from "jose";
const key = new TextEncoder().encode("0123456789abcdef0123456789abcdef");
const { privateKey, publicKey } = await jose.generateKeyPair("ES256");
const sign = () => new jose.SignJWT({ a: 1 }).setProtectedHeader({ alg: "HS256" }).setIssuedAt(0).sign(key);
const pair = await new jose.SignJWT({ b: 2 }).setProtectedHeader({ alg: "ES256" }).sign(privateKey);
const sealed = await new jose.EncryptJWT({ c: 3 }).setProtectedHeader({ alg: "dir", enc: "A128CBC-HS256" }).encrypt(key);
console.log(await sign(), (await jose.jwtVerify(pair, publicKey)).payload, (await jose.jwtDecrypt(sealed, key)).payload);
await jose.jwtVerify("a.b.c", key).catch((error: Error) => console.log(error.name, (error as any).code, error instanceof jose.errors.JOSEError, error.constructor.name));
`,
  },
  {
    name: "jsonwebtoken: an error by its name",
    packages: ["jsonwebtoken"],
    files: `
import jwt from "jsonwebtoken";
const token = jwt.sign({ a: 1 }, "secret", { noTimestamp: true });
console.log(token, jwt.verify(token, "secret"));
try { jwt.verify(token, "other"); } catch (error: any) { console.log(error.name, error.message, error instanceof jwt.JsonWebTokenError); }
`,
  },
  {
    name: "sessions like Lucia's, with arctic",
    packages: ["arctic"],
    files: `
import { GitHub, generateCodeVerifier } from "arctic";
const github = new GitHub("id", "secret", null);
const sessions = new Map<string, string>();
const hash = (token: string) => new Bun.CryptoHasher("sha256").update(token).digest("hex");
Bun.serve({
  port: process.env.PORT,
  routes: {
    "/login": () => { const token = "fixed"; sessions.set(hash(token), "ada"); return new Response(generateCodeVerifier().length > 20 ? github.createAuthorizationURL("state", ["user"]).href : "", { headers: { "set-cookie": "session=" + token + "; HttpOnly" } }); },
    "/me": (request) => new Response(sessions.get(hash(request.cookies.get("session") ?? "")) ?? "nobody"),
  },
});
`,
    requests: ["/me", "/login", { path: "/me?cookie", headers: { cookie: "session=fixed" } }],
  },
  {
    name: "better-auth: sign-up with SQLite",
    packages: ["better-auth"],
    files: `
import { Database } from "bun:sqlite";
import { betterAuth } from "better-auth";
import { getMigrations } from "better-auth/db/migration";
const options = { database: new Database(":memory:"), secret: "0123456789abcdef0123456789abcdef", baseURL: "http://127.0.0.1:3000", emailAndPassword: { enabled: true }, telemetry: { enabled: false } };
await (await getMigrations(options)).runMigrations();
const auth = betterAuth(options);
Bun.serve({
  port: process.env.PORT,
  routes: { "/ok": () => new Response("ok") },
  async fetch(request) { const reply = await auth.handler(request); const body = await reply.json().catch(() => null); return Response.json([body?.user?.email ?? body?.code ?? body, reply.headers.has("set-cookie")], { status: reply.status }); },
});
`,
    requests: [
      post(
        "/api/auth/sign-up/email",
        { email: "a@example.com", password: "long enough", name: "Ada" },
        { headers: { origin: "http://127.0.0.1:3000" } },
      ),
      post(
        "/api/auth/sign-in/email",
        { email: "a@example.com", password: "wrong password" },
        { headers: { origin: "http://127.0.0.1:3000" }, status: 401 },
      ),
    ],
  },
  {
    name: "zod and valibot: validation errors",
    packages: ["zod", "valibot"],
    files: `
import * as v from "valibot";
import { z, ZodError } from "zod";
const User = z.object({ name: z.string().min(2), age: z.coerce.number().int().optional(), email: z.email() });
Bun.serve({
  port: process.env.PORT,
  async fetch(request) {
    const body = await request.json();
    try { return Response.json([User.parse(body), v.safeParse(v.object({ name: v.string() }), body).success]); }
    catch (error: any) { return Response.json([error.name, error.constructor.name, error instanceof ZodError, error.issues], { status: 400 }); }
  },
});
`,
    requests: [
      post("/", { name: "Ada", age: "36", email: "a@example.com" }),
      { ...post("/?bad", { name: "A", email: "none" }), status: 400 },
    ],
  },
  {
    name: "ajv: schemas, formats and compiled code",
    packages: ["ajv", "ajv-formats"],
    files: `
import { Ajv } from "ajv";
import addFormats from "ajv-formats";
const ajv = (addFormats as any)(new Ajv({ allErrors: true, coerceTypes: true }));
const validate = ajv.compile({ type: "object", properties: { id: { type: "integer" }, at: { type: "string", format: "date" } }, required: ["id"], additionalProperties: false });
console.log(validate({ id: "7", at: "2026-01-31" }), validate({ at: "x", more: 1 }), JSON.stringify(validate.errors));
`,
  },
  {
    name: "tsyringe: injection by type",
    packages: ["tsyringe", "reflect-metadata"],
    files: {
      "tsconfig.json": `{"compilerOptions":{"experimentalDecorators":true,"emitDecoratorMetadata":true}}`,
      "src/index.ts": `
import "reflect-metadata";
import { container, injectable, singleton } from "tsyringe";
@singleton() class Store { items = 0; }
@injectable() class Counter { constructor(readonly store: Store) {} add() { return (this.store.items += 1); } }
container.resolve(Counter).add();
console.log(container.resolve(Counter).add(), container.resolve(Counter).constructor.name);
try { container.resolve("Missing"); } catch (error: any) { console.log(error.message); }
`,
    },
  },
  {
    name: "class-transformer: types and groups",
    packages: ["class-transformer", "class-validator", "reflect-metadata"],
    files: {
      "tsconfig.json": `{"compilerOptions":{"experimentalDecorators":true,"emitDecoratorMetadata":true}}`,
      "src/index.ts": `
import "reflect-metadata";
import { Exclude, instanceToPlain, plainToInstance, Type } from "class-transformer";
import { IsEmail, validateSync } from "class-validator";
class Address { street!: string; }
class User { @IsEmail() email!: string; @Exclude() password!: string; @Type(() => Address) address!: Address; }
const user = plainToInstance(User, { email: "none", password: "x", address: { street: "y" } });
console.log(user.address instanceof Address, instanceToPlain(user), validateSync(user).map(({ target, constraints }) => [target!.constructor.name, constraints]));
`,
    },
  },
  {
    name: "cron: croner and node-cron",
    packages: ["croner", "node-cron"],
    files: `
import { Cron } from "croner";
import cron from "node-cron";
console.log(new Cron("0 12 * * 1", { timezone: "Europe/Berlin" }).nextRun(new Date(0))!.toISOString().length, cron.validate("*/5 * * * *"), cron.validate("bad"));
let runs = 0;
const done = Promise.withResolvers<void>();
const job = new Cron("* * * * * *", { maxRuns: 1, name: "job" }, (self: Cron) => { runs += 1; console.log("job", self.name); done.resolve(); });
await done.promise;
job.stop();
process.exit(runs === 1 ? 0 : 1);
`,
  },
  {
    name: "queue: p-queue behind HTTP",
    packages: ["p-queue"],
    files: `
import PQueue from "p-queue";
const queue = new PQueue({ concurrency: 2 });
Bun.serve({
  port: process.env.PORT,
  fetch: async () => Response.json(await queue.addAll([3, 1, 2].map((n) => async () => { await Bun.sleep(n); return n * n; }))),
});
`,
    requests: ["/"],
  },
  {
    name: "queue: an own table in SQLite with a worker loop",
    files: `
import { Database } from "bun:sqlite";
const db = new Database(":memory:");
db.run("create table job (id integer primary key, payload text, done integer default 0)");
let isStopping = false;
process.on("SIGTERM", () => { isStopping = true; });
for (const name of ["a", "b", "c"]) db.run("insert into job (payload) values (?)", [name]);
while (!isStopping) {
  const job = db.query("update job set done = 1 where id = (select id from job where done = 0 order by id limit 1) returning payload").get() as { payload: string } | null;
  if (job) console.log("worked on", job.payload);
  else { console.log("idle"); while (!isStopping) await Bun.sleep(5); }
}
console.log("stopped");
`,
    until: "idle",
  },
  {
    name: "piscina: a pool of workers from a file",
    packages: ["piscina"],
    files: {
      "src/index.ts": `
import { Piscina } from "piscina";
const pool = new Piscina({ filename: new URL("./square.ts", import.meta.url).href, maxThreads: 1 });
setTimeout(() => { console.log("no reply"); process.exit(1); }, 10_000).unref();
console.log(await pool.run(7).catch((error: Error) => error.message));
process.exit(0);
`,
      "src/square.ts": `export default (n: number) => n * n;\n`,
    },
  },
  {
    name: "busboy: a streamed upload",
    packages: ["busboy"],
    files: `
import busboy from "busboy";
import { createServer } from "node:http";
createServer((request, reply) => {
  const found: unknown[] = [];
  const form = busboy({ headers: request.headers });
  form.on("file", (name, stream, { filename }) => { let size = 0; stream.on("data", (chunk) => (size += chunk.length)).on("end", () => found.push([name, filename, size])); });
  form.on("close", () => { reply.setHeader("content-type", "application/json"); reply.end(JSON.stringify(found)); });
  request.pipe(form);
}).listen(process.env.PORT);
`,
    requests: [
      {
        path: "/",
        body: () => {
          const form = new FormData();
          form.append("big", new File(["x".repeat(200_000)], "big.txt"));
          return form;
        },
      },
    ],
  },
];
