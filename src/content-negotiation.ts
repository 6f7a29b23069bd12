/**
 * Picks the media type to answer with (RFC 9110, section 12.5.1).
 *
 * The most specific range that matches an offer decides its quality; the highest quality wins, and on a tie the
 * earlier offer. No header means that anything goes.
 *
 * What it has worked out it remembers: the clients of a service send a handful of different headers, over and over.
 *
 * @returns one of `offers`, or undefined when the client accepts none of them
 * @example
 * const negotiate = negotiator(["text/plain", "application/json"]);
 * negotiate("text/html, application/json;q=0.5"); // "application/json"
 */
export function negotiator<const T extends string>(
  offers: readonly T[],
): (accept: string | null) => T | undefined {
  const known = new Map<string, T | undefined>([["*/*", offers[0]]]);
  // Whoever names one offer gets it: what most clients send is known without a look, also right after the start.
  for (const offer of offers) known.set(offer, offer);
  return (accept) => {
    if (accept === null) return offers[0];
    if (known.has(accept)) return known.get(accept);
    const best = choose(accept, offers);
    // A client that makes up headers must not fill the memory.
    if (known.size >= 100) known.clear();
    known.set(accept, best);
    return best;
  };
}

function choose<T extends string>(accept: string, offers: readonly T[]): T | undefined {
  const ranges = elements(accept, ",").map(parseRange);
  // An empty list says nothing, and its empty elements count for nothing (RFC 9110, section 5.6.1.2).
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

/** An element of a list: all that is no separator, and quoted strings with whatever is in them. */
const quoted = {
  ",": /(?:[^,"]|"(?:\\.|[^"\\])*"?)+/g,
  ";": /(?:[^;"]|"(?:\\.|[^"\\])*"?)+/g,
};

/** What stands between separators that are in no quoted string, without the space around it; nothing that is empty. */
function elements(text: string, separator: keyof typeof quoted): string[] {
  // Most have none, and need no expression, which a start would have to compile.
  const parts = text.includes('"') ? (text.match(quoted[separator]) ?? []) : text.split(separator);
  return parts.map((part) => part.trim()).filter((part) => part !== "");
}

function parseRange(text: string): Range {
  const [type = "", ...parameters] = elements(text.toLowerCase(), ";");
  const q = parameters.find((parameter) => parameter.startsWith("q="));
  // A quality that is no number from 0 to 1 is a client's mistake: the range counts in full rather than not at all.
  const quality = q && /^q=(0(\.\d{0,3})?|1(\.0{0,3})?)$/.test(q) ? Number(q.slice(2)) : 1;
  return { type, quality };
}

function qualityOf(offer: string, ranges: Range[]): number {
  const family = offer.slice(0, offer.indexOf("/")) + "/*";
  for (const wanted of [offer, family, "*/*"]) {
    const range = ranges.find(({ type }) => type === wanted);
    if (range) return range.quality;
  }
  return 0;
}
