/**
 * Connects to k3s on this machine, and imports images into its containerd without a registry.
 *
 * The current kube context is ignored. An import only reaches the local containerd. The cluster must therefore consist of
 * this machine alone, which is verified first.
 */
import { constants } from "node:fs";
import { access, readFile } from "node:fs/promises";
import { join } from "node:path";
import { PipelineError } from "../core/errors.ts";
import { isOnPath, runProcess, type ProcessResult } from "../core/process.ts";
import type { Service } from "../core/resolve-service.ts";
import { CONNECT_RETRY_SECONDS, CONNECT_TIMEOUT_SECONDS, type ApiClient } from "../kubernetes/api.ts";
import { connectApi } from "../kubernetes/kubectl-proxy.ts";
import { kustomizeLocally } from "../kubernetes/render.ts";
import { findServicePort } from "../kubernetes/service-port.ts";
import type { Node } from "../kubernetes/objects.ts";
import type { Target } from "../deploy/target.ts";
import { checkArchive } from "./check-archive.ts";
import {
  assertImported,
  removeUnusedImages,
  containerdName,
  listImageNames,
  type ContainerdNode,
} from "./containerd-images.ts";
import { addressOf } from "./schedulable-nodes.ts";
import { proxyEndpoint } from "./service-endpoint.ts";
import { joinUrl, nodePortVersionUrl } from "./service-url.ts";

/** Path of the kubeconfig that k3s writes. https://docs.k3s.io/cluster-access */
const KUBECONFIG = "/etc/rancher/k3s/k3s.yaml";

/** Whether k3s is installed. It may not be running. */
export function hasK3s(): boolean {
  return isOnPath("k3s");
}

export interface K3sTargetOptions {
  service: Service;
  /** Default: k3s's own kubeconfig. */
  kubeconfig?: string | undefined;
  /** Default: the kubeconfig's current context. */
  context?: string | undefined;
  /** External base URL of the service. Default: its NodePort on this machine. */
  url?: string | undefined;
  /** Whether a deploy follows, so that its overlay is rendered while connecting. Default: false. */
  isDeploy?: boolean | undefined;
  timeoutSeconds?: number;
  signal: AbortSignal;
  /** Opens the connection to the API server. Default: `connectApi`. */
  connect?: typeof connectApi;
}

/**
 * Finds k3s on this machine and checks within ten seconds that a deploy is possible. Changes nothing.
 *
 * @throws {PipelineError} "environment" if k3s is missing, unreachable or denies access, or has nodes on other machines
 */
export async function connectK3sTarget({
  service,
  kubeconfig = KUBECONFIG,
  context,
  url,
  isDeploy = false,
  timeoutSeconds = CONNECT_TIMEOUT_SECONDS,
  signal,
  connect = connectApi,
}: K3sTargetOptions): Promise<Target> {
  if (!hasK3s()) {
    throw new PipelineError("environment", "k3s not found on this machine (no `k3s` on PATH)", {
      code: "k3s-not-found",
      hint: "Install it with `slipway install-k3s`, or only build the archive with --target none.",
    });
  }
  const isRoot = process.getuid?.() === 0;
  if (!isRoot && !isOnPath("sudo")) {
    throw new PipelineError("environment", "k3s's containerd requires root, and sudo was not found on this machine", {
      code: "containerd-no-permission",
      hint: "Run the pipeline as root.",
    });
  }
  const isReadable = await access(kubeconfig, constants.R_OK).then(
    () => true,
    (error: NodeJS.ErrnoException) => {
      if (error.code === "EACCES" && !isRoot) return false;
      throw new PipelineError("environment", `kubeconfig ${kubeconfig} not found (${error.code})`, {
        code: "kubeconfig-not-found",
        hint: "k3s writes its kubeconfig when it starts. Check `sudo systemctl status k3s`.",
        cause: error,
      });
    },
  );
  const kubectl = ["k3s", "kubectl", `--kubeconfig=${kubeconfig}`];
  if (context !== undefined) kubectl.push(`--context=${context}`);
  const ctr = [...(isRoot ? [] : sudo), "k3s", "ctr", "-n", "k8s.io"];
  const containerd: ContainerdNode = {
    label: "",
    ctr: (args, timeoutSeconds) => runProcess([...ctr, ...args], { timeoutSeconds, signal }),
    permissionHint: "Run `sudo -v` first, or run the pipeline as root.",
    listCommand: `${ctr.join(" ")} images ls`,
  };
  const kustomize = (overlay: string) => kustomizeLocally(kubectl, join(service.project, overlay), signal);
  let firstListing: Promise<Set<string>> | undefined = listImageNames(containerd, timeoutSeconds);
  // Rendering needs no connection and takes as long as connecting.
  let rendering = isDeploy ? kustomize(service.overlays.k3s) : undefined;
  rendering?.catch(() => {});
  const connecting = connect({ service, kubectl, privilege: isReadable ? [] : sudo, signal });
  const checkNode = async () => findOwnNode(await listNodes(await connecting, timeoutSeconds));
  const [node] = await Promise.all([checkNode(), firstListing]).catch(async (error) => {
    await (await connecting.catch(() => undefined))?.close();
    throw error;
  });
  const address = addressOf(node);
  const api = await connecting;

  return {
    api,
    architectures: [node.status.nodeInfo?.architecture ?? []].flat(),
    kubectl: [
      ...(isReadable ? [] : ["sudo"]),
      ...(kubeconfig === KUBECONFIG && !context ? kubectl.slice(0, 2) : kubectl),
    ],
    overlay: service.overlays.k3s,
    isImported: true,
    kustomize(overlay) {
      const rendered = rendering ?? kustomize(overlay);
      rendering = undefined;
      return rendered;
    },
    endpoint(manifests) {
      if (url) return { url: joinUrl(url, service.versionPath) };
      const nodePort = findServicePort(service, manifests)?.nodePort;
      if (nodePort === undefined) return proxyEndpoint(api, service, manifests);
      const nodeUrl = nodePortVersionUrl(service, address, nodePort);
      return { url: nodeUrl, open: (init) => fetch(nodeUrl, { ...init, proxy: false }) };
    },

    async find(id) {
      const reference = `${service.name}:${id}`;
      // The listing from the connection check is recent enough for the first lookup.
      const names = await (firstListing ?? listImageNames(containerd));
      firstListing = undefined;
      return names.has(containerdName(reference)) ? reference : undefined;
    },

    async deliver(archive, id) {
      const reference = `${service.name}:${id}`;
      await checkArchive(archive, reference, node.status.nodeInfo?.architecture);
      const result = await importArchive([...ctr, "images", "import"], archive, signal);
      await assertImported(containerd, result, archive, reference);
      return reference;
    },

    clean: (referencedImages) => removeUnusedImages(containerd, service.name, referencedImages),
  };
}

/**
 * Imports an archive with `--local` if ctr has that option. By default, ctr of containerd 2 sends the archive through a
 * service, which takes twice the time. Older versions lack the option.
 */
async function importArchive(command: string[], archive: string, signal: AbortSignal): Promise<ProcessResult> {
  const options = { timeoutSeconds: 120, signal };
  const result = await runProcess([...command, "--local", archive], options);
  const isUnsupported = /not defined: -+local/.test(result.stdout + result.stderr);
  return isUnsupported ? runProcess([...command, archive], options) : result;
}

async function listNodes(api: ApiClient, timeoutSeconds: number): Promise<Node[]> {
  // A missing cluster must be reported within seconds.
  return api.list<Node>("/api/v1/nodes", {}, { timeoutSeconds, retryBudgetSeconds: CONNECT_RETRY_SECONDS });
}

// -n: no password prompt. A pipeline that waits for a password seems to hang.
const sudo = ["sudo", "-n"];

async function findOwnNode(nodes: Node[]): Promise<Node> {
  const [node, ...others] = nodes;
  if (!node) {
    throw new PipelineError("environment", "the cluster has no node yet", {
      code: "node-not-registered",
      hint: "k3s registers its node a few seconds after it starts. Run the command again.",
    });
  }
  if (others.length > 0) {
    const names = nodes.map(({ metadata }) => metadata.name).join(", ");
    throw new PipelineError(
      "environment",
      `the cluster has ${nodes.length} nodes (${names}), but an import only reaches one of them. Nothing was changed`,
      {
        code: "several-nodes",
        hint: "Name each node with --host HOST to deploy over SSH, or use a registry: --target registry.",
      },
    );
  }
  // The boot ID is unique to a running kernel. Two machines can share a name or an address.
  const boot = (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
  if (node.status.nodeInfo?.bootID !== boot) {
    throw new PipelineError(
      "environment",
      `the cluster's node ${node.metadata.name} is not this machine, so a local import would not reach it. Nothing was changed`,
      { code: "node-elsewhere", hint: "Run the pipeline on that machine, or check --kubeconfig and --context." },
    );
  }
  return node;
}
