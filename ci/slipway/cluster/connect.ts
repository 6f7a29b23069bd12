/**
 * The way to the API of one named cluster: never of whatever context happens to be current.
 *
 * kubectl's own proxy, on a socket that only this user reaches, deals with kubeconfigs, certificates, credential plugins
 * and tokens; questions are then plain HTTP and take milliseconds, where a kubectl for each takes a tenth of a second.
 */
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PipelineError } from "../ground/errors.ts";
import { onPath, run } from "../ground/process.ts";
import type { Service } from "../ground/service.ts";
import { Api, FIRST_SECONDS } from "./api.ts";

export interface ApiOptions {
  service: Service;
  /** Program and options that select the cluster, like `["k3s", "kubectl", "--kubeconfig=…"]`. */
  kubectl: string[];
  /** What to run it with where the kubeconfig is not this user's to read: `["sudo", "-n"]`. */
  privilege?: string[];
  signal: AbortSignal;
}

// It ends, and what it holds is removed, when its standard input does: also when the pipeline was killed.
const keeper = `exec 3<&0
"$@" & proxy=$!
{ cat <&3; kill $proxy; } >/dev/null 2>&1 &
wait $proxy; code=$?; rm -rf "$DIRECTORY"; exit $code`;

/**
 * Starts kubectl's proxy and speaks through it.
 *
 * @throws {PipelineError} "surroundings": no kubectl, no such context, a kubeconfig that cannot be read
 */
export async function connectApi({ service, kubectl, privilege = [], signal }: ApiOptions): Promise<Api> {
  if (!onPath(kubectl[0]!)) {
    throw new PipelineError("surroundings", `there is no ${kubectl[0]} on PATH`, {
      hint: "https://kubernetes.io/docs/tasks/tools/ tells how to install kubectl.",
    });
  }
  const directory = await mkdtemp(join(tmpdir(), `${service.name}-api-`));
  try {
    let command = kubectl;
    if (privilege.length > 0) {
      // The credentials are read with privilege, used without: a socket of root's would not open to this user.
      const view = [...privilege, ...kubectl, "config", "view", "--raw", "--flatten", "--minify"];
      const { code, stdout, stderr } = await run(view, { timeoutSeconds: FIRST_SECONDS, signal });
      if (code !== 0) throw unreadable(stderr);
      const copy = join(directory, "kubeconfig");
      await writeFile(copy, stdout, { mode: 0o600 });
      command = [...kubectl.filter((word) => !/^--(kubeconfig|context)=/.test(word)), `--kubeconfig=${copy}`];
    }
    const socket = join(directory, "socket");
    const proxy = Bun.spawn(["sh", "-c", keeper, "sh", ...command, "proxy", `--unix-socket=${socket}`], {
      env: { ...process.env, DIRECTORY: directory },
      stdin: "pipe",
      stdout: "pipe",
      stderr: "pipe",
      // A group of its own: Ctrl-C is the pipeline's, which still has a word to say to the cluster then.
      detached: true,
    });
    const end = async () => {
      proxy.stdin.end();
      await proxy.exited;
    };
    proxy.unref();
    const stderr = new Response(proxy.stderr).text();
    const { value: greeting } = await proxy.stdout.getReader().read();
    if (!greeting) {
      await end();
      throw unreadable(await stderr);
    }
    await chmod(socket, 0o600);
    // HTTP_PROXY is not asked: the socket is this machine's.
    const open = (path: string, init: RequestInit) =>
      fetch(`http://localhost${path}`, { ...init, unix: socket, proxy: false });
    return new Api(service, open, signal, end);
  } catch (error) {
    await rm(directory, { recursive: true, force: true });
    throw error;
  }
}

function unreadable(stderr: string): PipelineError {
  const words = stderr.trim().split("\n").at(-1) || "kubectl ended without a word";
  const hint = /password is required|permission denied/i.test(stderr)
    ? "This user may not read the kubeconfig: run `sudo -v` first, or run the pipeline as root."
    : "`kubectl config get-contexts` lists the contexts that there are; --kubeconfig and --context choose.";
  return new PipelineError("surroundings", `kubectl cannot use the kubeconfig: ${words}`, {
    hint,
    output: stderr,
  });
}
