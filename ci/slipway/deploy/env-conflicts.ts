/** Finds variables that both the manifests and the settings `env` and `secrets` set. */
import { objectName, type KubeObject } from "../kubernetes/objects.ts";
import { podTemplates } from "../kubernetes/pod-templates.ts";
import type { EnvSpec } from "../kubernetes/resolve-env.ts";
import { secretName } from "../kubernetes/settings-env.ts";
import type { CheckInput, ManifestProblem } from "./manifest-problem.ts";

type Container = EnvSpec & { image?: string };
type KeyValues = KubeObject & { data?: Record<string, string>; stringData?: Record<string, string> };

/** The manifests have the settings' variables already, after their own. */
export function findEnvConflicts({ manifests, service }: CheckInput): ManifestProblem[] {
  const names = [...Object.keys(service.env), ...service.secrets.map(({ name }) => name)];
  const remedy = "Set the variable in one place: in the manifest, or in ci/pipeline.ts";
  const problem = (name: string) => `${name} is also set by ci/pipeline.ts`;
  const inContainer = ({ env = [], envFrom = [] }: Container) => [
    ...names.flatMap((name) => {
      const index = env.findIndex((variable) => variable.name === name);
      const isTwice = env.some((variable, i) => variable.name === name && i > index);
      return isTwice ? [{ field: `env[${index}]`, problem: problem(name) }] : [];
    }),
    ...envFrom.flatMap(({ prefix = "", configMapRef, secretRef }, i) => {
      const [kind, reference] = secretRef ? ["Secret", secretRef.name] : ["ConfigMap", configMapRef?.name];
      const source = manifests.find((one) => one.kind === kind && one.metadata.name === reference) as KeyValues;
      const keys = Object.keys({ ...source?.data, ...source?.stringData }).map((key) => prefix + key);
      return names
        .filter((name) => keys.includes(name))
        .map((name) => ({ field: `envFrom[${i}]`, problem: `${problem(name)}, and by ${kind}/${reference}` }));
    }),
  ];
  const found = manifests.flatMap((object) =>
    podTemplates(object).flatMap(({ spec }) =>
      (["containers", "initContainers"] as const).flatMap((list) =>
        ((spec[list] ?? []) as Container[]).flatMap((container, i) =>
          container.image !== service.name
            ? []
            : inContainer(container).map(({ field, problem }) => {
                const path = object.kind === "CronJob" ? "spec.jobTemplate.spec" : "spec";
                const at = `${path}.template.spec.${list}[${i}].${field}`;
                return { object: objectName(object), field: at, problem, remedy };
              }),
        ),
      ),
    ),
  );
  const own = manifests.find(({ kind, metadata }) => kind === "Secret" && metadata.name === secretName(service));
  if (!own || service.secrets.length === 0) return found;
  const taken = "the name is that of the Secret with the values of `secrets`";
  return [...found, { object: objectName(own), field: "metadata.name", problem: taken, remedy: "Rename the Secret" }];
}
