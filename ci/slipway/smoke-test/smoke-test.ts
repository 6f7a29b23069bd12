/**
 * The smoke test for a machine without a cluster: what the cluster would do with an archive, as far as this machine can. The
 * image's files are the root, the manifests say the rest: variables, mounts, probes, user, and how long the end may take.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { renderOffline } from "../kubernetes/offline-manifests.ts";
import { findWorkload, resolvePodSpec, type PodSpec } from "../kubernetes/pod-spec.ts";
import { PipelineError } from "../core/errors.ts";
import type { Service } from "../core/service-config.ts";
import { ownArchitecture } from "../image/platform.ts";
import { runInSandbox } from "./sandbox.ts";
import type { SmokeTestResult } from "./scenario.ts";
import { runOnHost } from "./host-process.ts";
import { extractImage } from "./extract-image.ts";

/** What a smoke test is about. */
export interface SmokeTestInput {
  archive: string;
  /** What /version has to say. */
  id: string;
  signal?: AbortSignal;
}

/**
 * Unpacks the archive and leads the service through a pod's life.
 *
 * @returns what was tried and what was not, as a sentence
 * @throws {PipelineError} "project" when it does not start, is another build, fails a probe, does not drain, or loads a library
 * that is not in the image, with what it said as output; "environment" when the image cannot be run here
 */
export async function runSmokeTest(
  service: Service,
  { archive, id, signal }: SmokeTestInput,
): Promise<string> {
  const held = signal ?? new AbortController().signal;
  const directory = await mkdtemp(join(tmpdir(), `${service.name}-smoke-`));
  try {
    const root = join(directory, "root");
    const [{ config }, manifests] = await Promise.all([
      extractImage(archive, root),
      renderOffline(service, held),
    ]);
    refuseForeign(config.architecture);
    const pod = resolvePodSpec(service, config.config, manifests.objects);
    const place = { directory, root, signal: held };
    const notes = manifests.note ? [manifests.note] : [];
    if (!manifests.note && !findWorkload(service, manifests.objects)) {
      notes.push(`${service.overlays.k3s} has no Deployment ${service.name}: the image's environment alone`);
    }
    const result = await runInSandbox(pod, id, place);
    if (typeof result !== "string") {
      if (result.failure !== undefined) throw failed(result, pod);
      return sentence([...describeConfined(pod), ...result.tried], pod.untried, notes);
    }
    const outcome = await runOnHost(pod, id, place, { archive, stated: service.smokeEnv });
    if (outcome.failure !== undefined) throw failed(outcome, pod);
    const untried = [...outcome.untried, ...pod.untried];
    return sentence([`on this machine's root (${result})`, ...outcome.tried], untried, notes);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

function refuseForeign(architecture: string): void {
  if (architecture === ownArchitecture) return;
  throw new PipelineError("environment", `the image is for ${architecture}: not run here`, {
    hint: `A machine of that architecture tries it with \`podman load\` and \`podman run\`.`,
  });
}

/** How it ran, where it was as in the cluster. */
function describeConfined({ uid, mounts }: PodSpec): string[] {
  const written = mounts.filter(({ readOnly }) => !readOnly).map(({ path }) => path);
  return [
    `as uid ${uid} on a read-only root`,
    ...(written.length > 0 ? [`${written.join(", ")} writable`] : []),
  ];
}

function sentence(tried: string[], untried: string[], notes: string[]): string {
  const not = untried.length > 0 ? [`not tried: ${untried.join(", ")}`] : [];
  return [tried.join(", "), ...not, ...notes].join("; ");
}

/** What services say that miss somebody whom they call. */
const alone = /ENETUNREACH|EHOSTUNREACH|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|getaddrinfo|network is unreachable/i;

function failed({ failure, output }: SmokeTestResult, { unknown }: PodSpec): PipelineError {
  const hints = [
    output.trim() === "" && "It said nothing.",
    unknown.length > 0 &&
      `Only the cluster has ${unknown.join(", ")}: \`smoke\` in ci/pipeline.ts can give values for here.`,
    alone.test(output) && "Whom it calls is not there: the smoke test has no network beyond the pod.",
  ].filter((hint) => hint !== false);
  return new PipelineError("project", `smoke test: ${failure}`, {
    output,
    ...(hints.length > 0 && { hint: hints.join(" ") }),
  });
}
