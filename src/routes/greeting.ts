import { build } from "../build-info.ts";
import type { Call } from "../request-context.ts";
import { negotiator } from "../content-negotiation.ts";
import { HTML, json, once, problem, reply, TEXT, type Reply } from "../responses.ts";
import file from "./page.html" with { type: "file" };

const offers = ["text/plain", "application/json", "text/html"] as const;
const vary = { Vary: "Accept" };

/**
 * `GET /`: the greeting as text, JSON or a page, whichever the client prefers; text when it does not care.
 *
 * @param who the name of the pod or host that answers
 */
export function greeting(message: string, who: string): (call: Call) => Reply {
  const values = { message, version: build.version, build: build.id, pod: who };
  const replies: Record<(typeof offers)[number], () => Reply> = {
    "text/plain": once(() => reply(TEXT, `${message}\n`, vary)),
    "application/json": once(() => json(values, vary)),
    "text/html": once(() => page(values)),
  };
  const negotiate = negotiator(offers);
  return (call) => {
    const type = negotiate(call.headers.get("accept"));
    if (type) return replies[type]();
    return problem(406, "Not Acceptable", call.id, {
      detail: `available: ${offers.join(", ")}`,
      headers: vary,
    });
  };
}

/** The page with its values filled in. It loads nothing: its one style and its one script are allowed by their hashes. */
function page(values: Record<string, string>): Reply {
  // As text it would be read at every start. Typed as a bundle, because that is what an import of HTML is without `type: "file"`.
  const source = process.getBuiltinModule("node:fs").readFileSync(file as unknown as string, "utf8");
  const html = source.replace(/\{\{(\w+)\}\}/g, (_, name) => Bun.escapeHTML(values[name]!));
  const policy = [
    "default-src 'none'",
    `style-src ${hashOf("style", html)}`,
    // Colours are set by the script through the style's own interface, which is not inline style.
    `script-src ${hashOf("script", html)}`,
    "connect-src 'self'",
    "img-src data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ];
  return reply(HTML, html, {
    ...vary,
    "Content-Security-Policy": policy.join("; "),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
  });
}

function hashOf(element: string, html: string): string {
  const content = new RegExp(`<${element}>(.*?)</${element}>`, "s").exec(html)![1]!;
  return `'sha256-${new Bun.CryptoHasher("sha256").update(content).digest("base64")}'`;
}
