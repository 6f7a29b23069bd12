/** Types of Kubernetes objects, with the fields that the pipeline reads. */

export interface KubeObject {
  apiVersion: string;
  kind: string;
  metadata: {
    name: string;
    namespace?: string;
    uid?: string;
    resourceVersion?: string;
    generation?: number;
    creationTimestamp?: string;
    deletionTimestamp?: string;
    labels?: Record<string, string>;
    annotations?: Record<string, string>;
    ownerReferences?: { kind: string; name: string; uid?: string }[];
    managedFields?: {
      manager?: string;
      operation?: string;
      subresource?: string;
      fieldsV1?: Record<string, unknown>;
    }[];
  };
}

/** A workload of pods from one template: a Deployment, a StatefulSet or a DaemonSet. */
export interface Workload extends KubeObject {
  spec: {
    replicas?: number;
    minReadySeconds?: number;
    selector?: PodSelector;
    template: PodTemplate;
    strategy?: { type?: string };
    podManagementPolicy?: string;
  };
  status: {
    observedGeneration?: number;
    replicas?: number;
    updatedReplicas?: number;
    availableReplicas?: number;
    conditions?: Condition[];
    /** StatefulSet only. */
    updateRevision?: string;
    /** DaemonSet only. */
    desiredNumberScheduled?: number;
    currentNumberScheduled?: number;
    updatedNumberScheduled?: number;
    numberAvailable?: number;
  };
}

/** https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/ */
export interface PodSelector {
  matchLabels?: Record<string, string>;
  matchExpressions?: { key: string; operator: "In" | "NotIn" | "Exists" | "DoesNotExist"; values?: string[] }[];
}

/** A Deployment as the API server returns it, with defaults. */
export interface Deployment extends Workload {
  spec: Workload["spec"] & { replicas: number };
}

export interface ReplicaSet extends KubeObject {
  spec: { replicas: number; template: PodTemplate };
  status: { availableReplicas?: number; conditions?: Condition[] };
}

/** A probe with the fields that name a port. Other probes run a command. */
interface PortProbe {
  httpGet?: { port: number | string };
  tcpSocket?: { port: number | string };
  grpc?: { port: number };
}

export interface PodTemplate {
  metadata?: { labels?: Record<string, string>; annotations?: Record<string, string> };
  spec: {
    containers: {
      name: string;
      image: string;
      ports?: { name?: string; containerPort: number }[];
      env?: { name: string; value?: string }[];
      startupProbe?: PortProbe;
      readinessProbe?: PortProbe;
      livenessProbe?: PortProbe;
      resources?: { limits?: Record<string, string | number> };
    }[];
    initContainers?: { name: string; image: string; resources?: { limits?: Record<string, string | number> } }[];
    terminationGracePeriodSeconds?: number;
    nodeSelector?: Record<string, string>;
    tolerations?: { key?: string; operator?: string; value?: string; effect?: string }[];
  };
}

export interface Condition {
  type: string;
  status: "True" | "False" | "Unknown";
  reason?: string;
  message?: string;
  lastTransitionTime?: string;
}

export interface Pod extends KubeObject {
  spec: PodTemplate["spec"];
  status: {
    phase?: string;
    reason?: string;
    conditions?: Condition[];
    containerStatuses?: ContainerStatus[];
    initContainerStatuses?: ContainerStatus[];
  };
}

export interface ContainerStatus {
  name: string;
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
  spec?: { taints?: { key: string; value?: string; effect: string }[] };
  status: {
    addresses?: { type: string; address: string }[];
    nodeInfo?: { bootID?: string; architecture?: string };
  };
}

export interface Event extends KubeObject {
  reason?: string;
  message?: string;
  type?: string;
  count?: number;
  lastTimestamp?: string | null;
  eventTime?: string | null;
  involvedObject: { kind: string; name: string };
}

export interface KubeService extends KubeObject {
  spec: {
    type?: string;
    selector?: Record<string, string>;
    ports?: { name?: string; port: number; targetPort?: number | string; nodePort?: number; protocol?: string }[];
  };
}

/** Returns an object's name for messages and as a key: `Deployment/helloapp`. */
export function objectName({ kind, metadata }: KubeObject): string {
  return `${kind}/${metadata.name}`;
}
