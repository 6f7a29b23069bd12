/** Proposes the `secrets` setting: names in the project's example of a .env file. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { isVariableName } from "../core/env-settings.ts";

const EXAMPLES = [".env.example", ".env.sample", ".env.template"];
/** Names of values that are secret: credentials, and URLs that may have one. */
const SECRET = /(SECRET|TOKEN|PASSW(OR)?D|PASSPHRASE|CREDENTIAL|PRIVATE|(^|_)(API)?_?KEY$|_DSN$)/;
const CONNECTION = /(DATABASE|POSTGRES|PG|MYSQL|MONGO|REDIS|VALKEY|AMQP|RABBITMQ|DB)\w*_UR[LI]$/;

export interface ProposedVariables {
  /** The file. Undefined if there is none. */
  file: string | undefined;
  secrets: string[];
  /** The other names, which may need a value in `env`. */
  others: string[];
}

/** Reads the names alone: values of an example are not those of a cluster. Public values and PORT are no secrets. */
export function proposeSecrets(project: string): ProposedVariables {
  const file = EXAMPLES.find((name) => existsSync(join(project, name)));
  if (file === undefined) return { file, secrets: [], others: [] };
  const text = readFileSync(join(project, file), "utf8");
  const found = [...text.matchAll(/^[ \t]*(?:export[ \t]+)?([A-Za-z_]\w*)[ \t]*=/gm)].map(([, name]) => name!);
  const names = [...new Set(found)].filter(isVariableName);
  const isSecret = (name: string) => !/PUBLIC/.test(name) && (SECRET.test(name) || CONNECTION.test(name));
  return {
    file,
    secrets: names.filter(isSecret),
    others: names.filter((name) => !isSecret(name) && !["PORT", "NODE_ENV", "HOST"].includes(name)),
  };
}
