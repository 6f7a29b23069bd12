/** Types of the results that the steps of a deploy pass on. */
import type { SecretStore } from "../kubernetes/secret-store.ts";
import type { AvailabilityReport } from "../deploy/availability.ts";
import type { DeliveredImage } from "../deploy/image-delivery.ts";
import type { PlanInNamespace } from "../deploy/prepare-deploy.ts";
import type { Version } from "../deploy/release-history.ts";
import type { LockedContext } from "../deploy/locked-context.ts";
import type { DeployContext, Plan, PlanInputs } from "../deploy/plan.ts";
import type { ReadyRollout, ServedVersion } from "../deploy/rollout-phases.ts";
import type { DeployTransaction } from "../deploy/deploy-transaction.ts";
import type { Endpoint } from "../deploy/verify-from-outside.ts";

/** Results of the steps. Undefined: the step was skipped. */
export interface FlowResults {
  prebuild: void;
  check: void;
  test: void;
  id: string;
  archives: string;
  smoke: void;
  connect: DeployContext;
  locate: string | undefined;
  inspect: PlanInputs;
  plan: Plan;
  announce: void;
  image: string;
  compare: Plan;
  import: Plan | undefined;
  approve: Plan;
  namespace: PlanInNamespace | undefined;
  lock: LockedContext | undefined;
  record: Version | undefined;
  deliver: DeliveredImage | undefined;
  prepare: DeployTransaction | undefined;
  secrets: void;
  /** The secrets before the lock was taken. */
  stored: SecretStore;
  jobs: void;
  rollout: ReadyRollout | undefined;
  verify: ServedVersion | undefined;
  settle: AvailabilityReport | undefined;
  complete: void;
  serving: Endpoint;
}
