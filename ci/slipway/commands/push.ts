/** Archives that are there, into a registry. */
import { sbomBeside } from "../image/sbom.ts";
import { pushIndex } from "../registry/push.ts";
import { wrong } from "../cli/options.ts";
import type { Command } from "../cli/context.ts";

export default {
  about: "push archives that are there, each under its id; --tag names an index of them",
  args: { form: "FILE...", min: 1, max: Infinity },
  options: ["registry", "tag", "report"],
  async execute(run) {
    const { service, signal } = run;
    const { args, registry, tags } = run.options;
    if (!registry) throw wrong("push takes --registry HOST/PATH");
    if (args.length > 1 && tags.length === 0)
      throw wrong("push takes --tag NAME where there are several archives");
    return run.report.step("push", async () => {
      const options = { signal, say: (line: string) => run.say(line), sbomOf: sbomBeside };
      const { digest, platforms } = await pushIndex(service.name, args, registry, tags, options);
      const names = tags.map((tag) => `${registry}:${tag}`).join(", ") || registry;
      // The digest is the first word, for a script.
      return { value: `${digest} is ${names}, for ${platforms.join(" and ")}`, detail: `to ${registry}` };
    });
  },
} satisfies Command;
