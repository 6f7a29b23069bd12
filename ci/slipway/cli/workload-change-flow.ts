/** The flow of `restart` and `scale`, out of steps of a deploy. */
import { stepsOf, type FlowStep } from "../core/step-graph.ts";
import { lockDeploys } from "../deploy/locked-context.ts";
import { verifyRollout } from "../deploy/rollout-phases.ts";
import { prepareWorkloadChange, undoWorkloadChange, type WorkloadChange } from "../operations/change-workloads.ts";
import type { CommandContext } from "./context.ts";
import { changeSteps, connectStep, unlock } from "./deploy-flow.ts";
import type { FlowResults } from "./deploy-step-results.ts";

const { step, internal } = stepsOf<FlowResults>();

/** A patch of workloads that run (goal `complete`). */
export const workloadChangeSteps = (context: CommandContext, change: WorkloadChange): FlowStep<FlowResults>[] => [
  connectStep(context),
  internal("lock", {
    needs: ["connect"],
    run: ({ connect }) => lockDeploys(connect, change.purpose),
    ...unlock,
  }),
  internal("prepare", {
    needs: ["lock"],
    run: ({ lock }) => prepareWorkloadChange(lock!, change),
    undo: (error, { lock, prepare }) => undoWorkloadChange(lock!, prepare!, error),
  }),
  ...changeSteps(context, "rollout"),
  step("verify", {
    needs: ["lock", "prepare", "rollout"],
    run: ({ lock, prepare, rollout }) => verifyRollout(lock!, prepare!.rollout, rollout!),
  }),
];
