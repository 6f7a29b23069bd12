import { build } from "../build.ts";
import type { Call } from "../call.ts";
import { json, noContent, type Reply } from "../reply.ts";

const text = (example: string) => ({ "text/plain": { schema: { type: "string" }, example } });
const schema = (name: string) => ({ schema: { $ref: `#/components/schemas/${name}` } });
const problem = (description: string) => ({
  description,
  content: { "application/problem+json": schema("Problem") },
});
const object = (properties: Record<string, { type: string; description: string }>) => ({
  type: "object",
  required: Object.keys(properties).filter((name) => name !== "detail"),
  properties,
});
const string = (description: string) => ({ type: "string", description });

const requestId = {
  "X-Request-Id": {
    description: "The request's id: the client's own when it sent a valid one",
    schema: { type: "string" },
  },
};

/** What every path has beside its own replies. */
const common = {
  "405": problem("Another method than GET, HEAD and OPTIONS"),
  "411": problem("A body without a length"),
  "413": problem("A body over the limit"),
  "503": problem("Too many requests at once, or the request took too long"),
};

function path(summary: string, replies: Record<string, object>) {
  const responses = Object.fromEntries(
    Object.entries({ ...replies, ...common }).map(([status, reply]) => [
      status,
      { ...reply, headers: requestId },
    ]),
  );
  return { get: { summary, responses } };
}

const describe = () => ({
  openapi: "3.1.0",
  info: { title: build.name, version: build.version, license: { name: "MIT", identifier: "MIT" } },
  paths: {
    "/": path("The greeting, in the type that the client prefers", {
      "200": {
        description: "The greeting",
        content: {
          ...text("Hello from helloapp\n"),
          "application/json": schema("Greeting"),
          "text/html": { schema: { type: "string" } },
        },
      },
      "406": problem("None of the types that the client accepts"),
    }),
    "/version": path("What runs", {
      "200": { description: "What runs", content: { "application/json": schema("Version") } },
    }),
    "/openapi.json": path("This description", {
      "304": { description: "The client has it already, by its ETag" },
      "200": {
        description: "This description",
        content: { "application/json": { schema: { type: "object" } } },
      },
    }),
    "/healthz": path("Liveness: also while draining", {
      "200": { description: "Alive", content: text("ok\n") },
    }),
    "/readyz": path("Readiness", {
      "200": { description: "Ready", content: text("ok\n") },
      "503": problem("Starting or draining; or too many requests at once"),
    }),
  },
  components: {
    schemas: {
      Greeting: object({
        message: string("The greeting"),
        version: string("The service's version"),
        build: string("The build's id, 12 hex digits"),
        pod: string("Who answered"),
      }),
      Version: object({
        name: string("The service's name"),
        version: string("The service's version"),
        id: string("The build's id, 12 hex digits"),
        bun: string("Bun's version"),
      }),
      Problem: object({
        type: string("about:blank"),
        title: string("The status in words"),
        status: { type: "integer", description: "The status" },
        detail: string("More, where there is more to say"),
        requestId: string("The request's id"),
      }),
    },
  },
});

/**
 * `GET /openapi.json`: the service's API as OpenAPI 3.1; a test holds the server to it.
 *
 * Made when it is first asked for, because few ask and every start would wait for it. It changes with the build and
 * with nothing else, so the build's id is its ETag.
 */
export function openapi(): (call: Call) => Reply {
  const etag = `"${build.id}"`;
  const headers = { "Cache-Control": "public, max-age=3600", ETag: etag };
  const unchanged = noContent(304, headers);
  let made: Reply | undefined;
  return (call) =>
    matches(call.headers.get("if-none-match"), etag) ? unchanged : (made ??= json(describe(), headers));
}

/** Whether an If-None-Match names this ETag, by weak comparison (RFC 9110, section 13.1.2). */
function matches(header: string | null, etag: string): boolean {
  if (header === null) return false;
  const tags: string[] = header.match(/"[^"]*"/g) ?? [];
  return header.trim() === "*" || tags.includes(etag);
}
