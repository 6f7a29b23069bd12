/** Finds the variables that `bun install` needs to reach its registries, and explains a refusal. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** Variables of Bun and npm that select registry, token and proxy. */
const GENERAL = [
  ...["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"],
  ...["npm_config_registry", "NPM_CONFIG_REGISTRY", "BUN_CONFIG_REGISTRY", "NPM_CONFIG_TOKEN", "BUN_CONFIG_TOKEN"],
];

/** Files of the project with settings of the installation. */
const SETTINGS = ["bunfig.toml", ".npmrc"];

/**
 * Returns the names of variables that bunfig.toml and .npmrc refer to, as `$NAME` or `${NAME}`, sorted.
 *
 * @param members directories of the workspace's members
 */
export function findInstallVariables(root: string, members: string[] = []): string[] {
  const files = ["", ...members].flatMap((member) => SETTINGS.map((name) => join(root, member, name)));
  const names = files.filter((file) => existsSync(file)).flatMap((file) => variablesIn(file));
  return [...new Set(names)].sort();
}

function variablesIn(file: string): string[] {
  const lines = readFileSync(file, "utf8")
    .split("\n")
    .filter((line) => !/^\s*[#;]/.test(line));
  return [...lines.join("\n").matchAll(/\$\{?([A-Za-z_]\w*)/g)].map(([, name]) => name!);
}

/** Returns the named and general variables that are set: name -> value. */
export function readInstallVariables(names: string[], environment = process.env): [string, string][] {
  return [...new Set([...names, ...GENERAL])].flatMap((name): [string, string][] => {
    const value = environment[name];
    return value ? [[name, value]] : [];
  });
}

/** Explains a failed installation: cause and hint, or undefined if the registry was not the reason. */
export function explainInstallFailure(
  output: string,
  names: string[],
  environment = process.env,
): { message: string; hint: string } | undefined {
  // Bun prints `error: GET https://registry/name - 401`. Several registries answer 404 to hide a private package.
  const [, url, status] = /\b(?:GET|HEAD) (https?:\/\/\S+) - (401|403|404)\b/.exec(output) ?? [];
  const unset = names.filter((name) => !environment[name]);
  if (url !== undefined && (status !== "404" || unset.length > 0)) {
    const message = `the registry refused ${withoutCredentials(url)} (status ${status})`;
    if (unset.length > 0)
      return {
        message,
        hint: `Set ${unset.join(", ")}, which bunfig.toml or .npmrc names, and run the command again.`,
      };
    const checked = names.length > 0 ? `the token in ${names.join(", ")}` : "the token in .npmrc or bunfig.toml";
    return { message, hint: `Check that ${checked} is valid and may read the package.` };
  }
  // A script downloads from a place of its own: its network error says nothing about the registry.
  const script = /\bscript from "([^"]+)" exited with (\d+)/.exec(output);
  if (script)
    return {
      message: `the install script of ${script[1]} exited with ${script[2]}`,
      hint: "Read the script's output above: it may download from its own host, or need a compiler. Fix it, then retry.",
    };
  if (!/\b(ConnectionRefused|FailedToOpenSocket|ConnectionTimeout|ETIMEDOUT|ENOTFOUND|EAI_AGAIN)\b/.test(output))
    return;
  const proxy = readInstallVariables([], environment).find(([name]) => /^https?_proxy$/i.test(name));
  const isLocal = proxy !== undefined && /\/\/[^/]*\b(localhost|127\.\d)/.test(proxy[1]);
  return {
    message: "the registry cannot be reached",
    hint: isLocal
      ? `${proxy[0]} names this machine's loopback address, which a container cannot reach. Use an address of its network.`
      : "Check the network. Behind a proxy, set HTTPS_PROXY.",
  };
}

const withoutCredentials = (url: string) => url.replace(/\/\/[^/@]*@/, "//");
