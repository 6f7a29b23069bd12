/**
 * What a Deployment asks of the service's container, as far as it can be known without a cluster: what the kubelet and the
 * container runtime make of the manifests. https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/
 */
import type { Service } from "../core/service-config.ts";
import { resolveEnv, expandReferences, POD_ADDRESS, type EnvSpec } from "./resolve-env.ts";
import { objectName, type KubeObject } from "./objects.ts";
import { toProbeCheck, type ScheduledProbe, type KubeProbe } from "./probe-spec.ts";
import { parseByteQuantity } from "./quantity.ts";

/** What the image's own configuration says. */
export interface ImageConfig {
  Env?: string[];
  Entrypoint?: string[];
  Cmd?: string[];
  WorkingDir?: string;
  /** `uid:gid` */
  User?: string;
}

/** One pod, in words that need no cluster. It is handed to another process as JSON. */
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
  /** In the order in which they are asked. */
  asks: ScheduledProbe[];
  /** Where the build's id is asked for. */
  version: { port: number; path: string };
  /** Seconds from SIGTERM to SIGKILL. */
  graceSeconds: number;
  /** What of the manifests cannot be had without the cluster, in a few words each. */
  untried: string[];
  /** Variables whose values only the cluster has. */
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

/** The API server's default. */
const GRACE_SECONDS = 30;
/** A Linux user that owns nothing: what an image without a user of its own runs as here. */
const NOBODY = 65532;

/** The Deployment of the service's name, if there is one. */
export function findWorkload(service: Service, manifests: KubeObject[]): Workload | undefined {
  return manifests.find((object) => objectName(object) === `Deployment/${service.name}`) as
    Workload | undefined;
}

/**
 * The pod that these manifests make of an image; without the service's Deployment, of the image alone.
 *
 * A variable from a Secret or ConfigMap has its value where that is among the manifests, or else from `service.smoke`.
 */
export function resolvePodSpec(service: Service, image: ImageConfig, manifests: KubeObject[]): PodSpec {
  const deployment = findWorkload(service, manifests);
  const template = deployment?.spec.template;
  const spec = template?.spec;
  const container = containerOf(service, spec?.containers ?? []);
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
    return [
      { name, ...(emptyDir?.sizeLimit !== undefined && { bytes: parseByteQuantity(emptyDir.sizeLimit) }) },
    ];
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
    if (check) return [{ kind, check, ...timesOf(kind, probe, service) }];
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
  // Never root, whatever they say: it may be the host's.
  const uid = context.runAsUser || user || NOBODY;
  if (context.runAsUser === 0) untried.push("runAsUser 0");
  const filled = (word: string) => expandReferences(word, env);
  return {
    name: podName(service),
    address: POD_ADDRESS,
    argv: [
      ...(container?.command?.map(filled) ?? image.Entrypoint ?? []),
      ...(container?.args?.map(filled) ?? (container?.command ? [] : (image.Cmd ?? []))),
    ],
    env,
    cwd: container?.workingDir ?? (image.WorkingDir || "/"),
    uid,
    gid: context.runAsGroup || group || NOBODY,
    volumes,
    mounts: mounts.sort((a, b) => a.path.length - b.path.length),
    asks,
    version: {
      port: servicePort(service, manifests, portOf),
      path: service.versionPath,
    },
    // The time of preStop is part of it.
    graceSeconds: Math.max(
      1,
      (spec?.terminationGracePeriodSeconds ?? GRACE_SECONDS) - (preStop?.sleep?.seconds ?? 0),
    ),
    untried,
    unknown,
  };
}

/** Like a ReplicaSet's: hosts' and pods' names have a form that services may rely on. */
function podName({ name }: Service): string {
  return `${name}-rehearsal-00000`;
}

/** The one that gets the service's image, see forVersion() of manifests.ts. */
function containerOf({ name }: Service, containers: Container[]): Container | undefined {
  return (
    containers.find(({ image }) => image === name) ??
    containers.find((container) => container.name === name) ??
    containers[0]
  );
}

/** Where the Service sends its clients, or the port of the settings. */
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

/** Seconds that an answer may take, and until it must be the right one. */
function timesOf(kind: ScheduledProbe["kind"], probe: KubeProbe, { readyTimeoutSeconds }: Service) {
  const {
    initialDelaySeconds = 0,
    periodSeconds = 10,
    failureThreshold = 3,
    timeoutSeconds: seconds = 1,
  } = probe;
  const patience = {
    startup: periodSeconds * failureThreshold,
    // What a deploy waits for a pod as well, see the settings.
    readiness: readyTimeoutSeconds,
    // A service that is ready lives: what does not now will not in three periods.
    liveness: 1,
  }[kind];
  return { seconds, patienceSeconds: initialDelaySeconds + patience };
}
