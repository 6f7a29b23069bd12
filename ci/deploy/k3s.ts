/**
 * The k3s of this machine: found, checked, and given images without a registry.
 *
 * Nothing here follows the current kube context. Before an image is imported into this machine's containerd, the
 * cluster must have shown that its one node is this machine: an import reaches no other.
 */
import { constants } from "node:fs";
import { access, readFile } from "node:fs/promises";
import { PipelineError } from "../errors.ts";
import { run } from "../process.ts";
import { Kubectl, type Node } from "./kubectl.ts";

/** Where k3s writes its kubeconfig. https://docs.k3s.io/cluster-access */
const KUBECONFIG = "/etc/rancher/k3s/k3s.yaml";
/** Seconds that a first question to the cluster may take. */
export const PATIENCE_SECONDS = 6;

export interface K3s {
  kubectl: Kubectl;
  node: string;
  /** The node's address, where a NodePort answers. */
  address: string;
  /** Names of the images in containerd, `docker.io/library/helloapp:<id>`. */
  images(): Promise<Set<string>>;
  /** Imports an archive. @throws {PipelineError} "surroundings" when containerd refuses or has no image `name` afterwards */
  import(archive: string, name: string): Promise<void>;
}

/** The name that containerd gives an image without a registry in its name. */
export function containerdName(name: string): string {
  return `docker.io/library/${name}`;
}

/** Whether k3s is installed here; it may still not run. */
export function hasK3s(): boolean {
  return onPath("k3s");
}

function onPath(program: string): boolean {
  // Bun.which() by itself looks at the PATH of the start.
  return Bun.which(program, { PATH: process.env.PATH ?? "" }) !== null;
}

/**
 * Finds this machine's k3s and makes sure that it can be deployed to, within ten seconds and without changing anything.
 *
 * @param kubeconfig another kubeconfig than k3s's own
 * @param context another context than that file's current one
 * @throws {PipelineError} "surroundings": no k3s, no permission, no answer, more than one node, not this machine
 */
export async function connectK3s({
  kubeconfig = KUBECONFIG,
  context,
  patienceSeconds = PATIENCE_SECONDS,
  signal,
}: {
  kubeconfig?: string | undefined;
  context?: string | undefined;
  patienceSeconds?: number;
  signal: AbortSignal;
}): Promise<K3s> {
  if (!hasK3s()) {
    throw new PipelineError("surroundings", "there is no k3s on this machine (no `k3s` on PATH)", {
      hint: "Install it with `bun run k3s:install`, or make the archive alone with --target none.",
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
  const kubectl = new Kubectl(
    [
      ...(readable ? [] : sudo),
      "k3s",
      "kubectl",
      `--kubeconfig=${kubeconfig}`,
      ...(context === undefined ? [] : [`--context=${context}`]),
    ],
    signal,
  );
  const ctr = [...(root ? [] : sudo), "k3s", "ctr", "-n", "k8s.io", "images"];

  const images = async () => {
    const { code, stdout, stderr } = await run([...ctr, "ls", "-q"], {
      timeoutSeconds: patienceSeconds,
      signal,
    });
    if (code !== 0) throw containerdRefusal("listing images", stderr);
    return new Set(stdout.split("\n"));
  };
  const [nodes] = await Promise.all([
    kubectl.list<Node>(["nodes"], { timeoutSeconds: patienceSeconds }),
    images(),
  ]);
  const node = await onlyNode(nodes);

  return {
    kubectl,
    node: node.metadata.name,
    address: node.status.addresses?.find(({ type }) => type === "InternalIP")?.address ?? "127.0.0.1",
    images,
    async import(archive, name) {
      const { code, stderr } = await run([...ctr, "import", archive], { timeoutSeconds: 120, signal });
      if (code !== 0) throw containerdRefusal(`importing ${archive}`, stderr);
      // An archive without a name imports "successfully" and creates no image.
      if (!(await images()).has(containerdName(name))) {
        throw new PipelineError(
          "surroundings",
          `${archive} was imported, but containerd has no ${name} now`,
          {
            hint: "Does the archive carry that name? `tar -xOf helloapp.tar manifest.json` shows it.",
          },
        );
      }
    },
  };
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
        hint:
          "Make the archive with --target none, import it on every node (`sudo k3s ctr -n k8s.io images import helloapp.tar`) " +
          "and apply k8s/overlays/k3s with its tag, or push it to a registry that all nodes reach.",
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
  if (/no such file|refused|deadline|no answer/i.test(stderr)) {
    return new PipelineError("surroundings", `${what}: k3s's containerd does not answer (${words})`, {
      hint: "Is k3s running? `sudo systemctl status k3s` tells.",
      output: stderr,
    });
  }
  return new PipelineError("surroundings", `${what}: containerd refused (${words})`, { output: stderr });
}
