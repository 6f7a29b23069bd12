/** Finds the port that a service opened, if it is not the one that the manifests declare. */
import type { Service } from "../core/resolve-service.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import { isWorkload } from "../kubernetes/workload-state.ts";
import { podTemplates } from "../kubernetes/pod-templates.ts";

/** Lines with which a service says that it accepts connections. */
const LISTENING = /\b(listen|start|serv|running|ready|up on|available|bound|open|http:\/\/)/i;
/** A port in an address, after the word port, or as a field of JSON. */
const PORT = /(?:\bport\b\W{0,4}|(?:localhost|\d\.\d+|\*|\]|[\w-]+):|\s:|\bon )(\d{2,5})\b(?![.:\d])/gi;
/** Lines about connections to other hosts. */
const OUTGOING = /\b(connect|refused|ECONN|retry|upstream|database|redis|fail)/i;

/** Returns the ports that a log says the service listens on. */
export function portsInLog(output: string): number[] {
  const lines = output.split("\n").filter((line) => LISTENING.test(line) && !OUTGOING.test(line));
  // The cluster's own messages about probes name the port that was asked.
  const own = lines.filter((line) => !/\bprobe\b/i.test(line));
  const found = own.flatMap((line) => [...withoutTimes(line).matchAll(PORT)].map(([, port]) => Number(port)));
  return [...new Set(found)].filter((port) => port > 0 && port < 65_536);
}

/** A time such as 12:30:45 is no address. */
const withoutTimes = (line: string) => line.replace(/\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?(?!\d)/g, " ");

/** Returns the cause and the next step if none of `ports` is declared. */
export function diagnoseListeningPort(
  ports: number[],
  { name, port }: Pick<Service, "name" | "port">,
  manifests: KubeObject[],
): string | undefined {
  const workload = manifests.find((object) => isWorkload(object) && object.metadata.name === name);
  const containers = workload ? podTemplates(workload).flatMap(({ spec }) => spec.containers) : [];
  const declared = containers.flatMap(({ ports = [] }) => ports.map(({ containerPort }) => containerPort));
  const expected = declared.length > 0 ? declared : [port];
  if (ports.length === 0 || ports.some((each) => expected.includes(each))) return undefined;
  const [first] = ports;
  return `The service listens on port ${ports.join(" and ")}, not on ${expected.join(" or ")}. Listen on process.env.PORT, or set \`port: ${first}\` in ci/pipeline.ts and containerPort: ${first} in the manifests.`;
}

/** An address of the pod itself, with a port. */
const LOCAL_ADDRESS = /(?:\b127\.0\.0\.1|\blocalhost|\[::1\]):(\d{2,5})\b/g;

/** Returns the cause and the next step if a log says that the service listens where only the pod itself reaches it. */
export function diagnoseLocalOnly(output: string): string | undefined {
  const lines = output
    .split("\n")
    .filter((line) => LISTENING.test(line) && !OUTGOING.test(line) && !/\bprobe\b/i.test(line));
  const [found] = lines.flatMap((line) => [...line.matchAll(LOCAL_ADDRESS)]);
  if (!found || lines.some((line) => /\b0\.0\.0\.0\b|\[::\]:|\*:\d/.test(line))) return undefined;
  return `The service says that it listens on ${found[0]}. Other hosts, the kubelet included, do not reach that address. Listen on 0.0.0.0.`;
}
