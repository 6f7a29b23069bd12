import { build } from "../build-info.ts";
import type { Call } from "../request-context.ts";
import { json, noContent, once, type Reply } from "../responses.ts";

const ref = (kind: string, name: string) => ({ $ref: `#/components/${kind}/${name}` });
const schema = (name: string) => ({ schema: ref("schemas", name) });
const text = (example: string) => ({ "text/plain": { schema: { type: "string" }, example } });
const string = (description: string) => ({ type: "string", description });
const object = (properties: Record<string, { type: string; description: string }>) => ({
  type: "object",
  required: Object.keys(properties).filter((name) => name !== "detail"),
  properties,
});

/** What a client may send. No value of these is refused: one that is not valid counts as none. */
const parameters: Record<string, string> = {
  Accept: "The media types that are wanted, with their qualities (RFC 9110, section 12.5.1)",
  "If-None-Match": "ETags that the client has (RFC 9110, section 13.1.2)",
  "X-Request-Id": "An id for the request: 1 to 64 of A-Z a-z 0-9 . _ -",
  traceparent: "The trace that the request is part of (W3C Trace Context, version 00)",
  Connection: "`close`: the connection is closed after the reply, and the reply says so",
};

const headers: Record<string, string> = {
  "Cache-Control": "Whether the reply may be kept",
  Date: "When the reply was made",
  ETag: "The build's id",
  Vary: "The request's headers that the reply depends on",
  Allow: "The methods that are answered",
  "Retry-After": "Seconds to wait before the next attempt",
  "Content-Length": "Length of the body in bytes; of HEAD the length that GET's would have",
  "Content-Security-Policy": "Of the page: what it may load and run",
  "X-Content-Type-Options": "Of the page",
  "Referrer-Policy": "Of the page",
  "X-Request-Id": "The id of the request: the client's own, that of the log line, or that of the error reply",
  traceresponse: "The trace of a valid traceparent, with a span of this service",
  Connection: "`close`: the connection ends with this reply",
};
/** Those that no reply of the service's own lacks, and those that any may have. */
const always = ["Date"];
const maybe = ["Content-Length", "X-Request-Id", "traceresponse", "Connection"];

/**
 * @param required headers that all such replies have beside `always`
 * @param optional headers that some have beside `maybe`
 */
function response(description: string, required: string[], content?: object, optional: string[] = []) {
  const named = (names: string[], required: boolean) =>
    names.map((name) => [name, { required, description: headers[name], schema: { type: "string" } }]);
  const all = [...named([...always, ...required], true), ...named([...maybe, ...optional], false)];
  return { description, headers: Object.fromEntries(all), ...(content && { content }) };
}

const problem = (description: string, required: string[] = [], optional: string[] = []) =>
  response(
    description,
    ["Cache-Control", ...required],
    { "application/problem+json": schema("Problem") },
    optional,
  );

/** What every path answers beside its own replies. */
const common = {
  "400": { description: "A head that is no HTTP, from the parser and without a body" },
  "411": problem("A body without a length", ["Connection"]),
  "413": problem("A body over the limit", ["Connection"]),
  "431": { description: "A head over the limit, from the parser and without a body" },
  "500": problem("An error of the service's own"),
  "503": problem("Too many requests at once, or the request took too long", ["Retry-After"]),
};

interface Path {
  id: string;
  summary: string;
  /** Names of `parameters` that only this path looks at. */
  reads?: string[];
  responses: Record<string, ReturnType<typeof response>>;
}

function path({ id, summary, reads = [], responses }: Path) {
  const all = { ...common, ...responses };
  const withoutContent = Object.entries(all).map(([status, reply]) => [
    status,
    { ...reply, content: undefined },
  ]);
  const operation = (verb: string, summary: string, responses: object) => ({
    operationId: `${verb}${id}`,
    summary,
    responses,
  });
  const refs = [...reads, "X-Request-Id", "traceparent", "Connection"];
  return {
    parameters: refs.map((name) => ref("parameters", name)),
    get: operation("get", summary, {
      ...all,
      "405": problem("The reply to all methods but GET, HEAD and OPTIONS", ["Allow"]),
    }),
    head: operation("head", `${summary}: the headers alone`, Object.fromEntries(withoutContent)),
    options: operation("options", "The methods that are answered", {
      "204": response("GET, HEAD and OPTIONS", ["Allow"]),
      ...common,
    }),
  };
}

const fresh = ["Cache-Control"];

const describe = () => ({
  openapi: "3.1.0",
  info: { title: build.name, version: build.version, license: { name: "MIT", identifier: "MIT" } },
  servers: [{ url: "/", description: "Where this description is from" }],
  security: [],
  paths: {
    "/": path({
      id: "Greeting",
      summary: "The greeting, in the type that the client prefers",
      reads: ["Accept"],
      responses: {
        "200": response(
          "The greeting",
          [...fresh, "Vary"],
          {
            ...text("Hello from helloapp\n"),
            "application/json": schema("Greeting"),
            "text/html": { schema: { type: "string" } },
          },
          ["Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy"],
        ),
        "406": problem("None of the types that the client accepts", ["Vary"]),
      },
    }),
    "/version": path({
      id: "Version",
      summary: "What runs",
      responses: { "200": response("What runs", fresh, { "application/json": schema("Version") }) },
    }),
    "/openapi.json": path({
      id: "Description",
      summary: "This description",
      reads: ["If-None-Match"],
      responses: {
        "200": response("This description", [...fresh, "ETag"], {
          "application/json": { schema: { type: "object" } },
        }),
        "304": response("The client has it already, by its ETag", [...fresh, "ETag"]),
      },
    }),
    "/healthz": path({
      id: "Health",
      summary: "Liveness: also while draining",
      responses: { "200": response("Alive", fresh, text("ok\n")) },
    }),
    "/readyz": path({
      id: "Readiness",
      summary: "Readiness",
      responses: {
        "200": response("Ready", fresh, text("ok\n")),
        "503": problem("Starting or draining; or the request took too long", [], ["Retry-After"]),
      },
    }),
  },
  components: {
    parameters: Object.fromEntries(
      Object.entries(parameters).map(([name, description]) => [
        name,
        { name, in: "header", description, schema: { type: "string" } },
      ]),
    ),
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
 * It changes with the build and with nothing else, so the build's id is its ETag.
 */
export function openapi(): (call: Call) => Reply {
  const etag = `"${build.id}"`;
  const headers = { "Cache-Control": "public, max-age=3600", ETag: etag };
  const whole = once(() => json(describe(), headers));
  const unchanged = once(() => noContent(304, headers));
  return (call) => (matches(call.headers.get("if-none-match"), etag) ? unchanged() : whole());
}

/** Whether an If-None-Match names this ETag, by weak comparison (RFC 9110, section 13.1.2). */
function matches(header: string | null, etag: string): boolean {
  if (header === null) return false;
  const tags: string[] = header.match(/"[^"]*"/g) ?? [];
  return header.trim() === "*" || tags.includes(etag);
}
