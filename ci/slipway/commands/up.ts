/** First command of a new user. Without k3s it ends with a smoke test. */
import { basename } from "node:path";
import type { Command, CommandContext } from "../cli/context.ts";
import { buildSteps } from "../cli/deploy-flow.ts";
import { assertSinglePlatform } from "../cli/options.ts";
import { runFlow } from "../cli/run-flow.ts";
import { renderOffline } from "../kubernetes/render-offline.ts";
import { isWorker } from "../kubernetes/service-port.ts";
import { hasK3s } from "../targets/k3s.ts";
import deploy from "./deploy.ts";

export default {
  about: "Deploy if k3s is available, otherwise build the image and smoke-test it",
  options: deploy.options,
  execute: (context) => (isWithout(context) ? withoutCluster(context) : deploy.execute(context)),
} satisfies Command;

/** Who names a cluster wants that one, and is told why it is not reached. */
function isWithout({ options: { target, hosts, kubeconfig, context, url } }: CommandContext): boolean {
  const named = hosts.length > 0 || [kubeconfig, context, url].some((option) => option !== undefined);
  return target === "k3s" && !named && !hasK3s();
}

async function withoutCluster(context: CommandContext): Promise<string> {
  const { service, options } = context;
  assertSinglePlatform(options);
  const { archives, id } = await runFlow(context, buildSteps(context), { goals: ["smoke"] });
  const file = basename(options.output);
  context.log(`k3s is not installed here. Next, run one of:`);
  context.log(`  bun ci/pipeline.ts install-k3s && bun ci/pipeline.ts    to install k3s and deploy this version`);
  const { objects } = await renderOffline(service, context.signal);
  const publish = isWorker(service, objects) ? "" : `-p ${service.port}:${service.port} `;
  context.log(`  podman load -i ${file} && podman run --rm ${publish}${context.imageNameOf(id)}`);
  return archives;
}
