/**
 * Credentials for registries, from where `podman login` and `docker login` leave them.
 *
 * Format: containers-auth.json(5), https://github.com/containers/image/blob/main/docs/containers-auth.json.5.md, and
 * Docker's config.json, https://docs.docker.com/reference/cli/docker/login/#credential-stores. Nothing of what is read
 * ever goes into a message: not a file's content, not a helper's output.
 */
import { homedir } from "node:os";
import { join } from "node:path";
import { PipelineError } from "../core/errors.ts";
import { runProcess } from "../core/process.ts";

export type Credentials = { user: string; password: string } | { identityToken: string };

/** The parts of both files that matter here. */
interface AuthFile {
  /** Registry or `registry/name/space` -> credentials; an empty entry says that a store has them. */
  auths?: Record<
    string,
    { auth?: string; username?: string; password?: string; identitytoken?: string } | undefined
  >;
  /** Registry -> NAME of the program docker-credential-NAME that has its credentials. */
  credHelpers?: Record<string, string>;
  /** NAME of the program for all other registries. */
  credsStore?: string;
}

/** The key that `docker login` has always used for docker.io. */
const DOCKER_HUB = "https://index.docker.io/v1/";

/** Where credentials may be; the first file that has some wins. */
function authFiles(): string[] {
  const {
    HOME = homedir(),
    REGISTRY_AUTH_FILE,
    XDG_RUNTIME_DIR,
    XDG_CONFIG_HOME,
    DOCKER_CONFIG,
  } = process.env;
  return [
    ...(REGISTRY_AUTH_FILE ? [REGISTRY_AUTH_FILE] : []),
    // Without a session, as with sudo, podman keeps to a directory for each user.
    join(
      XDG_RUNTIME_DIR ? `${XDG_RUNTIME_DIR}/containers` : `/run/containers/${process.getuid?.()}`,
      "auth.json",
    ),
    join(XDG_CONFIG_HOME || join(HOME, ".config"), "containers/auth.json"),
    join(DOCKER_CONFIG || join(HOME, ".docker"), "config.json"),
  ];
}

/**
 * Finds the credentials for a repository; undefined when there are none.
 *
 * @param registry `host` or `host:port`; Docker Hub is docker.io
 * @param path the repository's path, for entries that hold for a part of a registry
 * @throws {PipelineError} "environment" when a file is not JSON or may not be read, or a credential helper fails
 */
export async function findCredentials(
  registry: string,
  path: string,
  signal: AbortSignal,
): Promise<Credentials | undefined> {
  for (const file of authFiles()) {
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
    // Without the cause: a parser's message quotes what it could not parse.
    throw new PipelineError("environment", `cannot read the credentials in ${path} (${code ?? "not JSON"})`, {
      hint: "Correct or remove that file; `podman login` and `docker login` write a new one.",
    });
  }
}

async function lookUp(
  { auths = {}, credHelpers = {}, credsStore }: AuthFile,
  registry: string,
  path: string,
  signal: AbortSignal,
): Promise<Credentials | undefined> {
  // A helper for the registry is asked instead of the entries, and with the name that the file has for it.
  const helper = Object.entries(credHelpers).find(([key]) => registryOf(key) === registry);
  if (helper) return ask(helper[1], helper[0], signal);
  const entries = new Map(Object.entries(auths).map(([key, entry]) => [registryOf(key), entry]));
  const segments = [registry, ...path.split("/")];
  for (let length = segments.length; length > 0; length--) {
    const entry = entries.get(segments.slice(0, length).join("/"));
    if (entry?.identitytoken) return { identityToken: entry.identitytoken };
    if (entry?.username && entry.password) return { user: entry.username, password: entry.password };
    const [, user, password] =
      /^([^:]*):(.*)$/s.exec(Buffer.from(entry?.auth ?? "", "base64").toString()) ?? [];
    if (user && password) return { user, password };
  }
  if (!credsStore) return undefined;
  return ask(credsStore, registry === "docker.io" ? DOCKER_HUB : registry, signal);
}

/** What a key stands for: `docker login` has written addresses where others write names. */
function registryOf(key: string): string {
  const name = key.replace(/^https?:\/\/([^/]+)(\/v[12])?\/?$/, "$1");
  return name === "index.docker.io" ? "docker.io" : name;
}

const isWord = (value: unknown): value is string => typeof value === "string" && value !== "";

/** Asks a credential helper. Protocol: https://github.com/docker/docker-credential-helpers#development */
async function ask(helper: string, server: string, signal: AbortSignal): Promise<Credentials | undefined> {
  const program = `docker-credential-${helper}`;
  const { code, stdout } = await runProcess([program, "get"], { input: server, timeoutSeconds: 30, signal });
  if (code !== 0 && /credentials not found/i.test(stdout)) return undefined;
  try {
    if (code !== 0) throw new Error();
    const { Username: user, Secret: password } = JSON.parse(stdout) as Record<string, unknown>;
    if (!isWord(user) || !isWord(password)) throw new Error();
    // Helpers tell an identity token by a name that nobody has.
    return user === "<token>" ? { identityToken: password } : { user, password };
  } catch {
    throw new PipelineError(
      "environment",
      `${program} gives no credentials for ${server} (exit code ${code})`,
      {
        hint: `\`echo ${server} | ${program} get\` shows what it says.`,
      },
    );
  }
}
