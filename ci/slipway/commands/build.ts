/** The image's files, laid out in a directory: what the Dockerfile copies and the engines pick up. */
import { join, resolve } from "node:path";
import { build } from "../image/build.ts";
import { runtimeIn } from "../image/image-config.ts";
import { imageId } from "../image/inputs.ts";
import { requireBun } from "../cli/bun-version.ts";
import { wrong } from "../cli/options.ts";
import type { Command } from "../cli/context.ts";

export default {
  about: "the image's files, as trees in DIRECTORY (default: dist)",
  args: { form: "[DIRECTORY]", min: 0, max: 1 },
  options: ["id", "root"],
  async execute(run) {
    const { service, options } = run;
    if (options.id && options.args.length > 0)
      throw wrong("build --id builds nothing: it takes no DIRECTORY");
    requireBun(service);
    const runtime = runtimeIn(options.root);
    if (options.id) return imageId(service, runtime);
    const dist = resolve(options.args[0] ?? join(service.project, "dist"));
    const { id, warnings } = await build(service, dist, runtime);
    // Not where its name goes.
    for (const warning of warnings) console.error(warning);
    return run.nameOf(id);
  },
} satisfies Command;
