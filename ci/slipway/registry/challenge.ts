/**
 * Parses the WWW-Authenticate header. It can contain several challenges, and fetch() joins several headers with commas.
 *
 * Format: https://www.rfc-editor.org/rfc/rfc9110#section-11.6.1
 */

export interface Challenge {
  /** In lower case. */
  scheme: string;
  /** Name in lower case -> value. */
  parameters: Map<string, string>;
}

const token = "[!#$%&'*+.^_`|~\\w-]+";
/** A value is quoted or a token. Some registries also send unquoted URLs. */
const parameter = `(?<name>${token})\\s*=\\s*(?:"(?<quoted>(?:[^"\\\\]|\\\\.)*)"|(?<plain>[^\\s,"]+))`;
/** A scheme can have a token68 value instead of parameters. */
const scheme = `(?<scheme>${token})(?:\\s+[\\w.~+/-]+=*(?=\\s*(?:,|$)))?`;
const schemeOrParameter = new RegExp(`[\\s,]*(?:${parameter}|${scheme})`, "gy");

/** Parses the challenges of a header, in order. Parsing stops at the first syntax error. */
export function parseChallenges(header: string): Challenge[] {
  const challenges: Challenge[] = [];
  for (const { groups = {} } of header.matchAll(schemeOrParameter)) {
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
