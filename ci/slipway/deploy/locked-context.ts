/** The context of a deploy while it holds the lock. */
import { PipelineError } from "../core/errors.ts";
import { RESUME_HINT } from "../kubernetes/apply.ts";
import { acquireLock } from "./lock.ts";
import type { DeployContext } from "./plan.ts";

/** Its signal also aborts when the lock is lost: nothing is written after that. */
export interface LockedContext extends DeployContext {
  /** @returns the error to report: "partial" if it is the loss of the lock, and something had been written */
  explainLoss(error: unknown): unknown;
  releaseLock(): Promise<void>;
}

/**
 * Takes the lock, and checks it before every write from then on.
 *
 * @throws {PipelineError} "environment", with the holder's name, if another deploy is in progress
 */
export async function lockDeploys(context: DeployContext, purpose: string): Promise<LockedContext> {
  const { target, log, lockWaitSeconds: waitSeconds = 0 } = context;
  const lock = await acquireLock(target.api, { purpose, log, waitSeconds });
  let hasWritten = false;
  target.api.beforeWrite = async () => {
    await lock.ensureHeld();
    hasWritten = true;
  };
  return {
    ...context,
    signal: AbortSignal.any([context.signal, lock.lost]),
    explainLoss(error) {
      const { reason } = lock.lost as { reason?: PipelineError };
      if (!hasWritten || !reason || error !== reason) return error;
      return new PipelineError("partial", `${reason.message}. This deploy was writing until then`, {
        code: reason.code,
        hint: `${reason.hint} ${RESUME_HINT}`,
      });
    },
    async releaseLock() {
      target.api.beforeWrite = undefined;
      await lock.release();
    },
  };
}
