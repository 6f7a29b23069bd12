/** Deploys the working tree, then again on every change until interrupted. Prints a line for each deploy. */
import { PipelineError } from "../core/errors.ts";
import { Report } from "../core/report.ts";
import { watchForSaves } from "../core/file-watcher.ts";
import { printError } from "../cli/error-output.ts";
import { startBuild, runDeploy, createDeployContext, withCluster } from "../cli/deploy-flow.ts";
import { CommandContext, type Command } from "../cli/context.ts";
import deploy from "./deploy.ts";

export default {
  about: "Watch the source and deploy on every change",
  // Each save is a run of its own, whose line is all of it; and a cluster it takes.
  options: deploy.options.filter((name) => name !== "report"),
  execute: (context) =>
    withCluster(context, async ({ target }) => {
      const { service, options, engine, signal } = context;
      console.log(`deploys at every save in ${service.root}; Ctrl-C ends it`);
      let hurry = new AbortController();
      for await (const saved of watchForSaves(service.root, signal, () => hurry.abort())) {
        hurry = new AbortController();
        const one = new CommandContext({ service, options, engine, signal, report: new Report(() => {}) });
        const tell = (error: unknown) => signal.aborted || printError(error, options.verbose, service);
        const begun = startBuild(one);
        // A type error is known long before the tests have ended.
        for (const proof of begun.checks) proof.catch(tell);
        const conclusion = await runDeploy(one, createDeployContext(one, target), {
          begun,
          hurry: hurry.signal,
        }).catch((error: unknown) => {
          context.interruptMessage = one.interruptMessage;
          signal.throwIfAborted();
          tell(error);
          return error instanceof PipelineError ? error.message : String(error);
        });
        const seconds = ((one.servedAt ?? Date.now()) - saved) / 1000;
        const time = new Date(saved).toTimeString().slice(0, 8);
        console.log(`${time} after ${seconds.toFixed(1)} s: ${conclusion}`);
      }
      return "no longer watched";
    }),
} satisfies Command;
