/**
 * Finds commands of the service's containers that start a program which the image lacks. The image has the service's binary, and
 * neither a shell nor other programs.
 */
import { posix } from "node:path";
import type { Service } from "../core/resolve-service.ts";
import { objectName, type KubeObject } from "../kubernetes/objects.ts";
import { podTemplates } from "../kubernetes/pod-templates.ts";
import { podSpecPath } from "../kubernetes/references.ts";
import type { CheckInput, ManifestProblem } from "./manifest-problem.ts";

interface Handler {
  exec?: { command?: string[] };
}
interface CommandContainer {
  image: string;
  command?: string[];
  args?: string[];
  workingDir?: string;
  env?: { name: string; value?: string }[];
  volumeMounts?: { mountPath: string }[];
  ports?: { name?: string; containerPort: number }[];
  startupProbe?: Handler;
  readinessProbe?: Handler;
  livenessProbe?: Handler;
  lifecycle?: { postStart?: Handler; preStop?: Handler };
}

/** Directories of the image that hold files of the setting `files` and of packages, and the kernel's own. */
const FILLED_DIRECTORIES = ["/srv", "/node_modules", "/proc"];
const WORKING_DIRECTORY = "/srv";
const DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** Finds commands that cannot run. */
export function findMissingPrograms({ service, manifests }: CheckInput): ManifestProblem[] {
  return manifests.flatMap((object) =>
    podTemplates(object).flatMap(({ spec }) =>
      (["containers", "initContainers"] as const).flatMap((list) =>
        ((spec[list] ?? []) as CommandContainer[]).flatMap((container, i) =>
          container.image === service.name
            ? problemsOf(service, object, container, { path: `${podSpecPath(object)}.${list}[${i}]`, list })
            : [],
        ),
      ),
    ),
  );
}

function problemsOf(
  service: Service,
  object: KubeObject,
  container: CommandContainer,
  { path, list }: { path: string; list: "containers" | "initContainers" },
): ManifestProblem[] {
  const { command, args = [], lifecycle = {} } = container;
  const isMain = list === "containers" && object.kind !== "Job" && object.kind !== "CronJob";
  const commands = [
    { field: "command", command, remedy: () => ownEntry(service, [...(command ?? []), ...args], isMain) },
    ...(["startupProbe", "readinessProbe", "livenessProbe"] as const).map((field) => {
      const command = container[field]?.exec?.command;
      return {
        field: `${field}.exec.command`,
        command,
        remedy: () => probeInstead(service, container, field, command!),
      };
    }),
    ...(["postStart", "preStop"] as const).map((hook) => {
      const command = lifecycle[hook]?.exec?.command;
      return { field: `lifecycle.${hook}.exec.command`, command, remedy: () => hookInstead(hook, command!) };
    }),
  ];
  return commands.flatMap(({ field, command, remedy }): ManifestProblem[] => {
    const [program] = command ?? [];
    if (!program || isInImage(service, program, container)) return [];
    const problem = `the image has no ${program}, only /${service.name}`;
    return [{ object: objectName(object), field: `${path}.${field}`, problem, remedy: remedy() }];
  });
}

/** Whether the image or a volume may have the program. */
function isInImage({ name }: Service, program: string, container: CommandContainer): boolean {
  // Kubernetes replaces a variable.
  if (program.includes("$(")) return true;
  const { env = [], volumeMounts = [], workingDir = WORKING_DIRECTORY } = container;
  const mounted = volumeMounts.map(({ mountPath }) => posix.resolve("/", mountPath));
  const isBelow = (directories: string[], path: string) =>
    directories.some((directory) => path === directory || path.startsWith(`${directory}/`) || directory === "/");
  if (program.includes("/")) {
    const path = posix.resolve(workingDir, program);
    return path === `/${name}` || isBelow([...FILLED_DIRECTORIES, ...mounted], path);
  }
  const searched = (env.find(({ name }) => name === "PATH")?.value ?? DEFAULT_PATH).split(":");
  if (program === name && searched.includes("/")) return true;
  return searched.some((directory) => isBelow([...FILLED_DIRECTORIES, ...mounted], directory));
}

function ownEntry({ name }: Service, command: string[], isMain: boolean): string {
  const [, module, entry] = /(?:^|[\s"'])((?:\.\/)?[\w./-]*?([\w-]+)\.[mc]?[jt]sx?)\b/.exec(command.join(" ")) ?? [];
  if (isMain) return "Remove `command` and `args`: the image starts the service by itself";
  const [key, path] = [entry ?? "setup", module?.replace(/^\.\//, "") ?? "src/setup.ts"];
  return `Set \`entries: { ${JSON.stringify(key)}: ${JSON.stringify(path)} }\` in ci/pipeline.ts, and write \`command: ["/${name}", "${key}"]\`. Or use an image that has the program`;
}

/** Writes the probe that Kubernetes makes itself. */
function probeInstead(service: Service, container: CommandContainer, field: string, command: string[]): string {
  const text = command.join(" ");
  const own = container.ports?.find(({ name }) => name === "http")?.name ?? container.ports?.[0]?.containerPort;
  const port = own ?? service.port;
  const [, urlPort, urlPath] = /https?:\/\/[^\s/:"']+(?::(\d+))?(\/[^\s"'|;?]*)?/.exec(text) ?? [];
  const [, socketPort] = /\bnc\b.*?\s(\d{2,5})\b/.exec(text) ?? [];
  const [, grpcPort] = /grpc_health_probe\b.*?:(\d{2,5})\b/.exec(text) ?? [];
  if (grpcPort) return `Write \`grpc: { port: ${grpcPort} }\` instead of \`exec\``;
  if (socketPort) return `Write \`tcpSocket: { port: ${socketPort} }\` instead of \`exec\``;
  const path = urlPath ?? (field === "readinessProbe" ? "/readyz" : "/healthz");
  return `Write \`httpGet: { path: ${path}, port: ${urlPort ?? port} }\` instead of \`exec\``;
}

function hookInstead(hook: string, command: string[]): string {
  const [, seconds] = /\bsleep\s+(\d+)/.exec(command.join(" ")) ?? [];
  if (seconds) return `Write \`${hook}: { sleep: { seconds: ${seconds} } }\``;
  if (hook === "preStop") return "Remove the hook: do this work in the service when it gets SIGTERM";
  return "Remove the hook: do this work when the service starts";
}
