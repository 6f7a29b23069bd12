/** What the server would change with manifests, in words; a Secret's values are in none of them. */
import { PipelineError } from "../core/errors.ts";
import { isRawJson } from "../core/lossless-json.ts";
import { Refusal, type Api } from "./api.ts";
import { CREATED_BY, fit } from "./prepare-apply.ts";
import { nameOf, type KubeObject } from "./objects.ts";
import { apart } from "./render.ts";

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
 * @throws {PipelineError} "change" when the server refuses the manifests, or knows no such kind
 */
export async function differences(api: Api, manifests: KubeObject[]): Promise<Difference[]> {
  const { first, rest } = apart(manifests);
  const defined = definitions(manifests);
  const fitted = await fit(api, rest);
  const compared = await Promise.all(
    fitted.map(async ({ object, live, path }): Promise<Difference[]> => {
      const isNew = [{ object: nameOf(object), lines: [], isNew: true }];
      if (path === undefined) {
        // Its definition comes with it, and is not there before.
        if (defined.has(kindOf(object))) return isNew;
        throw new PipelineError("change", `the cluster knows no ${object.kind} of ${object.apiVersion}`, {
          hint: "What defines it comes first, an operator for example; or take it out of the overlay.",
        });
      }
      const merged = await api.apply(object, { dryRun: true }).catch((error: unknown) => {
        // A dry run cannot put anything into a namespace that is not there yet.
        if (error instanceof Refusal && error.status === 404 && !live) return object;
        throw refused("the dry run of", object, error);
      });
      if (!live) return isNew;
      const lines = describe(object, live, merged);
      return lines.length > 0 ? [{ object: nameOf(object), lines, isNew: false }] : [];
    }),
  );
  // A Job that comes first has the version in its name, and has run if it is there.
  const jobs = await fit(api, first);
  const due = jobs.flatMap(({ object, live }) =>
    live ? [] : [{ object: nameOf(object), lines: [], isNew: true }],
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
export function refused(what: string, object: KubeObject, error: unknown): unknown {
  if (!(error instanceof Refusal) || !error.isInvalid) return error;
  // The server quotes what it does not take.
  const words =
    object.kind === "Secret" ? `status ${error.status}; its words could hold a value` : error.reply;
  const message = `${what} ${nameOf(object)}: the cluster refuses it: ${words}`;
  const cause = object.kind === "Secret" ? undefined : error;
  return new PipelineError("change", message, { hint: "Correct the manifests under k8s/.", cause });
}

function describe(object: KubeObject, live: KubeObject, merged: KubeObject): string[] {
  const lines = compare(significant(live), significant(merged));
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
export function compare(before: unknown, after: unknown, path = ""): string[] {
  if (Bun.deepEquals(before, after)) return [];
  if (isTree(before) && isTree(after) && Array.isArray(before) === Array.isArray(after)) {
    const keys = new Set([...Object.keys(before), ...Object.keys(after)]);
    return [...keys].flatMap((key) => compare(before[key], after[key], path ? `${path}.${key}` : key));
  }
  const show = (value: unknown) => (value === undefined ? "nothing" : JSON.stringify(value));
  return [`${path}: ${show(before)} -> ${show(after)}`];
}

function isTree(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !isRawJson(value);
}
