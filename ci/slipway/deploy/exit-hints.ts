/** Explains exits that leave no log: the signal is all that there is. */
import { signalOf } from "../core/exit-status.ts";

/** Bun's build for x64 processors without AVX2. https://bun.sh/docs/installation#cpu-requirements-and-baseline-builds */
const BASELINE = "@oven/bun-linux-x64-baseline";

/** Returns cause and next step for the exit code or signal in a text. */
export function diagnoseExit(reason: string): string | undefined {
  const [, code, name] = /\bexit(?:s|ed)?(?: code| with)? (\d+)\b|\b(SIG[A-Z]+)\b/.exec(reason) ?? [];
  const signal = name ?? (code && signalOf(Number(code)));
  if (signal === "SIGILL")
    return `The processor lacks an instruction of the binary. Bun's standard build for x64 needs AVX2, which Celeron and Atom processors and virtual machines without the CPU type \`host\` lack. Set that type, or build with Bun's baseline build: run \`bun add --dev --exact ${BASELINE}@${Bun.version}\`, then \`node_modules/${BASELINE}/bin/bun ci/pipeline.ts up\`.`;
  if (signal === "SIGKILL" || /\bOOMKilled\b/.test(reason))
    return "The system killed the container, usually because it used more memory than its limit. Raise resources.limits.memory in the manifests.";
  return undefined;
}
