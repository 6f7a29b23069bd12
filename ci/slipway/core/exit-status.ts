/** Describes how a process ended. */
import { constants } from "node:os";

const meanings: Partial<Record<NodeJS.Signals, string>> = {
  SIGILL: "illegal instruction",
  SIGKILL: "killed, often because memory ran out",
  SIGSEGV: "invalid memory access",
  SIGABRT: "aborted",
  SIGBUS: "bus error",
  SIGTRAP: "trap",
  SIGSYS: "forbidden system call",
};

/** Returns the signal that a shell's or container runtime's exit code stands for: 128 plus its number. */
export function signalOf(code: number): NodeJS.Signals | undefined {
  const found = Object.entries(constants.signals).find(([, number]) => number === code - 128);
  return found?.[0] as NodeJS.Signals | undefined;
}

/** Describes an exit code: `3`, or `132 (SIGILL, illegal instruction)`. */
export function describeExitCode(code: number): string {
  const signal = signalOf(code);
  if (signal === undefined) return String(code);
  const meaning = meanings[signal];
  return `${code} (${signal}${meaning ? `, ${meaning}` : ""})`;
}
