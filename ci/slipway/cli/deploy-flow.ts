/**
 * The deploy as a graph: its steps, what each needs, when it is skipped, and what undoes it. core/step-graph.ts starts a step as soon
 * as its needs are met. `deploy`, `up` and `watch` run these steps, and `rollback` and `verify` run a part of them.
 */
import { stepsOf, type FlowStep } from "../core/step-graph.ts";
import { deliverEarly, ensureDelivered, removeDeliveredImage } from "../deploy/image-delivery.ts";
import * as cluster from "../deploy/prepare-deploy.ts";
import { lockDeploys } from "../deploy/locked-context.ts";
import { isUpToDate, planChanges, readPlanInputs } from "../deploy/plan.ts";
import { runPreDeployJobs } from "../deploy/pre-deploy-jobs.ts";
import { applyAndWaitUntilReady, verifyRollout, waitForOldPods } from "../deploy/rollout-phases.ts";
import { undoDeploy } from "../deploy/undo.ts";
import { isRegistryTarget } from "../targets/registry.ts";
import {
  ensureArchive,
  ensureArchives,
  runCheckOrTest,
  runPrebuild,
  smokeTest,
  warnOfStaleOutputs,
} from "./build-steps.ts";
import { assertArchitecture, connectTarget } from "./connect-target.ts";
import type { CommandContext } from "./context.ts";
import type { FlowResults } from "./deploy-step-results.ts";
import { compareWithRegistry, findExistingImage, logChanges, verifyCurrent } from "./reuse-deployed-image.ts";

const { step, internal } = stepsOf<FlowResults>();
type Results = Partial<FlowResults>;

export const unlock = {
  undo: async (error: unknown, { lock }: Results) => lock!.explainLoss(error),
  release: ({ lock }: Results) => lock!.releaseLock(),
};
export const undoChange = {
  undo: (error: unknown, { lock, prepare }: Results) => undoDeploy(lock!, prepare!, error),
};

/** Generates files that all other steps may read. A service without prebuild scripts has no line for it. */
const prebuildStep = (context: CommandContext): FlowStep<FlowResults> =>
  context.service.prebuild.length > 0
    ? step("prebuild", { run: () => runPrebuild(context) })
    : internal("prebuild", { run: () => warnOfStaleOutputs(context) });

/** From the source to archives (goal `archives`) and a smoke test (goal `smoke`). */
export const buildSteps = (context: CommandContext): FlowStep<FlowResults>[] => [
  prebuildStep(context),
  step("check", { needs: ["prebuild"], run: () => runCheckOrTest(context, "check") }),
  step("test", { needs: ["prebuild"], run: () => runCheckOrTest(context, "test") }),
  internal("id", { needs: ["prebuild"], run: () => context.imageId() }),
  internal("archives", { needs: ["prebuild"], run: () => ensureArchives(context) }),
  step("smoke", { needs: ["check", "test", "archives", "id"], run: ({ id }) => smokeTest(context, id) }),
];

export const connectStep = (context: CommandContext, isDeploy = false): FlowStep<FlowResults> =>
  internal("connect", {
    isFatal: true,
    run: () => connectTarget(context, isDeploy),
    release: ({ connect }) => connect!.target.api.close(),
  });

/** The change of the cluster, after `prepare` has decided what to write. */
export const changeSteps = (context: CommandContext, title: "rollout" | "rollback"): FlowStep<FlowResults>[] => [
  internal("secrets", {
    needs: ["lock", "prepare"],
    run: async ({ prepare }) => prepare?.secrets?.write(),
  }),
  internal("jobs", {
    needs: ["lock", "prepare", "secrets"],
    skip: ({ prepare }) => !prepare,
    run: ({ lock, prepare }) => runPreDeployJobs(lock!, prepare!),
  }),
  step("rollout", {
    title,
    needs: ["lock", "prepare", "jobs"],
    skip: ({ prepare }) => !prepare,
    run: ({ lock, prepare }) => applyAndWaitUntilReady(lock!, prepare!.rollout),
    release: async ({ rollout }) => void (await rollout!.stopMonitor?.()),
  }),
  step("settle", {
    needs: ["lock", "prepare", "rollout", "verify"],
    skip: ({ rollout }) => !rollout,
    run: ({ lock, prepare, rollout }) => waitForOldPods(lock!, prepare!.rollout, rollout!, context.skipWait),
  }),
  internal("complete", {
    needs: ["lock", "prepare", "settle"],
    skip: ({ prepare }) => !prepare,
    run: ({ lock, prepare }) => prepare!.complete(lock!),
    commits: true,
  }),
];

/** From the source to a verified version (goal `complete`). If the version runs already, `approve` is followed by `verify` alone. */
export const deploySteps = (context: CommandContext): FlowStep<FlowResults>[] => [
  ...buildSteps(context),
  connectStep(context, true),
  internal("locate", { needs: ["id", "connect"], run: ({ id, connect }) => connect.target.find(id) }),
  internal("inspect", { needs: ["connect"], run: ({ connect }) => readPlanInputs(connect) }),
  step("plan", {
    needs: ["connect", "id", "locate", "inspect"],
    run: async ({ connect, id, locate, inspect }) => {
      assertArchitecture(context, connect.target);
      return planChanges(connect, id, locate, inspect);
    },
  }),
  internal("announce", { needs: ["plan"], run: async ({ plan }) => logChanges(context, plan) }),
  step("image", {
    needs: ["id"],
    awaits: ["connect", "locate"],
    run: ({ id }, { connect, locate }) =>
      ensureArchive(context, id, { existingImage: findExistingImage(connect, locate) }),
  }),
  internal("compare", {
    needs: ["connect", "plan", "announce", "image"],
    run: ({ connect, plan }) => compareWithRegistry(context, connect, plan),
  }),
  step("import", {
    title: "deliver",
    needs: ["connect", "compare"],
    skip: ({ connect, compare }) => compare.delivered || isRegistryTarget(connect.target),
    run: ({ connect, compare }, _, show) => deliverEarly(connect, compare, context.options.output, show),
    undo: async (error, { connect, import: plan, approve }) =>
      approve ? error : removeDeliveredImage(connect!, plan!, error),
  }),
  internal("approve", {
    needs: ["check", "test", "compare"],
    run: async ({ compare }) => compare,
  }),
  internal("namespace", {
    needs: ["connect", "approve"],
    awaits: ["import"],
    skip: ({ connect, approve }) => isUpToDate(connect, approve),
    run: ({ connect, approve }, { import: importing }) =>
      cluster.ensureNamespace(connect, approve, context.options.output, importing),
    undo: async (error, { connect, namespace }) =>
      namespace ? cluster.removeCreatedNamespace(connect!, namespace, error) : error,
  }),
  internal("lock", {
    needs: ["connect", "namespace"],
    skip: ({ namespace }) => !namespace,
    run: ({ connect, namespace }) => lockDeploys(connect, `deploy of ${namespace!.plan.name}`),
    ...unlock,
  }),
  internal("record", {
    needs: ["lock", "namespace"],
    skip: ({ namespace }) => !namespace || namespace.created !== undefined,
    run: ({ lock, namespace }) => cluster.recordPlannedVersion(lock!, namespace!.plan),
    undo: async (error, { lock, record, prepare }) =>
      record && !prepare ? cluster.deleteRecords(lock!, [record], error) : error,
  }),
  step("deliver", {
    needs: ["connect", "approve", "namespace", "lock", "record"],
    awaits: ["import"],
    skip: ({ lock, approve }) => !lock && approve.delivered,
    run: ({ connect, approve, namespace, lock }, { import: importing }, show) =>
      ensureDelivered(lock ?? connect, namespace?.plan ?? approve, context.options.output, show, {
        importing,
        isRecorded: namespace !== undefined && namespace.created === undefined,
      }),
  }),
  internal("prepare", {
    needs: ["namespace", "lock", "record"],
    awaits: ["deliver"],
    skip: ({ lock }) => !lock,
    run: ({ namespace, lock }, { deliver }) =>
      cluster.prepareDeploy(
        lock!,
        namespace!.plan,
        deliver.then((it) => it!),
      ),
    ...undoChange,
  }),
  ...changeSteps(context, "rollout"),
  step("verify", {
    needs: ["connect", "approve", "lock", "prepare", "rollout"],
    run: ({ connect, approve, lock, prepare, rollout }) =>
      rollout ? verifyRollout(lock!, prepare!.rollout, rollout) : verifyCurrent(connect, approve),
  }),
];
