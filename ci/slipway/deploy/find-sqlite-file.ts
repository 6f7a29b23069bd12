/** Finds the file of an SQLite database, because SQLite's errors do not name it. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { KubeObject } from "../kubernetes/objects.ts";
import { isWorkload } from "../kubernetes/workload-state.ts";
import { podTemplates } from "../kubernetes/pod-templates.ts";

/** A path of a database: `file:` and `sqlite:` URLs, and names with SQLite's usual endings. */
const DATABASE =
  /(?:\b(?:file|sqlite3?):(?:\/\/)?([\w@./-]*[\w@-][\w@./-]*)|((?:[\w@.-]*\/)*[\w@-][\w@.-]*\.(?:db3?|sqlite3?)))(?![\w/])/i;
/** First argument of a constructor that opens a database. */
const OPENED = /\bDatabase(?:Sync)?\(\s*["'`]([^"'`\n$:][^"'`\n$]*)["'`]/;
/** Limits of the search in the source. */
const MAX_FILES = 2000;

/**
 * Looks in the log, which may show the line of the source, then in the manifests' variables, then in the source.
 *
 * @returns undefined if none of them names a database
 */
export function findDatabaseFile(output: string, project: string, manifests: KubeObject[]): string | undefined {
  const workloads = manifests.filter(isWorkload).flatMap(podTemplates);
  const variables = workloads.flatMap(({ spec }) => spec.containers.flatMap(({ env = [] }) => env));
  const values = variables.map(({ value = "" }) => value).join("\n");
  return match(output) ?? match(values) ?? findInSource(project);
}

function match(text: string): string | undefined {
  const [, url, file] = DATABASE.exec(text) ?? [];
  return OPENED.exec(text)?.[1] ?? url ?? file;
}

function findInSource(project: string): string | undefined {
  let count = 0;
  for (const path of new Bun.Glob("**/*.{ts,tsx,mts,js,mjs,cjs}").scanSync({ cwd: project })) {
    if (/(^|\/)(node_modules|dist|test|tests)\/|\.(test|spec)\./.test(path)) continue;
    if ((count += 1) > MAX_FILES) break;
    const text = readFileSync(join(project, path), "utf8");
    // A module without SQLite may name any other kind of database.
    const found = /sqlite|libsql/i.test(text) ? match(text) : undefined;
    if (found) return found;
  }
  return undefined;
}
