/** Extracts the files of an image archive into a directory. */
import { chmod, mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { createLayerReader, readArchiveIndex, type ArchiveIndex } from "../image/docker-archive-reader.ts";
import { listTar, readTar } from "../image/tar-reader.ts";

/**
 * Extracts an archive that slipway has written, with the mode of each file and directory.
 *
 * @throws {Error} if the archive holds another type of entry, such as a link, or a path outside the image
 */
export async function extractImage(archive: string, root: string): Promise<ArchiveIndex> {
  const image = (await readArchiveIndex(archive))!;
  const { layers, packed } = image;
  await mkdir(root, { recursive: true });
  await chmod(root, 0o755);
  const { unpacked } = createLayerReader(archive, layers);
  for (const layer of layers) {
    // Reads an uncompressed layer file by file, because a layer is larger than 100 MB.
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
      } else {
        throw new Error(`${archive} contains ${path} of type ${type}, which slipway does not write`);
      }
      // Sets the mode separately, because mkdir() and writeFile() apply the umask.
      await chmod(target, mode);
    }
  }
  return image;
}
