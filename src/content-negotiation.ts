/**
 * Creates a function that selects the response's media type from an Accept header (RFC 9110, section 12.5.1).
 *
 * The most specific range that matches an offer decides its quality. The offer with the highest quality wins. On a tie,
 * the earlier offer wins. A missing header accepts everything.
 *
 * Results are cached, because the clients of a service send only a few different headers.
 *
 * @returns a function that returns one of `offers`, or undefined if the client accepts none of them
 * @example
 * const negotiate = createNegotiator(["text/plain", "application/json"]);
 * negotiate("text/html, application/json;q=0.5"); // "application/json"
 */
export function createNegotiator<const T extends string>(
  offers: readonly T[],
): (accept: string | null) => T | undefined {
  const cache = new Map<string, T | undefined>([["*/*", offers[0]]]);
  // A header that is exactly one offer needs no parsing, not even for the first request.
  for (const offer of offers) cache.set(offer, offer);
  return (accept) => {
    if (accept === null) return offers[0];
    if (cache.has(accept)) return cache.get(accept);
    const best = selectOffer(accept, offers);
    // A client that invents headers must not fill the memory.
    if (cache.size >= 100) cache.clear();
    cache.set(accept, best);
    return best;
  };
}

function selectOffer<T extends string>(accept: string, offers: readonly T[]): T | undefined {
  const ranges = splitList(accept, ",").map(parseRange);
  // An empty list accepts everything, and empty elements are ignored (RFC 9110, section 5.6.1.2).
  if (ranges.length === 0) return offers[0];
  let best: T | undefined;
  let bestQuality = 0;
  for (const offer of offers) {
    const quality = qualityOf(offer, ranges);
    if (quality > bestQuality) [best, bestQuality] = [offer, quality];
  }
  return best;
}

interface Range {
  type: string;
  quality: number;
}

/** Matches a list element, which may contain quoted strings with separators. */
const elementPatterns = {
  ",": /(?:[^,"]|"(?:\\.|[^"\\])*"?)+/g,
  ";": /(?:[^;"]|"(?:\\.|[^"\\])*"?)+/g,
};

/** Splits at the separators outside of quoted strings, trims the elements and drops empty ones. */
function splitList(text: string, separator: keyof typeof elementPatterns): string[] {
  // Most headers have no quoted string. They are split without a regular expression, which costs time to compile.
  const parts = text.includes('"') ? (text.match(elementPatterns[separator]) ?? []) : text.split(separator);
  return parts.map((part) => part.trim()).filter((part) => part !== "");
}

function parseRange(text: string): Range {
  const [type = "", ...parameters] = splitList(text.toLowerCase(), ";");
  const q = parameters.find((parameter) => parameter.startsWith("q="));
  // An invalid quality is a client's mistake. The range counts in full instead of being ignored.
  const quality = q && /^q=(0(\.\d{0,3})?|1(\.0{0,3})?)$/.test(q) ? Number(q.slice(2)) : 1;
  return { type, quality };
}

function qualityOf(offer: string, ranges: Range[]): number {
  const family = offer.slice(0, offer.indexOf("/")) + "/*";
  for (const type of [offer, family, "*/*"]) {
    const range = ranges.find((range) => range.type === type);
    if (range) return range.quality;
  }
  return 0;
}
