/** The values of `secrets` in a deploy: checks that each has a value, and marks the pods that get it. */
import { findValueDefect, type SecretSetting } from "../core/env-settings.ts";
import { PipelineError } from "../core/errors.ts";
import { cloneJson } from "../core/lossless-json.ts";
import { runProcess } from "../core/process.ts";
import type { Service } from "../core/resolve-service.ts";
import type { Difference } from "../kubernetes/diff.ts";
import type { ApiClient } from "../kubernetes/api.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import { podTemplates } from "../kubernetes/pod-templates.ts";
import { readSecrets, SecretChange, type SecretStore } from "../kubernetes/secret-store.ts";
import { secretKeysOf, secretName } from "../kubernetes/settings-env.ts";
import { isWorkload } from "../kubernetes/workload-state.ts";

/** Annotation of pods: a keyed digest of their secrets, so that a changed value starts new pods. */
export const SECRETS_DIGEST = "slipway/secrets";
const COMMAND_TIMEOUT_SECONDS = 60;

/** Runs the commands of the setting `secrets`, all at once. @throws {PipelineError} "environment" if one fails */
export async function runSecretCommands(service: Service, signal: AbortSignal): Promise<SecretChange> {
  const withCommand = service.secrets.filter(({ command }) => command !== undefined);
  return new SecretChange(await Promise.all(withCommand.map((setting) => runSecretCommand(service, setting, signal))));
}

async function runSecretCommand(
  { project }: Service,
  { name, command }: SecretSetting,
  signal: AbortSignal,
): Promise<[string, Uint8Array]> {
  const failed = (cause: string, output?: string) =>
    new PipelineError(
      "environment",
      `${command![0]}, the command of the secret ${name}, ${cause}. Nothing was changed`,
      {
        code: "secret-command-failed",
        hint: "Run the command of `secrets` in ci/pipeline.ts by hand. It must print the value alone.",
        output,
      },
    );
  const { code, stdout, stderr } = await runProcess(command!, {
    cwd: project,
    signal,
    timeoutSeconds: COMMAND_TIMEOUT_SECONDS,
  });
  if (code !== 0) throw failed(`exited with ${code}`, stderr);
  const value = Buffer.from(withoutNewline(stdout));
  const defect = stdout.includes("\uFFFD") ? "is not valid UTF-8" : findValueDefect(name, value);
  if (defect) throw failed(`has printed a value that ${defect}`, stderr);
  return [name, value];
}

/** Removes the newline at the end, which programs and editors add. */
export function withoutNewline(text: string): string {
  return text.replace(/\r?\n$/, "");
}

export interface PlannedSecrets {
  /** Values that commands have printed. */
  change: SecretChange;
  before: SecretStore;
  after: SecretStore;
}

/**
 * Compares the objects' references with the stored values.
 *
 * @param change values to store with the deploy. Default: none
 * @returns undefined if no object refers to them
 * @throws {PipelineError} "environment" if a value is missing, with the commands that set it
 */
export async function planSecrets(
  api: ApiClient,
  objects: KubeObject[],
  change = new SecretChange([]),
): Promise<PlannedSecrets | undefined> {
  const keys = new Set(objects.flatMap(podTemplates).flatMap((template) => secretKeysOf(api.service, template, [])));
  if (keys.size === 0 && change.names.length === 0) return undefined;
  const before = await readSecrets(api);
  const after = before.after(change);
  const missing = [...keys].filter((key) => !after.names.includes(key));
  if (missing.length === 0) return { change, before, after };
  const commands = missing.map((name) => `\`bun ci/pipeline.ts secrets set ${name}\``);
  throw new PipelineError(
    "environment",
    `no value is stored in ${api.service.namespace} for ${missing.length > 1 ? "the secrets" : "the secret"} ${missing.join(", ")}. Nothing was changed`,
    {
      code: "secret-missing",
      hint: `Run ${commands.join(", ")} with the same target options, then run the command again.`,
    },
  );
}

/** Describes the change of the Secret for the plan: names, and never values. */
export function describeSecretChange(service: Service, planned: PlannedSecrets | undefined): Difference[] {
  const { set } = planned?.before.differenceTo(planned.change) ?? { set: [] };
  if (set.length === 0) return [];
  const lines = set.map((name) => `data.${name} changed`);
  return [{ object: `Secret/${secretName(service)}`, lines, isNew: !planned!.before.exists }];
}

/** Returns the objects, with the digest of their secrets on the pods of workloads. Versions do not contain the digest. */
export function markPods(service: Service, objects: KubeObject[], secrets: SecretStore | undefined): KubeObject[] {
  if (!secrets) return objects;
  const marked = cloneJson(objects);
  for (const template of marked.filter(isWorkload).flatMap(podTemplates)) {
    const keys = secretKeysOf(service, template, secrets.names);
    if (keys.length === 0) continue;
    const annotations = { ...template.metadata?.annotations, [SECRETS_DIGEST]: secrets.digestOf(keys) };
    template.metadata = { ...template.metadata, annotations };
  }
  return marked;
}
