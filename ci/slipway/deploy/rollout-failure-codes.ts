/** Maps the reason of a failed rollout to an error code. */
import type { ErrorCode } from "../core/error-codes.ts";
import type { RolloutFailure } from "./rollout-status.ts";

/** Error codes by reason. A container that ends has other reasons, for example "OOMKilled" or "Error". */
const codesByReason: Record<string, ErrorCode> = {
  ErrImageNeverPull: "rollout-image-missing",
  ErrImagePull: "rollout-image-pull",
  ImagePullBackOff: "rollout-image-pull",
  InvalidImageName: "rollout-image-pull",
  CreateContainerConfigError: "rollout-container-config",
  CreateContainerError: "rollout-container-config",
  RunContainerError: "rollout-container-config",
  CrashLoopBackOff: "rollout-crash-loop",
  NotReady: "rollout-not-ready",
  Unschedulable: "rollout-unschedulable",
  SchedulerError: "rollout-unschedulable",
  SchedulingGated: "rollout-unschedulable",
  FailedCreate: "rollout-failed-create",
  FailedDelete: "rollout-failed-create",
  ReplicaFailure: "rollout-failed-create",
  ProgressDeadlineExceeded: "rollout-timeout",
  Timeout: "rollout-timeout",
  Deleted: "rollout-deleted",
  NotServed: "rollout-not-served",
  Killed: "rollout-not-ready",
  JobFailed: "pre-deploy-job-failed",
};

export function rolloutErrorCode({ reason }: RolloutFailure): ErrorCode {
  return codesByReason[reason] ?? "rollout-container-exited";
}
