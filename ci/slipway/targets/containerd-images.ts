/** Lists and removes images in a node's containerd, and explains its errors. */
import type { ErrorCode } from "../core/error-codes.ts";
import { PipelineError } from "../core/errors.ts";
import type { ProcessResult } from "../core/process.ts";

export interface ContainerdNode {
  /** Prefix of messages, such as `n1: `. Empty for this machine. */
  label: string;
  /** Runs `ctr` in the kubelet's namespace. */
  ctr(args: string[], timeoutSeconds: number): Promise<ProcessResult>;
  /** Hint for a permission error. */
  permissionHint: string;
  /** Command that lists the images, for hints. */
  listCommand: string;
}

/** A machine that starts pods is busy, and ctr is slow there. */
const LIST_TIMEOUT_SECONDS = 60;

/** Returns the name that containerd gives an image without a registry in its name. */
export function containerdName(name: string): string {
  return `docker.io/library/${name}`;
}

/** Lists image names (`docker.io/library/helloapp:<id>`) with their digests. @throws {PipelineError} "environment" */
export async function listImages(containerd: ContainerdNode): Promise<Map<string, string>> {
  const [, ...rows] = await list(containerd, ["images", "ls"]);
  const columns = rows.map((row) => row.split(/\s+/));
  return new Map(columns.flatMap(([name, , digest]) => (name && digest ? [[name, digest]] : [])));
}

/** Lists names only, which takes a quarter of the time: ctr does not open the images. @throws {PipelineError} "environment" */
export async function listImageNames(containerd: ContainerdNode, timeoutSeconds?: number): Promise<Set<string>> {
  return new Set(await list(containerd, ["images", "ls", "-q"], timeoutSeconds));
}

async function list(
  containerd: ContainerdNode,
  args: string[],
  timeoutSeconds = LIST_TIMEOUT_SECONDS,
): Promise<string[]> {
  const { code, stdout, stderr } = await containerd.ctr(args, timeoutSeconds);
  if (code !== 0) throw explainContainerdError(containerd, "cannot list images", stderr);
  return stdout.split("\n");
}

/**
 * Removes the service's images that no stored version references. Only tags that slipway creates are removed, so an image
 * that somebody imported by hand (helloapp:1) is kept.
 *
 * @param referencedImages lists the images to keep
 * @returns the names of the removed images
 */
export async function removeUnusedImages(
  containerd: ContainerdNode,
  service: string,
  referencedImages: () => Promise<Set<string>>,
): Promise<string[]> {
  const images = await listImages(containerd);
  const slipwayTag = new RegExp(`^${containerdName(service)}:[0-9a-f]{12}$`);
  const candidates = [...images.keys()].filter((name) => slipwayTag.test(name));
  if (candidates.length === 0) return [];
  // Must follow the listing: a deploy to another namespace first records the image that it needs, then looks for it.
  const referenced = await referencedImages();
  const unused = candidates.filter((name) => !referenced.has(name.slice(containerdName("").length)));
  if (unused.length === 0) return [];
  const kept = [...images].filter(([name]) => !unused.includes(name) && !name.startsWith("sha256:"));
  const keptDigests = new Set(kept.map(([, digest]) => digest));
  const digests = new Set(unused.map((name) => images.get(name)!).filter((digest) => !keptDigests.has(digest)));
  // The kubelet adds a second name to each image. containerd keeps the layers while either name exists.
  const aliases = [...images].filter(([name, digest]) => name.startsWith("sha256:") && digests.has(digest));
  const { code, stderr } = await containerd.ctr(["images", "rm", ...unused, ...aliases.map(([name]) => name)], 60);
  if (code !== 0) throw explainContainerdError(containerd, "cannot remove images", stderr);
  return unused;
}

/** Turns stderr of ctr or sudo into an error with a hint. @param failure such as `cannot list images` */
export function explainContainerdError(
  { label, permissionHint }: ContainerdNode,
  failure: string,
  stderr: string,
): PipelineError {
  const lastLine = stderr.trim().split("\n").at(-1) ?? "";
  const error = (code: ErrorCode, reason: string, hint?: string) =>
    new PipelineError("environment", `${label}${failure}: ${reason}`, {
      code,
      ...(hint && { hint }),
      output: stderr,
    });
  if (/no space left/i.test(stderr)) {
    const hint = "Remove unused images: `sudo k3s crictl rmi --prune`. Running containers were not touched.";
    return error("node-disk-full", "the node's disk is full", hint);
  }
  if (/permission denied|password is required|sudo/i.test(stderr))
    return error("containerd-no-permission", `no permission to use k3s's containerd (${lastLine})`, permissionHint);
  // A containerd that stops or restarts during an import closes the connection.
  if (
    /no such file|refused|deadline|timed out|\bEOF\b|reset by peer|broken pipe|unavailable|while dialing/i.test(stderr)
  ) {
    const hint = "Check that k3s is running: `sudo systemctl status k3s`. Once it is, run the same command again.";
    return error("containerd-failed", `k3s's containerd does not respond (${lastLine})`, hint);
  }
  return error("containerd-failed", `containerd returned an error (${lastLine})`);
}

/**
 * Checks that an import has created the image. An archive without a name imports "successfully" and creates none.
 *
 * @param result of the import. If its output names the image, a listing is spared
 * @throws {PipelineError} "environment"
 */
export async function assertImported(
  containerd: ContainerdNode,
  result: ProcessResult,
  archive: string,
  reference: string,
): Promise<void> {
  const { label, listCommand } = containerd;
  if (result.code !== 0) throw explainContainerdError(containerd, `cannot import ${archive}`, result.stderr);
  const name = containerdName(reference);
  if (result.stdout.split(/\s+/).includes(name) || (await listImageNames(containerd)).has(name)) return;
  throw new PipelineError("environment", `${label}${archive} was imported, but containerd has no ${reference}`, {
    code: "image-removed",
    hint: `Check whether another program removed it: \`${listCommand}\` lists all images.`,
  });
}
