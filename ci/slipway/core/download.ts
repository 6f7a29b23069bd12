/** Files over HTTP, whole and within a time, and a sentence where that fails. */
import { PipelineError } from "./errors.ts";

export interface DownloadOptions {
  headers?: Record<string, string>;
  /** Ends the download; what is thrown then is its reason. */
  signal?: AbortSignal;
  /** Seconds that it may take. Default 30. */
  seconds?: number;
  /** What to do when it fails. Default: a question about the network. */
  hint?: string;
  /** Default: fetch. */
  fetch?: (url: string, init: RequestInit) => Promise<Response>;
}

/** "There is no such thing." GitHub says 422 of a commit that it does not have. */
const absent = new Set([404, 422]);

/** @throws {PipelineError} "environment" when it is not there or cannot be fetched */
export async function download(url: string, options: DownloadOptions = {}): Promise<Uint8Array<ArrayBuffer>> {
  return (await ask(url, options, () => false))!;
}

/**
 * The same for what need not be there.
 *
 * @returns undefined when the server says that it is not
 * @throws {PipelineError} "environment" when it cannot be asked
 */
export async function tryDownload(
  url: string,
  options: DownloadOptions = {},
): Promise<Uint8Array<ArrayBuffer> | undefined> {
  return ask(url, options, (status) => absent.has(status));
}

async function ask(url: string, options: DownloadOptions, mayBe: (status: number) => boolean) {
  const { headers = {}, signal, seconds = 30, fetch: send = fetch } = options;
  const deadline = AbortSignal.timeout(seconds * 1000);
  try {
    const reply = await send(url, {
      headers,
      signal: signal ? AbortSignal.any([signal, deadline]) : deadline,
    });
    if (mayBe(reply.status)) return undefined;
    if (!reply.ok) throw new Error(`status ${reply.status}`);
    return await reply.bytes();
  } catch (error) {
    signal?.throwIfAborted();
    const message = `cannot fetch ${url}: ${(error as Error).message}`;
    const shown = withoutPasswords(message);
    throw new PipelineError("environment", shown, {
      hint: options.hint ?? "Does it exist, and can this machine reach it?",
      // What fetch() throws has the whole address.
      ...(shown === message && { cause: error }),
    });
  }
}

/** Addresses for a person: a password is for nobody's log, and where there is a user alone, that may be a token. */
function withoutPasswords(text: string): string {
  return text.replace(/(\b[a-z][a-z\d+.-]*:\/\/(?:[^\s/?#:@]*:(?=[^\s/?#]*@))?)[^\s/?#]*@/gi, "$1…@");
}
