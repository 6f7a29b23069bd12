import { buildInfo } from "../build-info.ts";
import type { RequestContext } from "../request-context.ts";
import { createEmptyReply, createJsonReply, memoizeReply, type Reply } from "../responses.ts";

const ref = (kind: string, name: string) => ({ $ref: `#/components/${kind}/${name}` });
const schema = (name: string) => ({ schema: ref("schemas", name) });
const text = (example: string) => ({ "text/plain": { schema: { type: "string" }, example } });
const string = (description: string) => ({ type: "string", description });
const object = (properties: Record<string, { type: string; description: string }>) => ({
  type: "object",
  required: Object.keys(properties).filter((name) => name !== "detail"),
  properties,
});

/** Request headers that the service reads. It ignores invalid values. */
const parameters: Record<string, string> = {
  Accept: "Acceptable media types with their qualities (RFC 9110, section 12.5.1)",
  "If-None-Match": "ETags of the client's cached replies (RFC 9110, section 13.1.2)",
  "X-Request-Id": "ID for the request: 1 to 64 characters of A-Z a-z 0-9 . _ -",
  traceparent: "Trace of the request (W3C Trace Context, version 00)",
  Connection: "`close`: the service closes the connection after the reply and sends the same header",
};

const headers: Record<string, string> = {
  "Cache-Control": "Whether the reply may be cached",
  Date: "Time of the reply",
  ETag: "The build's ID",
  Vary: "Request headers that determine the reply",
  Allow: "Supported methods",
  "Retry-After": "Seconds to wait before the next attempt",
  "Content-Length": "Length of the body in bytes. For HEAD, the length of the reply to GET",
  "Content-Security-Policy": "Resources and scripts that the page may load and run",
  "X-Content-Type-Options": "`nosniff`, for the page",
  "Referrer-Policy": "`no-referrer`, for the page",
  "X-Request-Id": "ID of the request, from the client or as in the log line or error reply",
  traceresponse: "Trace of a valid traceparent, with a span of this service",
  Connection: "`close`: the service closes the connection after this reply",
};
/** Headers of all replies from the service. */
const always = ["Date"];
/** Headers that any reply may have. */
const maybe = ["Content-Length", "X-Request-Id", "traceresponse", "Connection"];

/**
 * Describes a response.
 *
 * @param required headers of all such replies, in addition to `always`
 * @param optional headers of some replies, in addition to `maybe`
 */
function response(description: string, required: string[], content?: object, optional: string[] = []) {
  const named = (names: string[], required: boolean) =>
    names.map((name) => [name, { required, description: headers[name], schema: { type: "string" } }]);
  const all = [...named([...always, ...required], true), ...named([...maybe, ...optional], false)];
  return { description, headers: Object.fromEntries(all), ...(content && { content }) };
}

const problem = (description: string, required: string[] = [], optional: string[] = []) =>
  response(description, ["Cache-Control", ...required], { "application/problem+json": schema("Problem") }, optional);

/** Responses that all paths share. */
const common = {
  "400": { description: "Malformed HTTP, from the parser and without a body" },
  "411": problem("Request body without a length", ["Connection"]),
  "413": problem("Request body over the limit", ["Connection"]),
  "431": { description: "Request headers over the limit, from the parser and without a body" },
  "500": problem("Internal error"),
  "503": problem("Too many concurrent requests, or the request took too long", ["Retry-After"]),
};

interface Path {
  id: string;
  summary: string;
  /** Names of `parameters` that only this path reads. */
  reads?: string[];
  responses: Record<string, ReturnType<typeof response>>;
}

function path({ id, summary, reads = [], responses }: Path) {
  const all = { ...common, ...responses };
  const withoutContent = Object.entries(all).map(([status, reply]) => [status, { ...reply, content: undefined }]);
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
      "405": problem("Reply to all methods except GET, HEAD and OPTIONS", ["Allow"]),
    }),
    head: operation("head", `${summary}: headers only`, Object.fromEntries(withoutContent)),
    options: operation("options", "Supported methods", {
      "204": response("GET, HEAD and OPTIONS", ["Allow"]),
      ...common,
    }),
  };
}

const cacheControl = ["Cache-Control"];

const createDescription = () => ({
  openapi: "3.1.0",
  info: { title: buildInfo.name, version: buildInfo.version, license: { name: "MIT", identifier: "MIT" } },
  servers: [{ url: "/", description: "The server of this description" }],
  security: [],
  paths: {
    "/": path({
      id: "Greeting",
      summary: "The greeting, in the media type that the client prefers",
      reads: ["Accept"],
      responses: {
        "200": response(
          "The greeting",
          [...cacheControl, "Vary"],
          {
            ...text("Hello from helloapp\n"),
            "application/json": schema("Greeting"),
            "text/html": { schema: { type: "string" } },
          },
          ["Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy"],
        ),
        "406": problem("No acceptable media type", ["Vary"]),
      },
    }),
    "/version": path({
      id: "Version",
      summary: "Version and build",
      responses: {
        "200": response("Version and build", cacheControl, { "application/json": schema("Version") }),
      },
    }),
    "/openapi.json": path({
      id: "Description",
      summary: "This description",
      reads: ["If-None-Match"],
      responses: {
        "200": response("This description", [...cacheControl, "ETag"], {
          "application/json": { schema: { type: "object" } },
        }),
        "304": response("The client's ETag is current", [...cacheControl, "ETag"]),
      },
    }),
    "/healthz": path({
      id: "Health",
      summary: "Liveness, also while draining",
      responses: { "200": response("Alive", cacheControl, text("ok\n")) },
    }),
    "/readyz": path({
      id: "Readiness",
      summary: "Readiness",
      responses: {
        "200": response("Ready", cacheControl, text("ok\n")),
        "503": problem("Starting or draining, or the request took too long", [], ["Retry-After"]),
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
        build: string("The build's ID, 12 hex digits"),
        pod: string("Name of the pod or host"),
      }),
      Version: object({
        name: string("The service's name"),
        version: string("The service's version"),
        id: string("The build's ID, 12 hex digits"),
        bun: string("Bun's version"),
      }),
      Problem: object({
        type: string("about:blank"),
        title: string("Name of the status"),
        status: { type: "integer", description: "HTTP status" },
        detail: string("Details, if any"),
        requestId: string("The request's ID"),
      }),
    },
  },
});

/**
 * `GET /openapi.json`: the service's API as OpenAPI 3.1. A test compares it with the server's replies.
 *
 * The description changes only with the build, so the build's ID is its ETag.
 */
export function createOpenApiHandler(): (context: RequestContext) => Reply {
  const etag = `"${buildInfo.id}"`;
  const headers = { "Cache-Control": "public, max-age=3600", ETag: etag };
  const full = memoizeReply(() => createJsonReply(createDescription(), headers));
  const notModified = memoizeReply(() => createEmptyReply(304, headers));
  return (context) => (matchesEtag(context.headers.get("if-none-match"), etag) ? notModified() : full());
}

/** Checks whether an If-None-Match header contains the ETag, by weak comparison (RFC 9110, section 13.1.2). */
function matchesEtag(header: string | null, etag: string): boolean {
  if (header === null) return false;
  const tags: string[] = header.match(/"[^"]*"/g) ?? [];
  return header.trim() === "*" || tags.includes(etag);
}
