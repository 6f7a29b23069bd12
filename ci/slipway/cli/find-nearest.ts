/** Finds the name that was meant by a misspelt one. */

/** Finds the name that at most two edits separate from a misspelt name, and one edit if the name is short. */
export function findNearest(text: string, names: readonly string[]): string | undefined {
  return [1, 2].flatMap((edits) => names.filter((name) => name.length > 2 * edits && isNear(text, name, edits))).at(0);
}

/** Whether so many insertions, deletions, substitutions and swaps turn one text into the other. */
function isNear(a: string, b: string, edits: number): boolean {
  if (!a || !b) return a.length + b.length <= edits;
  if (a[0] === b[0]) return isNear(a.slice(1), b.slice(1), edits);
  const isSwapped = a[0] === b[1] && a[1] === b[0];
  const skips = [[1, 0], [0, 1], [1, 1], ...(isSwapped ? [[2, 2]] : [])] as [number, number][];
  return edits > 0 && skips.some(([inA, inB]) => isNear(a.slice(inA), b.slice(inB), edits - 1));
}
