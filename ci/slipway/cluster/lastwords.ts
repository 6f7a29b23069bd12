/** What a service says last that misses something which images like this do not have, and what to do about it. */
import { existsSync } from "node:fs";
import { join, posix } from "node:path";
import type { Service } from "../ground/service.ts";
import type { KubeObject } from "./objects.ts";
import { podTemplates } from "./render.ts";

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

/** @returns what to do, as sentences; undefined: it has something else to say */
export function lastWords(output: string, { project }: Pick<Service, "project">): string | undefined {
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
    const own = posix.normalize(path.replace(/^\/\$bunfs\/root\//, "/")).replace(/^\/|\/$/g, "");
    if (own === "" || own === "." || own.startsWith("..") || !existsSync(join(project, own))) continue;
    return `It reads ${own}, which is in the project and not in the image: \`files: ["${own}"]\` in ci/pipeline.ts.`;
  }
  return undefined;
}

/** Of a service that runs and does not answer: that it is asked on another port than the image tells it. */
export function otherPort({ name, port }: Service, manifests: KubeObject[]): string | undefined {
  const own = manifests.find(({ kind, metadata }) => kind === "Deployment" && metadata.name === name);
  const containers = own ? podTemplates(own).flatMap(({ spec }) => spec.containers) : [];
  const container = containers.find((one) => one.name === name) ?? containers[0];
  const asked = container?.ports?.map(({ containerPort }) => containerPort) ?? [];
  const told = Number(container?.env?.find((variable) => variable.name === "PORT")?.value ?? port);
  if (asked.length === 0 || asked.includes(told)) return undefined;
  return `It is told PORT=${told} and asked on ${asked.join(", ")}: \`port\` in ci/pipeline.ts and the manifests' containerPort are to agree.`;
}
