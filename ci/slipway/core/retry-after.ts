/**
 * Parses the Retry-After header, which holds seconds or a date.
 *
 * @returns seconds, rounded up. undefined: the header is missing or invalid.
 * @see https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3
 */
export function retryAfterSeconds(headers: Headers, now = Date.now()): number | undefined {
  const value = headers.get("retry-after")?.trim() ?? "";
  if (/^\d+$/.test(value)) return Number(value);
  // A date starts with a letter. Date.parse() would read "-5" as a year.
  const time = /^[a-z]/i.test(value) ? Date.parse(value) : NaN;
  if (Number.isNaN(time)) return undefined;
  // Relative to the server's clock if it sends the Date header.
  const serverTime = Date.parse(headers.get("date") ?? "");
  return Math.max(0, Math.ceil((time - (Number.isNaN(serverTime) ? now : serverTime)) / 1000));
}
