/**
 * The k3s of this machine: found, checked, and given images without a registry.
 *
 * Nothing here follows the current kube context. Before an image is imported into this machine's containerd, the
 * cluster must have shown that its one node is this machine: an import reaches no other.
 */
import { constants } from "node:fs";
import { access, readFile } from "node:fs/promises";
import { PipelineError } from "../ground/errors.ts";
import { onPath, run, type Result } from "../ground/process.ts";
import type { Service } from "../ground/service.ts";
import { FIRST_PATIENCE_SECONDS, FIRST_SECONDS, type Api } from "../cluster/api.ts";
import { connectApi } from "../cluster/connect.ts";
import { nameOf, type KubeObject, type KubeService, type Node } from "../cluster/objects.ts";
import type { Target } from "../cluster/target.ts";
import { checkArchive } from "./check.ts";
import { below } from "./url.ts";

/** Where k3s writes its kubeconfig. https://docs.k3s.io/cluster-access */
const KUBECONFIG = "/etc/rancher/k3s/k3s.yaml";

/** Whether k3s is installed here; it may still not run. */
export function hasK3s(): boolean {
  return onPath("k3s");
}

export interface K3sOptions {
  service: Service;
  /** Another kubeconfig than k3s's own. */
  kubeconfig?: string | undefined;
  /** Another context than that file's current one. */
  context?: string | undefined;
  /** Where the Service answers from outside; default: its NodePort on this machine. */
  url?: string | undefined;
  patienceSeconds?: number;
  signal: AbortSignal;
  /** Speaks to the cluster; default: `connectApi`. */
  connect?: typeof connectApi;
}

/**
 * Finds this machine's k3s and makes sure that it can be deployed to, within ten seconds and without changing anything.
 *
 * @throws {PipelineError} "surroundings": no k3s, no permission, no answer, more than one node, not this machine
 */
export async function connectK3s({
  service,
  kubeconfig = KUBECONFIG,
  context,
  url,
  patienceSeconds = FIRST_SECONDS,
  signal,
  connect = connectApi,
}: K3sOptions): Promise<Target> {
  if (!hasK3s()) {
    throw new PipelineError("surroundings", "there is no k3s on this machine (no `k3s` on PATH)", {
      hint: "Install it with `slipway install-k3s`, or make the archive alone with --target none.",
    });
  }
  const root = process.getuid?.() === 0;
  if (!root && !onPath("sudo")) {
    throw new PipelineError(
      "surroundings",
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
      throw new PipelineError("surroundings", `there is no kubeconfig at ${kubeconfig} (${error.code})`, {
        hint: "k3s writes its own when it starts: `sudo systemctl status k3s` tells whether it did.",
        cause: error,
      });
    },
  );
  const words = ["k3s", "kubectl", `--kubeconfig=${kubeconfig}`];
  if (context !== undefined) words.push(`--context=${context}`);
  const ctr = [...(root ? [] : sudo), "k3s", "ctr", "-n", "k8s.io", "images"];

  /** Names of the images in containerd, `docker.io/library/helloapp:<id>`, and the digest of each. */
  const images = async () => {
    const { code, stdout, stderr } = await run([...ctr, "ls"], { timeoutSeconds: patienceSeconds, signal });
    if (code !== 0) throw containerdRefusal("listing images", stderr);
    const rows = stdout
      .split("\n")
      .slice(1)
      .map((row) => row.split(/\s+/));
    return new Map(rows.flatMap(([name, , digest]) => (name && digest ? [[name, digest]] : [])));
  };

  let first: ReturnType<typeof images> | undefined = images();
  const connecting = connect({ service, kubectl: words, privilege: readable ? [] : sudo, signal });
  const checked = async () => onlyNode(await askForNodes(await connecting, patienceSeconds));
  const [node] = await Promise.all([checked(), first]).catch(async (error) => {
    await (await connecting.catch(() => undefined))?.close();
    throw error;
  });
  const address = node.status.addresses?.find(({ type }) => type === "InternalIP")?.address ?? "127.0.0.1";

  return {
    api: await connecting,
    kubectl: [
      ...(readable ? [] : ["sudo"]),
      ...(kubeconfig === KUBECONFIG && !context ? words.slice(0, 2) : words),
    ],
    overlay: service.overlays.k3s,
    endpoint(manifests) {
      if (url) return { url: below(url, service.versionPath) };
      const nodePort = nodePortUrl(service, address, manifests);
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
      const { code, stderr } = await importArchive([...ctr, "import"], archive, signal);
      if (code !== 0) throw containerdRefusal(`importing ${archive}`, stderr);
      // An archive without a name imports "successfully" and creates no image.
      if ((await images()).has(containerdName(reference))) return reference;
      throw new PipelineError(
        "surroundings",
        `${archive} was imported, but containerd has no ${reference} now`,
        { hint: `Has something else removed it? \`${ctr.join(" ")} ls\` lists what is there.` },
      );
    },

    async clean(kept) {
      const [there, keep] = await Promise.all([images(), kept()]);
      const own = new RegExp(`^${containerdName(service.name)}:[0-9a-f]{12}$`);
      // Only what a pipeline has named: whoever imported helloapp:1 by hand may still want it.
      const ours = [...there.keys()].filter((name) => own.test(name));
      const gone = ours.filter((name) => !keep.has(name.slice(containerdName("").length)));
      if (gone.length === 0) return [];
      const left = [...there].filter(([name]) => !gone.includes(name) && !name.startsWith("sha256:"));
      const needed = new Set(left.map(([, digest]) => digest));
      const digests = new Set(gone.map((name) => there.get(name)!).filter((digest) => !needed.has(digest)));
      // The kubelet's containerd gives each image a second name, and keeps its layers for as long as either is there.
      const aliases = [...there].filter(
        ([name, digest]) => name.startsWith("sha256:") && digests.has(digest),
      );
      const { code, stderr } = await run([...ctr, "rm", ...gone, ...aliases.map(([name]) => name)], {
        timeoutSeconds: 60,
        signal,
      });
      if (code !== 0) throw containerdRefusal("removing images", stderr);
      return gone;
    },
  };
}

/**
 * Imports by ctr itself where that has to be asked for: containerd 2's sends the archive through a service by default, which
 * takes twice the time. Before that there was no such option.
 */
async function importArchive(command: string[], archive: string, signal: AbortSignal): Promise<Result> {
  const options = { timeoutSeconds: 120, signal };
  const result = await run([...command, "--local", archive], options);
  const unknown = /not defined: -+local/.test(result.stdout + result.stderr);
  return unknown ? run([...command, archive], options) : result;
}

/** The name that containerd gives an image without a registry in its name. */
export function containerdName(name: string): string {
  return `docker.io/library/${name}`;
}

async function askForNodes(api: Api, timeoutSeconds: number): Promise<Node[]> {
  // A cluster that is not there has to be known within seconds.
  return api.list<Node>("/api/v1/nodes", {}, { timeoutSeconds, patienceSeconds: FIRST_PATIENCE_SECONDS });
}

function nodePortUrl(
  { name, overlays, versionPath }: Service,
  address: string,
  manifests: KubeObject[],
): string {
  const found = manifests.find((object) => nameOf(object) === `Service/${name}`);
  const service = found as KubeService | undefined;
  const port = service?.spec.ports?.[0]?.nodePort;
  if (!port) {
    throw new PipelineError("change", `${overlays.k3s} has no Service ${name} with a nodePort`);
  }
  return `http://${address.includes(":") ? `[${address}]` : address}:${port}${versionPath}`;
}

// Without a password prompt: a pipeline that waits at one looks as if it hung.
const sudo = ["sudo", "-n"];

async function onlyNode(nodes: Node[]): Promise<Node> {
  const [node, ...others] = nodes;
  if (!node) {
    throw new PipelineError("surroundings", "the cluster has no node yet", {
      hint: "k3s registers its node some seconds after its start: run the command again.",
    });
  }
  if (others.length > 0) {
    const names = nodes.map(({ metadata }) => metadata.name).join(", ");
    throw new PipelineError(
      "surroundings",
      `the cluster has ${nodes.length} nodes (${names}), and an import reaches the containerd of one; nothing was changed`,
      {
        hint: "Push it to a registry that all nodes reach: --target registry --registry HOST/PATH --context NAME.",
      },
    );
  }
  // A boot's id is unique to a kernel that runs: a name or an address could be another machine's as well.
  const boot = (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
  if (node.status.nodeInfo?.bootID !== boot) {
    throw new PipelineError(
      "surroundings",
      `the cluster's node ${node.metadata.name} is not this machine, so an import here would not reach it; nothing was changed`,
      { hint: "Run the pipeline on that machine, or check --kubeconfig and --context." },
    );
  }
  return node;
}

function containerdRefusal(what: string, stderr: string): PipelineError {
  const words = stderr.trim().split("\n").at(-1) ?? "";
  if (/no space left/i.test(stderr)) {
    return new PipelineError("surroundings", `${what}: the node's disk is full`, {
      hint: "Remove images that nothing uses: `sudo k3s crictl rmi --prune`. What runs was not touched.",
      output: stderr,
    });
  }
  if (/permission denied|password is required|sudo/i.test(stderr)) {
    return new PipelineError("surroundings", `${what}: no permission on k3s's containerd (${words})`, {
      hint: "Run `sudo -v` first, or run the pipeline as root.",
      output: stderr,
    });
  }
  // One that ends, or starts anew, in the middle of an import takes the connection with it.
  if (/no such file|refused|deadline|no answer|\bEOF\b|reset by peer|broken pipe|unavailable/i.test(stderr)) {
    return new PipelineError("surroundings", `${what}: k3s's containerd does not answer (${words})`, {
      hint: "Is k3s running? `sudo systemctl status k3s` tells. When it does, run the same command again.",
      output: stderr,
    });
  }
  return new PipelineError("surroundings", `${what}: containerd refused (${words})`, { output: stderr });
}
