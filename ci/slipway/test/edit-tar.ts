/** Splits and joins tar archives, and creates invalid ones. */
import { sha256 } from "../core/hash.ts";
import { tarChecksum, TAR_END, tarHeader, tarPadding } from "../image/tar-writer.ts";
import { detectCompression } from "../image/decompress.ts";

/** A raw entry of a tar. */
export interface Part {
  header: Buffer;
  content: Buffer;
}

/** Sets fields of a header by offset, and updates its checksum. */
export function withFields({ header, content }: Part, fields: Record<number, string | Uint8Array>): Part {
  const changed = Buffer.from(header);
  for (const [offset, value] of Object.entries(fields))
    changed.set(Buffer.from(value as string, "latin1"), Number(offset));
  changed.write(`${tarChecksum(changed).toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return { header: changed, content };
}

/** Creates an entry. @param fields header fields by offset: 124 size, 156 type, 157 link */
export function part(
  path: string,
  content: string | Uint8Array = "",
  fields: Record<number, string | Uint8Array> = {},
): Part {
  const bytes = Buffer.from(content as string);
  const header = Buffer.from(tarHeader({ path, type: "file", mode: 0o644, size: bytes.length }));
  return withFields({ header, content: bytes }, fields);
}

/** Splits a valid archive into entries. */
export function split(archive: Uint8Array): Part[] {
  const bytes = Buffer.from(archive);
  const parts: Part[] = [];
  for (let at = 0; bytes[at] !== 0;) {
    const header = bytes.subarray(at, at + 512);
    const size = parseInt(header.toString("latin1", 124, 135), 8);
    parts.push({ header, content: bytes.subarray(at + 512, at + 512 + size) });
    at += 512 + size + tarPadding(size).length;
  }
  return parts;
}

export function join(parts: Part[]): Buffer {
  return Buffer.concat([
    ...parts.flatMap(({ header, content }) => [header, content, tarPadding(content.length)]),
    TAR_END,
  ]);
}

export const nameOf = ({ header }: Part) => header.toString("latin1", 0, 100).replace(/\0.*/, "");
export const named = (parts: Part[], name: string) => parts.find((one) => nameOf(one) === name)!;
/** Replaces the content of entries by name. */
export function replaced(parts: Part[], contents: Record<string, string | Uint8Array>): Part[] {
  return parts.map((one) => {
    const content = contents[nameOf(one)];
    return content === undefined ? one : part(nameOf(one), content);
  });
}

export interface Manifest {
  Config: string;
  RepoTags: string[];
  Layers: string[];
}
export function manifestOf(parts: Part[]): Manifest {
  return JSON.parse(named(parts, "manifest.json").content.toString())[0];
}

/** Creates an image in this pipeline's format. @param store compresses a layer. Default: no compression */
export function image(
  layers: Part[][],
  { store = (tar: Uint8Array): Uint8Array => tar, name = "helloapp:0123456789ab" } = {},
): Part[] {
  const tars = layers.map(join);
  const config = JSON.stringify({
    architecture: "amd64",
    os: "linux",
    config: { Entrypoint: ["/helloapp"], Labels: {} },
    rootfs: { type: "layers", diff_ids: tars.map((tar) => `sha256:${sha256(tar)}`) },
  });
  const stored = tars.map((tar) => part(`${sha256(tar)}.tar`, store(tar)));
  const Config = `${sha256(config)}.json`;
  const manifest = [{ Config, RepoTags: [name], Layers: stored.map(nameOf) }];
  return [...stored, part(Config, config), part("manifest.json", JSON.stringify(manifest))];
}

const suffixes = { none: "", gzip: "+gzip", zstd: "+zstd" };

/**
 * Converts an archive to the format of docker (since 25) and containerd, an OCI layout with manifest.json.
 *
 * @param other image of the layout. Default: the same image
 * @param type media type of the layers after `application/vnd.`. Default: their actual type
 */
export function layout(parts: Part[], other = parts, type?: string): Part[] {
  const blobOf = (content: Uint8Array) => part(`blobs/sha256/${sha256(content)}`, content);
  const describe = (mediaType: string, { content }: Part) => ({
    mediaType,
    digest: `sha256:${sha256(content)}`,
    size: content.length,
  });
  const oci = (kind: string) => `application/vnd.oci.image.${kind}`;
  const imageOf = (of: Part[]) => {
    const { Config, Layers, RepoTags } = manifestOf(of);
    const [config, ...layers] = [Config, ...Layers].map((name) => blobOf(named(of, name).content));
    return { config: config!, layers, RepoTags };
  };
  const [own, their] = [imageOf(parts), imageOf(other)];
  const manifest = blobOf(
    Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: oci("manifest.v1+json"),
        config: describe(oci("config.v1+json"), their.config),
        layers: their.layers.map((layer) =>
          describe(
            type ? `application/vnd.${type}` : oci(`layer.v1.tar${suffixes[detectCompression(layer.content)]}`),
            layer,
          ),
        ),
      }),
    ),
  );
  const manifests = their.RepoTags.map((name) => ({
    ...describe(oci("manifest.v1+json"), manifest),
    annotations: { "io.containerd.image.name": `docker.io/library/${name}` },
  }));
  const files = {
    "index.json": { schemaVersion: 2, manifests },
    "manifest.json": [{ Config: nameOf(own.config), RepoTags: own.RepoTags, Layers: own.layers.map(nameOf) }],
    "oci-layout": { imageLayoutVersion: "1.0.0" },
  };
  const blobs = [own.config, ...own.layers, their.config, ...their.layers, manifest];
  const once = [...new Map(blobs.map((blob) => [nameOf(blob), blob])).values()];
  const directories = ["blobs/", "blobs/sha256/"].map((path) => part(path, "", { 156: "5" }));
  return [...directories, ...once, ...Object.entries(files).map(([path, json]) => part(path, JSON.stringify(json)))];
}

/** Creates a record of a pax header. */
export function pax(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`;
  let length = Buffer.byteLength(rest) + 1;
  while (String(length).length + Buffer.byteLength(rest) !== length) length += 1;
  return `${length}${rest}`;
}
