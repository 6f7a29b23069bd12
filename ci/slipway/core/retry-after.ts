/** What a server asks of whoever would try again. */

/**
 * The seconds that Retry-After asks for, rounded up; undefined: it does not, or not in a form that it may have, seconds or a date.
 *
 * https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3
 */
export function parseRetryAfter(headers: Headers, now = Date.now()): number | undefined {
  const after = headers.get("retry-after")?.trim() ?? "";
  if (/^\d+$/.test(after)) return Number(after);
  // A date has letters; "-5" would be a year to Date.parse().
  const time = /^[a-z]/i.test(after) ? Date.parse(after) : NaN;
  if (Number.isNaN(time)) return undefined;
  // By the server's own clock, where it tells that.
  const there = Date.parse(headers.get("date") ?? "");
  return Math.max(0, Math.ceil((time - (Number.isNaN(there) ? now : there)) / 1000));
}
