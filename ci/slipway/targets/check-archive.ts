/** Validates an image archive before it is imported or pushed. */
import { PipelineError } from "../core/errors.ts";
import { readArchiveIndex } from "../image/docker-archive-reader.ts";

/**
 * @throws {PipelineError} "environment" if `archive` is missing or invalid, or holds another image or architecture
 */
export async function checkArchive(archive: string, name: string, architecture?: string): Promise<void> {
  const found = await readArchiveIndex(archive).catch((error: Error) => error);
  const failure = (problem: string) =>
    new PipelineError("environment", `${archive} ${problem}. Nothing was changed`, {
      code: "archive-invalid",
      hint: "Remove the file and run the command again to rebuild it.",
    });
  if (!found) throw failure("not found");
  if (found instanceof Error) throw failure(`is not a docker-archive (${found.message})`);
  if (!found.names.includes(name))
    throw failure(`contains ${found.names.join(", ") || "an image without a name"}, not ${name}`);
  if (architecture && found.config.architecture !== architecture) {
    throw failure(`is for ${found.config.architecture}, but the node is ${architecture}`);
  }
}
