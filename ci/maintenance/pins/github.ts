/**
 * Reads releases, tags and commits from GitHub. https://docs.github.com/en/rest
 *
 * Sends GITHUB_TOKEN if it is set. Without a token GitHub allows 60 requests an hour per address, and hosted runners
 * share their addresses.
 */
import { download, downloadIfExists, type DownloadOptions } from "../../slipway/core/http-download.ts";

const apiUrl = (repository: string, path: string) => `https://api.github.com/repos/${repository}/${path}`;

function requestOptions({ headers, ...options }: DownloadOptions, accept: string): DownloadOptions {
  const token = process.env.GITHUB_TOKEN;
  return {
    hint: "Check the connection to GitHub. For status 403 or 429, retry later or set GITHUB_TOKEN.",
    ...options,
    headers: { ...headers, Accept: accept, ...(token && { Authorization: `Bearer ${token}` }) },
  };
}

/** Encodes a tag for a URL path: escapes `+` and keeps slashes. */
const encodeTag = (tag: string) => tag.split("/").map(encodeURIComponent).join("/");

/**
 * Finds the tag of the newest release that is neither a draft nor a prerelease.
 *
 * @throws {PipelineError} "environment" if the request fails
 */
export async function newestRelease(repository: string, options: DownloadOptions = {}): Promise<string> {
  const bytes = await download(
    apiUrl(repository, "releases/latest"),
    requestOptions(options, "application/vnd.github+json"),
  );
  return (JSON.parse(new TextDecoder().decode(bytes)) as { tag_name: string }).tag_name;
}

/** Checks whether a tag has a release. @throws {PipelineError} "environment" if the request fails */
export async function hasRelease(repository: string, tag: string, options: DownloadOptions = {}): Promise<boolean> {
  const url = apiUrl(repository, `releases/tags/${encodeTag(tag)}`);
  return (await downloadIfExists(url, requestOptions(options, "application/vnd.github+json"))) !== undefined;
}

/**
 * Resolves a reference to its commit, also through an annotated tag.
 *
 * @param reference a commit, or `tags/TAG`, which never matches a branch of the same name
 * @returns the SHA, or undefined if the reference does not exist
 * @throws {PipelineError} "environment" if the request fails
 */
export async function commitOf(
  repository: string,
  reference: string,
  options: DownloadOptions = {},
): Promise<string | undefined> {
  const url = apiUrl(repository, `commits/${encodeTag(reference)}`);
  const bytes = await downloadIfExists(url, requestOptions(options, "application/vnd.github.sha"));
  return bytes && new TextDecoder().decode(bytes).trim();
}

/** Builds the URL of a file at a commit. */
export function rawFileUrl(repository: string, commit: string, path: string): string {
  return `https://raw.githubusercontent.com/${repository}/${commit}/${path}`;
}
