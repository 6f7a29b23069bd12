/**
 * Resolves the service's pod as the kubelet and the container runtime would, as far as that is possible without a
 * cluster. https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/
 */
import type { Service } from "../core/resolve-service.ts";
import { resolveEnv, expandReferences, POD_ADDRESS, type EnvSpec } from "./resolve-env.ts";
import { objectName, type KubeObject } from "./objects.ts";
import { toProbeCheck, type ScheduledProbe, type KubeProbe } from "./convert-probes.ts";
import { parseByteQuantity } from "./byte-quantity.ts";
import { isWorker } from "./service-port.ts";

/** The image's OCI configuration. */
export interface ImageConfig {
  Env?: string[];
  Entrypoint?: string[];
  Cmd?: string[];
  WorkingDir?: string;
  /** `uid:gid` */
  User?: string;
}

/** A resolved pod. It is passed to another process as JSON. */
export interface PodSpec {
  name: string;
  address: string;
  argv: string[];
  env: Record<string, string>;
  cwd: string;
  uid: number;
  gid: number;
  volumes: { name: string; bytes?: number }[];
  mounts: PodMount[];
  /** Probes in the order in which they run. */
  asks: ScheduledProbe[];
  /** The endpoint that returns the build's id. undefined: the service is a worker. */
  version: { port: number; path: string } | undefined;
  /** Seconds from SIGTERM to SIGKILL. */
  graceSeconds: number;
  /** Parts of the manifests that need a cluster, a few words each. */
  untried: string[];
  /** Variables whose values are known only in the cluster. */
  unknown: string[];
}

export interface PodMount {
  volume: string;
  path: string;
  subPath?: string;
  readOnly: boolean;
}

interface Container extends EnvSpec {
  name: string;
  image: string;
  command?: string[];
  args?: string[];
  workingDir?: string;
  ports?: { name?: string; containerPort: number }[];
  resources?: { limits?: Record<string, string | number> };
  volumeMounts?: {
    name: string;
    mountPath: string;
    subPath?: string;
    subPathExpr?: string;
    readOnly?: boolean;
  }[];
  startupProbe?: KubeProbe;
  readinessProbe?: KubeProbe;
  livenessProbe?: KubeProbe;
  lifecycle?: { preStop?: { sleep?: { seconds: number } } };
  securityContext?: Security;
}

interface Security {
  runAsUser?: number;
  runAsGroup?: number;
}

interface Workload extends KubeObject {
  spec: {
    template: {
      metadata?: { labels?: Record<string, string>; annotations?: Record<string, string> };
      spec: {
        containers: Container[];
        initContainers?: { name: string }[];
        volumes?: { name: string; emptyDir?: { sizeLimit?: string | number } | null }[];
        serviceAccountName?: string;
        terminationGracePeriodSeconds?: number;
        securityContext?: Security;
      };
    };
  };
}

/** The API server's default for terminationGracePeriodSeconds. */
const DEFAULT_GRACE_SECONDS = 30;
/** The user and group if neither the image nor the manifests set one: it owns no files. */
const UNPRIVILEGED_ID = 65532;

/** Finds the service's Deployment. */
export function findWorkload(service: Service, manifests: KubeObject[]): Workload | undefined {
  return manifests.find((object) => objectName(object) === `Deployment/${service.name}`) as Workload | undefined;
}

/**
 * Resolves the pod from the image and the manifests, or from the image alone if there is no Deployment.
 *
 * A variable from a Secret or ConfigMap gets its value from the manifests, or else from `service.smokeEnv`.
 */
export function resolvePodSpec(service: Service, image: ImageConfig, manifests: KubeObject[]): PodSpec {
  const deployment = findWorkload(service, manifests);
  const template = deployment?.spec.template;
  const spec = template?.spec;
  const container = findContainer(service, spec?.containers ?? []);
  const { env, unknown, untried } = resolveEnv(container ?? {}, {
    image: image.Env ?? [],
    manifests,
    overrides: service.smokeEnv,
    pod: {
      name: podName(service),
      namespace: service.namespace,
      labels: template?.metadata?.labels ?? {},
      annotations: template?.metadata?.annotations ?? {},
      serviceAccount: spec?.serviceAccountName ?? "default",
    },
  });
  const volumes = (spec?.volumes ?? []).flatMap(({ name, emptyDir }) => {
    if (emptyDir === undefined) return [];
    return [{ name, ...(emptyDir?.sizeLimit !== undefined && { bytes: parseByteQuantity(emptyDir.sizeLimit) }) }];
  });
  const mounts: PodMount[] = [];
  for (const mount of container?.volumeMounts ?? []) {
    const { name: volume, mountPath: path, subPath, subPathExpr, readOnly = false } = mount;
    if (subPathExpr === undefined && volumes.some(({ name }) => name === volume)) {
      mounts.push({ volume, path, ...(subPath && { subPath }), readOnly });
    } else untried.push(`the mount ${path}`);
  }
  const portOf = (port: number | string): number | undefined =>
    typeof port === "number" || /^\d+$/.test(port)
      ? Number(port)
      : container?.ports?.find(({ name }) => name === port)?.containerPort;
  const asks = (["startup", "readiness", "liveness"] as const).flatMap((kind) => {
    const probe = container?.[`${kind}Probe`];
    const check = probe && toProbeCheck(probe, portOf);
    if (!probe) return [];
    if (check) return [{ kind, check, ...probeTimes(kind, probe, service) }];
    untried.push(`the ${kind} probe`);
    return [];
  });
  for (const other of [...(spec?.containers ?? []), ...(spec?.initContainers ?? [])]) {
    if (other !== container) untried.push(`the container ${other.name}`);
  }
  const { preStop } = container?.lifecycle ?? {};
  if (preStop && !preStop.sleep) untried.push("preStop");
  const { memory } = container?.resources?.limits ?? {};
  if (memory !== undefined) untried.push(`the memory limit (${memory})`);
  const [user, group] = (image.User ?? "").split(":").map(Number);
  const context = { ...spec?.securityContext, ...container?.securityContext };
  // Never root: in the sandbox that could be the host's root.
  const uid = context.runAsUser || user || UNPRIVILEGED_ID;
  if (context.runAsUser === 0) untried.push("runAsUser 0");
  const expand = (argument: string) => expandReferences(argument, env);
  return {
    name: podName(service),
    address: POD_ADDRESS,
    argv: [
      ...(container?.command?.map(expand) ?? image.Entrypoint ?? []),
      ...(container?.args?.map(expand) ?? (container?.command ? [] : (image.Cmd ?? []))),
    ],
    env,
    cwd: container?.workingDir ?? (image.WorkingDir || "/"),
    uid,
    gid: context.runAsGroup || group || UNPRIVILEGED_ID,
    volumes,
    mounts: mounts.sort((a, b) => a.path.length - b.path.length),
    asks,
    version: isWorker(service, manifests)
      ? undefined
      : { port: servicePort(service, manifests, portOf), path: service.versionPath },
    // preStop counts towards the grace period.
    graceSeconds: Math.max(
      1,
      (spec?.terminationGracePeriodSeconds ?? DEFAULT_GRACE_SECONDS) - (preStop?.sleep?.seconds ?? 0),
    ),
    untried,
    unknown,
  };
}

/** A name in the form of a ReplicaSet's pods: services may rely on the form of the host name. */
function podName({ name }: Service): string {
  return `${name}-smoketest-00000`;
}

/** Finds the container that runs the service's image, see withVersion() in render.ts. */
function findContainer({ name }: Service, containers: Container[]): Container | undefined {
  return (
    containers.find(({ image }) => image === name) ??
    containers.find((container) => container.name === name) ??
    containers[0]
  );
}

/** Returns the container port behind the Service, or the port of the settings. */
function servicePort(
  service: Service,
  manifests: KubeObject[],
  portOf: (port: number | string) => number | undefined,
): number {
  const found = manifests.find((object) => objectName(object) === `Service/${service.name}`) as
    (KubeObject & { spec?: { ports?: { port: number; targetPort?: number | string }[] } }) | undefined;
  const [first] = found?.spec?.ports ?? [];
  return (first && portOf(first.targetPort ?? first.port)) ?? service.port;
}

/** Returns the seconds that one attempt may take, and until the probe must pass. */
function probeTimes(kind: ScheduledProbe["kind"], probe: KubeProbe, { readyTimeoutSeconds }: Service) {
  const { initialDelaySeconds = 0, periodSeconds = 10, failureThreshold = 3, timeoutSeconds: seconds = 1 } = probe;
  const limit = {
    startup: periodSeconds * failureThreshold,
    // The same time that a deploy waits for a pod, see the settings.
    readiness: readyTimeoutSeconds,
    // The service is ready by now: if this check fails, it would fail for three periods too.
    liveness: 1,
  }[kind];
  return { seconds, patienceSeconds: initialDelaySeconds + limit };
}
