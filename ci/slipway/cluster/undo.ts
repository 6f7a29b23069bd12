/** Back from a version that did not come up to the one that served before; why it did not is shown. */
import { PipelineError } from "../ground/errors.ts";
import { explain } from "./explain.ts";
import { bring, NotUp } from "./follow.ts";
import { forget, type Version } from "./history.ts";
import { prune } from "./manifests.ts";
import type { Deploy, Plan } from "./plan.ts";
import type { Failure } from "./rollout.ts";
import type { Target } from "./target.ts";
import { describeSamples } from "./verify.ts";

/** Shows why a version failed, goes back to the one that served before, and ends with the error that says both. */
export async function undo(
  run: Deploy,
  { name }: Plan,
  version: Version,
  back: Version | undefined,
  { failure, message, samples }: NotUp,
): Promise<never> {
  const { target, service, say, leaves } = run;
  const { api } = target;
  const what = `${name} did not come up: ${message}`;
  say(what);
  const output = await explain(api, failure);
  if (!back) {
    throw new PipelineError(
      "change",
      `${what}. There is no earlier version that serves: it was left as it is`,
      {
        hint: `${nextLine(target, failure)} The next deploy replaces it.`,
        output,
      },
    );
  }
  say(`roll back to ${back.id}`);
  leaves(`${name} did not come up, and the rollback to ${back.id} was under way.`);
  try {
    const endpoint = target.endpoint(back.manifests);
    // Pods that never served may leave in their own time.
    const hurry = AbortSignal.abort();
    const { servedAfter, samples: after } = await bring(run, "rollback", back, {
      endpoint,
      served: true,
      hurry,
    });
    await prune(api, version.manifests, back.manifests);
    await forget(api, version);
    for (const seen of [samples, after]) if (seen) say(describeSamples(seen));
    say(`verified ${servedAfter.toFixed(1)} s after the rollback began`);
  } catch (error) {
    if (!(error instanceof NotUp)) throw error;
    const message = `${what}. The rollback to ${back.id} failed as well: ${error.message}`;
    throw new PipelineError("change", message, { hint: nextLine(target, error.failure), output });
  }
  throw new PipelineError("change", `${what}. Rolled back: ${service.name}:${back.id} serves, as before`, {
    hint: "Correct the source and run the same command again.",
    output,
  });
}

/** What tells more, as a sentence. */
export function nextLine({ api, kubectl }: Target, { pod }: Failure): string {
  const { name, namespace } = api.service;
  const about = pod ? `pod ${pod}` : `deployment ${name}`;
  return `\`${kubectl.join(" ")} -n ${namespace} describe ${about}\` tells more.`;
}
