/** Templates, translations, documents and other files that a service reads. */
import type { Row } from "../row.ts";

export const fileRows: Row[] = [
  {
    name: "the module's URL beside arguments, and beside a comparison with the main module",
    files: {
      "src/index.ts": `
import { flags } from "./lib/flags.ts";
import { main } from "./lib/main.ts";
console.log(flags(), main());
`,
      "src/lib/flags.ts": `
import { readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { fileURLToPath } from "node:url";
const { argv } = process;
const root = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
export const flags = () => [argv.includes("--json"), process.argv.length, root === process.cwd(), readFileSync(resolve(root, "data/a.txt"), "utf8")];
`,
      "src/lib/main.ts": `
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import * as path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
const here = path.dirname( fileURLToPath(import.meta.url) );
const isMain = import.meta.url === pathToFileURL(process.argv[1]!).href || process.argv[1] === fileURLToPath(import.meta.url);
export const main = () => [
  isMain,
  path.relative(process.cwd(), here),
  readFileSync(new URL("../../data/a.txt", import.meta.url), "utf8"),
  createRequire(import.meta.url)("../../data/b.json").b,
];
`,
      "data/a.txt": "a",
      "data/b.json": `{"b":"b"}`,
    },
    settings: { files: ["data"] },
  },
  {
    name: "files by relative path, module path and URL",
    files: {
      "src/index.ts": `
import { readFile } from "node:fs/promises";
import { readFileSync } from "node:fs";
import { join } from "node:path";
Bun.serve({
  port: process.env.PORT,
  routes: {
    "/cwd": async () => new Response(await Bun.file("./data/a.txt").text()),
    "/module": () => new Response(readFileSync(join(import.meta.dir, "..", "data", "a.txt"))),
    "/template": async () => new Response(Bun.file(\`\${import.meta.dir}/../data/a.txt\`)),
    "/url": async () => new Response(await readFile(new URL("../data/a.txt", import.meta.url))),
    "/file": new Response(await Bun.file("data/a.txt").bytes()),
  },
});
`,
      "src/own.txt": "",
      "data/a.txt": "content\n",
    },
    settings: { files: ["data", "src/own.txt"] },
    requests: ["/cwd", "/module", "/template", "/url", "/file"],
  },
  {
    name: "a file below the module's directory that is not in the source's directory",
    files: {
      "src/index.ts": `
import { readFileSync } from "node:fs";
Bun.serve({ port: process.env.PORT, fetch: () => new Response(readFileSync(\`\${import.meta.dir}/../public/a.txt\`)) });
`,
      "public/a.txt": "a\n",
    },
    settings: { files: ["public"] },
    requests: ["/"],
  },
  {
    name: "range requests and content types of Bun.file",
    files: {
      "src/index.ts": `
Bun.serve({ port: process.env.PORT, fetch: ({ url }) => new Response(Bun.file("public" + new URL(url).pathname)) });
`,
      "public/a.svg": "<svg/>",
      "public/b.wasm": new Uint8Array([0, 97, 115, 109]),
      "public/c.bin": new Uint8Array(5000).fill(7),
    },
    settings: { files: ["public"] },
    requests: ["/a.svg", "/b.wasm", "/c.bin", { path: "/c.bin?part", headers: { range: "bytes=10-19" } }],
  },
  {
    name: "EJS: renderFile with an include",
    packages: ["ejs"],
    files: {
      "src/index.ts": `
import ejs from "ejs";
console.log(await ejs.renderFile("views/page.ejs", { items: ["a", "<b>"] }));
`,
      "views/page.ejs": "<%- include('part') %><% items.forEach((item) => { %>[<%= item %>]<% }) %>",
      "views/part.ejs": "part ",
    },
    settings: { files: ["views"] },
  },
  {
    name: "Handlebars: compiled templates and partials",
    packages: ["handlebars"],
    files: {
      "src/index.ts": `
import Handlebars from "handlebars";
import { readFileSync } from "node:fs";
Handlebars.registerPartial("row", "<{{name}}>");
Handlebars.registerHelper("loud", (text: string) => text.toUpperCase());
console.log(Handlebars.compile(readFileSync("templates/list.hbs", "utf8"))({ rows: [{ name: "a" }, { name: "b" }] }));
`,
      "templates/list.hbs": "{{#each rows}}{{> row}}{{loud name}}{{/each}}",
    },
    settings: { files: ["templates"] },
  },
  {
    name: "Nunjucks: inheritance from a directory",
    packages: ["nunjucks"],
    files: {
      "src/index.ts": `
import nunjucks from "nunjucks";
nunjucks.configure("views", { autoescape: true });
console.log(nunjucks.render("page.njk", { name: "<Ada>" }));
`,
      "views/base.njk": "<main>{% block body %}{% endblock %}</main>",
      "views/page.njk": `{% extends "base.njk" %}{% block body %}{{ name | upper }}{% endblock %}`,
    },
    settings: { files: ["views"] },
  },
  {
    name: "Eta: a directory of views",
    packages: ["eta"],
    files: {
      "src/index.ts": `
import { Eta } from "eta";
import { join } from "node:path";
console.log(new Eta({ views: join(import.meta.dirname, "views") }).render("./page", { name: "Ada" }));
`,
      "src/views/page.eta": "<b><%= it.name %></b>",
    },
    settings: { files: ["src/views"] },
  },
  {
    name: "React: server rendering",
    packages: ["react", "react-dom"],
    files: {
      "tsconfig.json": `{"compilerOptions":{"jsx":"react-jsx"}}`,
      "src/index.tsx": `
import { renderToReadableStream, renderToString } from "react-dom/server";
function Page({ name }: { name: string }) { return <p title={name}>hello {name}</p>; }
Bun.serve({
  port: process.env.PORT,
  routes: {
    "/string": () => new Response(renderToString(<Page name="<x>" />)),
    "/stream": async () => new Response(await renderToReadableStream(<Page name="y" />)),
  },
});
`,
    },
    settings: { entry: "src/index.tsx" },
    requests: ["/string", "/stream"],
  },
  {
    name: "i18next: translations from files",
    packages: ["i18next", "i18next-fs-backend"],
    files: {
      "src/index.ts": `
import i18next from "i18next";
import Backend from "i18next-fs-backend";
await i18next.use(Backend).init({ lng: "de", fallbackLng: "en", preload: ["de", "en"], ns: ["main"], defaultNS: "main", backend: { loadPath: "./locales/{{lng}}/{{ns}}.json" } });
console.log(i18next.t("hello", { name: "Ada" }), i18next.t("only"), i18next.getFixedT("en")("items", { count: 2 }));
`,
      "locales/de/main.json": `{"hello":"Hallo {{name}}"}`,
      "locales/en/main.json": `{"hello":"Hello {{name}}","only":"English","items_one":"{{count}} item","items_other":"{{count}} items"}`,
    },
    settings: { files: ["locales"] },
  },
  {
    name: "Intl: dates, numbers and plurals",
    files: `
const date = new Date(Date.UTC(2026, 0, 31, 12));
console.log(new Intl.DateTimeFormat("de-DE", { dateStyle: "full", timeZone: "Europe/Berlin" }).format(date));
console.log(new Intl.NumberFormat("en-IN", { style: "currency", currency: "INR" }).format(1234567.5), new Intl.PluralRules("pl").select(3));
console.log(["z", "ä", "a"].sort(new Intl.Collator("sv").compare).join(), date.toLocaleString("ja-JP"));
`,
  },
  {
    name: "pdfkit: standard fonts",
    packages: ["pdfkit"],
    files: `
import PDFDocument from "pdfkit";
const make = () => new Promise<number>((resolve) => {
  const document = new PDFDocument({ info: { CreationDate: new Date(0) }, compress: false });
  let size = 0;
  document.on("data", (chunk: Buffer) => (size += chunk.length)).on("end", () => resolve(size));
  document.font("Helvetica").text("hello").font("Times-Bold").text("bold").end();
});
console.log("bytes", await make());
`,
  },
  {
    name: "pdf-lib: a document",
    packages: ["pdf-lib"],
    files: `
import { PDFDocument, StandardFonts } from "pdf-lib";
const document = await PDFDocument.create({ updateMetadata: false });
const font = await document.embedFont(StandardFonts.Helvetica);
document.addPage([200, 200]).drawText("hello", { font, size: 20 });
const bytes = await document.save({ useObjectStreams: false });
console.log(bytes.length, new Bun.CryptoHasher("sha256").update(bytes).digest("hex"));
`,
  },
  {
    name: "e-mail from a template: Nodemailer with a stream transport",
    packages: ["nodemailer", "handlebars"],
    files: {
      "src/index.ts": `
import nodemailer from "nodemailer";
import Handlebars from "handlebars";
const html = Handlebars.compile(await Bun.file("emails/welcome.hbs").text())({ name: "Ada" });
const sent = await nodemailer.createTransport({ streamTransport: true, buffer: true, newline: "unix" }).sendMail({
  from: "a@example.com", to: "b@example.com", subject: "Grüße", html, messageId: "<1@example.com>", date: new Date(0),
  attachments: [{ filename: "a.txt", path: "emails/a.txt" }],
});
console.log(sent.message.toString().replace(/--_NmP-[\\w-]+/g, "BOUNDARY").replace(/boundary="[^"]+"/g, ""));
`,
      "emails/welcome.hbs": "<h1>Welcome {{name}}</h1>",
      "emails/a.txt": "attached",
    },
    settings: { files: ["emails"] },
  },
  {
    name: "MJML e-mail",
    packages: ["mjml"],
    files: `
import mjml2html from "mjml";
const { html, errors } = await mjml2html("<mjml><mj-body><mj-section><mj-column><mj-text>Hello</mj-text></mj-column></mj-section></mj-body></mjml>");
console.log(errors.length, html.includes("Hello"), new Bun.CryptoHasher("sha1").update(html).digest("hex"));
`,
  },
  {
    name: "tiktoken: a package's WebAssembly file",
    packages: ["tiktoken"],
    files: `
import { get_encoding } from "tiktoken";
const encoding = get_encoding("cl100k_base");
console.log([...encoding.encode("hello world")]);
encoding.free();
`,
  },
  {
    name: "jsdom: a document with a script",
    packages: ["jsdom"],
    files: `
import { JSDOM } from "jsdom";
const { document } = new JSDOM("<p class=a>one</p><p>two</p>").window;
console.log(document.querySelectorAll("p").length, document.querySelector(".a")!.textContent);
`,
  },
  {
    name: "cheerio and marked",
    packages: ["cheerio", "marked"],
    files: `
import { load } from "cheerio";
import { marked } from "marked";
const html = await marked("# Title\\n\\n* a\\n* b\\n");
console.log(html, load(html)("li").map((_, item) => load(item).text()).get());
`,
  },
  {
    name: "createRequire of a package's package.json",
    packages: ["express"],
    files: `
import { createRequire } from "node:module";
const require = createRequire(import.meta.url);
console.log(require("express/package.json").name, require("../package.json").version);
`,
  },
  {
    name: "require.resolve of an own module",
    files: {
      "src/index.ts": `import path from "./where.cjs";\nconsole.log(path);\n`,
      "src/where.cjs": `module.exports = require.resolve("./other.cjs");\n`,
      "src/other.cjs": `module.exports = 1;\n`,
    },
  },
  {
    name: "config files: node-config",
    packages: ["config"],
    files: {
      "src/index.ts": `import config from "config";\nconsole.log(config.get("a"), config.get("b.c"));\n`,
      "config/default.json": `{"a":1,"b":{"c":"default"}}`,
      "config/production.json": `{"b":{"c":"production"}}`,
    },
    settings: { files: ["config"] },
  },
  {
    name: "config files: cosmiconfig",
    packages: ["cosmiconfig"],
    files: {
      "src/index.ts": `
import { cosmiconfig } from "cosmiconfig";
const found = await cosmiconfig("shop").search(process.cwd());
console.log(found?.config, found?.filepath);
`,
      ".shoprc.json": `{"a":1}`,
    },
    settings: { files: [".shoprc.json"] },
  },
  {
    name: "config from variables: convict and dotenv",
    packages: ["convict", "dotenv"],
    files: {
      "src/index.ts": `
import convict from "convict";
import dotenv from "dotenv";
dotenv.config({ path: "settings.env", quiet: true });
const config = convict({ port: { format: Number, default: 1, env: "PORT" }, name: { format: String, default: "none", env: "NAME" } });
config.validate({ allowed: "strict" });
console.log(config.getProperties());
`,
      "settings.env": "NAME=from-file\n",
    },
    settings: { files: ["settings.env"] },
  },
  {
    name: "protobufjs and gRPC from a .proto file",
    packages: ["@grpc/grpc-js", "@grpc/proto-loader"],
    files: {
      "src/index.ts": `
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
const { Greeter } = (grpc.loadPackageDefinition(loadSync("protos/greet.proto")) as any);
const server = new grpc.Server();
server.addService(Greeter.service, { greet: (call: any, done: any) => done(null, { text: "hello " + call.request.name }) });
const port = await new Promise<number>((resolve, reject) => server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) => (error ? reject(error) : resolve(port))));
const client = new Greeter("127.0.0.1:" + port, grpc.credentials.createInsecure());
client.greet({ name: "Ada" }, (error: Error | null, reply: any) => { console.log(error?.message ?? reply.text); process.exit(error ? 1 : 0); });
`,
      "protos/greet.proto": `syntax = "proto3"; service Greeter { rpc Greet (Name) returns (Text); } message Name { string name = 1; } message Text { string text = 1; }`,
    },
    settings: { files: ["protos"] },
  },
  {
    name: "exceljs and qrcode",
    packages: ["exceljs", "qrcode"],
    files: `
import ExcelJS from "exceljs";
import QRCode from "qrcode";
const book = new ExcelJS.Workbook();
book.addWorksheet("a").addRows([["x", 1], ["y", 2]]);
const copy = new ExcelJS.Workbook();
await copy.xlsx.load(await book.xlsx.writeBuffer() as any);
console.log(copy.getWorksheet("a")!.getCell("B2").value, (await QRCode.toString("hello", { type: "svg" })).length);
`,
  },
];
