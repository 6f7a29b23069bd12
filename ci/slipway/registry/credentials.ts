/**
 * Reads registry credentials that `podman login` and `docker login` stored.
 *
 * Messages never contain the content of a file or the output of a helper.
 *
 * Format: containers-auth.json(5), https://github.com/containers/image/blob/main/docs/containers-auth.json.5.md, and
 * Docker's config.json, https://docs.docker.com/reference/cli/docker/login/#credential-stores.
 */
import { homedir } from "node:os";
import { join } from "node:path";
import { PipelineError } from "../core/errors.ts";
import { runProcess } from "../core/process.ts";

export type Credentials = { user: string; password: string } | { identityToken: string };

/** The relevant keys of both file formats. */
interface AuthFile {
  /** Registry or `registry/name/space` -> credentials. An empty entry means that a store has them. */
  auths?: Record<string, { auth?: string; username?: string; password?: string; identitytoken?: string } | undefined>;
  /** Registry -> NAME of its credential helper, the program docker-credential-NAME. */
  credHelpers?: Record<string, string>;
  /** NAME of the credential helper for all other registries. */
  credsStore?: string;
}

/** Key that `docker login` uses for docker.io. */
const DOCKER_HUB = "https://index.docker.io/v1/";

/** Lists the files that can contain credentials, by precedence. */
function listAuthFiles(): string[] {
  const { HOME = homedir(), REGISTRY_AUTH_FILE, XDG_RUNTIME_DIR, XDG_CONFIG_HOME, DOCKER_CONFIG } = process.env;
  return [
    ...(REGISTRY_AUTH_FILE ? [REGISTRY_AUTH_FILE] : []),
    // Without a login session, for example with sudo, podman uses a directory for each user.
    join(XDG_RUNTIME_DIR ? `${XDG_RUNTIME_DIR}/containers` : `/run/containers/${process.getuid?.()}`, "auth.json"),
    join(XDG_CONFIG_HOME || join(HOME, ".config"), "containers/auth.json"),
    join(DOCKER_CONFIG || join(HOME, ".docker"), "config.json"),
  ];
}

/**
 * Finds the credentials for a repository.
 *
 * @param registry `host` or `host:port`. Docker Hub is docker.io
 * @param path the repository's path, because an entry can apply to a part of a registry
 * @returns undefined if there are none
 * @throws {PipelineError} "environment" if a file is not readable JSON, or a credential helper fails
 */
export async function findCredentials(
  registry: string,
  path: string,
  signal: AbortSignal,
): Promise<Credentials | undefined> {
  for (const file of listAuthFiles()) {
    const found = await lookUp(await readAuthFile(file), registry, path, signal);
    if (found) return found;
  }
  return undefined;
}

async function readAuthFile(path: string): Promise<AuthFile> {
  try {
    return Object(await Bun.file(path).json());
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : undefined;
    if (code === "ENOENT" || code === "ENOTDIR") return {};
    // The cause is omitted, because a parser's message quotes the content.
    throw new PipelineError("environment", `cannot read the credentials in ${path} (${code ?? "not JSON"})`, {
      code: "registry-credentials-unreadable",
      hint: "Fix or remove the file. `podman login` and `docker login` write a new one.",
    });
  }
}

async function lookUp(
  { auths = {}, credHelpers = {}, credsStore }: AuthFile,
  registry: string,
  path: string,
  signal: AbortSignal,
): Promise<Credentials | undefined> {
  // A helper of the registry takes precedence over entries. It gets the registry's name as written in the file.
  const helper = Object.entries(credHelpers).find(([key]) => registryOf(key) === registry);
  if (helper) return runCredentialHelper(helper[1], helper[0], signal);
  const entries = new Map(Object.entries(auths).map(([key, entry]) => [registryOf(key), entry]));
  const segments = [registry, ...path.split("/")];
  for (let length = segments.length; length > 0; length--) {
    const entry = entries.get(segments.slice(0, length).join("/"));
    if (entry?.identitytoken) return { identityToken: entry.identitytoken };
    if (entry?.username && entry.password) return { user: entry.username, password: entry.password };
    const [, user, password] = /^([^:]*):(.*)$/s.exec(Buffer.from(entry?.auth ?? "", "base64").toString()) ?? [];
    if (user && password) return { user, password };
  }
  if (!credsStore) return undefined;
  return runCredentialHelper(credsStore, registry === "docker.io" ? DOCKER_HUB : registry, signal);
}

/** Extracts the registry or repository from a key, because `docker login` writes URLs for some registries. */
function registryOf(key: string): string {
  const name = key.replace(/^https?:\/\/([^/]+)(\/v[12])?\/?$/, "$1");
  return name === "index.docker.io" ? "docker.io" : name;
}

const isNonEmptyString = (value: unknown): value is string => typeof value === "string" && value !== "";

/** Runs a credential helper. Protocol: https://github.com/docker/docker-credential-helpers#development */
async function runCredentialHelper(
  helper: string,
  server: string,
  signal: AbortSignal,
): Promise<Credentials | undefined> {
  const program = `docker-credential-${helper}`;
  const { code, stdout } = await runProcess([program, "get"], { input: server, timeoutSeconds: 30, signal });
  if (code !== 0 && /credentials not found/i.test(stdout)) return undefined;
  try {
    if (code !== 0) throw new Error();
    const { Username: user, Secret: password } = JSON.parse(stdout) as Record<string, unknown>;
    if (!isNonEmptyString(user) || !isNonEmptyString(password)) throw new Error();
    // Helpers mark an identity token by this reserved user name.
    return user === "<token>" ? { identityToken: password } : { user, password };
  } catch {
    throw new PipelineError("environment", `${program} returned no credentials for ${server} (exit code ${code})`, {
      code: "registry-credentials-unreadable",
      hint: `Run \`echo ${server} | ${program} get\` to see its output.`,
    });
  }
}
