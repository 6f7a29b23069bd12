/** The first command that somebody types: as far as this machine lets it go. */
import { basename } from "node:path";
import { smoke } from "../smoke-test/smoke-test.ts";
import { forOnePlatform } from "../cli/options.ts";
import type { Command, Run } from "../cli/context.ts";
import { archiveOnly } from "../cli/steps.ts";
import { hasK3s } from "../targets/k3s.ts";
import deploy from "./deploy.ts";

export default {
  about: "the same where there is a k3s; elsewhere a smoke test of the image",
  options: deploy.options,
  execute: (run) => (isWithout(run) ? withoutCluster(run) : deploy.execute(run)),
} satisfies Command;

/** Who names a cluster wants that one, and is told why it is not reached. */
function isWithout({ options: { target, hosts, kubeconfig, context, url } }: Run): boolean {
  const named = hosts.length > 0 || [kubeconfig, context, url].some((option) => option !== undefined);
  return target === "k3s" && !named && !hasK3s();
}

async function withoutCluster(run: Run): Promise<string> {
  const { service, options } = run;
  forOnePlatform(options);
  const made = await archiveOnly(run);
  const id = await run.id();
  await run.report.step("smoke", async () => {
    const detail = await smoke(service, { archive: options.output, id, signal: run.signal });
    return { value: undefined, detail };
  });
  const file = basename(options.output);
  run.say(`no k3s here. Next, one of:`);
  run.say(
    `  bun ci/pipeline.ts install-k3s && bun ci/pipeline.ts    k3s on this machine, and the version on it`,
  );
  run.say(`  podman load -i ${file} && podman run --rm -p ${service.port}:${service.port} ${run.nameOf(id)}`);
  return made;
}
