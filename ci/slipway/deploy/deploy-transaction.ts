/** The record of a change to the cluster: what it writes, and what an undo needs. */
import type { KubeObject } from "../kubernetes/objects.ts";
import type { WorkloadState } from "../kubernetes/workload-state.ts";
import type { PreparedObject } from "../kubernetes/prepare-for-apply.ts";
import type { Version } from "./release-history.ts";
import type { DeployContext } from "./plan.ts";
import type { RolloutOptions } from "./rollout-phases.ts";

export interface DeployTransaction {
  /** Name of the new version, `helloapp:<id>`. */
  name: string;
  version: Version;
  /** The objects that it writes, each with its state before. */
  objects: PreparedObject[];
  /** Jobs that have to succeed before the pods change. */
  jobs: KubeObject[];
  rollout: RolloutOptions;
  /** Writes changed values of secrets before the pods change, and restores them. Default: no value changes. */
  secrets?: { write(): Promise<void>; restore(): Promise<void> } | undefined;
  /** The workloads before the change. */
  before: WorkloadState[];
  /** The version to roll back to if the state before did not serve. */
  rollbackTarget: Version | undefined;
  /** Objects that an undo leaves: Jobs have had their effect. */
  permanentEffects: string[];
  /** Versions that the change has recorded. An undo deletes their records. */
  recordedVersions: Version[];
  /** Whether it writes workloads alone, so that the state before has the same endpoint. Default: false. */
  keepsEndpoint?: boolean;
  /** The next step if the undo fails too, as a sentence. Default: run the same command again. */
  resumeHint?: string;
  /** What to correct after a failed rollout. Default: the source. */
  cause?: string;
  /**
   * Records the verification and cleans up.
   *
   * @throws {PipelineError} "partial" if that fails: the version serves
   */
  complete(context: DeployContext): Promise<void>;
}
