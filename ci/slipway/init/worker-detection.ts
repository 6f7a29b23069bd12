/** Detects a service that opens no port, such as a queue worker or a timer. */
import { readFileSync } from "node:fs";
import { isBuiltin } from "node:module";
import { STARTS_SERVER } from "../core/entry-detection.ts";
import { modulesImportedBy, withoutComments } from "../core/imported-modules.ts";
import type { PackageJson } from "../core/package-json.ts";

/** Imports that are erased with the types start nothing. */
const IMPORT = /\b(?:from|import|require)\b\s*\(?\s*["'`]([^"'`\n]+)["'`]/g;
const TYPE_IMPORT = /\b(?:import|export)\s+type\b[^;"'`]*["'`][^"'`\n]*["'`]/g;
/** Packages that are used to serve. */
const SERVER_PACKAGE =
  /^(?:@?hono|@?elysia(?:js)?|express|@?fastify|koa|@?hapi|@?nestjs|h3|nitro(?:pack)?|next|nuxt|polka|restify|ws|socket\.io|@socket\.io|@grpc|@apollo|apollo-server|graphql-yoga|@trpc|itty-router|uwebsockets\.js|connect|sirv|@tanstack|@react-router|astro|vite|slipway)(?:[/-]|$)|server|http-proxy/i;
/** Names of a server and of its port, in any form that STARTS_SERVER does not know. */
const MENTIONS_SERVER = /\bserve\b|\blisten\b|\w*Server\b|\bPORT\b/;
/** A value that Bun may serve. */
const EXPORTS_DEFAULT = /\bexport\s+default\b|\bas\s+default\b|\bmodule\.exports\b/;

/**
 * Returns whether the entry and the modules that it imports start no server for certain. A module that cannot be read,
 * such as one of the workspace, may start one.
 */
export function startsNoServer(
  project: string,
  entry: string,
  { dependencies = {}, optionalDependencies = {} }: PackageJson,
): boolean {
  const sources = modulesImportedBy(project, entry).map((file) => withoutComments(readFileSync(file, "utf8")));
  const [main = ""] = sources;
  // An empty entry says nothing about the service.
  if (main.trim() === "" || EXPORTS_DEFAULT.test(main)) return false;
  const registry = { ...optionalDependencies, ...dependencies };
  const isHarmless = (name: string) => {
    if (name.startsWith(".") || name === "bun" || name.startsWith("bun:") || isBuiltin(name)) return true;
    const installed = Object.keys(registry).find((one) => name === one || name.startsWith(`${one}/`));
    return installed !== undefined && /^[~^]?\d/.test(registry[installed]!) && !SERVER_PACKAGE.test(name);
  };
  return sources.every((source) => {
    const code = source.replace(TYPE_IMPORT, " ");
    if (STARTS_SERVER.test(code) || MENTIONS_SERVER.test(code)) return false;
    return [...code.matchAll(IMPORT)].every(([, name = ""]) => isHarmless(name));
  });
}
