/** Finds commands that start the service itself in the image, because it has no Bun that runs scripts. */
import { relative } from "node:path";
import { withoutComments } from "../core/imported-modules.ts";

/** Matches Bun in Bun's shell, Bun as a child process, and a fork, which runs the executable of the process. */
const selfStart =
  /\$`\s*bunx?\b[^\n`]*|\b(?:spawn|exec)(?:File)?(?:Sync)?\(\s*\[?\s*(?:["'`]bunx?\b[^\n]*|process\.execPath[^\n]*)|(?<![.\w$])fork\([^\n]*|\bchild_process\.fork\([^\n]*/g;

/**
 * Returns a warning for each such command in the service's own modules.
 *
 * It finds the common forms. At run time, the service detects all of them, see service/stop-self-spawn.ts.
 *
 * @param root base directory of the reported file names
 */
export function findSelfStarts(source: Map<string, Buffer>, root: string): string[] {
  return [...source].flatMap(([file, text]) => {
    if (!["bun", "execPath", "fork("].some((word) => text.includes(word))) return [];
    const code = withoutComments(text.toString());
    return [...code.matchAll(selfStart)].flatMap(({ 0: found, index }) => {
      // `function fork(…) {` and a method of that name are definitions.
      if (/^fork\b.*\{\s*$/.test(found) || /\b(?:function\*?|cluster\.)\s*$/.test(code.slice(0, index))) return [];
      const line = code.slice(0, index).split("\n").length;
      return `${relative(root, file)}:${line} starts Bun, but the image has only the service: import the module, or name it in \`entries\` and start [process.execPath, NAME]: ${found.trim()}`;
    });
  });
}
