/** What a service says last that misses something which images like this do not have, and what to do about it. */
import { existsSync } from "node:fs";
import { join, posix } from "node:path";
import type { Service } from "../core/service-config.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import { isWorkload } from "../kubernetes/observe.ts";
import { podTemplates } from "../kubernetes/render.ts";

/** Where nothing can be written: the system's words, and SQLite's. */
const refused =
  /\bEROFS\b|read-only file system|SQLITE_CANTOPEN|unable to open database file|SQLITE_READONLY|readonly database/i;
/** With the path, as Node's errors have it: the last of two is where it was to go. */
const place = /\bEROFS\b[^\n]*?'(?:[^'\n]*' -> ')?([^'\n]+)'/;
/** A program that is not there: node:child_process, Bun.spawn and Bun's shell. */
const program =
  /\bENOENT\b[^\n]*\bposix_spawn '([^'\n]+)'|\bspawn (\S+) ENOENT|Executable not found in \$PATH: "([^"\n]+)"|bun: command not found: (\S+)/;
/** A file that is not there. */
const missing = /\bENOENT\b[^\n]*?, (?!posix_spawn)\w+ '([^'\n]+)'/g;
/** A name or an address that is not reached: the system's words, Bun's, and those of its clients of databases. */
const unreached =
  /\b(EAI_AGAIN|ENOTFOUND|ECONNREFUSED|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH|ConnectionRefused|ERR_[A-Z]+_CONNECTION_[A-Z]+)\b|Failed to connect\b/;
/** The pod itself, which no policy is about. */
const loopback = /(connect|REFUSED|address:|path:|hostname:)[^\n]*(\b127\.\d|\blocalhost\b|::1\b)/i;

/** @returns what to do, as sentences; undefined: it has something else to say */
export function diagnoseLogs(output: string, { project }: Pick<Service, "project">): string | undefined {
  return writes(output) ?? starts(output) ?? reads(output, project);
}

function writes(output: string): string | undefined {
  if (!refused.test(output)) return undefined;
  const [, path] = place.exec(output) ?? [];
  return `It writes${path ? ` to ${path}` : " to a file"}, and only /tmp and volumes can be written: slipway's README, "A place to write".`;
}

function starts(output: string): string | undefined {
  const found = program.exec(output)?.slice(1).find(Boolean);
  return found && `It starts ${found}, and no other program is in the image, not even a shell.`;
}

/** Of what it looked for: something that lies in the project, and that the image would have at the same place. */
function reads(output: string, project: string): string | undefined {
  for (const [, path = ""] of output.matchAll(missing)) {
    const own = posix.normalize(path).replace(/^\/(?:\$bunfs\/root|srv)\/|^\/|\/$/g, "");
    if (own === "" || own === "." || own.startsWith("..") || !existsSync(join(project, own))) continue;
    return `It reads ${own}, which is in the project and not in the image: \`files: ["${own}"]\` in ci/pipeline.ts.`;
  }
  return undefined;
}

/** Of a service that runs and does not answer: that it is asked on another port than the image tells it. */
export function diagnosePortMismatch({ name, port }: Service, manifests: KubeObject[]): string | undefined {
  const own = manifests.find(({ kind, metadata }) => kind === "Deployment" && metadata.name === name);
  const containers = own ? podTemplates(own).flatMap(({ spec }) => spec.containers) : [];
  const container = containers.find((one) => one.name === name) ?? containers[0];
  const asked = container?.ports?.map(({ containerPort }) => containerPort) ?? [];
  const told = Number(container?.env?.find((variable) => variable.name === "PORT")?.value ?? port);
  if (asked.length === 0 || asked.includes(told)) return undefined;
  return `It is told PORT=${told} and asked on ${asked.join(", ")}: \`port\` in ci/pipeline.ts and the manifests' containerPort are to agree.`;
}

interface NetworkPolicy extends KubeObject {
  spec: {
    podSelector?: { matchLabels?: Record<string, string>; matchExpressions?: unknown[] };
    policyTypes?: string[];
    egress?: object[];
  };
}

/**
 * Of a service that does not reach somebody: that the manifests' own policies close the way out.
 *
 * @param isSilent it runs and does not answer, as one does that waits for somebody: this is said of it even where its words are
 * none, or others
 */
export function diagnoseBlockedEgress(
  output: string,
  { name }: Pick<Service, "name">,
  manifests: KubeObject[],
  isSilent = false,
): string | undefined {
  const says = unreached.test(output) && !loopback.test(output);
  if (!says && !isSilent) return undefined;
  const own = manifests.find((one) => isWorkload(one) && one.metadata.name === name);
  const labels = own ? podTemplates(own)[0]?.metadata?.labels : undefined;
  if (!labels) return undefined;
  const policies = manifests.filter(({ kind }) => kind === "NetworkPolicy") as NetworkPolicy[];
  const closing = policies.filter(({ spec: { podSelector = {}, policyTypes, egress } }) => {
    const { matchLabels = {}, matchExpressions = [] } = podSelector;
    const selects = Object.entries(matchLabels).every(([label, value]) => labels[label] === value);
    return (
      selects && matchExpressions.length === 0 && (policyTypes?.includes("Egress") ?? egress !== undefined)
    );
  });
  if (closing.length === 0) return undefined;
  const rules = closing.flatMap(({ spec: { egress = [] } }) => egress);
  // One without a condition lets everything out.
  if (rules.some((rule) => Object.values(rule).flat().length === 0)) return undefined;
  const why = says ? "It does not reach somebody" : "If it waits for somebody";
  const who = `NetworkPolicy ${closing.map(({ metadata }) => metadata.name).join(", ")}`;
  return rules.length === 0
    ? `${why}: ${who} lets nothing out, not even to DNS; \`slipway init --with egress\` opens what is named.`
    : `${why}: ${who} lets out only what is named there.`;
}
