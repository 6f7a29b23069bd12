/** An archive's files in a directory. */
import { chmod, mkdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { readArchive, readLayer, type Archive } from "../image/archive.ts";
import { readTar } from "../image/tar.ts";

/** Unpacks an archive as slipway writes them: directories and files, all of whose modes count, for any user to read. */
export async function unpack(archive: string, root: string): Promise<Archive> {
  const read = (await readArchive(archive))!;
  const { layers, packed } = read;
  await mkdir(root, { recursive: true });
  await chmod(root, 0o755);
  const unpacked = join(dirname(root), "layer.tar");
  for (const layer of layers) {
    if (packed) await Bun.write(unpacked, await readLayer(archive, layer));
    const [tar, start] = packed ? [unpacked, 0] : [archive, layer.offset];
    for (const entry of readTar(tar, start, packed ? undefined : start + layer.size)) {
      const target = join(root, entry.path);
      if (entry.type === "directory") {
        await mkdir(target, { recursive: true });
      } else {
        const content = Bun.file(tar).slice(entry.offset, entry.offset + entry.size);
        await mkdir(dirname(target), { recursive: true });
        await writeFile(target, await content.bytes());
      }
      // Whatever the user's mask is.
      await chmod(target, entry.mode);
    }
  }
  return read;
}
