/** Explains exits that leave no log: the signal is all that there is. */
import { signalOf } from "../core/exit-status.ts";

/**
 * Returns cause and next step for the exit code or signal in a text.
 *
 * The instructions that Bun 1.4.5 needs were measured under QEMU. Its npm package for x64-baseline has the same executable as the
 * one for x64, so there is no other build to offer.
 */
export function diagnoseExit(reason: string): string | undefined {
  const [, code, name] = /\bexit(?:s|ed)?(?: code| with)? (\d+)\b|\b(SIG[A-Z]+)\b/.exec(reason) ?? [];
  const signal = name ?? (code && signalOf(Number(code)));
  if (signal === "SIGILL")
    return "The processor lacks an instruction of the binary or of a native package. Bun needs x86-64-v2 (SSE4.2, POPCNT), which virtual machines with the CPU types kvm64 and qemu64 hide. Set the CPU type `host` or `x86-64-v2-AES`. A native package may need AVX2.";
  if (signal === "SIGKILL" || /\bOOMKilled\b/.test(reason))
    return "The system killed the container, usually because it used more memory than its limit. Raise resources.limits.memory in the manifests.";
  return undefined;
}

/** Returns cause and next step for a container that ended with 0. */
export function diagnoseEarlyEnd(reason: string): string | undefined {
  if (!/\b(?:exits|exited) with 0\b|\bended with exit code 0 (?:before|within)\b/.test(reason)) return undefined;
  return "The process ended by itself, as a program does that has nothing left to wait for. A service has to keep running. For a task that ends, use a Job or a CronJob.";
}
