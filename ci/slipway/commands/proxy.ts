/** Leads a local port to a pod or a Service of the cluster. */
import type { Command } from "../cli/context.ts";
import { withTarget } from "../cli/connect-target.ts";
import { clusterOptions, usageError } from "../cli/options.ts";
import { observeMainWorkload, type DeployContext } from "../deploy/plan.ts";
import { assertGranted } from "../deploy/required-rights.ts";
import type { KubeService } from "../kubernetes/objects.ts";
import { proxyPort } from "../operations/port-proxy.ts";

export default {
  about: "Lead a local port to the service, or to another object of the namespace",
  args: { form: "[LOCAL:]PORT [OBJECT]", min: 1, max: 2 },
  options: clusterOptions,
  async execute(context) {
    const [ports = "", object] = context.options.args;
    const [, local, remote] = /^(?:(\d{1,5}):)?(\d{1,5})$/.exec(ports) ?? [];
    const [port, localPort] = [Number(remote), Number(local ?? remote)];
    if (remote === undefined || port === 0 || Math.max(port, localPort) > 65_535)
      throw usageError(`"${ports}" is not of the form [LOCAL:]PORT`);
    if (object !== undefined && !/^[a-z][a-z.]*\/[a-z0-9][a-z0-9.-]*$/.test(object))
      throw usageError(`"${object}" is not of the form KIND/NAME, such as service/db`);
    return withTarget(context, async (deployContext) => {
      const { api } = deployContext.target;
      await assertGranted(api, [{ verb: "create", group: "", resource: "pods/portforward" }]);
      const chosen = object ?? (await findObject(deployContext, port));
      const onReady = (opened: number) =>
        console.log(`http://127.0.0.1:${opened} leads to ${chosen} port ${port}. Ctrl-C ends`);
      await proxyPort(api, { localPort, port, object: chosen, onReady }, context.signal);
      return "";
    });
  },
} satisfies Command;

/** Chooses the Service if it has the port, otherwise a pod of the main workload. */
async function findObject({ target: { api }, service: { name } }: DeployContext, port: number): Promise<string> {
  const found = await api.find<KubeService>(api.collection("/api/v1", `services/${name}`));
  if (found?.spec.ports?.some((one) => one.port === port)) return `service/${name}`;
  const main = await observeMainWorkload(api);
  return main ? `${main.deployment.kind.toLowerCase()}/${main.deployment.metadata.name}` : `deployment/${name}`;
}
