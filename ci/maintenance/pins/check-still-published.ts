/**
 * Checks that pinned versions are still published and unchanged.
 *
 * npm packages are not checked here. `bun install --frozen-lockfile` compares each package with bun.lock on every install.
 */
import { downloadIfExists, type DownloadOptions } from "../../slipway/core/http-download.ts";
import { PipelineError } from "../../slipway/core/errors.ts";
import { sha256 } from "../../slipway/core/hash.ts";
import { pins } from "../../slipway/core/pins.ts";
import { resolveDigest } from "../../slipway/registry/push.ts";
import { commitOf, hasRelease } from "./github.ts";
import { actionPins, pin, locationsOf, valueOf, type ActionPin, type Pin, type Project } from "./locations.ts";
import { packageVersion } from "./npm.ts";

export interface PinCheck {
  name: string;
  /** "unknown" if the request failed. */
  status: "valid" | "invalid" | "unknown";
  /** The upstream value, or the reason for the status. */
  detail: string;
}

type Result = Pick<PinCheck, "status" | "detail">;

/** Checks all pins that have an upstream, concurrently. A failed request does not stop the other checks. */
export async function checkUpstream(project: Project, options: DownloadOptions = {}): Promise<PinCheck[]> {
  const pinned = (pin: Pin) => valueOf(pin, project);
  const checkNpm = async (integrity: Pin, name: string) => {
    const found = await packageVersion(name, pinned(pin.bun), options);
    return compare(found?.dist.integrity, pinned(integrity));
  };
  const checks: [Pin, () => Promise<Result>][] = [
    [pin.baseImage, async () => compare(await resolveDigest(pinned(pin.baseImage), registryOptions(options)))],
    [pin.bunForAmd64, () => checkNpm(pin.bunForAmd64, pins.bunFor.amd64.package)],
    [pin.bunForArm64, () => checkNpm(pin.bunForArm64, pins.bunFor.arm64.package)],
    [
      pin.dagger,
      async () => {
        const isReleased = await hasRelease("dagger/dagger", `v${pinned(pin.dagger)}`, options);
        return compare(isReleased ? pinned(pin.dagger) : undefined);
      },
    ],
    [
      // The version and the script belong together: the script's commit must be the commit of the version's tag.
      pin.k3s,
      async () => {
        const commit = /[\da-f]{40}/.exec(pinned(pin.k3sScript))?.[0] ?? "no commit";
        return compare(await commitOf("k3s-io/k3s", `tags/${pinned(pin.k3s)}`, options), commit);
      },
    ],
    [
      pin.k3sScriptSha256,
      async () => {
        const script = await downloadIfExists(pinned(pin.k3sScript), options);
        return compare(script && sha256(script), pinned(pin.k3sScriptSha256));
      },
    ],
    ...actionPins(project).map((action): (typeof checks)[number] => [
      action,
      () => checkAction(action, project, options),
    ]),
  ];
  return Promise.all(
    checks.map(async ([{ name }, check]): Promise<PinCheck> => {
      try {
        return { name, ...(await check()) };
      } catch (error) {
        if (!(error instanceof PipelineError)) throw error;
        if (error.kind !== "environment") return { name, status: "invalid", detail: error.message };
        return { name, status: "unknown", detail: `${error.message}. ${error.hint ?? ""}`.trimEnd() };
      }
    }),
  );
}

/**
 * Checks the commit of an action.
 *
 * A full version tag such as v1.2.3 never moves, so it must resolve to the pinned commit. This also rejects commits of
 * forks, which GitHub would find too. A tag such as v2 moves with each release, so the commit only has to exist.
 */
async function checkAction(action: ActionPin, project: Project, options: DownloadOptions): Promise<Result> {
  const results: Result[] = [];
  for (const value of new Set(locationsOf(action, project).map(({ value }) => value!))) {
    const [, sha, tag] = /^([\da-f]{40})\s+# (\S+)$/.exec(value) ?? [];
    if (!sha || !tag) return { status: "invalid", detail: `"${value}" is not ${action.formatDescription}` };
    const reference = /^v?\d+\.\d+\.\d+/.test(tag) ? `tags/${tag}` : sha;
    results.push(compare(await commitOf(action.repository, reference, options), sha));
  }
  return results.find(({ status }) => status === "invalid") ?? results[0]!;
}

/** @param pinned expected value; default: any value, as long as `upstream` is defined */
function compare(upstream: string | undefined, pinned = upstream): Result {
  if (upstream === undefined) return { status: "invalid", detail: "no longer published" };
  return upstream === pinned
    ? { status: "valid", detail: upstream }
    : { status: "invalid", detail: `pinned is ${pinned}, upstream has ${upstream}` };
}

function registryOptions({
  signal = new AbortController().signal,
  timeoutSeconds = 30,
}: DownloadOptions): Parameters<typeof resolveDigest>[1] {
  return { signal, requestTimeoutSeconds: timeoutSeconds };
}
