/** JSON whose integers keep all of their digits, also those that no number can hold: they go out as they came in. */

// TypeScript does not know them yet. https://github.com/tc39/proposal-json-parse-with-source
const raw = JSON as unknown as { rawJSON(text: string): object; isRawJSON(value: unknown): boolean };

/** A number as it is written, for JSON.stringify(). */
export const rawJsonNumber = (text: string): object => raw.rawJSON(text);
export const isRawJsonNumber = (value: unknown): boolean => raw.isRawJSON(value);

/** @throws {SyntaxError} */
export function parseJson<T>(text: string): T {
  // A reviver makes it several times slower, and hardly any text needs it.
  if (!/\d{16}/.test(text)) return JSON.parse(text) as T;
  const keep = (_: string, value: unknown, context?: { source?: string }): unknown => {
    const source = context?.source ?? "";
    const isLost = typeof value === "number" && /^-?\d+$/.test(source) && !Number.isSafeInteger(value);
    return isLost ? rawJsonNumber(source) : value;
  };
  return JSON.parse(text, keep) as T;
}

/** A copy that shares nothing with its original. */
export function cloneJson<T>(value: T): T {
  return parseJson<T>(JSON.stringify(value));
}
