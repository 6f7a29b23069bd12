/**
 * The k3s of this machine: found, checked, and given images without a registry.
 *
 * Nothing here follows the current kube context. Before an image is imported into this machine's containerd, the
 * cluster must have shown that its one node is this machine: an import reaches no other.
 */
import { constants } from "node:fs";
import { access, readFile } from "node:fs/promises";
import { join } from "node:path";
import { PipelineError } from "../core/errors.ts";
import { isOnPath, runProcess, type ProcessResult } from "../core/process.ts";
import type { Service } from "../core/service-config.ts";
import { CONNECT_RETRY_SECONDS, CONNECT_TIMEOUT_SECONDS, type ApiClient } from "../kubernetes/api.ts";
import { connectApi } from "../kubernetes/connect.ts";
import { kustomizeLocally } from "../kubernetes/render.ts";
import type { Node } from "../kubernetes/objects.ts";
import type { Target } from "../deploy/target.ts";
import { checkArchive } from "./check-archive.ts";
import {
  removeUnusedImages,
  containerdName,
  explainContainerdError,
  listImageNames,
  imageVanishedError,
  type ContainerdNode,
} from "./containerd-images.ts";
import { addressOf } from "./nodes.ts";
import { joinUrl, nodePortOf, nodePortUrl } from "./service-url.ts";

/** Where k3s writes its kubeconfig. https://docs.k3s.io/cluster-access */
const KUBECONFIG = "/etc/rancher/k3s/k3s.yaml";

/** Whether k3s is installed here; it may still not run. */
export function hasK3s(): boolean {
  return isOnPath("k3s");
}

export interface K3sOptions {
  service: Service;
  /** Another kubeconfig than k3s's own. */
  kubeconfig?: string | undefined;
  /** Another context than that file's current one. */
  context?: string | undefined;
  /** Where the Service answers from outside; default: its NodePort on this machine. */
  url?: string | undefined;
  /** Whether a deploy comes next: then its overlay is rendered while the way is looked for. Default: false. */
  deploys?: boolean | undefined;
  patienceSeconds?: number;
  signal: AbortSignal;
  /** Speaks to the cluster; default: `connectApi`. */
  connect?: typeof connectApi;
}

/**
 * Finds this machine's k3s and makes sure that it can be deployed to, within ten seconds and without changing anything.
 *
 * @throws {PipelineError} "environment": no k3s, no permission, no answer, more than one node, not this machine
 */
export async function connectK3sTarget({
  service,
  kubeconfig = KUBECONFIG,
  context,
  url,
  deploys = false,
  patienceSeconds = CONNECT_TIMEOUT_SECONDS,
  signal,
  connect = connectApi,
}: K3sOptions): Promise<Target> {
  if (!hasK3s()) {
    throw new PipelineError("environment", "there is no k3s on this machine (no `k3s` on PATH)", {
      hint: "Install it with `slipway install-k3s`, or make the archive alone with --target none.",
    });
  }
  const root = process.getuid?.() === 0;
  if (!root && !isOnPath("sudo")) {
    throw new PipelineError(
      "environment",
      "k3s's containerd takes root, and there is no sudo on this machine",
      {
        hint: "Run the pipeline as root.",
      },
    );
  }
  const readable = await access(kubeconfig, constants.R_OK).then(
    () => true,
    (error: NodeJS.ErrnoException) => {
      if (error.code === "EACCES" && !root) return false;
      throw new PipelineError("environment", `there is no kubeconfig at ${kubeconfig} (${error.code})`, {
        hint: "k3s writes its own when it starts: `sudo systemctl status k3s` tells whether it did.",
        cause: error,
      });
    },
  );
  const words = ["k3s", "kubectl", `--kubeconfig=${kubeconfig}`];
  if (context !== undefined) words.push(`--context=${context}`);
  const ctr = [...(root ? [] : sudo), "k3s", "ctr", "-n", "k8s.io"];
  const containerd: ContainerdNode = {
    who: "",
    ctr: (args, timeoutSeconds) => runProcess([...ctr, ...args], { timeoutSeconds, signal }),
    permission: "Run `sudo -v` first, or run the pipeline as root.",
    list: `${ctr.join(" ")} images ls`,
  };
  const images = (timeoutSeconds?: number) => listImageNames(containerd, timeoutSeconds);

  const kustomize = (overlay: string) => kustomizeLocally(words, join(service.project, overlay), signal);
  let first: ReturnType<typeof images> | undefined = images(patienceSeconds);
  // It takes as long as the way to the API, and needs none.
  let rendering = deploys ? kustomize(service.overlays.k3s) : undefined;
  rendering?.catch(() => {});
  const connecting = connect({ service, kubectl: words, privilege: readable ? [] : sudo, signal });
  const checked = async () => onlyNode(await askForNodes(await connecting, patienceSeconds));
  const [node] = await Promise.all([checked(), first]).catch(async (error) => {
    await (await connecting.catch(() => undefined))?.close();
    throw error;
  });
  const address = addressOf(node);

  return {
    api: await connecting,
    kubectl: [
      ...(readable ? [] : ["sudo"]),
      ...(kubeconfig === KUBECONFIG && !context ? words.slice(0, 2) : words),
    ],
    overlay: service.overlays.k3s,
    kustomize(overlay) {
      const rendered = rendering ?? kustomize(overlay);
      rendering = undefined;
      return rendered;
    },
    endpoint(manifests) {
      if (url) return { url: joinUrl(url, service.versionPath) };
      const nodePort = nodePortUrl(service, address, nodePortOf(service, manifests));
      return { url: nodePort, open: (init) => fetch(nodePort, { ...init, proxy: false }) };
    },

    async find(id) {
      const reference = `${service.name}:${id}`;
      // The list that was read to see whether containerd answers is new enough for the first question.
      const there = await (first ?? images());
      first = undefined;
      return there.has(containerdName(reference)) ? reference : undefined;
    },

    async deliver(archive, id) {
      const reference = `${service.name}:${id}`;
      await checkArchive(archive, reference, node.status.nodeInfo?.architecture);
      const { code, stderr } = await importArchive([...ctr, "images", "import"], archive, signal);
      if (code !== 0) throw explainContainerdError(containerd, `importing ${archive}`, stderr);
      if ((await images()).has(containerdName(reference))) return reference;
      throw imageVanishedError(containerd, archive, reference);
    },

    clean: (kept) => removeUnusedImages(containerd, service.name, kept),
  };
}

/**
 * Imports by ctr itself where that has to be asked for: containerd 2's sends the archive through a service by default, which
 * takes twice the time. Before that there was no such option.
 */
async function importArchive(
  command: string[],
  archive: string,
  signal: AbortSignal,
): Promise<ProcessResult> {
  const options = { timeoutSeconds: 120, signal };
  const result = await runProcess([...command, "--local", archive], options);
  const unknown = /not defined: -+local/.test(result.stdout + result.stderr);
  return unknown ? runProcess([...command, archive], options) : result;
}

async function askForNodes(api: ApiClient, timeoutSeconds: number): Promise<Node[]> {
  // A cluster that is not there has to be known within seconds.
  return api.list<Node>("/api/v1/nodes", {}, { timeoutSeconds, retryBudgetSeconds: CONNECT_RETRY_SECONDS });
}

// Without a password prompt: a pipeline that waits at one looks as if it hung.
const sudo = ["sudo", "-n"];

async function onlyNode(nodes: Node[]): Promise<Node> {
  const [node, ...others] = nodes;
  if (!node) {
    throw new PipelineError("environment", "the cluster has no node yet", {
      hint: "k3s registers its node some seconds after its start: run the command again.",
    });
  }
  if (others.length > 0) {
    const names = nodes.map(({ metadata }) => metadata.name).join(", ");
    throw new PipelineError(
      "environment",
      `the cluster has ${nodes.length} nodes (${names}), and an import reaches the containerd of one; nothing was changed`,
      {
        hint: "Go to each of them over SSH, --host HOST for each; or through a registry that all reach: --target registry.",
      },
    );
  }
  // A boot's id is unique to a kernel that runs: a name or an address could be another machine's as well.
  const boot = (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
  if (node.status.nodeInfo?.bootID !== boot) {
    throw new PipelineError(
      "environment",
      `the cluster's node ${node.metadata.name} is not this machine, so an import here would not reach it; nothing was changed`,
      { hint: "Run the pipeline on that machine, or check --kubeconfig and --context." },
    );
  }
  return node;
}
