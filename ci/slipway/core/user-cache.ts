/** The user's cache directory, which all projects share. Its content can be deleted at any time. */
import { homedir } from "node:os";
import { isAbsolute, join } from "node:path";

/**
 * Returns the path of a directory in the user's cache. It may not exist.
 *
 * Source: XDG Base Directory Specification 0.8, which ignores relative paths.
 */
export function userCacheDirectory(name: string): string {
  const { XDG_CACHE_HOME = "" } = process.env;
  const base = isAbsolute(XDG_CACHE_HOME) ? XDG_CACHE_HOME : join(homedir(), ".cache");
  return join(base, "slipway", name);
}
