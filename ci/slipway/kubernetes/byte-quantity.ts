/**
 * Parses Kubernetes quantities.
 * https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
 */

const factors: Record<string, number> = { "": 1, m: 1e-3, k: 1e3 };
for (const [i, letter] of ["K", "M", "G", "T", "P", "E"].entries()) {
  factors[`${letter}i`] = 1024 ** (i + 1);
  if (letter !== "K") factors[letter] = 1000 ** (i + 1);
}

/** Converts a quantity such as `64Mi` to bytes, rounded up. @throws {RangeError} if it is not a quantity */
export function parseByteQuantity(quantity: string | number): number {
  const [, number, unit = ""] = /^(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)([a-zA-Z]*)$/.exec(String(quantity)) ?? [];
  const factor = factors[unit];
  if (number === undefined || factor === undefined) throw new RangeError(`${quantity} is not a quantity`);
  return Math.ceil(Number(number) * factor);
}
