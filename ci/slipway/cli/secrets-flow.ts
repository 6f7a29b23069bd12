/** The flow of a change of secrets, out of steps of a deploy. */
import { stepsOf, type FlowStep } from "../core/step-graph.ts";
import { verifyRollout } from "../deploy/rollout-phases.ts";
import { readSecrets, type SecretChange } from "../kubernetes/secret-store.ts";
import { lockForSecrets, prepareSecretChange } from "../secrets/change-secrets.ts";
import type { CommandContext } from "./context.ts";
import { changeSteps, connectStep, undoChange, unlock } from "./deploy-flow.ts";
import type { FlowResults } from "./deploy-step-results.ts";

const { step, internal } = stepsOf<FlowResults>();

/** Stores values, and rolls the pods that use them (goals `complete` and `verify`). */
export const secretSteps = (
  context: CommandContext,
  change: SecretChange,
  restarts: boolean,
): FlowStep<FlowResults>[] => [
  connectStep(context),
  internal("stored", { needs: ["connect"], run: ({ connect }) => readSecrets(connect.target.api) }),
  internal("lock", { needs: ["connect", "stored"], run: ({ connect }) => lockForSecrets(connect), ...unlock }),
  internal("prepare", {
    needs: ["lock", "stored"],
    run: ({ lock, stored }) => prepareSecretChange(lock!, { change, seen: stored, restarts }),
    undo: async (error, results) => (results.prepare ? undoChange.undo(error, results) : error),
  }),
  ...changeSteps(context, "rollout"),
  step("verify", {
    needs: ["lock", "prepare", "rollout"],
    skip: ({ rollout }) => !rollout,
    run: ({ lock, prepare, rollout }) => verifyRollout(lock!, prepare!.rollout, rollout!),
  }),
];
