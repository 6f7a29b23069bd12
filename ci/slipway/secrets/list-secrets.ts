/** Lists the stored names, with age and digest, and the names that have no value. */
import type { DeployContext } from "../deploy/plan.ts";
import { readSecrets } from "../kubernetes/secret-store.ts";

export interface SecretInfo {
  name: string;
  /** "cluster": a value is stored. "command": each deploy runs a command. "missing": a deploy is refused. */
  source: "cluster" | "command" | "missing";
  /** When the value was set, as RFC 3339. null: no value, or another program has set it. */
  time: string | null;
  /** HMAC of the value, whose key is in the Secret. null: no value. */
  digest: string | null;
  /** Whether the setting `secrets` has the name. */
  isUsed: boolean;
}

export async function listSecrets({ target, service }: DeployContext): Promise<SecretInfo[]> {
  const store = await readSecrets(target.api);
  const settings = new Map(service.secrets.map((setting) => [setting.name, setting]));
  return [...new Set([...store.names, ...settings.keys()])].sort().map((name) => {
    const isStored = store.names.includes(name);
    const hasCommand = settings.get(name)?.command !== undefined;
    return {
      name,
      source: hasCommand ? "command" : isStored ? "cluster" : "missing",
      time: (isStored && store.timeOf(name)) || null,
      digest: isStored ? store.digestOf([name]) : null,
      isUsed: settings.has(name),
    };
  });
}

/** Formats the list as a table. */
export function describeSecrets(secrets: SecretInfo[], now = Date.now()): string[] {
  const rows = secrets.map(({ name, source, time, digest, isUsed }) => [
    name,
    time === null ? "-" : describeAge((now - Date.parse(time)) / 1000),
    digest ?? "-",
    source === "missing"
      ? `missing: run \`bun ci/pipeline.ts secrets set ${name}\``
      : source === "command"
        ? "from a command, at each deploy"
        : isUsed
          ? ""
          : "not in `secrets` of ci/pipeline.ts",
  ]);
  const all = [["NAME", "AGE", "DIGEST", ""], ...rows];
  const widths = [0, 1, 2].map((column) => Math.max(...all.map((row) => row[column]!.length)));
  return all.map((row) =>
    row
      .map((cell, i) => cell.padEnd(widths[i] ?? 0))
      .join("  ")
      .trimEnd(),
  );
}

function describeAge(seconds: number): string {
  const units = [
    ["d", 86_400],
    ["h", 3600],
    ["m", 60],
  ] as const;
  const [unit, size] = units.find(([, size]) => seconds >= size) ?? ["s", 1];
  return `${Math.max(0, Math.floor(seconds / size))}${unit}`;
}
