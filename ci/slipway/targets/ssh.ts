/**
 * Deploys to k3s on other machines over SSH. Each node that can run the pods has its own connection, over which the image is
 * imported. API requests go over the first connection to a node with an API server. This machine only needs ssh, and nothing
 * stays on the nodes except the images.
 */
import { join } from "node:path";
import { PipelineError } from "../core/errors.ts";
import type { Service } from "../core/resolve-service.ts";
import { ApiClient, CONNECT_RETRY_SECONDS, CONNECT_TIMEOUT_SECONDS } from "../kubernetes/api.ts";
import type { KubeObject, Node } from "../kubernetes/objects.ts";
import { findServicePort } from "../kubernetes/service-port.ts";
import { runningId } from "../kubernetes/workload-state.ts";
import { observeMainWorkload } from "../deploy/plan.ts";
import type { Target } from "../deploy/target.ts";
import { SUDOERS_HINT } from "../ssh/host-connection.ts";
import { RemoteContainerd } from "../ssh/containerd.ts";
import { resolveDestination } from "../ssh/host.ts";
import { kustomizeRemotely } from "../ssh/render-on-host.ts";
import { SshSession } from "../ssh/shared-session.ts";
import { ImageUpload } from "../ssh/image-upload.ts";
import { checkArchive } from "./check-archive.ts";
import {
  assertImported,
  removeUnusedImages,
  containerdName,
  listImages,
  type ContainerdNode,
} from "./containerd-images.ts";
import { addressOf, schedulableNodes } from "./schedulable-nodes.ts";
import { proxyEndpoint } from "./service-endpoint.ts";
import { joinUrl, hostPort, nodePortVersionUrl } from "./service-url.ts";

export interface SshTargetOptions {
  service: Service;
  /** Destinations in ssh's syntax: each node that can run the pods. */
  hosts: string[];
  /** External base URL of the service. Default: its NodePort, requested over the first connection. */
  url?: string | undefined;
  signal: AbortSignal;
}

interface ConnectedNode {
  node: Node;
  session: SshSession;
  remote: RemoteContainerd;
  containerd: ContainerdNode;
}

/**
 * Opens the connections and identifies the nodes. Changes nothing.
 *
 * @throws {PipelineError} "environment" if ssh is missing, a host is unreachable, k3s or permissions are missing, or a host is
 * not a node of the first host's cluster
 */
export async function connectSshTarget({ service, hosts, url, signal }: SshTargetOptions): Promise<Target> {
  const opening = [...new Set(hosts)].map((host) => SshSession.open(host, signal));
  const results = await Promise.allSettled(opening);
  const sessions = results.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
  const close = async () => void (await Promise.all(sessions.map((session) => session.close())));
  try {
    for (const result of results) if (result.status === "rejected") throw result.reason;
    const infos = await Promise.all(sessions.map((session) => session.hostInfo()));
    const server = sessions[infos.findIndex(({ apiSocket }) => apiSocket !== undefined)];
    if (!server) throw noApiServerError(sessions);
    const { sudo } = infos[sessions.indexOf(server)]!;
    const kubectl = ["ssh", server.host, ...(sudo ? ["sudo"] : []), "k3s", "kubectl"];
    const api = new ApiClient(service, requestOver(server), signal, close, {
      kubectl,
      kubectlCommand: (args, hasTerminal) => server.kubectlCommand(args, hasTerminal),
      forward: (address) => server.forward(address),
      stderrTail: () => server.stderrTail(),
    });
    const nodes = await api.list<Node>(
      "/api/v1/nodes",
      {},
      { timeoutSeconds: CONNECT_TIMEOUT_SECONDS, retryBudgetSeconds: CONNECT_RETRY_SECONDS },
    );
    const connected = sessions.map((session, i): ConnectedNode => {
      const node = nodes.find(({ status }) => status.nodeInfo?.bootID === infos[i]!.bootId);
      if (!node) throw notANodeError(session, server, nodes);
      return connectNode(node, session);
    });
    const { name } = await resolveDestination(server.host, signal);
    return createTarget({
      service,
      url,
      api,
      kubectl,
      nodes,
      connected,
      server,
      serverName: name,
    });
  } catch (error) {
    await close();
    throw error;
  }
}

/** Sends requests to the host's API server. Reconnects if the connection was lost. */
function requestOver(session: SshSession): ApiClient["open"] {
  return async (path, init) => {
    const { apiSocket } = await session.hostInfo();
    if (apiSocket === undefined) throw new Error(`${session.host} no longer has an API server`);
    const unix = await session.forward(apiSocket);
    return fetch(`http://localhost${path}`, { ...init, unix, proxy: false }).catch(async (error: unknown) => {
      throw await session.explainForwardError(error);
    });
  };
}

function connectNode(node: Node, session: SshSession): ConnectedNode {
  const remote = new RemoteContainerd(session);
  const containerd: ContainerdNode = {
    label: `${session.host}: `,
    ctr: (args, timeoutSeconds) => remote.ctr(args, { timeoutSeconds }),
    permissionHint: SUDOERS_HINT,
    listCommand: `ssh ${session.host} sudo k3s ctr -n k8s.io images ls`,
  };
  return { node, session, remote, containerd };
}

interface TargetContext {
  service: Service;
  url: string | undefined;
  api: ApiClient;
  kubectl: string[];
  nodes: Node[];
  connected: ConnectedNode[];
  /** Connection to the node whose API server is used. */
  server: SshSession;
  /** Host name of that node, for URLs. */
  serverName: string;
}

function createTarget(context: TargetContext): Target {
  const { service, url, api, kubectl, nodes, connected, server, serverName } = context;
  const referenceOf = (id: string) => `${service.name}:${id}`;
  const slipwayTag = new RegExp(`^${containerdName(service.name)}:[0-9a-f]{12}$`);

  /** Lists the names of nodes that can run the pods, but to which no host connects. */
  const findUnconnected = (manifests: KubeObject[]) => {
    const names = connected.map(({ node }) => node.metadata.name);
    const schedulable = schedulableNodes(service, manifests, nodes).map(({ metadata }) => metadata.name);
    return schedulable.filter((name) => !names.includes(name));
  };

  let running: Promise<string | undefined> | undefined;
  /** Returns the digest of the most similar image on the node: the running version, or else any version. */
  const findBase = async (images: Map<string, string>) => {
    running ??= observeMainWorkload(api).then(
      (state) => state && containerdName(referenceOf(runningId(state.deployment))),
      () => undefined,
    );
    const current = await running;
    const latest = [...images.keys()].findLast((image) => slipwayTag.test(image));
    return images.get(current ?? "") ?? images.get(latest ?? "");
  };

  const findNodesWithout = async (id: string) => {
    const listings = await Promise.all(
      connected.map(async (node) => ({ ...node, images: await listImages(node.containerd) })),
    );
    return listings.filter(({ images }) => !images.has(containerdName(referenceOf(id))));
  };
  /** Result of the last find(), which is recent enough for the delivery that follows it. */
  let lastFind: { id: string; missing: Awaited<ReturnType<typeof findNodesWithout>> } | undefined;

  return {
    api,
    kubectl,
    architectures: connected.flatMap(({ node }) => node.status.nodeInfo?.architecture ?? []),
    overlay: service.overlays.k3s,
    isImported: true,
    kustomize: (overlay) => kustomizeRemotely(server, join(service.project, overlay)),

    admit(manifests) {
      const names = findUnconnected(manifests);
      if (names.length === 0) return;
      throw new PipelineError(
        "environment",
        `pods can run on ${names.join(", ")}, but no --host connects there, so the image would be missing. Nothing was changed`,
        {
          code: "node-without-host",
          hint: "Name a --host for each node, or exclude the node with a taint, or with a nodeSelector in the manifests.",
        },
      );
    },

    endpoint(manifests) {
      if (url) return { url: joinUrl(url, service.versionPath) };
      const port = findServicePort(service, manifests)?.nodePort;
      if (port === undefined) return { ...proxyEndpoint(api, service, manifests), isRemote: true };
      const { node } = connected.find(({ session }) => session === server)!;
      const remote = hostPort(addressOf(node), port);
      const local = `http://localhost${service.versionPath}`;
      return {
        url: nodePortVersionUrl(service, serverName, port),
        isRemote: true,
        open: async (init) => fetch(local, { ...init, unix: await server.forward(remote), proxy: false }),
      };
    },

    async find(id) {
      const missing = await findNodesWithout(id);
      lastFind = { id, missing };
      running = undefined;
      // A delivery will follow. Reading the base image's layers overlaps with the build.
      for (const { remote, images } of missing)
        void findBase(images).then((base) => base !== undefined && remote.prefetch(base));
      return missing.length === 0 ? referenceOf(id) : undefined;
    },

    async lacking(manifests, id) {
      const names = (await findNodesWithout(id)).map(({ node }) => node.metadata.name);
      return [...names, ...findUnconnected(manifests)];
    },

    async deliver(archive, id, show = () => {}) {
      const reference = referenceOf(id);
      const missing = lastFind?.id === id ? lastFind.missing : await findNodesWithout(id);
      lastFind = undefined;
      for (const { node } of missing) await checkArchive(archive, reference, node.status.nodeInfo?.architecture);
      const upload = await ImageUpload.open(archive);
      const start = performance.now();
      const progress = missing.map(() => ({ sent: 0, total: 0 }));
      const showProgress = () => {
        const sent = sum(progress.map(({ sent }) => sent));
        const total = sum(progress.map(({ total }) => total));
        show(formatTransferProgress(sent, total, (performance.now() - start) / 1000));
      };
      const deliveries = await Promise.all(
        missing.map(async ({ session, remote, containerd, images }, i) => {
          const base = await findBase(images);
          const { result, bytes, fallbackReason } = await remote.deliver(upload, base, (sent, total) => {
            progress[i] = { sent, total };
            showProgress();
          });
          await assertImported(containerd, result, archive, reference);
          return { bytes, note: fallbackReason && `full image for ${session.host}: ${fallbackReason}` };
        }),
      );
      const seconds = ((performance.now() - start) / 1000).toFixed(1);
      const size = formatBytes(sum(deliveries.map(({ bytes }) => bytes)));
      const notes = deliveries.flatMap(({ note }) => note ?? []);
      show([`${size} sent in ${seconds} s`, ...notes].join(", "));
      return reference;
    },

    async clean(referencedImages) {
      let referenced: ReturnType<typeof referencedImages> | undefined;
      const once = () => (referenced ??= referencedImages());
      const removed = await Promise.all(
        connected.map(({ containerd }) => removeUnusedImages(containerd, service.name, once)),
      );
      return [...new Set(removed.flat())];
    },
  };
}

const sum = (numbers: number[]) => numbers.reduce((total, number) => total + number, 0);

function formatBytes(bytes: number): string {
  return bytes < 1e6 ? `${(bytes / 1e3).toFixed(0)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

/** Formats the sent bytes, the rate and the time left. */
export function formatTransferProgress(sent: number, total: number, seconds: number): string {
  const rate = seconds > 0 ? sent / seconds : 0;
  const left = rate > 0 ? `, ${Math.ceil((total - sent) / rate)} s left` : "";
  return `${formatBytes(sent)} of ${formatBytes(total)}, ${formatBytes(rate)}/s${left}`;
}

function noApiServerError(sessions: SshSession[]): PipelineError {
  const hosts = sessions.map(({ host }) => host).join(", ");
  return new PipelineError(
    "environment",
    `no API server on ${hosts}: /etc/rancher/k3s/k3s.yaml not found. Nothing was changed`,
    {
      code: "ssh-k3s-not-found",
      hint: "A k3s server writes the file when it starts, an agent does not. Check `systemctl status k3s` on the host.",
    },
  );
}

function notANodeError({ host }: SshSession, server: SshSession, nodes: Node[]): PipelineError {
  const names = nodes.map(({ metadata }) => metadata.name).join(", ") || "none";
  return new PipelineError(
    "environment",
    `${host} is not a node of ${server.host}'s cluster (nodes: ${names}). Nothing was changed`,
    {
      code: "ssh-host-not-a-node",
      hint: "Name only nodes of one cluster with --host. If k3s has just started, wait until it has registered the node.",
    },
  );
}
