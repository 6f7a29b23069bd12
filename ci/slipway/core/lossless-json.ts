/** Parses and serializes JSON without losing digits of integers beyond 2^53. */

// TypeScript lacks these types. https://github.com/tc39/proposal-json-parse-with-source
const raw = JSON as unknown as { rawJSON(text: string): object; isRawJSON(value: unknown): boolean };

/** Wraps the text of a number for JSON.stringify(). */
export const rawJsonNumber = (text: string): object => raw.rawJSON(text);
export const isRawJsonNumber = (value: unknown): boolean => raw.isRawJSON(value);

/** @throws {SyntaxError} */
export function parseJson<T>(text: string): T {
  // A reviver is several times slower, and few texts need it.
  if (!/\d{16}/.test(text)) return JSON.parse(text) as T;
  const keep = (_: string, value: unknown, context?: { source?: string }): unknown => {
    const source = context?.source ?? "";
    const isLost = typeof value === "number" && /^-?\d+$/.test(source) && !Number.isSafeInteger(value);
    return isLost ? rawJsonNumber(source) : value;
  };
  return JSON.parse(text, keep) as T;
}

/** Returns a deep copy. */
export function cloneJson<T>(value: T): T {
  return parseJson<T>(JSON.stringify(value));
}
