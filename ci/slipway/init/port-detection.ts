/** Detects the port of a service in its source, without running it. */
import { withoutComments } from "../image/dynamic-imports.ts";

const NUMBER = `["'\`]?(\\d[\\d_]{1,5})\\b(?![.\\w])`;

/** Expressions with the default value of a port, the most reliable first. */
const defaults = [
  // process.env.PORT ?? 3000, Number(Bun.env["PORT"] || "3000"), Deno.env.get("PORT") ?? 3000
  new RegExp(`\\bPORT\\b["'\`\\])]*\\s*(?:\\?\\?|\\|\\|)=?\\s*${NUMBER}`),
  // process.env.PORT ? Number(process.env.PORT) : 3000
  new RegExp(`\\bPORT\\b[^;,?]*\\?[^;:?]*:\\s*${NUMBER}`),
  // PORT: z.coerce.number().default(3000)
  new RegExp(`\\bPORT\\b["']?\\s*:[^;\\n]*\\bdefault\\(\\s*${NUMBER}`),
  // const PORT = 3000, const { PORT = 3000 } = process.env, port: number = 3000
  new RegExp(`(?<![.\\w])port\\s*(?::\\s*number\\s*)?=\\s*${NUMBER}`, "i"),
  new RegExp(`\\.listen\\(\\s*${NUMBER}`),
];

const property = new RegExp(`(?<![.\\w])["']?port["']?\\s*:\\s*${NUMBER}`, "gi");

/**
 * Whether a node:http server listens on a fixed port and the source never reads $PORT.
 *
 * @param isImported whether the module gets its server from another module, so that it imports no framework
 */
export function hasHardcodedPort(source: string, isImported = false): boolean {
  const code = withoutComments(source);
  return (
    (/["'](node:https?|https?|express|fastify|koa)["']/.test(code) || (isImported && /\.listen\(/.test(code))) &&
    !/\bPORT\b/.test(code) &&
    findPort(code) !== undefined
  );
}

/**
 * Finds the port in a module that the entry imports. There, `port` may be that of a database, so only $PORT's default and a
 * server's port count.
 */
export function findServerPortOf(source: string): number | undefined {
  const code = withoutComments(source);
  const forms = [...defaults.slice(0, 3), defaults.at(-1)!];
  const found = forms.map((form) => form.exec(code)?.[1]).find(Boolean) ?? findServerPort(code, true);
  return toPort(found);
}

/** @returns undefined if the source contains no port, so that $PORT decides */
export function findPort(source: string): number | undefined {
  const code = withoutComments(source);
  const found = defaults.map((form) => form.exec(code)?.[1]).find(Boolean) ?? findServerPort(code);
  return toPort(found);
}

function toPort(found: string | undefined): number | undefined {
  const port = Number(found?.replaceAll("_", ""));
  return port > 0 && port < 65_536 ? port : undefined;
}

/** Finds `port: 3000` among the options of a server. Options of a client (database, other service) do not count. */
function findServerPort(code: string, isStrict = false): string | undefined {
  const matches = [...code.matchAll(property)].map(({ index, 1: port }) => ({
    port,
    before: textBeforeObject(code, index),
  }));
  const isServer = ({ before }: { before: string }) =>
    /(\b(serve|listen|createServer|Server)\w*\s*(<[^()]*>)?\(\s*(\w+\s*,\s*)?|\bexport\s+default\s*)$/.test(before);
  // An object that is not an argument may hold the server's options.
  const isArgument = ({ before }: { before: string }) => /[(,]\s*$/.test(before);
  return (matches.find(isServer) ?? matches.find((match) => !isStrict && !isArgument(match)))?.port;
}

/** Returns up to 120 characters before the brace that opens the object around `index`. */
function textBeforeObject(code: string, index: number): string {
  let depth = 0;
  for (let at = index - 1; at >= 0; at -= 1) {
    if (code[at] === "}") depth += 1;
    if (code[at] === "{" && depth-- === 0) return code.slice(Math.max(0, at - 120), at);
  }
  return "";
}
