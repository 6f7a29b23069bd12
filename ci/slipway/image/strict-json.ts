/**
 * Parses JSON strictly, so that all readers get the same value.
 *
 * Go matches keys case-insensitively, so `config` sets `Config`, and it merges duplicate keys.
 */

/** Size limit of a JSON document in an archive. skopeo has the same limit for manifest.json. */
export const MAX_JSON_BYTES = 1 << 20;

/** @throws {Error} if the text is not JSON, or has duplicate keys (ignoring case) */
export function parseStrictJson(text: string): unknown {
  const value: unknown = JSON.parse(text);
  // JSON.parse() drops duplicate keys, so the text then has more keys. A key is a string before a colon.
  const keyCount = [...text.matchAll(/"(?:[^"\\]|\\.)*"(\s*:)?/g)].filter(([, colon]) => colon).length;
  if (keyCount !== countKeys(value)) throw new Error("it has a duplicate key");
  return value;
}

function countKeys(value: unknown): number {
  if (typeof value !== "object" || value === null) return 0;
  const keys = Array.isArray(value) ? [] : Object.keys(value);
  // Upper case first, which maps ſ to S, like Go.
  const folded = new Set(keys.map((key) => key.toUpperCase().toLowerCase()));
  if (folded.size < keys.length) throw new Error(`it has keys that differ only in case: ${keys.join(", ")}`);
  return Object.values(value).reduce<number>((sum, inner) => sum + countKeys(inner), keys.length);
}

/** Returns a value as an object. @throws {Error} if it is not an object */
export function expectObject(value: unknown, name: string): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Error(`${name} is not an object`);
  return value as Record<string, unknown>;
}

/** Returns a value as a list of strings. Go writes empty lists as null. @throws {Error} if it is not such a list */
export function expectStrings(value: unknown, name: string): string[] {
  const list = value ?? [];
  if (!Array.isArray(list) || !list.every((item) => typeof item === "string"))
    throw new Error(`${name} is not a list of strings`);
  return list;
}
