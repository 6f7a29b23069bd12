/** Writes the image's files to a directory, from which the Dockerfile and the engines copy them. */
import { join, resolve } from "node:path";
import { buildImage } from "../image/build-image-files.ts";
import { findSharedLibrariesIn } from "../image/image-spec.ts";
import { computeImageId } from "../image/inputs.ts";
import { assertPinnedBun } from "../cli/bun-version.ts";
import { describeWarningCount } from "../core/step-report.ts";
import { usageError } from "../cli/options.ts";
import type { Command } from "../cli/context.ts";

export default {
  about: "Write the image's files to DIRECTORY (default: dist)",
  args: { form: "[DIRECTORY]", min: 0, max: 1 },
  options: ["id", "sysroot"],
  async execute(context) {
    const { service, options } = context;
    if (options.id && options.args.length > 0)
      throw usageError("build --id writes no files and cannot be combined with DIRECTORY");
    assertPinnedBun(service);
    const runtime = findSharedLibrariesIn(options.sysroot);
    if (options.id) return computeImageId(service, runtime);
    const dist = resolve(options.args[0] ?? join(service.project, "dist"));
    const { id, warnings } = await buildImage(service, dist, runtime);
    // Only the image's name goes to stdout.
    for (const warning of warnings) console.error(warning);
    if (warnings.length > 0) console.error(describeWarningCount(warnings.length));
    return context.imageNameOf(id);
  },
} satisfies Command;
