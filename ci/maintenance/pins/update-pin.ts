/**
 * Updates pins to published versions.
 *
 * Fetches everything before the first write. All written files are text, so `git diff` shows every change.
 */
import { download, type DownloadOptions } from "../../slipway/core/http-download.ts";
import { usageError } from "../../slipway/cli/options.ts";
import { PipelineError } from "../../slipway/core/errors.ts";
import { sha256 } from "../../slipway/core/hash.ts";
import { commitOf, rawFileUrl, hasRelease, newestRelease } from "./github.ts";
import { packageVersion } from "./npm.ts";
import { pins } from "../../slipway/core/pins.ts";
import { actionPin, pin, setPin, locationsOf, type Pin, type Project } from "./locations.ts";

/** Functions that fetch the new values of a pin, by the name on the command line. */
export const updaters = {
  k3s: fetchK3s,
  bun: fetchBun,
  dagger: fetchDagger,
  action: fetchAction,
};

type Values = [pin: Pin, value: string][];

/**
 * Updates a pin in all its locations.
 *
 * @param args version or tag, default: the newest; for an action, preceded by OWNER/NAME
 * @throws {PipelineError} "usage" if an argument is invalid, "environment" if the version does not exist or a request
 * fails. The project is then unchanged.
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

async function fetchK3s([given]: string[], options: DownloadOptions): Promise<Values> {
  const repository = "k3s-io/k3s";
  const tag = checkFormat(pin.k3s, given ?? (await newestRelease(repository, options)));
  const commit = await commitAt(repository, tag, options);
  const url = rawFileUrl(repository, commit, "install.sh");
  const actual = sha256(await download(url, options));
  const published = new TextDecoder().decode(
    await download(rawFileUrl(repository, commit, "install.sh.sha256sum"), options),
  );
  if (!published.split("\n").includes(`${actual}  install.sh`)) {
    throw new PipelineError(
      "environment",
      `Checksum mismatch: k3s's install.sh at ${tag} has the SHA-256 ${actual}, but its install.sh.sha256sum has ` +
        published.trim(),
      {
        code: undefined,
        hint: "Nothing was written. Check both files on GitHub: k3s did not publish at least one of them.",
      },
    );
  }
  return [
    [pin.k3s, tag],
    [pin.k3sScript, url],
    [pin.k3sScriptSha256, actual],
  ];
}

/** The tag of the base image is Bun's version, so the base image changes too. */
async function fetchBun([given]: string[], options: DownloadOptions): Promise<Values> {
  const find = async (name: string, version: string) => {
    const found = await packageVersion(name, version, options);
    if (!found) throw notFound(`${name}@${version} not found on npm`);
    return found;
  };
  const version = checkFormat(pin.bun, given ?? (await find("bun", "latest")).version);
  const { amd64, arm64 } = pins.bunFor;
  const ofAmd64 = await find(amd64.package, version);
  const ofArm64 = await find(arm64.package, version);
  return [
    [pin.bun, version],
    [pin.bunForAmd64, checkFormat(pin.bunForAmd64, ofAmd64.dist.integrity)],
    [pin.bunForArm64, checkFormat(pin.bunForArm64, ofArm64.dist.integrity)],
  ];
}

async function fetchDagger([given]: string[], options: DownloadOptions): Promise<Values> {
  const repository = "dagger/dagger";
  const version = (given ?? (await newestRelease(repository, options))).replace(/^v/, "");
  checkFormat(pin.dagger, version);
  if (given !== undefined && !(await hasRelease(repository, `v${version}`, options)))
    throw notFound(`Dagger release ${version} not found`);
  return [[pin.dagger, version]];
}

async function fetchAction([repository, given]: string[], options: DownloadOptions, project: Project): Promise<Values> {
  const action = actionPin(repository ?? "");
  if (!repository || locationsOf(action, project).length === 0)
    throw usageError(`no workflow uses the action "${repository ?? ""}": expected OWNER/NAME`);
  const tag = given ?? (await newestRelease(repository, options));
  return [[action, checkFormat(action, `${await commitAt(repository, tag, options)} # ${tag}`)]];
}

async function commitAt(repository: string, tag: string, options: DownloadOptions): Promise<string> {
  const commit = await commitOf(repository, `tags/${tag}`, options);
  if (commit === undefined) throw notFound(`tag ${tag} not found in ${repository}`);
  return commit;
}

/** Returns the value unchanged. @throws {PipelineError} "usage" if it does not have the pin's format */
function checkFormat({ name, format, formatDescription }: Pin, value: string): string {
  if (format.test(value)) return value;
  throw usageError(`invalid value "${value}" for ${name}: expected ${formatDescription}`);
}

function notFound(message: string): PipelineError {
  return new PipelineError("environment", message, {
    code: undefined,
    hint: "Nothing was written. Check the spelling of the version.",
  });
}
