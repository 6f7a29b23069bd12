/**
 * k3s on this machine. Fetches its install script, checks its SHA-256 against pins/pins.ts, and runs it
 * with the pinned version.
 *
 * The script runs as root, so it comes from k3s's repository at a commit and not from the site that serves the newest,
 * and not one byte of it runs before the checksum has matched. The script checks the k3s binary itself.
 */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { download } from "../ground/download.ts";
import { PipelineError } from "../ground/errors.ts";
import { sha256 as sha256Of } from "../ground/hash.ts";
import { pins } from "../pins/pins.ts";
import type { Command } from "../run/run.ts";

export default {
  about: "k3s on this machine, by its install script, whose SHA-256 is checked first",
  options: [],
  needs: "nothing",
  async execute() {
    await install();
    return `k3s ${pins.k3s.version} runs, and its node is ready`;
  },
} satisfies Command;

/** Only what the deploy needs: no ingress, no load balancer, no metrics; a kubeconfig for root alone. */
const serverOptions = "--disable=traefik,servicelb,metrics-server --write-kubeconfig-mode=0600";

/**
 * Fetches the install script and checks it.
 *
 * @throws {PipelineError} "surroundings" when it cannot be fetched, or is not the one that is pinned
 */
export async function fetchScript(url: string, sha256: string): Promise<Uint8Array> {
  const script = await download(url);
  const actual = sha256Of(script);
  if (actual !== sha256) {
    throw new PipelineError(
      "surroundings",
      `k3s's install script is not the pinned one, it was not run: pins.k3s.installScriptSha256 is ${sha256}, ` +
        `${url} has ${actual}`,
      {
        hint: "If k3s published a new script, read what changed and renew the pin with `bun run pins k3s TAG`.",
      },
    );
  }
  return script;
}

async function install(): Promise<void> {
  const { version, installScript, installScriptSha256 } = pins.k3s;
  const script = await fetchScript(installScript, installScriptSha256);
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
      throw new PipelineError("surroundings", "k3s's install script failed", {
        hint: "Its last lines above say why; `sudo journalctl -u k3s -n 50` may say more.",
      });
    }
    await ready(sudo);
  } finally {
    await rm(directory, { recursive: true });
  }
}

/** Waits until the node can take a pod. The script is done before the node and the service account exist. */
async function ready(sudo: string[]): Promise<void> {
  const kubectl = async (...args: string[]) => {
    const child = Bun.spawn([...sudo, "k3s", "kubectl", ...args], { stdout: "pipe", stderr: "ignore" });
    return (await child.exited) === 0 && (await new Response(child.stdout).text()).trim();
  };
  for (let second = 0; second < 120; second += 1) {
    const node = await kubectl("get", "nodes", "-o", 'jsonpath={..conditions[?(@.type=="Ready")].status}');
    const account = await kubectl("get", "serviceaccount", "default", "-o", "name");
    if (node === "True" && account) return;
    await Bun.sleep(1000);
  }
  throw new PipelineError("surroundings", "k3s is installed, but its node is not ready after 120 s", {
    hint: "`sudo journalctl -u k3s -n 50` tells why.",
  });
}
