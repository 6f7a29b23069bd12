/**
 * Asks the API server which rights the user lacks, in one request before the first write.
 * https://kubernetes.io/docs/reference/kubernetes-api/authorization-resources/self-subject-rules-review-v1/
 */
import { ApiError } from "./api-error.ts";
import type { ApiClient } from "./api.ts";

/** One right: a verb on a resource, in the service's namespace unless it is cluster-wide. */
export interface Right {
  verb: string;
  group: string;
  /** `pods/log` with a subresource. */
  resource: string;
  /** Undefined for requests without a name (create, list). */
  name?: string | undefined;
  isClusterWide?: boolean;
}

interface ResourceRule {
  verbs: string[];
  apiGroups?: string[];
  resources?: string[];
  resourceNames?: string[];
}

const REVIEWS = "/apis/authorization.k8s.io/v1";

/** Returns the rights that the user lacks. Empty if the API server does not say. */
export async function findMissingRights(api: ApiClient, needed: Right[]): Promise<Right[]> {
  const { namespace } = api.service;
  const rules = await review<{ resourceRules?: ResourceRule[]; incomplete?: boolean }>(api, "SelfSubjectRulesReview", {
    namespace,
  });
  if (!rules) return [];
  const { resourceRules = [], incomplete = false } = rules;
  const missing = needed.filter((right) => right.isClusterWide || !resourceRules.some((rule) => grants(rule, right)));
  // The review lists neither all rules of some authorizers nor cluster-wide rights as such.
  const results = await Promise.all(
    missing.map(async (right) => (incomplete || right.isClusterWide ? await isDenied(api, right) : true)),
  );
  return missing.filter((_, i) => results[i]);
}

function grants({ verbs, apiGroups = [], resources = [], resourceNames = [] }: ResourceRule, right: Right): boolean {
  const has = (values: string[], value: string) => values.includes("*") || values.includes(value);
  const [, subresource] = right.resource.split("/");
  const isResource =
    has(resources, right.resource) || (subresource !== undefined && resources.includes(`*/${subresource}`));
  const isNamed = resourceNames.length === 0 || (right.name !== undefined && resourceNames.includes(right.name));
  return has(verbs, right.verb) && has(apiGroups, right.group) && isResource && isNamed;
}

async function isDenied(api: ApiClient, { verb, group, resource, name, isClusterWide }: Right): Promise<boolean> {
  const [plural, subresource] = resource.split("/");
  const resourceAttributes = {
    verb,
    group,
    resource: plural,
    ...(subresource && { subresource }),
    ...(name && { name }),
    ...(!isClusterWide && { namespace: api.service.namespace }),
  };
  const status = await review<{ allowed?: boolean }>(api, "SelfSubjectAccessReview", { resourceAttributes });
  return status?.allowed === false;
}

/** @returns undefined if the API server does not review, for example behind a proxy */
async function review<T>(api: ApiClient, kind: string, spec: object): Promise<T | undefined> {
  const body = { apiVersion: "authorization.k8s.io/v1", kind, spec };
  try {
    const path = `${REVIEWS}/${kind.toLowerCase()}s`;
    const { status } = await api.json<{ status?: T }>(path, {
      ...{ method: "POST", body, checksLock: false },
      // A review changes nothing, so it is safe to repeat.
      retryBudgetSeconds: api.retryBudgetSeconds,
    });
    return status;
  } catch (error) {
    if (error instanceof ApiError && [403, 404, 405].includes(error.status)) return undefined;
    throw error;
  }
}
