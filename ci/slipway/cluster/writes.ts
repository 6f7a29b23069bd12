/** What a service says that writes where nothing can be written, and what to do about it. */

/** The system's words, and SQLite's. */
const refused =
  /\bEROFS\b|read-only file system|SQLITE_CANTOPEN|unable to open database file|SQLITE_READONLY|readonly database/i;
/** With the path, as Node's errors have it: the last of two is where it was to go. */
const place = /\bEROFS\b[^\n]*?'(?:[^'\n]*' -> ')?([^'\n]+)'/;

/** @returns undefined: it has something else to say */
export function writesHint(output: string): string | undefined {
  if (!refused.test(output)) return undefined;
  const [, path] = place.exec(output) ?? [];
  return `It writes${path ? ` to ${path}` : " to a file"}, and only /tmp and volumes can be written: slipway's README, "A place to write".`;
}
