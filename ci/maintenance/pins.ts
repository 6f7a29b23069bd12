/**
 * Every pin of the project with the places where it stands, and whether they agree.
 *
 *     bun run pins                              exit 0: all places agree, 1: they do not
 *     bun run pins --remote                     also asks whether what is pinned is still there, and the same
 *     bun run pins k3s [TAG]                    renews a pin in all its places; default: the newest release
 *     bun run pins bun|dagger [VERSION]
 *     bun run pins action OWNER/NAME [TAG]
 */
import { join } from "node:path";
import { PipelineError } from "../slipway/core/errors.ts";
import { pinErrors, pinsOf, readProject, locationsOf, type Project } from "./pins/locations.ts";
import { checkUpstream } from "./pins/check-upstream.ts";
import { updatePin, updaters } from "./pins/update.ts";
import { usageError } from "../slipway/cli/options.ts";
import { runCommand, type MaintenanceCommand } from "./command.ts";

const command: MaintenanceCommand = {
  name: "pins",
  about: "each pin and where it stands; renew one in all its places",
  args: { form: "[k3s [TAG] | bun [VERSION] | dagger [VERSION] | action OWNER/NAME [TAG]]", min: 0, max: 3 },
  options: { remote: { about: "also ask whether what is pinned is still there, and the same" } },
  async execute({ service: { root }, args: [name, ...args], options }) {
    const project = await readProject(root);
    if (name === undefined) {
      show(project);
      if (options.remote) await showRemote(project);
    } else if (
      !options.remote &&
      Object.hasOwn(updaters, name) &&
      args.length <= (name === "action" ? 2 : 1)
    ) {
      await write(root, project, name as keyof typeof updaters, args);
    } else throw usageError("pins takes --remote, or the name of a pin and what it becomes");
    return "";
  },
};

/** Shows all pins. @throws {PipelineError} "project" when places do not agree */
function show(project: Project): void {
  for (const pin of pinsOf(project)) {
    const found = locationsOf(pin, project);
    if (found.length === 0) continue;
    const values = new Set(found.map(({ value }) => value ?? "(missing)"));
    console.log(`${pin.name}  ${[...values].join(" | ")}\n    ${found.map(({ place }) => place).join("  ")}`);
  }
  const wrong = pinErrors(project);
  if (wrong.length > 0) {
    throw new PipelineError("project", wrong.join("\nerror: "), {
      hint: "`bun run pins NAME VERSION` writes all places.",
    });
  }
}

/** @throws {PipelineError} "project" when a pin does not hold, "environment" when one could not be asked */
async function showRemote(project: Project): Promise<void> {
  const answers = await checkUpstream(project);
  const words = { true: "holds", false: "does not hold", unknown: "not asked" };
  for (const { name, holds, text } of answers) console.log(`${words[`${holds}`]}: ${name}: ${text}`);
  const named = (state: false | "unknown") =>
    answers.flatMap(({ name, holds }) => (holds === state ? [name] : [])).join(", ");
  if (named(false)) throw new PipelineError("project", `no longer what is pinned: ${named(false)}`);
  if (named("unknown")) throw new PipelineError("environment", `could not be asked: ${named("unknown")}`);
}

async function write(
  root: string,
  project: Project,
  name: keyof typeof updaters,
  args: string[],
): Promise<void> {
  const before = new Map(project);
  const values = await updatePin(project, name, args);
  const changed = [...project].filter(([path, text]) => text !== before.get(path));
  for (const [path, text] of changed) await Bun.write(join(root, path), text);
  for (const [pin, value] of values) console.log(`${pin.name}  ${value}`);
  if (changed.length === 0) return console.log("It was so before.");
  console.log(`Written to ${changed.map(([path]) => path).join(", ")}. Read what changed: git diff`);
  if (project.get("package.json") !== before.get("package.json"))
    console.log("Then `bun install` takes it over into bun.lock.");
}

if (import.meta.main) await runCommand(command);
