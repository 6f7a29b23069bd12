/**
 * Tests an image on a machine without a cluster: runs the container in a sandbox, like the cluster would.
 *
 * The root file system holds the image's files. The manifests define variables, mounts, probes, user and
 * grace period.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { renderOffline } from "../kubernetes/render-offline.ts";
import { findWorkload, resolvePodSpec, type PodSpec } from "../kubernetes/resolve-pod.ts";
import { findMissingFile } from "../deploy/log-hints.ts";
import { explainContainerFailure, type ContainerFailure } from "../deploy/failure-hints.ts";
import { PipelineError } from "../core/errors.ts";
import type { Service } from "../core/resolve-service.ts";
import { ownArchitecture } from "../image/architecture.ts";
import { runInSandbox } from "./sandbox.ts";
import type { SmokeTestResult } from "./scenario.ts";
import { extractImage } from "./extract-image.ts";
import { secretValuesForTest } from "./secret-values.ts";

export interface SmokeTestInput {
  archive: string;
  /** Build ID that the version path has to return. */
  id: string;
  signal?: AbortSignal;
}

/** Outcome of a smoke test that did not fail, for the report of the run. */
export interface SmokeTestOutcome {
  /** Checks that passed and parts that were not tested, or why the test was skipped. */
  detail: string;
  skipped: boolean;
  /** A missing file in the log of a service that passed, and the setting that adds it. */
  finding?: string;
}

/**
 * Extracts the archive and runs the service through a pod's life. Skips the test if this machine has no
 * sandbox.
 *
 * @throws {PipelineError} "project" if the service does not start, is another build, fails a probe or does
 *   not drain. The error has the output of the container. "environment" if the image is for another
 *   architecture or the sandbox was killed.
 */
export async function runSmokeTest(
  service: Service,
  { archive, id, signal = new AbortController().signal }: SmokeTestInput,
): Promise<SmokeTestOutcome> {
  const directory = await mkdtemp(join(tmpdir(), `${service.name}-smoke-`));
  try {
    const root = join(directory, "root");
    const [{ config }, manifests] = await Promise.all([extractImage(archive, root), renderOffline(service, signal)]);
    assertArchitecture(config.architecture);
    const secrets = secretValuesForTest(service);
    const smokeEnv = { ...service.smokeEnv, ...secrets.values };
    const pod = resolvePodSpec({ ...service, smokeEnv }, config.config, manifests.objects);
    const notes = [manifests.note, secrets.note].filter((note) => note !== undefined);
    if (!manifests.note && !findWorkload(service, manifests.objects)) {
      notes.push(`${service.overlays.k3s} has no Deployment ${service.name}, so only the image's environment was used`);
    }
    const result = await runInSandbox(pod, id, { directory, root, signal });
    if ("unavailable" in result) {
      return { detail: `smoke test skipped: ${result.unavailable}`, skipped: true };
    }
    if (result.failure !== undefined)
      throw createError(result.failure, result, pod, { service, manifests: manifests.objects }, secrets.madeUp);
    const finding = findMissingFile(result.output, service.project);
    return { detail: describePassed(result, pod, notes), skipped: false, ...(finding && { finding }) };
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

function assertArchitecture(architecture: string): void {
  if (architecture === ownArchitecture) return;
  const message = `the image is for ${architecture}, but this machine is ${ownArchitecture}. It was not run`;
  throw new PipelineError("environment", message, {
    code: "smoke-test-architecture",
    hint: `Run \`podman load\` and \`podman run\` on a machine with ${architecture} to test the image.`,
  });
}

function describePassed({ passed }: SmokeTestResult, pod: PodSpec, notes: string[]): string {
  const writable = pod.mounts.filter(({ readOnly }) => !readOnly).map(({ path }) => path);
  const checks = [
    `as uid ${pod.uid} on a read-only root`,
    ...(writable.length > 0 ? [`${writable.join(", ")} writable`] : []),
    ...passed,
  ];
  const untested = pod.untried.length > 0 ? [`not tested: ${pod.untried.join(", ")}`] : [];
  return [checks.join(", "), ...untested, ...notes].join("; ");
}

/** Errors of services that fail to reach another service. */
const networkError = /ENETUNREACH|EHOSTUNREACH|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|getaddrinfo|network is unreachable/i;

function createError(
  failure: string,
  { output, sockets = [] }: SmokeTestResult,
  { unknown }: PodSpec,
  { service, manifests }: Pick<ContainerFailure, "service" | "manifests">,
  madeUp: string[],
): PipelineError {
  const isIsolated = networkError.test(output);
  const hints = [
    output.trim() === "" && "The container printed nothing.",
    unknown.length > 0 &&
      `Set ${unknown.join(", ")} in \`smokeEnv\` of ci/pipeline.ts, because only the cluster has a value.`,
    madeUp.length > 0 && `${madeUp.join(", ")} had a made-up value. Set a better one in .env or in \`smokeEnv\`.`,
    isIsolated && "The container called another service, but the smoke test has no network outside the pod.",
    explainContainerFailure({
      service,
      // No policy blocks traffic here, so the lack of a network is the only cause.
      manifests: isIsolated ? manifests.filter(({ kind }) => kind !== "NetworkPolicy") : manifests,
      output,
      reason: failure,
      isSilent: sockets.length > 0,
      ports: sockets.filter((socket) => !LOOPBACK.test(socket)).map((socket) => Number(/\d+$/.exec(socket)?.[0])),
    }),
    sockets.length > 0 &&
      sockets.every((socket) => LOOPBACK.test(socket)) &&
      "The service listens on the loopback address, which only its own pod reaches. Listen on 0.0.0.0.",
  ].filter((hint) => typeof hint === "string");
  return new PipelineError("project", `smoke test: ${failure}`, {
    code: "smoke-test-failed",
    output,
    ...(hints.length > 0 && { hint: hints.join(" ") }),
  });
}

/** A socket of the loopback interface. */
const LOOPBACK = /^(127\.|\[::1\])/;
