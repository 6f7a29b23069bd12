/** The port that a service's source names, without running it. */

const NUMBER = `["'\`]?(\\d[\\d_]{1,5})\\b(?![.\\w])`;

/** What has the name PORT, from the surest: with the number that holds where the environment says nothing. */
const named = [
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

/** Strings as they are, and comments. */
const stringOrComment = /("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`)|\/\/.*|\/\*[^]*?\*\//g;

/** Whether a server of node:http listens on a number and nothing asks for $PORT. */
export function hasHardcodedPort(source: string): boolean {
  const code = withoutComments(source);
  return (
    /["'](node:https?|https?|express|fastify|koa)["']/.test(code) &&
    !/\bPORT\b/.test(code) &&
    findPort(code) !== undefined
  );
}

function withoutComments(source: string): string {
  return source.replace(stringOrComment, (_, string?: string) => string ?? " ");
}

/** @returns undefined: none is named, so that $PORT decides */
export function findPort(source: string): number | undefined {
  const code = withoutComments(source);
  const found = named.map((form) => form.exec(code)?.[1]).find(Boolean) ?? ofServer(code);
  const port = Number(found?.replaceAll("_", ""));
  return port > 0 && port < 65_536 ? port : undefined;
}

/** `port: 3000` where a server takes it; not where a client does, of a database or somebody else's service. */
function ofServer(code: string): string | undefined {
  const places = [...code.matchAll(property)].map(({ index, 1: port }) => ({
    port,
    before: opening(code, index),
  }));
  const isServer = ({ before }: { before: string }) =>
    /(\b(serve|listen|createServer|Server)\w*\s*(<[^()]*>)?\(\s*(\w+\s*,\s*)?|\bexport\s+default\s*)$/.test(
      before,
    );
  // An object that is no argument may be a server's settings.
  const isArgument = ({ before }: { before: string }) => /[(,]\s*$/.test(before);
  return (places.find(isServer) ?? places.find((place) => !isArgument(place)))?.port;
}

/** What stands before the brace that opens the object around `index`. */
function opening(code: string, index: number): string {
  let depth = 0;
  for (let at = index - 1; at >= 0; at -= 1) {
    if (code[at] === "}") depth += 1;
    if (code[at] === "{" && depth-- === 0) return code.slice(Math.max(0, at - 120), at);
  }
  return "";
}
