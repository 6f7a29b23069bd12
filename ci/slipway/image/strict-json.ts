/** JSON that everybody reads alike: Go takes `config` for `Config`, and merges a key that is there twice. */

/** Bytes of a document in an archive. skopeo takes no larger manifest.json. */
export const MAX_JSON_BYTES = 1 << 20;

/** @throws {Error} when it is no JSON, or has a key twice, in whatever case */
export function parseStrictJson(text: string): unknown {
  const value: unknown = JSON.parse(text);
  // JSON.parse() keeps the last of equal keys: then the text has more of them. A string with a colon after it is a key.
  const written = [...text.matchAll(/"(?:[^"\\]|\\.)*"(\s*:)?/g)].filter(([, colon]) => colon).length;
  if (written !== countKeys(value)) throw new Error("it has a key twice");
  return value;
}

function countKeys(value: unknown): number {
  if (typeof value !== "object" || value === null) return 0;
  const keys = Array.isArray(value) ? [] : Object.keys(value);
  // To upper case first: ſ is then an S, as it is for Go.
  const folded = new Set(keys.map((key) => key.toUpperCase().toLowerCase()));
  if (folded.size < keys.length) throw new Error(`it has a key twice, in another case: ${keys.join(", ")}`);
  return Object.values(value).reduce<number>((sum, inner) => sum + countKeys(inner), keys.length);
}

/** A value that has to be an object. @throws {Error} */
export function expectObject(value: unknown, what: string): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new Error(`${what} is no object`);
  return value as Record<string, unknown>;
}

/** A value that has to be a list of strings; null and undefined are an empty one, as Go writes it. @throws {Error} */
export function expectStrings(value: unknown, what: string): string[] {
  const list = value ?? [];
  if (!Array.isArray(list) || !list.every((item) => typeof item === "string"))
    throw new Error(`${what} is no list of strings`);
  return list;
}
