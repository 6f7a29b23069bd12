/** The values of `secrets` in a deploy: checks that each has a value, and marks the pods that get it. */
import { PipelineError } from "../core/errors.ts";
import { cloneJson } from "../core/lossless-json.ts";
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
