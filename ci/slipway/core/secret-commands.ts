/** Runs the commands of the setting `secrets`, which read a value from a password manager or an encrypted file. */
import { findValueDefect, type SecretSetting } from "./env-settings.ts";
import { PipelineError } from "./errors.ts";
import { runProcess } from "./process.ts";
import type { Service } from "./resolve-service.ts";

const COMMAND_TIMEOUT_SECONDS = 60;

/** Runs the commands of the setting `secrets`, all at once. @throws {PipelineError} "environment" if one fails */
export async function runSecretCommands(
  service: Pick<Service, "project" | "secrets">,
  signal: AbortSignal,
): Promise<Map<string, Uint8Array>> {
  const withCommand = service.secrets.filter(({ command }) => command !== undefined);
  return new Map(await Promise.all(withCommand.map((setting) => runSecretCommand(service, setting, signal))));
}

async function runSecretCommand(
  { project }: Pick<Service, "project">,
  { name, command }: SecretSetting,
  signal: AbortSignal,
): Promise<[string, Uint8Array]> {
  const failed = (cause: string, output?: string) =>
    new PipelineError(
      "environment",
      `${command![0]}, the command of the secret ${name}, ${cause}. Nothing was changed`,
      {
        code: "secret-command-failed",
        hint: "Run the command of `secrets` in ci/pipeline.ts by hand. It must print the value alone.",
        output,
      },
    );
  const { code, stdout, stderr } = await runProcess(command!, {
    cwd: project,
    signal,
    timeoutSeconds: COMMAND_TIMEOUT_SECONDS,
  });
  if (code !== 0) throw failed(`exited with ${code}`, stderr);
  const value = Buffer.from(withoutNewline(stdout));
  const defect = stdout.includes("\uFFFD") ? "is not valid UTF-8" : findValueDefect(name, value);
  if (defect) throw failed(`has printed a value that ${defect}`, stderr);
  return [name, value];
}

/** Removes the newline at the end, which programs and editors add. */
function withoutNewline(text: string): string {
  return text.replace(/\r?\n$/, "");
}
