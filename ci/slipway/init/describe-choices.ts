/** Describes what init chose, so that a wrong choice is seen before the first deploy. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { ProjectFacts } from "./project-facts.ts";
import type { FileChange } from "./write-all-or-none.ts";

/** Returns lines about entry, port, scripts and files that were kept. */
export function describeChoices(facts: ProjectFacts, changes: FileChange[]): string[] {
  const { service, port, portModule, entries, openedFiles, environment, isWorker } = facts;
  const isNew = changes.some(({ path }) => path === join(service.project, "ci/pipeline.ts"));
  const files = isNew ? openedFiles : [];
  const { entry, scripts, project } = service;
  const chosen = entries.find(({ path }) => path === entry);
  const others = entries.filter(({ path }) => path !== entry).map(({ path }) => path);
  const change = others.length > 0 ? `. Other candidates: ${others.join(", ")}. Set \`entry\` to choose one` : "";
  const from = chosen ? `found by ${chosen.source}` : "set in ci/pipeline.ts";
  const names = [
    `check: ${scripts.check ?? "none"}`,
    `test: ${scripts.test ?? "none"}`,
    ...service.prebuild.map((name) => `prebuild: ${name}`),
  ];
  return [
    `  entry    ${entry}  ${from}${change}`,
    isWorker
      ? `  port     none  ${entry} starts no server, so it is a worker. If it is a server, set \`port\` in ci/pipeline.ts, remove k8s/ and run \`slipway init\` again`
      : `  port     ${service.port}  ${port === service.port ? `found in ${portModule}` : "the service gets it as $PORT"}`,
    `  scripts  ${names.join(", ")}`,
    ...(files.length > 0 ? [`  files    ${files.join(", ")}  opened by the service, so the image gets them`] : []),
    ...(isNew ? describeVariables(environment) : []),
    ...describeKeptDockerfile(project, changes),
  ];
}

function describeVariables({ file, secrets, others }: ProjectFacts["environment"]): string[] {
  const names = secrets.join(", ");
  return [
    ...(secrets.length > 0
      ? [
          `  secrets  ${names}  named in ${file}. Before you deploy, store each value with \`bun ci/pipeline.ts secrets set NAME\`, or delete the name from ci/pipeline.ts`,
        ]
      : []),
    ...(others.length > 0
      ? [`  env      ${others.join(", ")}  named in ${file}: set \`env\` in ci/pipeline.ts if needed`]
      : []),
  ];
}

/** An existing Dockerfile stays, and builds another image than slipway. */
function describeKeptDockerfile(project: string, changes: FileChange[]): string[] {
  const file = join(project, "Dockerfile");
  if (!existsSync(file) || changes.some(({ path }) => path === file)) return [];
  if (readFileSync(file, "utf8").includes("ci/pipeline.ts build")) return [];
  return [
    "  kept     Dockerfile  slipway does not use it. To get one that builds slipway's image, rename it and run `slipway init` again",
  ];
}
