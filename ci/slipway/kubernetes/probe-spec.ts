/** What the manifests have the kubelet ask a container. */

export interface KubeProbe {
  httpGet?: {
    path?: string;
    port: number | string;
    scheme?: string;
    httpHeaders?: { name: string; value: string }[];
  };
  tcpSocket?: { port: number | string };
  exec?: { command: string[] };
  initialDelaySeconds?: number;
  periodSeconds?: number;
  timeoutSeconds?: number;
  failureThreshold?: number;
}

/** A probe whose port is a number. */
export type ProbeCheck =
  | { how: "http"; scheme: "http" | "https"; port: number; path: string; headers: [string, string][] }
  | { how: "tcp"; port: number }
  | { how: "exec"; command: string[] };

export interface ScheduledProbe {
  kind: "startup" | "readiness" | "liveness";
  check: ProbeCheck;
  /** Seconds for one answer. */
  seconds: number;
  /** Seconds until it must have been the right one. */
  patienceSeconds: number;
}

/** undefined: one of another kind, or of a port that the container does not name. */
export function toProbeCheck(
  { httpGet, tcpSocket, exec }: KubeProbe,
  portOf: (port: number | string) => number | undefined,
): ProbeCheck | undefined {
  if (exec) return { how: "exec", command: exec.command };
  const asked = httpGet?.port ?? tcpSocket?.port;
  const port = asked === undefined ? undefined : portOf(asked);
  if (port === undefined) return undefined;
  if (!httpGet) return { how: "tcp", port };
  const { path = "/", scheme = "HTTP", httpHeaders = [] } = httpGet;
  return {
    how: "http",
    scheme: scheme === "HTTPS" ? "https" : "http",
    port,
    path: path.startsWith("/") ? path : `/${path}`,
    headers: httpHeaders.map(({ name, value }) => [name, value]),
  };
}

/** `GET :8080/readyz` */
export function describeProbeCheck(check: ProbeCheck): string {
  if (check.how === "exec") return check.command.join(" ");
  if (check.how === "tcp") return `TCP :${check.port}`;
  return `GET ${check.scheme === "https" ? "https://" : ""}:${check.port}${check.path}`;
}
