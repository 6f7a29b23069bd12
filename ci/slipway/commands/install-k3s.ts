/**
 * k3s on this machine. Fetches its install script, checks its SHA-256 against core/pins.ts, and runs it
 * with the pinned version.
 *
 * The script runs as root, so it comes from k3s's repository at a commit and not from the site that serves the newest,
 * and not one byte of it runs before the checksum has matched. The script checks the k3s binary itself.
 */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { download } from "../core/download.ts";
import { PipelineError } from "../core/errors.ts";
import { sha256 as sha256Of } from "../core/hash.ts";
import { runProcess } from "../core/process.ts";
import { pins } from "../core/pins.ts";
import type { Command } from "../cli/context.ts";

export default {
  about: "k3s on this machine, by its install script, whose SHA-256 is checked first",
  options: [],
  needs: "nothing",
  async execute({ signal }) {
    await install(signal);
    return `k3s ${pins.k3s.version} runs, and its node is ready`;
  },
} satisfies Command;

/** Only what the deploy needs: no ingress, no load balancer, no metrics; a kubeconfig for root alone. */
const serverOptions = "--disable=traefik,servicelb,metrics-server --write-kubeconfig-mode=0600";

/**
 * Fetches the install script and checks it.
 *
 * @throws {PipelineError} "environment" when it cannot be fetched, or is not the one that is pinned
 */
export async function fetchInstallScript(url: string, sha256: string): Promise<Uint8Array> {
  const script = await download(url);
  const actual = sha256Of(script);
  if (actual !== sha256) {
    throw new PipelineError(
      "environment",
      `k3s's install script is not the pinned one, it was not run: pins.k3s.installScriptSha256 is ${sha256}, ` +
        `${url} has ${actual}`,
      {
        hint: "If k3s published a new script, read what changed and renew the pin with `bun run pins k3s TAG`.",
      },
    );
  }
  return script;
}

async function install(signal: AbortSignal): Promise<void> {
  const { version, installScript, installScriptSha256 } = pins.k3s;
  const script = await fetchInstallScript(installScript, installScriptSha256);
  const directory = await mkdtemp(join(tmpdir(), "slipway-k3s-"));
  try {
    const file = join(directory, "install.sh");
    await writeFile(file, script, { mode: 0o700 });
    const env = [`INSTALL_K3S_VERSION=${version}`, `INSTALL_K3S_EXEC=server ${serverOptions}`];
    const sudo = process.getuid?.() === 0 ? [] : ["sudo"];
    const child = Bun.spawn([...sudo, "env", ...env, "sh", file], {
      stdio: ["inherit", "inherit", "inherit"],
    });
    if ((await child.exited) !== 0) {
      throw new PipelineError("environment", "k3s's install script failed", {
        hint: "Its last lines above say why; `sudo journalctl -u k3s -n 50` may say more.",
      });
    }
    await waitUntilReady({ sudo, signal });
  } finally {
    await rm(directory, { recursive: true });
  }
}

/** Seconds that a k3s has to become ready, one question to it may take, and lie between two. */
const READY_SECONDS = 120;
const ASK_SECONDS = 10;
const PAUSE_SECONDS = 1;

/**
 * Waits until every node can take a pod. The script is done before the node and the service account exist; where k3s joined
 * others, there are several.
 *
 * @param sudo what to run kubectl with; default: nothing
 * @param seconds that it may take in all, whatever the server does. Default: 120
 * @throws {PipelineError} "environment" when that takes longer
 * @throws the signal's reason when it was aborted
 */
export async function waitUntilReady({
  sudo = [],
  seconds = READY_SECONDS,
  signal,
}: {
  sudo?: string[];
  seconds?: number;
  signal: AbortSignal;
}): Promise<void> {
  const end = performance.now() + seconds * 1000;
  const left = () => (end - performance.now()) / 1000;
  const kubectl = async (...args: string[]) => {
    const timeoutSeconds = Math.max(0, Math.min(ASK_SECONDS, left()));
    const { code, stdout } = await runProcess([...sudo, "k3s", "kubectl", ...args], {
      timeoutSeconds,
      signal,
    });
    return code === 0 ? stdout.trim() : "";
  };
  const conditions = 'jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}';
  while (left() > 0) {
    const nodes = (await kubectl("get", "nodes", "-o", conditions)).split(/\s+/);
    const account = await kubectl("get", "serviceaccount", "default", "-o", "name");
    if (account && nodes.every((state) => state === "True")) return;
    await Bun.sleep(Math.max(0, Math.min(PAUSE_SECONDS, left())) * 1000);
    signal.throwIfAborted();
  }
  throw new PipelineError("environment", `k3s is installed, but its node is not ready after ${seconds} s`, {
    hint: "`sudo journalctl -u k3s -n 50` tells why.",
  });
}
