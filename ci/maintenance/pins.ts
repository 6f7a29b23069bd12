/**
 * Lists every pin of the project with its locations, checks that they agree, and updates pins.
 *
 *     bun run pins                              exits with 0 if all locations of each pin agree, otherwise with 1
 *     bun run pins --remote                     also checks that each pin is still published and unchanged
 *     bun run pins k3s [TAG]                    updates a pin in all its locations; default: the newest release
 *     bun run pins bun|dagger [VERSION]
 *     bun run pins action OWNER/NAME [TAG]
 */
import { join } from "node:path";
import { usageError } from "../slipway/cli/options.ts";
import { PipelineError } from "../slipway/core/errors.ts";
import { runCommand, type MaintenanceCommand } from "./run-command.ts";
import { checkUpstream, type PinCheck } from "./pins/check-still-published.ts";
import { pinErrors, pinsOf, readProject, locationsOf, type Project } from "./pins/locations.ts";
import { updatePin, updaters } from "./pins/update-pin.ts";

const command: MaintenanceCommand = {
  name: "pins",
  about: "List each pin with its locations, or update a pin in all of them",
  args: { form: "[k3s [TAG] | bun [VERSION] | dagger [VERSION] | action OWNER/NAME [TAG]]", min: 0, max: 3 },
  options: { remote: { about: "Also check that each pin is still published and unchanged" } },
  async execute({ service: { root }, args: [name, ...args], options }) {
    const project = await readProject(root);
    if (name === undefined) {
      list(project);
      if (options.remote) await listUpstream(project);
    } else if (!options.remote && Object.hasOwn(updaters, name) && args.length <= (name === "action" ? 2 : 1)) {
      await update(root, project, name as keyof typeof updaters, args);
    } else throw usageError("pins takes --remote, or the name of a pin and its new value");
    return "";
  },
};

/** Prints all pins. @throws {PipelineError} "project" if the locations of a pin disagree */
function list(project: Project): void {
  for (const pin of pinsOf(project)) {
    const found = locationsOf(pin, project);
    if (found.length === 0) continue;
    const values = new Set(found.map(({ value }) => value ?? "(missing)"));
    const positions = found.map(({ position }) => position).join("  ");
    console.log(`${pin.name}  ${[...values].join(" | ")}\n    ${positions}`);
  }
  const errors = pinErrors(project);
  if (errors.length > 0) {
    throw new PipelineError("project", errors.join("\nerror: "), {
      code: undefined,
      hint: "Run `bun run pins NAME VERSION` to update all locations.",
    });
  }
}

const statusLabels: Record<PinCheck["status"], string> = {
  valid: "valid",
  invalid: "invalid",
  unknown: "not checked",
};

/** @throws {PipelineError} "project" if a pin is invalid, "environment" if a pin could not be checked */
async function listUpstream(project: Project): Promise<void> {
  const checks = await checkUpstream(project);
  for (const { name, status, detail } of checks) console.log(`${statusLabels[status]}: ${name}: ${detail}`);
  const namesWith = (wanted: PinCheck["status"]) =>
    checks.flatMap(({ name, status }) => (status === wanted ? [name] : [])).join(", ");
  const [invalid, unknown] = [namesWith("invalid"), namesWith("unknown")];
  if (invalid) throw new PipelineError("project", `pins no longer match upstream: ${invalid}`, { code: undefined });
  if (unknown) throw new PipelineError("environment", `pins could not be checked: ${unknown}`, { code: undefined });
}

async function update(root: string, project: Project, name: keyof typeof updaters, args: string[]): Promise<void> {
  const before = new Map(project);
  const values = await updatePin(project, name, args);
  const changed = [...project].filter(([path, text]) => text !== before.get(path));
  for (const [path, text] of changed) await Bun.write(join(root, path), text);
  for (const [pin, value] of values) console.log(`${pin.name}  ${value}`);
  if (changed.length === 0) return console.log("The pin is already up to date.");
  console.log(`Updated ${changed.map(([path]) => path).join(", ")}. Review the changes with \`git diff\`.`);
  if (project.get("package.json") !== before.get("package.json")) console.log("Run `bun install` to update bun.lock.");
}

if (import.meta.main) await runCommand(command);
