/**
 * Another value for a pin, from where it is published. Everything is fetched before anything is written, and what is
 * written is text: `git diff` shows all of it.
 */
import type { DownloadOptions } from "../../slipway/core/download.ts";
import { download } from "../../slipway/core/download.ts";
import { PipelineError } from "../../slipway/core/errors.ts";
import { sha256 as sha256Of } from "../../slipway/core/hash.ts";
import { commitOf, rawFileUrl, hasRelease, newestRelease } from "./github.ts";
import { packageVersion } from "./npm.ts";
import { pins } from "../../slipway/core/pins.ts";
import { actionPin, pin, setPin, locationsOf, type Pin, type Project } from "./locations.ts";

/** What can be renewed, and the arguments that it takes. */
export const updaters = {
  k3s: renewK3s,
  bun: renewBun,
  dagger: renewDagger,
  action: renewAction,
};

type Values = [pin: Pin, value: string][];

/**
 * Renews one pin in all its places.
 *
 * @param args version or tag, default the newest; of an action first which, OWNER/NAME
 * @throws {PipelineError} "usage": arguments; "environment": not there, not reached; the project is as it was
 */
export async function updatePin(
  project: Project,
  name: keyof typeof updaters,
  args: string[],
  options: DownloadOptions = {},
): Promise<Values> {
  const values = await updaters[name](args, options, project);
  for (const [each, value] of values) setPin(project, each, value);
  return values;
}

async function renewK3s([given]: string[], options: DownloadOptions): Promise<Values> {
  const repository = "k3s-io/k3s";
  const tag = wellFormed(pin.k3s, given ?? (await newestRelease(repository, options)));
  const commit = await commitAt(repository, tag, options);
  const url = rawFileUrl(repository, commit, "install.sh");
  const sha256 = sha256Of(await download(url, options));
  const published = new TextDecoder().decode(
    await download(rawFileUrl(repository, commit, "install.sh.sha256sum"), options),
  );
  if (!published.split("\n").includes(`${sha256}  install.sh`)) {
    throw new PipelineError(
      "environment",
      `k3s's install.sh at ${tag} has the SHA-256 ${sha256}, which is not that of install.sh.sha256sum beside it: ` +
        published.trim(),
      { hint: "Nothing was written. One of the two is not k3s's." },
    );
  }
  return [
    [pin.k3s, tag],
    [pin.k3sScript, url],
    [pin.k3sScriptSha256, sha256],
  ];
}

/** The base image goes along: its tag is Bun's version. */
async function renewBun([given]: string[], options: DownloadOptions): Promise<Values> {
  const find = async (name: string, version: string) => {
    const found = await packageVersion(name, version, options);
    if (!found) throw notThere(`npm has no ${name}@${version}`);
    return found;
  };
  const version = wellFormed(pin.bun, given ?? (await find("bun", "latest")).version);
  const { amd64, arm64 } = pins.bunFor;
  const ofAmd64 = await find(amd64.package, version);
  const ofArm64 = await find(arm64.package, version);
  return [
    [pin.bun, version],
    [pin.bunForAmd64, wellFormed(pin.bunForAmd64, ofAmd64.dist.integrity)],
    [pin.bunForArm64, wellFormed(pin.bunForArm64, ofArm64.dist.integrity)],
  ];
}

async function renewDagger([given]: string[], options: DownloadOptions): Promise<Values> {
  const repository = "dagger/dagger";
  const version = (given ?? (await newestRelease(repository, options))).replace(/^v/, "");
  wellFormed(pin.dagger, version);
  if (given !== undefined && !(await hasRelease(repository, `v${version}`, options)))
    throw notThere(`there is no Dagger ${version}`);
  return [[pin.dagger, version]];
}

async function renewAction(
  [repository, given]: string[],
  options: DownloadOptions,
  project: Project,
): Promise<Values> {
  const action = actionPin(repository ?? "");
  if (!repository || locationsOf(action, project).length === 0)
    throw new PipelineError("usage", `no workflow uses an action "${repository ?? ""}": OWNER/NAME`);
  const tag = given ?? (await newestRelease(repository, options));
  return [[action, wellFormed(action, `${await commitAt(repository, tag, options)} # ${tag}`)]];
}

async function commitAt(repository: string, tag: string, options: DownloadOptions): Promise<string> {
  const commit = await commitOf(repository, `tags/${tag}`, options);
  if (commit === undefined) throw notThere(`${repository} has no tag ${tag}`);
  return commit;
}

/** @throws {PipelineError} "usage" when a value would not be a pin of that kind: nothing else is ever written */
function wellFormed(wanted: Pin, value: string): string {
  if (wanted.form.test(value)) return value;
  throw new PipelineError("usage", `"${value}" is no value for ${wanted.name}: it is ${wanted.like}`);
}

function notThere(message: string): PipelineError {
  return new PipelineError("environment", message, {
    hint: "Nothing was written. Is it spelled as it was published?",
  });
}
