import { buildInfo } from "../build-info.ts";
import { createNegotiator } from "../content-negotiation.ts";
import type { RequestContext } from "../request-context.ts";
import { createJsonReply, createProblemReply, createReply } from "../responses.ts";
import { HTML_TYPE, memoizeReply, TEXT_TYPE, type Reply } from "../responses.ts";
import file from "./page.html" with { type: "file" };

const offers = ["text/plain", "application/json", "text/html"] as const;
const vary = { Vary: "Accept" };

/**
 * `GET /`: the greeting as text, JSON or an HTML page, as the client prefers. Text is the default.
 *
 * @param pod name of the pod or host, shown in the reply
 */
export function createGreetingHandler(message: string, pod: string): (context: RequestContext) => Reply {
  const values = { message, version: buildInfo.version, build: buildInfo.id, pod };
  const replies: Record<(typeof offers)[number], () => Reply> = {
    "text/plain": memoizeReply(() => createReply(TEXT_TYPE, `${message}\n`, vary)),
    "application/json": memoizeReply(() => createJsonReply(values, vary)),
    "text/html": memoizeReply(() => createPageReply(values)),
  };
  const negotiate = createNegotiator(offers);
  return (context) => {
    const type = negotiate(context.headers.get("accept"));
    if (type) return replies[type]();
    return createProblemReply(406, "Not Acceptable", context.id, {
      detail: `available: ${offers.join(", ")}`,
      headers: vary,
    });
  };
}

/** Fills in the page's values. The page loads nothing. Its style and its script are allowed by their hashes. */
function createPageReply(values: Record<string, string>): Reply {
  // An import as text would be read at every start. TypeScript types an import of HTML as a bundle, hence the cast.
  const source = process.getBuiltinModule("node:fs").readFileSync(file as unknown as string, "utf8");
  const html = source.replace(/\{\{(\w+)\}\}/g, (_, name) => Bun.escapeHTML(values[name]!));
  const policy = [
    "default-src 'none'",
    `style-src ${hashOf("style", html)}`,
    // The script sets colours through the CSSOM, which does not count as inline style.
    `script-src ${hashOf("script", html)}`,
    "connect-src 'self'",
    "img-src data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ];
  return createReply(HTML_TYPE, html, {
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
