/** Compares the behaviour of a service from source with the behaviour of its image. */
import { constants } from "node:os";
import { isDeepStrictEqual } from "node:util";
import type { Behaviour, Place, Reply, Row, Step } from "./row.ts";
import { nameOf } from "./row.ts";

/** Values that differ between any two runs of a program. */
const volatile: [RegExp, string][] = [
  [/\x1b\[[\d;]*m/g, ""],
  [/\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d([.,]\d+)?( ?(Z|[+-]\d\d:?\d\d))?/g, "TIME"],
  [/\b\d\d\/\d\d\/\d{4}, \d{1,2}:\d\d:\d\d [AP]M/g, "TIME"],
  [/\[\d\d:\d\d:\d\d\.\d+\]/g, "[TIME]"],
  [/\b\d\d\/\w{3}\/\d{4}:\d\d:\d\d:\d\d \+0000/g, "TIME"],
  [/"(time|timestamp)":\d+/g, '"$1":TIME'],
  [/\b(pid|remotePort|responseTime)("?): ?[\d.]+/g, "$1$2:N"],
  [/(\bpid:|\[Nest\]) ?\d+/g, "$1 PID"],
  // Frames of a stack inside JSON.
  [/(\\n +at [^"\\]*)+/g, ""],
  [/\(\d{1,7}\):/g, "(PID):"],
  [/[+ ]\d+(\.\d+)? ?ms\b/g, " MS"],
];

/** Lines of Bun's reports on errors that show the source, which is minified in an image. */
const sourceExcerpt = /^\s*(\d+ \|.*|\^|at .*|Bun v\d.*)$/;

export const normalise = (text: string): string =>
  volatile.reduce((text, [pattern, replacement]) => text.replace(pattern, replacement), text);

const normaliseLog = (text: string): string[] =>
  normalise(text)
    .split("\n")
    .map((line) => line.trimEnd())
    .filter((line) => line !== "" && !sourceExcerpt.test(line));

/** @returns the behaviour without values that differ between any two runs */
export function normaliseBehaviour(found: Behaviour): Behaviour {
  return Object.fromEntries(
    Object.entries(found).map(([place, value]) => [
      place,
      place === "stdout" || place === "stderr"
        ? normaliseLog(String(value))
        : (JSON.parse(normalise(JSON.stringify(value))) as unknown),
    ]),
  );
}

const drained = (signal: "SIGTERM" | "SIGINT") => ["exit code 0", `exit code ${128 + constants.signals[signal]}`];

/**
 * Returns the places with different behaviour.
 *
 * From source, a signal that the service does not handle ends it. In an image, a server drains and exits with 0, which is
 * the purpose of the drain. Another process exits with 128 plus the signal's number, because the kernel keeps such a
 * signal from process 1. These differences apply to all rows.
 */
export function differencesOf({ signal = "SIGTERM" }: Row, source: Behaviour, image: Behaviour): Place[] {
  const [expected, found] = [source, image].map(normaliseBehaviour);
  // Without a start, all else differs too.
  for (const place of ["build", "start"]) if (found![place] !== undefined) return [place];
  return [...new Set([...Object.keys(expected!), ...Object.keys(found!)])].filter((place) => {
    if (place === "exit" && expected![place] === signal && drained(signal).includes(String(found![place])))
      return false;
    return !isDeepStrictEqual(expected![place], found![place]);
  });
}

/** Returns why the behaviour from source shows nothing, or undefined. A broken service would be equal in both runs. */
export function findBrokenRow({ requests = [], exit, signal = "SIGTERM" }: Row, source: Behaviour): string | undefined {
  if (source.start !== undefined) return `from source, the service did not start: ${String(source.start)}`;
  const allowed = exit === undefined ? ["exit code 0", signal] : [`exit code ${exit}`];
  if (!allowed.includes(String(source.exit))) return `from source, the service ended with ${String(source.exit)}`;
  for (const step of requests) {
    const result = source[nameOf(step)] as Partial<Reply> & { failure?: string };
    if (result?.failure !== undefined) return `from source, ${nameOf(step)} failed: ${result.failure}`;
    if (isCustom(step)) continue;
    const expected = typeof step === "string" ? undefined : step.status;
    const isExpected = expected === undefined ? result.status! < 400 : result.status === expected;
    if (!isExpected) return `from source, ${nameOf(step)} returned ${result.status}: ${result.body}`;
  }
  const isSilent = requests.length === 0 && String(source.stdout).trim() === "" && exit === undefined;
  return isSilent ? "from source, the service has no requests and prints nothing" : undefined;
}

const isCustom = (step: Step) => typeof step === "object" && "run" in step;

/** @throws {Error} with both behaviours if the row has another difference than the documented one */
export function assertConformance(row: Row, source: Behaviour, image: Behaviour): void {
  const broken = findBrokenRow(row, source);
  if (broken) throw new Error(`${broken}\n${String(source.stdout ?? "")}${String(source.stderr ?? "")}`);
  const found = differencesOf(row, source, image).sort();
  const documented = (row.differs?.at ?? []).toSorted();
  if (isDeepStrictEqual(found, documented)) return;
  const gone = documented.filter((place) => !found.includes(place));
  const places = found.filter((place) => !documented.includes(place));
  if (places.some((place) => place === "build" || place === "start")) places.push("stdout", "stderr");
  const show = (title: string, all: Behaviour) =>
    `--- ${title}\n${places.map((place) => `${place}: ${Bun.inspect(normaliseBehaviour(all)[place])}`).join("\n")}`;
  throw new Error(
    [
      ...(gone.length > 0 ? [`equal now, so remove it from \`differs\`: ${gone.join(", ")}`] : []),
      ...(places.length > 0
        ? [`different: ${places.join(", ")}`, show("from source", source), show("image", image)]
        : []),
    ].join("\n"),
  );
}
