/** What the server would change with manifests, in words; a Secret's values are in none of them. */
import { PipelineError } from "../core/errors.ts";
import { isRawJsonNumber } from "../core/lossless-json.ts";
import { ApiError, type ApiClient } from "./api.ts";
import { CREATED_BY, prepareForApply } from "./prepare-apply.ts";
import { objectName, type KubeObject } from "./objects.ts";
import { splitPreDeployJobs } from "./render.ts";

export interface Difference {
  /** `Deployment/helloapp` */
  object: string;
  /** Lines like `spec.replicas: 2 -> 3`; of an object that is new, none. */
  lines: string[];
  isNew: boolean;
}

/**
 * What an apply would change. The server checks and merges as it would for a real one and keeps nothing, so what others
 * have set, or a default, is no difference.
 *
 * @throws {PipelineError} "project" when the server refuses the manifests, or knows no such kind
 */
export async function diffManifests(api: ApiClient, manifests: KubeObject[]): Promise<Difference[]> {
  const { jobs: preDeployJobs, rest } = splitPreDeployJobs(manifests);
  const defined = definitions(manifests);
  const fitted = await prepareForApply(api, rest);
  const compared = await Promise.all(
    fitted.map(async ({ object, live, path }): Promise<Difference[]> => {
      const isNew = [{ object: objectName(object), lines: [], isNew: true }];
      if (path === undefined) {
        // Its definition comes with it, and is not there before.
        if (defined.has(kindOf(object))) return isNew;
        throw new PipelineError("project", `the cluster knows no ${object.kind} of ${object.apiVersion}`, {
          hint: "What defines it comes first, an operator for example; or take it out of the overlay.",
        });
      }
      const merged = await api.apply(object, { dryRun: true }).catch((error: unknown) => {
        // A dry run cannot put anything into a namespace that is not there yet.
        if (error instanceof ApiError && error.status === 404 && !live) return object;
        throw explainRejection("the dry run of", object, error);
      });
      if (!live) return isNew;
      const lines = describe(object, live, merged);
      return lines.length > 0 ? [{ object: objectName(object), lines, isNew: false }] : [];
    }),
  );
  // A Job that comes first has the version in its name, and has run if it is there.
  const jobs = await prepareForApply(api, preDeployJobs);
  const due = jobs.flatMap(({ object, live }) =>
    live ? [] : [{ object: objectName(object), lines: [], isNew: true }],
  );
  return [...due, ...compared.flat()];
}

/** `group/Kind`s that these manifests define. */
function definitions(manifests: KubeObject[]): Set<string> {
  return new Set(
    manifests.flatMap((object) => {
      if (object.kind !== "CustomResourceDefinition") return [];
      const { spec } = object as KubeObject & { spec?: { group?: string; names?: { kind?: string } } };
      return [`${spec?.group}/${spec?.names?.kind}`];
    }),
  );
}

const kindOf = ({ apiVersion, kind }: KubeObject) => `${apiVersion.replace(/\/[^/]*$/, "")}/${kind}`;

/** Objects that the server calls invalid are the change's fault; a server that cannot be asked is not. */
export function explainRejection(what: string, object: KubeObject, error: unknown): unknown {
  if (!(error instanceof ApiError) || !error.isInvalid) return error;
  // The server quotes what it does not take.
  const words =
    object.kind === "Secret" ? `status ${error.status}; its words could hold a value` : error.reply;
  const message = `${what} ${objectName(object)}: the cluster refuses it: ${words}`;
  const cause = object.kind === "Secret" ? undefined : error;
  return new PipelineError("project", message, { hint: "Correct the manifests under k8s/.", cause });
}

function describe(object: KubeObject, live: KubeObject, merged: KubeObject): string[] {
  const lines = compareFields(significant(live), significant(merged));
  if (object.kind !== "Secret") return lines;
  // Which key is another, and not what it was or is.
  return lines.map((line) => line.replace(/^((?:data|stringData)(?:\.[^:]+)?): .*$/s, "$1 is another"));
}

function significant(object: KubeObject): unknown {
  const { metadata, status: _, ...rest } = object as KubeObject & { status?: unknown };
  const { labels } = metadata;
  const annotations = Object.entries(metadata.annotations ?? {}).filter(([name]) => !written.test(name));
  return { ...rest, metadata: { labels, annotations: Object.fromEntries(annotations) } };
}

/** Annotations that controllers write, and the note of what was made. */
const written = new RegExp(
  `^deployment\\.kubernetes\\.io/|^deprecated\\.daemonset|^kubernetes\\.io/change-cause$|^kubectl\\.|^${CREATED_BY}$`,
);

/** The places where two values differ, one line each. */
export function compareFields(before: unknown, after: unknown, path = ""): string[] {
  if (Bun.deepEquals(before, after)) return [];
  if (isTree(before) && isTree(after) && Array.isArray(before) === Array.isArray(after)) {
    const keys = new Set([...Object.keys(before), ...Object.keys(after)]);
    return [...keys].flatMap((key) => compareFields(before[key], after[key], path ? `${path}.${key}` : key));
  }
  const show = (value: unknown) => (value === undefined ? "nothing" : JSON.stringify(value));
  return [`${path}: ${show(before)} -> ${show(after)}`];
}

function isTree(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !isRawJsonNumber(value);
}
