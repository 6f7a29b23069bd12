/** Resolves and matches the names of modules for the bundler's plugins. */
import { dirname } from "node:path";

/** Returns a filter for exactly these names. @param before pattern of what may come before a name */
export const exactly = (names: string[], before = ""): RegExp =>
  new RegExp(`^${before}(?:${names.map((name) => name.replace(/[^\w/]/g, "\\$&")).join("|")})$`);

/** Resolves an import. @returns undefined if there is no such module */
export function resolveFrom(name: string, importer: string): string | undefined {
  try {
    return Bun.resolveSync(name, dirname(importer));
  } catch {
    return undefined;
  }
}
