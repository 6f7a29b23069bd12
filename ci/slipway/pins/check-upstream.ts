/**
 * Whether pins still hold where they point to: what is there is what was pinned, and it is still there.
 *
 * npm packages are not among them: `bun install --frozen-lockfile` compares each with bun.lock wherever it installs.
 */
import { resolveDigest } from "../registry/push.ts";
import { tryDownload, type DownloadOptions } from "../core/download.ts";
import { PipelineError } from "../core/errors.ts";
import { sha256 as sha256Of } from "../core/hash.ts";
import { commitOf, hasRelease } from "./github.ts";
import { packageVersion } from "./npm.ts";
import { pins } from "./pins.ts";
import {
  actionPins,
  pin,
  locationsOf,
  valueOf,
  type ActionPin,
  type Pin,
  type Project,
} from "./locations.ts";

export interface PinCheck {
  name: string;
  /** `unknown`: it could not be asked. */
  holds: boolean | "unknown";
  /** What is there, or why it could not be asked. */
  text: string;
}

/** Asks for every pin that can be asked for; none of them keeps another from being asked. */
export async function checkUpstream(project: Project, options: DownloadOptions = {}): Promise<PinCheck[]> {
  const of = (each: Pin) => valueOf(each, project);
  const npm = async (integrity: Pin, name: string) => {
    const found = await packageVersion(name, of(pin.bun), options);
    return compare(found?.dist.integrity, of(integrity));
  };
  const checks: [Pin, () => Promise<Pick<PinCheck, "holds" | "text">>][] = [
    [pin.baseImage, async () => compare(await resolveDigest(of(pin.baseImage), registryOptions(options)))],
    [pin.bunForAmd64, () => npm(pin.bunForAmd64, pins.bunFor.amd64.package)],
    [pin.bunForArm64, () => npm(pin.bunForArm64, pins.bunFor.arm64.package)],
    [
      pin.dagger,
      async () => {
        const there = await hasRelease("dagger/dagger", `v${of(pin.dagger)}`, options);
        return compare(there ? of(pin.dagger) : undefined);
      },
    ],
    [
      // The version and the script belong together: the script's commit is that of the version's tag.
      pin.k3s,
      async () => {
        const commit = /[\da-f]{40}/.exec(of(pin.k3sScript))?.[0] ?? "no commit";
        return compare(await commitOf("k3s-io/k3s", `tags/${of(pin.k3s)}`, options), commit);
      },
    ],
    [
      pin.k3sScriptSha256,
      async () => {
        const script = await tryDownload(of(pin.k3sScript), options);
        const sha256 = script && sha256Of(script);
        return compare(sha256, of(pin.k3sScriptSha256));
      },
    ],
    ...actionPins(project).map((action): (typeof checks)[number] => [
      action,
      () => askAction(action, project, options),
    ]),
  ];
  return Promise.all(
    checks.map(async ([{ name }, check]): Promise<PinCheck> => {
      try {
        return { name, ...(await check()) };
      } catch (error) {
        if (!(error instanceof PipelineError)) throw error;
        if (error.kind !== "environment") return { name, holds: false, text: error.message };
        return { name, holds: "unknown", text: `${error.message}. ${error.hint ?? ""}`.trimEnd() };
      }
    }),
  );
}

/**
 * A tag of three numbers stands for one commit for ever, and has to be the pinned one: GitHub would also find a commit of
 * any fork. A tag like v2 moves on with each release; then the commit has to exist.
 */
async function askAction(action: ActionPin, project: Project, options: DownloadOptions) {
  const used = new Set(locationsOf(action, project).map(({ value }) => value!));
  const answers = [];
  for (const value of used) {
    const [, sha, tag] = /^([\da-f]{40})\s+# (\S+)$/.exec(value) ?? [];
    if (!sha || !tag) return { holds: false, text: `"${value}" is not ${action.like}` };
    const reference = /^v?\d+\.\d+\.\d+/.test(tag) ? `tags/${tag}` : sha;
    answers.push(compare(await commitOf(action.repository, reference, options), sha));
  }
  return answers.find(({ holds }) => !holds) ?? answers[0]!;
}

/** @param pinned what it has to be; default: anything, as long as it is there */
function compare(there: string | undefined, pinned = there): Pick<PinCheck, "holds" | "text"> {
  if (there === undefined) return { holds: false, text: "is no longer there" };
  return there === pinned
    ? { holds: true, text: there }
    : { holds: false, text: `pinned is ${pinned}, there is ${there}` };
}

function registryOptions({ signal = new AbortController().signal, timeoutSeconds = 30 }: DownloadOptions) {
  return { signal, patienceSeconds: timeoutSeconds };
}
