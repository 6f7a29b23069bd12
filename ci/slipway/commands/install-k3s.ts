/**
 * Installs the pinned version of k3s on this machine, with the k3s install script.
 *
 * The script runs as root. It is therefore fetched from a fixed commit of k3s's repository, and runs only if its SHA-256
 * matches core/pins.ts. The script itself checks the k3s binary.
 */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { download } from "../core/http-download.ts";
import { PipelineError } from "../core/errors.ts";
import { sha256 as sha256Of } from "../core/hash.ts";
import { runProcess } from "../core/process.ts";
import { pins } from "../core/pins.ts";
import type { Command } from "../cli/context.ts";

export default {
  about: "Install the pinned k3s on this machine, after a checksum check",
  options: ["minimal"],
  needs: "nothing",
  async execute({ signal, options: { minimal } }) {
    await install(signal, minimal);
    return `k3s ${pins.k3s.version} is running and its node is ready`;
  },
} satisfies Command;

/** Only root can read the kubeconfig. */
const serverOptions = "--write-kubeconfig-mode=0600";
/** Leaves out ingress, load balancer and metrics, which a deploy does not need. */
const minimalOptions = `--disable=traefik,servicelb,metrics-server ${serverOptions}`;

/**
 * Fetches the install script and checks its SHA-256.
 *
 * @throws {PipelineError} "environment" if the download fails or the checksum differs
 */
export async function fetchInstallScript(url: string, sha256: string): Promise<Uint8Array> {
  const script = await download(url);
  const actual = sha256Of(script);
  if (actual !== sha256) {
    throw new PipelineError(
      "environment",
      `checksum mismatch: the k3s install script at ${url} has SHA-256 ${actual}, ` +
        `but pins.k3s.installScriptSha256 is ${sha256}. The script was not run`,
      {
        code: "checksum-mismatch",
        hint: "If k3s published a new script, review it and update the pin with `bun run pins k3s TAG`.",
      },
    );
  }
  return script;
}

async function install(signal: AbortSignal, minimal: boolean): Promise<void> {
  const { version, installScript, installScriptSha256 } = pins.k3s;
  const script = await fetchInstallScript(installScript, installScriptSha256);
  const directory = await mkdtemp(join(tmpdir(), "slipway-k3s-"));
  try {
    const file = join(directory, "install.sh");
    await writeFile(file, script, { mode: 0o700 });
    const env = [
      `INSTALL_K3S_VERSION=${version}`,
      `INSTALL_K3S_EXEC=server ${minimal ? minimalOptions : serverOptions}`,
    ];
    const sudo = process.getuid?.() === 0 ? [] : ["sudo"];
    const child = Bun.spawn([...sudo, "env", ...env, "sh", file], {
      stdio: ["inherit", "inherit", "inherit"],
    });
    if ((await child.exited) !== 0) {
      throw new PipelineError("environment", "the k3s install script failed", {
        code: "k3s-install-failed",
        hint: "Read its output above and `sudo journalctl -u k3s -n 50`.",
      });
    }
    await waitUntilReady({ sudo, signal, hasComponents: !minimal });
  } finally {
    await rm(directory, { recursive: true });
  }
}

/** Timeout for k3s to become ready, timeout of a single query, and pause between two queries. */
const READY_SECONDS = 120;
const QUERY_SECONDS = 10;
const PAUSE_SECONDS = 1;

/**
 * Waits until every node can run pods. The install script ends before the node and the default service account exist. If
 * k3s joined a cluster, there are several nodes.
 *
 * @param sudo command prefix for kubectl. Default: none
 * @param seconds total timeout. Default: 120
 * @param hasComponents whether to wait for k3s's ingress controller and metrics as well, which start later. Default: false
 * @throws {PipelineError} "environment" on a timeout
 * @throws the signal's reason if it is aborted
 */
export async function waitUntilReady({
  sudo = [],
  seconds = READY_SECONDS,
  hasComponents = false,
  signal,
}: {
  sudo?: string[];
  seconds?: number;
  hasComponents?: boolean;
  signal: AbortSignal;
}): Promise<void> {
  const end = performance.now() + seconds * 1000;
  const left = () => (end - performance.now()) / 1000;
  const kubectl = async (...args: string[]) => {
    const timeoutSeconds = Math.max(0, Math.min(QUERY_SECONDS, left()));
    const { code, stdout } = await runProcess([...sudo, "k3s", "kubectl", ...args], {
      timeoutSeconds,
      signal,
    });
    return code === 0 ? stdout.trim() : "";
  };
  const componentsExist = async () =>
    (await kubectl("get", "ingressclass", "traefik", "-o", "name")) !== "" &&
    (await kubectl("get", "--raw", "/apis/metrics.k8s.io")) !== "";
  const conditions = 'jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}';
  while (left() > 0) {
    const nodes = (await kubectl("get", "nodes", "-o", conditions)).split(/\s+/);
    const account = await kubectl("get", "serviceaccount", "default", "-o", "name");
    const isReady = account && nodes.every((state) => state === "True");
    if (isReady && (!hasComponents || (await componentsExist()))) return;
    await Bun.sleep(Math.max(0, Math.min(PAUSE_SECONDS, left())) * 1000);
    signal.throwIfAborted();
  }
  throw new PipelineError("environment", `k3s is installed, but its node is not ready after ${seconds} s`, {
    code: "k3s-install-failed",
    hint: "Read `sudo journalctl -u k3s -n 50`.",
  });
}
