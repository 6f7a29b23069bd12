import { expect, test } from "bun:test";
import { createNegotiator } from "../../src/content-negotiation.ts";

const offers = ["text/plain", "application/json", "text/html"] as const;

test.each<[string | null, string | undefined]>([
  [null, "text/plain"],
  ["", "text/plain"],
  ["*/*", "text/plain"],
  ["application/json", "application/json"],
  ["text/*", "text/plain"],
  ["text/html, application/xhtml+xml, */*;q=0.8", "text/html"],
  ["text/plain;q=0, */*", "application/json"],
  ["APPLICATION/JSON;Q=0.9, text/html;q=0.8", "application/json"],
  ["text/html;q=0.5, application/json;q=0.5", "application/json"],
  ["text/html;q=nonsense", "text/html"],
  ["image/png", undefined],
  ["*/*;q=0", undefined],
  [",", "text/plain"],
  [" , ,", "text/plain"],
  [", application/json,", "application/json"],
  ['text/plain;a="x, text/html", application/json;q=0.5', "text/plain"],
  ['text/html;a="x,application/json;q=0.9";q=0.1, text/plain;q=0.5', "text/plain"],
  ['text/html;a="\\";q=0,";q=0.9, text/plain;q=0.5', "text/html"],
  ['text/html;a="never ended, text/plain', "text/html"],
])("Accept: %s gets %s", (accept, expected) => {
  const negotiate = createNegotiator(offers);
  expect(negotiate(accept)).toBe(expected as never);
  // The second result comes from the cache.
  expect(negotiate(accept)).toBe(expected as never);
});
