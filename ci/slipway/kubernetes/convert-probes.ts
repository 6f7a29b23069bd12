/** Converts the probes of manifests to checks that can run without a cluster. */

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

/** A check with its port resolved to a number. */
export type ProbeCheck =
  | { how: "http"; scheme: "http" | "https"; port: number; path: string; headers: [string, string][] }
  | { how: "tcp"; port: number }
  | { how: "exec"; command: string[] };

export interface ScheduledProbe {
  kind: "startup" | "readiness" | "liveness";
  check: ProbeCheck;
  /** Seconds until one attempt times out. */
  seconds: number;
  /** Seconds until the check must have passed. */
  patienceSeconds: number;
}

/**
 * Converts a probe.
 *
 * @returns undefined for another kind of probe, or a port that the container does not name
 */
export function toProbeCheck(
  { httpGet, tcpSocket, exec }: KubeProbe,
  portOf: (port: number | string) => number | undefined,
): ProbeCheck | undefined {
  if (exec) return { how: "exec", command: exec.command };
  const given = httpGet?.port ?? tcpSocket?.port;
  const port = given === undefined ? undefined : portOf(given);
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

/** Formats a check for messages: `GET :8080/readyz`. */
export function describeProbeCheck(check: ProbeCheck): string {
  if (check.how === "exec") return check.command.join(" ");
  if (check.how === "tcp") return `TCP :${check.port}`;
  return `GET ${check.scheme === "https" ? "https://" : ""}:${check.port}${check.path}`;
}
