/** Pushes existing archives to a registry. */
import { sbomPathFor } from "../image/sbom.ts";
import { pushIndex } from "../registry/push.ts";
import { usageError } from "../cli/options.ts";
import type { Command } from "../cli/context.ts";

export default {
  about: "Push existing archives by ID, and tag an index of them with each --tag",
  args: { form: "FILE...", min: 1, max: Infinity },
  options: ["registry", "tag", "report"],
  async execute(context) {
    const { service, signal } = context;
    const { args, registry, tags } = context.options;
    if (!registry) throw usageError("push requires --registry HOST/PATH");
    if (args.length > 1 && tags.length === 0) throw usageError("push requires --tag NAME for several archives");
    return context.report.step("push", async () => {
      const options = { signal, log: (line: string) => context.log(line), sbomOf: sbomPathFor };
      const { digest, platforms } = await pushIndex(service.name, args, registry, tags, options);
      const names = tags.map((tag) => `${registry}:${tag}`).join(", ") || registry;
      // The digest comes first so that a script can read it.
      return { value: `${digest} is ${names}, for ${platforms.join(" and ")}`, detail: `to ${registry}` };
    });
  },
} satisfies Command;
