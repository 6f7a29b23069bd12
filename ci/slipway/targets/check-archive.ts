/** What every target looks at before it takes an archive. */
import { PipelineError } from "../core/errors.ts";
import { readArchive } from "../image/archive-reader.ts";

/**
 * @throws {PipelineError} "environment" when `archive` is none, holds another image, or one for another architecture
 */
export async function checkArchive(archive: string, name: string, architecture?: string): Promise<void> {
  const found = await readArchive(archive).catch((error: Error) => error);
  const wrong = (what: string) =>
    new PipelineError("environment", `${archive} ${what}; nothing was changed`, {
      hint: "Remove the file and run the command again: it will be built anew.",
    });
  if (!found) throw wrong("is not there");
  if (found instanceof Error) throw wrong(`is no docker-archive (${found.message})`);
  if (!found.names.includes(name)) throw wrong(`holds ${found.names.join(", ") || "no name"}, not ${name}`);
  if (architecture && found.config.architecture !== architecture) {
    throw wrong(`is for ${found.config.architecture}, and the node is ${architecture}`);
  }
}
