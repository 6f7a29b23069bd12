/** kubectl, for one named cluster: never for whatever context happens to be current. */
import { PipelineError } from "../errors.ts";
import { run, type Result, type RunOptions } from "../process.ts";

/** The few fields of Kubernetes' objects that the pipeline reads. */
export interface KubeObject {
  kind: string;
  metadata: {
    name: string;
    generation?: number;
    annotations?: Record<string, string>;
    ownerReferences?: { kind: string; name: string }[];
    deletionTimestamp?: string;
  };
}

export interface Deployment extends KubeObject {
  spec: { replicas: number; template: PodTemplate };
  status: {
    observedGeneration?: number;
    replicas?: number;
    updatedReplicas?: number;
    availableReplicas?: number;
    conditions?: Condition[];
  };
}

export interface ReplicaSet extends KubeObject {
  spec: { replicas: number; template: PodTemplate };
  status: { availableReplicas?: number };
}

interface PodTemplate {
  spec: { containers: { name: string; image: string }[] };
}

export interface Condition {
  type: string;
  status: "True" | "False" | "Unknown";
  reason?: string;
  message?: string;
  lastTransitionTime?: string;
}

export interface Pod extends KubeObject {
  status: { phase?: string; conditions?: Condition[]; containerStatuses?: ContainerStatus[] };
}

export interface ContainerStatus {
  ready: boolean;
  restartCount: number;
  state?: ContainerState;
  lastState?: ContainerState;
}

interface ContainerState {
  waiting?: { reason?: string; message?: string };
  running?: { startedAt?: string };
  terminated?: { exitCode: number; reason?: string; message?: string };
}

export interface Node extends KubeObject {
  status: { addresses?: { type: string; address: string }[]; nodeInfo?: { bootID?: string } };
}

export class Kubectl {
  /** @param command program and options that select the cluster, like `["k3s", "kubectl", "--kubeconfig", …]` */
  constructor(
    readonly command: string[],
    private readonly signal: AbortSignal,
  ) {}

  /** Runs kubectl; a code other than 0 is a result. */
  run(args: string[], options: Omit<RunOptions, "signal"> = {}): Promise<Result> {
    return run([...this.command, ...args], { timeoutSeconds: 30, ...options, signal: this.signal });
  }

  /** Runs kubectl. @throws {PipelineError} "surroundings" with kubectl's own words when it fails */
  async text(args: string[], options: Omit<RunOptions, "signal"> = {}): Promise<string> {
    const { code, stdout, stderr } = await this.run(args, options);
    if (code !== 0) throw refusal(`kubectl ${args.join(" ")}`, stderr);
    return stdout;
  }

  /** `kubectl get … -o json`, as a list also where it is one object or, with --ignore-not-found, none. */
  async list<T extends KubeObject>(args: string[], options: Omit<RunOptions, "signal"> = {}): Promise<T[]> {
    const answer = JSON.parse((await this.text(["get", ...args, "-o", "json"], options)) || '{"items":[]}');
    return answer.items ?? [answer];
  }
}

/** Says what kubectl's error means for the person at the keyboard. */
export function refusal(what: string, stderr: string): PipelineError {
  const words = stderr.trim().split("\n").at(-1) ?? "";
  const hint = /refused|no route|timeout|timed out|no answer|EOF|TLS handshake|unable to connect/i.test(
    stderr,
  )
    ? "The API server does not answer. Is k3s running? `sudo systemctl status k3s` and `sudo journalctl -u k3s -n 50` tell."
    : /permission denied|password is required/i.test(stderr)
      ? "This user may not read k3s's kubeconfig: run `sudo -v` first, or run the pipeline as root."
      : /forbidden|unauthorized|must be logged in|credentials/i.test(stderr)
        ? "The kubeconfig's user lacks the rights, or its certificate has expired."
        : "Run the command again with --verbose to see all of it.";
  return new PipelineError("surroundings", `${what} failed: ${words}`, { hint, output: stderr });
}
