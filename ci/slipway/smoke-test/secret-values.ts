/** Values of the setting `secrets` for the smoke test, which reads no value of the cluster and runs no command. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parseEnvFile } from "../core/env-file.ts";
import type { Service } from "../core/resolve-service.ts";

export interface TestValues {
  values: Record<string, string>;
  /** Names with made-up values. */
  madeUp: string[];
  /** The source of each value, in a few words. Undefined without secrets. */
  note: string | undefined;
}

/** Made-up values that pass common checks of their form. The first match counts. */
const EXAMPLES: [RegExp, string][] = [
  [/^(DATABASE|POSTGRES\w*|PG)_(URL|URI)$/, "postgres://smoke:test@127.0.0.1:5432/smoke"],
  [/^(REDIS|VALKEY)_(URL|URI)$/, "redis://127.0.0.1:6379"],
  [/^MONGO\w*_(URL|URI)$/, "mongodb://127.0.0.1:27017/smoke"],
  [/(URL|URI|DSN|ENDPOINT)$/, "http://127.0.0.1:9/"],
  [/(^|_)PORT$/, "9"],
  [/EMAIL$/, "smoke@test.invalid"],
];
/** Long enough for checks of a minimum length. */
const EXAMPLE = "smoke-test-made-up-value-0123456789";

/** Takes each value from `smokeEnv`, else from the project's .env, else makes one up. */
export function secretValuesForTest({ project, secrets, smokeEnv }: Service): TestValues {
  const file = join(project, ".env");
  const parsed = secrets.length > 0 && existsSync(file) ? parseEnvFile(readFileSync(file, "utf8")) : { entries: [] };
  const local = new Map("entries" in parsed ? parsed.entries.map(({ name, value }) => [name, value]) : []);
  const values: Record<string, string> = {};
  const sources = secrets.map(({ name }) => {
    const set = smokeEnv[name];
    const source = set !== undefined ? "smokeEnv" : local.get(name) ? ".env" : "made up";
    values[name] = set ?? (local.get(name) || (EXAMPLES.find(([form]) => form.test(name))?.[1] ?? EXAMPLE));
    return { name, source };
  });
  const groups = Map.groupBy(sources, ({ source }) => source);
  const note = [...groups].map(([source, found]) => {
    const names = found.map(({ name }) => name).join(", ");
    return source === "made up" ? `made-up values for ${names}` : `${names} from ${source}`;
  });
  return {
    values,
    madeUp: (groups.get("made up") ?? []).map(({ name }) => name),
    note: note.length > 0 ? `secrets: ${note.join(", ")}` : undefined,
  };
}
