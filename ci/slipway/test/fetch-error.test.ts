/** Messages about failed requests. */
import { expect, test } from "bun:test";
import { download } from "../core/http-download.ts";
import { describeFetchError } from "../core/fetch-error.ts";
import { fetchVersion } from "../deploy/verify-from-outside.ts";
import type { ProbeCheck } from "../kubernetes/convert-probes.ts";
import { runProbe } from "../smoke-test/kubelet-probes.ts";

const { signal } = new AbortController();

/** Returns a port on which nothing listens. */
function closedPort(): number {
  const server = Bun.serve({ port: 0, fetch: () => new Response() });
  void server.stop(true);
  return server.port!;
}

test("a refused connection has no advice of Bun's", async () => {
  const port = closedPort();
  const url = `http://127.0.0.1:${port}/`;
  const { failure } = await fetchVersion({ url, open: (init) => fetch(url, { ...init, proxy: false }) }, { signal });
  expect(failure).toBe("connection refused");
  await expect(download(url, { signal })).rejects.toThrow(`cannot fetch ${url}: connection refused`);
  const check: ProbeCheck = { how: "http", scheme: "http", port, path: "/", headers: [] };
  expect(await runProbe("127.0.0.1", check, 1, async () => undefined)).toBe("connection refused");
});

test.each([
  ["Unable to connect. Is the computer able to access the url?", undefined, "Unable to connect"],
  ["Was there a typo in the url or port?", "FailedToOpenSocket", "cannot connect"],
  [
    "The socket connection was closed unexpectedly. For more information, pass `verbose: true` in the second argument to fetch()",
    "X",
    "The socket connection was closed unexpectedly",
  ],
  ["status 404", undefined, "status 404"],
])("%s", (message, code, expected) => {
  expect(describeFetchError(Object.assign(new Error(message), code && { code }))).toBe(expected);
});
