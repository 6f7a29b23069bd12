/** Describes network errors in a few words, because Bun's messages are sentences and questions. */

const meanings: Record<string, string> = {
  ConnectionRefused: "connection refused",
  ECONNREFUSED: "connection refused",
  ConnectionClosed: "the connection was closed without a response",
  ECONNRESET: "the connection was reset",
  FailedToOpenSocket: "cannot connect",
  ENOTFOUND: "host not found",
  EAI_AGAIN: "host not found",
  ETIMEDOUT: "connection timed out",
  ENETUNREACH: "network unreachable",
  EHOSTUNREACH: "host unreachable",
};

/** Returns what happened, without advice: `connection refused`. */
export function describeFetchError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { code = "", message, name } = error as NodeJS.ErrnoException;
  if (name === "TimeoutError") return "no response in time";
  const meaning = meanings[code];
  if (meaning) return meaning;
  // Bun adds a question or advice after the first sentence.
  return message.replace(
    /[.:]?\s*(Is the computer able to access the url\?|For more information, pass `verbose: true`.*)/is,
    "",
  );
}
