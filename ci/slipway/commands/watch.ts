/** Deploys the working tree, then again on every change until interrupted. Prints a line for each deploy. */
import { printError } from "../cli/error-output.ts";
import { createDeployContext, withTarget } from "../cli/connect-target.ts";
import { CommandContext, type Command } from "../cli/context.ts";
import { deployWorkingTree } from "../cli/run-deploy.ts";
import { PipelineError } from "../core/errors.ts";
import { watchForChanges } from "../core/file-watcher.ts";
import { Report } from "../core/step-report.ts";
import deploy from "./deploy.ts";

export default {
  about: "Watch the source and deploy on every change",
  // Each save gets a line of its own, so a report of the whole makes no sense.
  options: deploy.options.filter((name) => name !== "report" && name !== "json"),
  execute: (context) =>
    withTarget(context, async ({ target }) => {
      const { service, options, engine, signal } = context;
      console.log(`watching ${service.root}: every change is deployed, Ctrl-C ends`);
      let skipWait = new AbortController();
      for await (const savedAt of watchForChanges(service.root, signal, () => skipWait.abort())) {
        skipWait = new AbortController();
        const report = new Report(() => {});
        const run = new CommandContext({
          service,
          options,
          engine,
          signal,
          report,
          skipWait: skipWait.signal,
        });
        // A type error is known long before the tests have ended.
        const onFailure = (error: unknown) => signal.aborted || printError(error, options.verbose, service);
        const connect = createDeployContext(run, target);
        const { conclusion, servedAt = Date.now() } = await deployWorkingTree(run, {
          given: { connect },
          onFailure,
        }).catch((error: unknown) => {
          context.interruptMessage = run.interruptMessage;
          signal.throwIfAborted();
          onFailure(error);
          const conclusion = error instanceof PipelineError ? error.message : String(error);
          return { conclusion, servedAt: undefined };
        });
        const seconds = (servedAt - savedAt) / 1000;
        const time = new Date(savedAt).toTimeString().slice(0, 8);
        console.log(`${time} after ${seconds.toFixed(1)} s: ${conclusion}`);
      }
      return "watch ended";
    }),
} satisfies Command;
