/** A node's containerd, as far as a deploy deals with it: which images it has, and the ones that go. */
import { PipelineError } from "../core/errors.ts";
import type { ProcessResult } from "../core/process.ts";

/** What is needed of it. */
export interface ContainerdNode {
  /** What a person calls the node, as the beginning of a sentence: `n1: `. Empty: it is this machine. */
  who: string;
  /** Runs `ctr` for the kubelet's images. */
  ctr(args: string[], timeoutSeconds: number): Promise<ProcessResult>;
  /** What to do when it does not let this user. */
  permission: string;
  /** The command that lists its images, as a person types it. */
  list: string;
}

/** Seconds for a list of the images: a machine that starts pods is a busy one. */
const LIST_SECONDS = 60;

/** The name that containerd gives an image without a registry in its name. */
export function containerdName(name: string): string {
  return `docker.io/library/${name}`;
}

/** Names of the images, `docker.io/library/helloapp:<id>`, and the digest of each. @throws {PipelineError} "environment" */
export async function listImages(containerd: ContainerdNode): Promise<Map<string, string>> {
  const [, ...rows] = await list(containerd, ["images", "ls"]);
  const words = rows.map((row) => row.split(/\s+/));
  return new Map(words.flatMap(([name, , digest]) => (name && digest ? [[name, digest]] : [])));
}

/** Their names alone, in a quarter of the time: for the rest ctr reads into each image. @throws {PipelineError} "environment" */
export async function listImageNames(
  containerd: ContainerdNode,
  timeoutSeconds?: number,
): Promise<Set<string>> {
  return new Set(await list(containerd, ["images", "ls", "-q"], timeoutSeconds));
}

async function list(
  containerd: ContainerdNode,
  args: string[],
  timeoutSeconds = LIST_SECONDS,
): Promise<string[]> {
  const { code, stdout, stderr } = await containerd.ctr(args, timeoutSeconds);
  if (code !== 0) throw explainContainerdError(containerd, "listing images", stderr);
  return stdout.split("\n");
}

/**
 * Removes images of the service that are none of the kept ones. Only what a pipeline has named: whoever imported helloapp:1 by hand
 * may still want it.
 *
 * @returns the names of those removed
 */
export async function removeUnusedImages(
  containerd: ContainerdNode,
  service: string,
  kept: () => Promise<Set<string>>,
): Promise<string[]> {
  const there = await listImages(containerd);
  const own = new RegExp(`^${containerdName(service)}:[0-9a-f]{12}$`);
  const ours = [...there.keys()].filter((name) => own.test(name));
  if (ours.length === 0) return [];
  // Asked last: a deploy to another namespace notes what it wants to find here, and then looks for it.
  const wanted = await kept();
  const gone = ours.filter((name) => !wanted.has(name.slice(containerdName("").length)));
  if (gone.length === 0) return [];
  const left = [...there].filter(([name]) => !gone.includes(name) && !name.startsWith("sha256:"));
  const needed = new Set(left.map(([, digest]) => digest));
  const digests = new Set(gone.map((name) => there.get(name)!).filter((digest) => !needed.has(digest)));
  // The kubelet's containerd gives each image a second name, and keeps its layers for as long as either is there.
  const aliases = [...there].filter(([name, digest]) => name.startsWith("sha256:") && digests.has(digest));
  const { code, stderr } = await containerd.ctr(
    ["images", "rm", ...gone, ...aliases.map(([name]) => name)],
    60,
  );
  if (code !== 0) throw explainContainerdError(containerd, "removing images", stderr);
  return gone;
}

/** The sentence for what containerd, or who stands before it, has said. */
export function explainContainerdError(
  { who, permission }: ContainerdNode,
  what: string,
  stderr: string,
): PipelineError {
  const words = stderr.trim().split("\n").at(-1) ?? "";
  const refusal = (message: string, hint?: string) =>
    new PipelineError("environment", `${who}${what}: ${message}`, { ...(hint && { hint }), output: stderr });
  if (/no space left/i.test(stderr)) {
    const hint = "Remove images that nothing uses: `sudo k3s crictl rmi --prune`. What runs was not touched.";
    return refusal("the node's disk is full", hint);
  }
  if (/permission denied|password is required|sudo/i.test(stderr))
    return refusal(`no permission on k3s's containerd (${words})`, permission);
  // One that ends, or starts anew, in the middle of an import takes the connection with it.
  if (
    /no such file|refused|deadline|no answer|\bEOF\b|reset by peer|broken pipe|unavailable|while dialing/i.test(
      stderr,
    )
  ) {
    const hint =
      "Is k3s running? `sudo systemctl status k3s` tells. When it does, run the same command again.";
    return refusal(`k3s's containerd does not answer (${words})`, hint);
  }
  return refusal(`containerd refused (${words})`);
}

/** What was imported and is not there: an archive without a name imports "successfully" and creates no image. */
export function imageVanishedError(
  { who, list }: ContainerdNode,
  archive: string,
  reference: string,
): PipelineError {
  return new PipelineError(
    "environment",
    `${who}${archive} was imported, but containerd has no ${reference} now`,
    { hint: `Has something else removed it? \`${list}\` lists what is there.` },
  );
}
