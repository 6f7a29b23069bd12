/** Downloads files over HTTP with a time limit, and explains failures. */
import { PipelineError } from "./errors.ts";
import { describeFetchError } from "./fetch-error.ts";

export interface DownloadOptions {
  headers?: Record<string, string>;
  /** Aborts the download, which then throws the signal's reason. */
  signal?: AbortSignal;
  /** Default: 30. */
  timeoutSeconds?: number;
  /** Hint for a failure. Default: check the URL and the network. */
  hint?: string;
  /** Default: fetch. */
  fetch?: (url: string, init: RequestInit) => Promise<Response>;
}

/** Not found. GitHub returns 422 for an unknown commit. */
const notFoundStatuses = new Set([404, 422]);

/** @throws {PipelineError} "environment" if the file does not exist or cannot be downloaded */
export async function download(url: string, options: DownloadOptions = {}): Promise<Uint8Array<ArrayBuffer>> {
  return (await send(url, options, () => false))!;
}

/**
 * Downloads a file that may be missing.
 *
 * @returns undefined if the file does not exist
 * @throws {PipelineError} "environment" if the request fails
 */
export async function downloadIfExists(
  url: string,
  options: DownloadOptions = {},
): Promise<Uint8Array<ArrayBuffer> | undefined> {
  return send(url, options, (status) => notFoundStatuses.has(status));
}

async function send(url: string, options: DownloadOptions, isNotFound: (status: number) => boolean) {
  const { headers = {}, signal, timeoutSeconds = 30, fetch: sendRequest = fetch } = options;
  const deadline = AbortSignal.timeout(timeoutSeconds * 1000);
  try {
    const response = await sendRequest(url, {
      headers,
      signal: signal ? AbortSignal.any([signal, deadline]) : deadline,
    });
    if (isNotFound(response.status)) return undefined;
    if (!response.ok) throw new Error(`status ${response.status}`);
    return await response.bytes();
  } catch (error) {
    signal?.throwIfAborted();
    const message = `cannot fetch ${url}: ${describeFetchError(error)}`;
    const redacted = redactPasswords(message);
    throw new PipelineError("environment", redacted, {
      code: "download-failed",
      hint: options.hint ?? "Check that the URL exists and that this machine can reach it.",
      // The error of fetch() contains the full URL.
      ...(redacted === message && { cause: error }),
    });
  }
}

/** Redacts passwords in URLs, and a user name without a password, which may be a token. */
function redactPasswords(text: string): string {
  return text.replace(/(\b[a-z][a-z\d+.-]*:\/\/(?:[^\s/?#:@]*:(?=[^\s/?#]*@))?)[^\s/?#]*@/gi, "$1…@");
}
