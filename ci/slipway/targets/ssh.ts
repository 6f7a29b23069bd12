/**
 * k3s on other machines, over SSH: one line to each node that may run the pods, images brought to each of them, the API asked over
 * the first line that has one. Nothing is needed here but ssh, and nothing stays there but the images.
 */
import { join } from "node:path";
import { PipelineError } from "../core/errors.ts";
import { cacheDirectoryOf, type Service } from "../core/service-config.ts";
import { ApiClient, CONNECT_RETRY_SECONDS, CONNECT_TIMEOUT_SECONDS } from "../kubernetes/api.ts";
import type { KubeObject, Node } from "../kubernetes/objects.ts";
import { runningId } from "../kubernetes/observe.ts";
import { observeMainWorkload } from "../deploy/plan.ts";
import type { Target } from "../deploy/target.ts";
import { SUDOERS } from "../ssh/connection.ts";
import { RemoteContainerd } from "../ssh/containerd.ts";
import { destinationOf } from "../ssh/host.ts";
import { kustomizeRemotely } from "../ssh/kustomize.ts";
import { SshSession } from "../ssh/session.ts";
import { ImageUpload } from "../ssh/image-upload.ts";
import { checkArchive } from "./check-archive.ts";
import {
  removeUnusedImages,
  containerdName,
  explainContainerdError,
  listImages,
  imageVanishedError,
  type ContainerdNode,
} from "./containerd-images.ts";
import { addressOf, schedulableNodes } from "./nodes.ts";
import { joinUrl, hostPort, nodePortOf, nodePortUrl } from "./service-url.ts";

export interface SshTargetOptions {
  service: Service;
  /** As ssh takes them; of a cluster of several nodes, one for each that may run the pods. */
  hosts: string[];
  /** Where the Service answers from outside; default: its NodePort, asked through the first line. */
  url?: string | undefined;
  signal: AbortSignal;
}

/** A node, and the way to it. */
interface Place {
  node: Node;
  line: SshSession;
  depot: RemoteContainerd;
  containerd: ContainerdNode;
}

/**
 * Opens the lines and finds out which nodes they go to, without changing anything.
 *
 * @throws {PipelineError} "environment": no ssh, no way there, no k3s, no rights, a host that is no node of the first one's cluster
 */
export async function connectSshTarget({ service, hosts, url, signal }: SshTargetOptions): Promise<Target> {
  const opening = [...new Set(hosts)].map((host) => SshSession.open(host, signal));
  const opened = await Promise.allSettled(opening);
  const lines = opened.flatMap((one) => (one.status === "fulfilled" ? [one.value] : []));
  const close = async () => void (await Promise.all(lines.map((line) => line.close())));
  try {
    for (const one of opened) if (one.status === "rejected") throw one.reason;
    const theres = await Promise.all(lines.map((line) => line.there()));
    const main = lines[theres.findIndex(({ api }) => api !== undefined)];
    if (!main) throw withoutApi(lines);
    const kubectl = ["ssh", main.host, "sudo", "k3s", "kubectl"];
    const api = new ApiClient(service, over(main), signal, close, {
      kubectl,
      stderrTail: () => main.words(),
    });
    const nodes = await api.list<Node>(
      "/api/v1/nodes",
      {},
      { timeoutSeconds: CONNECT_TIMEOUT_SECONDS, retryBudgetSeconds: CONNECT_RETRY_SECONDS },
    );
    const memory = join(cacheDirectoryOf(service), "layers");
    const places = lines.map((line, i): Place => {
      const node = nodes.find(({ status }) => status.nodeInfo?.bootID === theres[i]!.boot);
      if (!node) throw noNode(line, main, nodes);
      return placeOf(node, line, memory);
    });
    const { name } = await destinationOf(main.host, signal);
    return targetOf({ service, url, api, kubectl, nodes, places, main, name });
  } catch (error) {
    await close();
    throw error;
  }
}

/** Asks the API server at the other end; a line that has gone is opened again. */
function over(line: SshSession): ApiClient["open"] {
  return async (path, init) => {
    const { api } = await line.there();
    if (api === undefined) throw new Error(`${line.host} has no API server any more`);
    return fetch(`http://localhost${path}`, { ...init, unix: await line.forward(api), proxy: false });
  };
}

function placeOf(node: Node, line: SshSession, memory: string): Place {
  const depot = new RemoteContainerd(line, memory);
  const containerd: ContainerdNode = {
    who: `${line.host}: `,
    ctr: (args, timeoutSeconds) => depot.ctr(args, { timeoutSeconds }),
    permission: SUDOERS,
    list: `ssh ${line.host} sudo k3s ctr -n k8s.io images ls`,
  };
  return { node, line, depot, containerd };
}

interface Parts {
  service: Service;
  url: string | undefined;
  api: ApiClient;
  kubectl: string[];
  nodes: Node[];
  places: Place[];
  main: SshSession;
  /** What the first host is called in an address. */
  name: string;
}

function targetOf({ service, url, api, kubectl, nodes, places, main, name }: Parts): Target {
  const referenceOf = (id: string) => `${service.name}:${id}`;
  const own = new RegExp(`^${containerdName(service.name)}:[0-9a-f]{12}$`);

  /** Of those that take pods of these manifests, the ones that no host was named for. */
  const unreached = (manifests: KubeObject[]) =>
    schedulableNodes(service, manifests, nodes).filter(
      (node) => !places.some((place) => place.node.metadata.name === node.metadata.name),
    );

  let running: Promise<string | undefined> | undefined;
  /** The digest of the image there that has most of the next one: of the version that runs, or else any. */
  const baseIn = async (images: Map<string, string>) => {
    running ??= observeMainWorkload(api).then(
      (seen) => seen && containerdName(referenceOf(runningId(seen.deployment))),
      () => undefined,
    );
    const current = await running;
    const any = [...images.keys()].findLast((image) => own.test(image));
    return images.get(current ?? "") ?? images.get(any ?? "");
  };

  const lacking = async (id: string) => {
    const found = await Promise.all(
      places.map(async (place) => ({ place, images: await listImages(place.containerd) })),
    );
    return found.filter(({ images }) => !images.has(containerdName(referenceOf(id))));
  };
  /** What was found out last, which is new enough for the next step. */
  let last: { id: string; due: Awaited<ReturnType<typeof lacking>> } | undefined;

  return {
    api,
    kubectl,
    overlay: service.overlays.k3s,
    kustomize: (overlay) => kustomizeRemotely(main, service.root, join(service.project, overlay)),

    admit(manifests) {
      const [node, ...others] = unreached(manifests).map(({ metadata }) => metadata.name);
      if (node === undefined) return;
      const names = [node, ...others].join(", ");
      throw new PipelineError(
        "environment",
        `pods may run on ${names}, and no --host goes there: the image would be missing; nothing was changed`,
        {
          hint: "Name a host for each node, or keep pods away from it: a taint, or a nodeSelector in the manifests.",
        },
      );
    },

    endpoint(manifests) {
      if (url) return { url: joinUrl(url, service.versionPath) };
      const port = nodePortOf(service, manifests);
      const { node } = places.find(({ line }) => line === main)!;
      const there = hostPort(addressOf(node), port);
      const asked = `http://localhost${service.versionPath}`;
      return {
        url: nodePortUrl(service, name, port),
        isRemote: true,
        open: async (init) => fetch(asked, { ...init, unix: await main.forward(there), proxy: false }),
      };
    },

    async find(id) {
      const found = await lacking(id);
      last = { id, due: found };
      running = undefined;
      // It will be brought there: what most of it can be taken from is looked at while it is built.
      for (const { place, images } of found)
        void baseIn(images).then((base) => base !== undefined && place.depot.learn(base));
      return found.length === 0 ? referenceOf(id) : undefined;
    },

    async lacking(manifests, id) {
      const names = (await lacking(id)).map(({ place }) => place.node.metadata.name);
      return [...names, ...unreached(manifests).map(({ metadata }) => metadata.name)];
    },

    async deliver(archive, id, show = () => {}) {
      const reference = referenceOf(id);
      const due = last?.id === id ? last.due : await lacking(id);
      last = undefined;
      for (const { place } of due)
        await checkArchive(archive, reference, place.node.status.nodeInfo?.architecture);
      const parcel = await ImageUpload.open(archive);
      const start = performance.now();
      const progress = due.map(() => ({ bytes: 0, of: 0 }));
      const tell = () => {
        const [bytes, of] = [sum(progress.map(({ bytes }) => bytes)), sum(progress.map(({ of }) => of))];
        show(formatTransferProgress(bytes, of, (performance.now() - start) / 1000));
      };
      const sent = await Promise.all(
        due.map(async ({ place, images }, i) => {
          const { depot, containerd } = place;
          const { result, names, bytes, whole } = await depot.deliver(
            parcel,
            await baseIn(images),
            (bytes, of) => {
              progress[i] = { bytes, of };
              tell();
            },
          );
          if (result.code !== 0)
            throw explainContainerdError(containerd, `importing ${archive}`, result.stderr);
          if (!names.has(containerdName(reference))) throw imageVanishedError(containerd, archive, reference);
          return { place, bytes, whole };
        }),
      );
      const wholes = sent.flatMap(({ place, whole }) =>
        whole === undefined ? [] : [`the whole, because of ${place.line.host}: ${whole}`],
      );
      const seconds = ((performance.now() - start) / 1000).toFixed(1);
      show([`${amount(sum(sent.map(({ bytes }) => bytes)))} sent in ${seconds} s`, ...wholes].join("; "));
      return reference;
    },

    async clean(kept) {
      let asked: ReturnType<typeof kept> | undefined;
      const once = () => (asked ??= kept());
      const gone = await Promise.all(
        places.map(({ containerd }) => removeUnusedImages(containerd, service.name, once)),
      );
      return [...new Set(gone.flat())];
    },
  };
}

const sum = (numbers: number[]) => numbers.reduce((all, one) => all + one, 0);

function amount(bytes: number): string {
  return bytes < 1e6 ? `${(bytes / 1e3).toFixed(0)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

/** Bytes, rate and time left, for who waits. */
export function formatTransferProgress(bytes: number, of: number, seconds: number): string {
  const rate = seconds > 0 ? bytes / seconds : 0;
  const left = rate > 0 ? `, ${Math.ceil((of - bytes) / rate)} s left` : "";
  return `${amount(bytes)} of ${amount(of)}, ${amount(rate)}/s${left}`;
}

function withoutApi(lines: SshSession[]): PipelineError {
  const hosts = lines.map(({ host }) => host).join(", ");
  return new PipelineError(
    "environment",
    `no API server at ${hosts}: there is no /etc/rancher/k3s/k3s.yaml; nothing was changed`,
    {
      hint: "k3s writes it on a server, not on an agent, when it starts: `systemctl status k3s` there tells whether it did.",
    },
  );
}

function noNode({ host }: SshSession, main: SshSession, nodes: Node[]): PipelineError {
  const names = nodes.map(({ metadata }) => metadata.name).join(", ") || "none yet";
  return new PipelineError(
    "environment",
    `${host} is none of the nodes (${names}) of ${main.host}'s cluster; nothing was changed`,
    {
      hint: "k3s registers a node some seconds after its start. Each --host is to be a node of one cluster.",
    },
  );
}
