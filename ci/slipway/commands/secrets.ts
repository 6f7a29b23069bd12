/** Stores values of secret environment variables in the cluster, and lists their names. */
import { withTarget } from "../cli/connect-target.ts";
import type { Command, CommandContext } from "../cli/context.ts";
import { clusterOptions, parseChoice, usageError } from "../cli/options.ts";
import { runFlow } from "../cli/run-flow.ts";
import { secretSteps } from "../cli/secrets-flow.ts";
import { describeAvailability } from "../deploy/availability.ts";
import { SecretChange } from "../kubernetes/secret-store.ts";
import { describeSecrets, listSecrets } from "../secrets/list-secrets.ts";
import { assertNames, readEnvFile, readValue, standardInput } from "../secrets/read-value.ts";

const form = "set NAME | import [FILE|-] | list | unset NAME…";
const actions = ["set", "import", "list", "unset"] as const;

export default {
  about: "Store secret environment variables in the cluster: set, import, list, unset",
  args: { form, min: 1, max: Infinity },
  options: [...clusterOptions, "no-restart", "json", "report"],
  async execute(context) {
    const [word = "", ...args] = context.options.args;
    // A word in another form may be a value.
    if (!/^[a-z]{1,12}$/.test(word)) throw usageError(`secrets expects ${form}`);
    const action = parseChoice("action", word, actions);
    if (action === "list") {
      assertCount(action, args, 0, 0);
      return list(context);
    }
    return apply(context, action, await readChange(action, args, context.signal));
  },
} satisfies Command;

/** Reads the values before the connection, so that invalid input fails at once. */
async function readChange(
  action: "set" | "import" | "unset",
  args: string[],
  signal: AbortSignal,
): Promise<SecretChange> {
  if (action === "import") {
    assertCount(action, args, 0, 1);
    return new SecretChange(await readEnvFile(args[0] ?? ".env", standardInput, signal));
  }
  assertNames(args.slice(0, action === "set" ? 1 : undefined));
  assertCount(action, args, 1, action === "set" ? 1 : Infinity);
  if (action === "unset") return new SecretChange([], args);
  return new SecretChange([[args[0]!, await readValue(args[0]!, standardInput, signal)]]);
}

/** @throws {PipelineError} "usage". Further arguments may be values, so they are not shown */
function assertCount(action: string, args: string[], min: number, max: number): void {
  if (args.length >= min && args.length <= max) return;
  const advice = action === "set" ? ". Pipe the value, because other users see command lines" : "";
  throw usageError(`secrets ${action} got ${args.length} arguments, expected ${form}${advice}`);
}

async function list(context: CommandContext): Promise<string> {
  const secrets = await withTarget(context, listSecrets);
  if (context.options.json) console.log(JSON.stringify(secrets, undefined, 2));
  else for (const line of describeSecrets(secrets)) console.log(line);
  return "";
}

async function apply(context: CommandContext, action: string, change: SecretChange): Promise<string> {
  const steps = secretSteps(context, change, !context.options.noRestart);
  const { prepare, stored, settle } = await runFlow(context, steps, { goals: ["complete", "verify"] });
  const { set, unset } = stored.differenceTo(change);
  if (settle) context.log(describeAvailability(settle));
  const unknown = change.removed.filter((name) => !unset.includes(name));
  if (unknown.length > 0) context.log(`no value was stored for ${unknown.join(", ")}`);
  const names = [...set, ...unset];
  const done =
    names.length === 0 ? "no value changed" : `${names.join(", ")} ${action === "unset" ? "removed" : "stored"}`;
  return prepare ? `${done}, and ${prepare.rollout.id} serves with them, verified` : done;
}
