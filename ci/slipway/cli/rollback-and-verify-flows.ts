/** The flows of `rollback` and `verify`, out of steps of a deploy. */
import { stepsOf, type FlowStep } from "../core/step-graph.ts";
import { lockDeploys } from "../deploy/locked-context.ts";
import { prepareRollback } from "../deploy/prepare-rollback.ts";
import { verifyRollout } from "../deploy/rollout-phases.ts";
import { assertServing, endpointOf } from "../deploy/status.ts";
import type { CommandContext } from "./context.ts";
import { buildSteps, changeSteps, connectStep, undoChange, unlock } from "./deploy-flow.ts";
import type { FlowResults } from "./deploy-step-results.ts";

const { step, internal } = stepsOf<FlowResults>();

/** Back to an earlier version (goal `complete`). @param wanted its name or id. Default: the version that served before. */
export const rollbackSteps = (context: CommandContext, wanted?: string): FlowStep<FlowResults>[] => [
  connectStep(context),
  internal("lock", {
    needs: ["connect"],
    run: ({ connect }) => lockDeploys(connect, `rollback${wanted ? ` to ${wanted}` : ""}`),
    ...unlock,
  }),
  internal("prepare", { needs: ["lock"], run: ({ lock }) => prepareRollback(lock!, wanted), ...undoChange }),
  ...changeSteps(context, "rollback"),
  step("verify", {
    needs: ["lock", "prepare", "rollout"],
    run: ({ lock, prepare, rollout }) => verifyRollout(lock!, prepare!.rollout, rollout!),
  }),
];

/** Verification of the version that serves now (goal `serving`). */
export const verifySteps = (context: CommandContext): FlowStep<FlowResults>[] => [
  ...buildSteps(context),
  connectStep(context),
  internal("serving", {
    needs: ["connect", "id"],
    run: async ({ connect, id }) => assertServing(connect, await endpointOf(connect), id),
  }),
];
