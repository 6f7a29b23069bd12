/** Where a version answers, below the address that a person has named. */

/**
 * @param base `http(s)://HOST[:PORT][/PATH]`; its path stays, as an ingress may have it
 * @param path the service's, with a slash in front
 */
export function below(base: string, path: string): string {
  const url = new URL(base);
  url.pathname = url.pathname.replace(/\/+$/, "") + path;
  return url.href;
}
