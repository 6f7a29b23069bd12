/** Builds the Job of a one-off pod: a copy of the pod that serves, which no Service, workload or disruption budget selects. */
import { cloneJson } from "../core/lossless-json.ts";
import { CREATED_BY } from "../kubernetes/prepare-for-apply.ts";
import type { KubeObject, KubeService, PodTemplate } from "../kubernetes/objects.ts";
import { serviceContainer } from "../kubernetes/service-port.ts";
import { currentReplicaSet, isReady, type WorkloadState } from "../kubernetes/workload-state.ts";
import type { Service } from "../core/resolve-service.ts";

/** Label of one-off pods with the service's name, for NetworkPolicies that apply to them. */
const SERVICE_LABEL = "slipway/service";
/** A condition that nobody sets. A pod that is never ready gets no requests, whatever a Service selects. */
const NEVER_READY = "slipway/one-off";
/** Seconds from SIGTERM to SIGKILL. */
const GRACE_SECONDS = 5;
/** Seconds that a finished Job stays, so that its exit code can be read. */
const KEEP_FINISHED_SECONDS = 15;

export interface Job extends KubeObject {
  spec: { activeDeadlineSeconds: number; template: PodTemplate } & Record<string, unknown>;
}

export interface OneOffJobOptions {
  service: Service;
  state: WorkloadState;
  /** The Services of the version. Their selectors must not match. */
  services: KubeService[];
  /** Arguments of the binary, which is Bun in this pod. */
  args: string[];
  /** Whether the container's standard input can be attached to. */
  hasInput: boolean;
  deadlineSeconds: number;
}

/** Template fields that the types of this package do not name. */
type Loose = Record<string, unknown>;
interface OneOffContainer {
  name: string;
  env?: { name: string; value?: string }[];
  volumeMounts?: { name: string }[];
}

/** @returns the Job, the name of its main container, and the volumes of the workload that it lacks */
export function createOneOffJob({ service, state, services, args, hasInput, deadlineSeconds }: OneOffJobOptions): {
  job: Job;
  container: string;
  missingVolumes: string[];
} {
  const template = cloneJson(servingTemplate(state));
  const pod = template.spec as PodTemplate["spec"] & Loose;
  const found = serviceContainer(service, template) as unknown as OneOffContainer & Loose;
  // An entrypoint of the manifests may name another program. The image's own one is the binary.
  const { command: _command, ports: _ports, lifecycle: _lifecycle, ...rest } = found;
  const { livenessProbe: _live, readinessProbe: _ready, startupProbe: _startup, ...container } = rest;
  const volumes = new Set((pod.volumes as { name: string }[] | undefined)?.map(({ name }) => name));
  const { volumeMounts = [], env = [] } = found;
  const bun = { BUN_BE_BUN: "1", BUN_ENABLE_EXPERIMENTAL_SHELL_BUILTINS: "1" };
  const own = Object.entries(bun).map(([name, value]) => ({ name, value }));
  const main = {
    ...container,
    args,
    env: [...env.filter(({ name }) => !(name in bun)), ...own],
    volumeMounts: volumeMounts.filter(({ name }) => volumes.has(name)),
    ...(hasInput && { stdin: true, stdinOnce: true }),
  };
  const { podAntiAffinity: _anti, ...affinity } = (pod.affinity ?? {}) as Loose;
  const { topologySpreadConstraints: _spread, restartPolicy: _restart, ...spec } = pod as Loose;
  const suffix = crypto.randomUUID().slice(0, 8);
  const job: Job = {
    apiVersion: "batch/v1",
    kind: "Job",
    metadata: {
      name: `${service.name.slice(0, 45).replace(/-+$/, "")}-run-${suffix}`,
      namespace: service.namespace,
      labels: { "app.kubernetes.io/name": service.name, "app.kubernetes.io/component": "run" },
      annotations: { [CREATED_BY]: service.name },
    },
    spec: {
      backoffLimit: 0,
      parallelism: 1,
      completions: 1,
      activeDeadlineSeconds: deadlineSeconds,
      ttlSecondsAfterFinished: KEEP_FINISHED_SECONDS,
      template: {
        metadata: { ...template.metadata, labels: labelsFor(service, state, services, template) },
        spec: {
          ...spec,
          containers: [main],
          restartPolicy: "Never",
          terminationGracePeriodSeconds: GRACE_SECONDS,
          readinessGates: [{ conditionType: NEVER_READY }],
          affinity: Object.keys(affinity).length > 0 ? affinity : undefined,
        } as unknown as PodTemplate["spec"],
      },
    },
  };
  return {
    job,
    container: found.name,
    missingVolumes: volumeMounts.flatMap(({ name }) => (volumes.has(name) ? [] : [name])),
  };
}

/** Returns the template of the pods that serve. During a rollout, a Deployment's own template is that of the next version. */
export function servingTemplate(state: WorkloadState): PodTemplate {
  const { deployment, replicaSets, pods } = state;
  const owners = pods
    .filter((pod) => isReady(pod) && !pod.metadata.deletionTimestamp)
    .flatMap(({ metadata }) => metadata.ownerReferences?.map(({ name }) => name) ?? []);
  const serving = replicaSets.filter(({ metadata }) => owners.includes(metadata.name));
  const current = currentReplicaSet(state);
  const set = serving.find((one) => one === current) ?? serving[0];
  return (set ?? deployment).spec.template;
}

/** Keeps labels such as those of a service mesh, and drops those by which something could select the pod. */
function labelsFor(
  { name }: Service,
  { deployment }: WorkloadState,
  services: KubeService[],
  { metadata }: PodTemplate,
): Record<string, string> {
  const selecting = new Set([
    "app.kubernetes.io/name",
    "pod-template-hash",
    ...Object.keys(deployment.spec.selector?.matchLabels ?? {}),
    ...(deployment.spec.selector?.matchExpressions ?? []).map(({ key }) => key),
    ...services.flatMap(({ spec }) => Object.keys(spec.selector ?? {})),
  ]);
  const kept = Object.entries(metadata?.labels ?? {}).filter(([key]) => !selecting.has(key));
  return { ...Object.fromEntries(kept), [SERVICE_LABEL]: name, "app.kubernetes.io/component": "run" };
}
