/** Connects a command to the target that its options name. */
import { PipelineError } from "../core/errors.ts";
import { findIdentity } from "../core/project-identity.ts";
import { ownArchitecture } from "../image/architecture.ts";
import type { DeployContext } from "../deploy/plan.ts";
import type { Target } from "../deploy/target.ts";
import { connectK3sTarget } from "../targets/k3s.ts";
import { connectRegistryTarget } from "../targets/registry.ts";
import { connectSshTarget } from "../targets/ssh.ts";
import type { CommandContext } from "./context.ts";
import { assertSinglePlatform, usageError } from "./options.ts";

/**
 * Connects to the target. The caller closes `target.api`.
 *
 * @param isDeploy whether the command deploys: the overlay is rendered meanwhile. Default: false.
 * @throws {PipelineError} "usage" if the options name no cluster, "environment" if the cluster cannot be reached
 */
export async function connectTarget(context: CommandContext, isDeploy = false): Promise<DeployContext> {
  const { service, signal } = context;
  service.identity = await findIdentity(service, signal);
  return createDeployContext(context, await connect(context, isDeploy));
}

/** Runs `use` with a connection to the target, and closes it. @throws as {@link connectTarget} */
export async function withTarget<T>(
  context: CommandContext,
  use: (deployContext: DeployContext) => Promise<T>,
): Promise<T> {
  const deployContext = await connectTarget(context);
  try {
    return await use(deployContext);
  } finally {
    await deployContext.target.api.close();
  }
}

async function connect({ service, options, signal }: CommandContext, isDeploy: boolean): Promise<Target> {
  const { target, hosts, registry, context, kubeconfig, url } = options;
  if (target === "none") throw usageError("this command needs a cluster: --target none is not possible");
  assertSinglePlatform(options);
  if (hosts.length > 0) return connectSshTarget({ service, hosts, url, signal });
  if (target === "k3s") return connectK3sTarget({ service, kubeconfig, context, url, isDeploy, signal });
  return connectRegistryTarget({
    service,
    kubeconfig,
    context: context!,
    repository: registry!,
    url,
    signal,
  });
}

/**
 * Compares the image's architecture with the nodes that get it, before anything is built for them.
 *
 * @throws {PipelineError} "environment" if a node has another one
 */
export function assertArchitecture({ options }: Pick<CommandContext, "options">, { architectures = [] }: Target): void {
  const built = options.architectures?.[0] ?? ownArchitecture;
  const other = architectures.find((architecture) => architecture !== built);
  if (other === undefined) return;
  throw new PipelineError("environment", `the image is for ${built}, but the node is ${other}. Nothing was changed`, {
    code: "node-architecture",
    hint: `Build for the node with --platform linux/${other}.`,
  });
}

/** Creates the context of a command's work with a target. */
export function createDeployContext(context: CommandContext, target: Target): DeployContext {
  const { service, signal, report, options } = context;
  return {
    target,
    service,
    signal,
    lockWaitSeconds: options.wait,
    recordState: (state) => void (context.interruptMessage = state),
    log: (line) => context.log(line),
    step: (name, work) => report.step(name, work),
  };
}
