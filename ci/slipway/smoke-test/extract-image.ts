/** An archive's files in a directory. */
import { chmod, mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { createLayerReader, readArchive, type Archive } from "../image/archive-reader.ts";
import { listTar, readTar } from "../image/tar-reader.ts";

/**
 * Unpacks an archive as slipway writes them: directories and files, all of whose modes count, for any user to read.
 *
 * @throws {Error} when it holds something else, a link for example, or a path that leads out of it
 */
export async function extractImage(archive: string, root: string): Promise<Archive> {
  const read = (await readArchive(archive))!;
  const { layers, packed } = read;
  await mkdir(root, { recursive: true });
  await chmod(root, 0o755);
  const { unpacked } = createLayerReader(archive, layers);
  for (const layer of layers) {
    // What is not packed is read where it is, file by file: a layer is over 100 MB.
    const tar = packed ? new Blob([await unpacked(layer)]) : Bun.file(archive);
    const entries = packed
      ? listTar(layer.path, await unpacked(layer))
      : readTar(archive, layer.offset, layer.offset + layer.size);
    for (const { path, type, offset, size, mode } of entries) {
      const target = join(root, path);
      if (type === "directory") {
        await mkdir(target, { recursive: true });
      } else if (type === "file") {
        await mkdir(dirname(target), { recursive: true });
        await writeFile(target, await tar.slice(offset, offset + size).bytes());
      } else throw new Error(`${archive} has ${path}, a ${type}: it is not one of this pipeline`);
      // Whatever the user's mask is.
      await chmod(target, mode);
    }
  }
  return read;
}
