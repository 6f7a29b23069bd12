/**
 * GitHub's releases, tags and commits. https://docs.github.com/en/rest
 *
 * GITHUB_TOKEN is sent along where it is set: without one, GitHub answers 60 requests an hour to an address, and a hosted
 * runner shares its address.
 */
import { download, tryDownload, type DownloadOptions } from "../../slipway/core/download.ts";

const api = (repository: string, path: string) => `https://api.github.com/repos/${repository}/${path}`;

function request({ headers, ...options }: DownloadOptions, accept: string): DownloadOptions {
  const token = process.env.GITHUB_TOKEN;
  return {
    hint: "Can this machine reach GitHub? With status 403 or 429 it wants fewer requests, or a GITHUB_TOKEN.",
    ...options,
    headers: { ...headers, Accept: accept, ...(token && { Authorization: `Bearer ${token}` }) },
  };
}

/** A tag's path in a URL: `+` stays one character, a slash stays a slash. */
const inPath = (tag: string) => tag.split("/").map(encodeURIComponent).join("/");

/** The tag of the newest release that is no draft and no prerelease. @throws {PipelineError} "environment" */
export async function newestRelease(repository: string, options: DownloadOptions = {}): Promise<string> {
  const bytes = await download(
    api(repository, "releases/latest"),
    request(options, "application/vnd.github+json"),
  );
  return (JSON.parse(new TextDecoder().decode(bytes)) as { tag_name: string }).tag_name;
}

/** Whether a tag has a release. @throws {PipelineError} "environment" when GitHub cannot be asked */
export async function hasRelease(
  repository: string,
  tag: string,
  options: DownloadOptions = {},
): Promise<boolean> {
  const url = api(repository, `releases/tags/${inPath(tag)}`);
  return (await tryDownload(url, request(options, "application/vnd.github+json"))) !== undefined;
}

/**
 * The commit that something stands for, also through an annotated tag.
 *
 * @param reference `tags/TAG` (which no branch of the same name can answer for) or a commit
 * @returns its SHA; undefined when there is no such thing
 * @throws {PipelineError} "environment" when GitHub cannot be asked
 */
export async function commitOf(
  repository: string,
  reference: string,
  options: DownloadOptions = {},
): Promise<string | undefined> {
  const url = api(repository, `commits/${inPath(reference)}`);
  const bytes = await tryDownload(url, request(options, "application/vnd.github.sha"));
  return bytes && new TextDecoder().decode(bytes).trim();
}

/** Where a file of a repository can be fetched as it was at a commit. */
export function rawFileUrl(repository: string, commit: string, path: string): string {
  return `https://raw.githubusercontent.com/${repository}/${commit}/${path}`;
}
