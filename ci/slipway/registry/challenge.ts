/**
 * The header WWW-Authenticate: one challenge or several, in one header or in as many, which fetch() joins with commas.
 *
 * Format: https://www.rfc-editor.org/rfc/rfc9110#section-11.6.1
 */

export interface Challenge {
  /** In small letters. */
  scheme: string;
  /** By their names in small letters. */
  parameters: Map<string, string>;
}

const token = "[!#$%&'*+.^_`|~\\w-]+";
/** A value is quoted, or a token; registries have sent addresses without quotes, too. */
const parameter = `(?<name>${token})\\s*=\\s*(?:"(?<quoted>(?:[^"\\\\]|\\\\.)*)"|(?<plain>[^\\s,"]+))`;
/** It may have one word of data in the place of parameters. */
const scheme = `(?<scheme>${token})(?:\\s+[\\w.~+/-]+=*(?=\\s*(?:,|$)))?`;
const word = new RegExp(`[\\s,]*(?:${parameter}|${scheme})`, "gy");

/** The challenges of a header, in its order; what comes after something that is none is left out. */
export function parseChallenges(header: string): Challenge[] {
  const challenges: Challenge[] = [];
  for (const { groups = {} } of header.matchAll(word)) {
    const { scheme, name, quoted, plain = "" } = groups;
    if (scheme !== undefined) {
      challenges.push({ scheme: scheme.toLowerCase(), parameters: new Map() });
      continue;
    }
    const value = quoted?.replace(/\\(.)/g, "$1") ?? plain;
    challenges.at(-1)?.parameters.set(name!.toLowerCase(), value);
  }
  return challenges;
}
