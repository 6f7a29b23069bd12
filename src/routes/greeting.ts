import { build } from "../build.ts";
import { negotiate } from "../negotiate.ts";
import { HTML, json, problem, TEXT, type Reply } from "../reply.ts";

const offers = ["text/plain", "application/json", "text/html"] as const;
const headers = { Vary: "Accept", "Cache-Control": "no-store" };

/**
 * `GET /`: the greeting as text, JSON or a page, whichever the client prefers; text when it does not care.
 *
 * @param who the name of the pod or host that answers
 */
export function greeting(message: string, who: string): (request: Request, requestId: string) => Reply {
  const replies: Record<(typeof offers)[number], Reply> = {
    "text/plain": { status: 200, type: TEXT, body: `${message}\n`, headers },
    "application/json": json({ message, version: build.version, build: build.id, pod: who }, headers),
    "text/html": {
      status: 200,
      type: HTML,
      body: page(message, who),
      headers: { ...headers, ...pageHeaders },
    },
  };
  return (request, requestId) => {
    const type = negotiate(request.headers.get("accept"), offers);
    return type
      ? replies[type]
      : problem(406, "Not Acceptable", requestId, { detail: `available: ${offers.join(", ")}`, headers });
  };
}

const pageHeaders = {
  "Content-Security-Policy":
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
};

function page(message: string, who: string): string {
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>helloapp</title>
<style>body { font: 1.1rem/1.6 system-ui; max-width: 36rem; margin: 15vh auto; padding: 0 1rem }</style>
<h1>${Bun.escapeHTML(message)}</h1>
<p>Version ${build.version}, build <code>${build.id}</code>, answered by <code>${Bun.escapeHTML(who)}</code>.</p>
</html>
`;
}
