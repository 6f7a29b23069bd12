/**
 * Imports images into the containerd of an SSH host. Only the frames that an image on the host lacks are sent. The host
 * rebuilds the archive and compares its SHA-256 before the import, so the result equals an import of the full archive. If
 * anything about the delta fails, the full archive is sent.
 *
 * containerd stores an imported layer unchanged in its content store. A previous version therefore contains almost all
 * frames of the next, and the table at its end lists them.
 */
import { TIMEOUT_EXIT_CODE, type ProcessResult, type ProcessOptions } from "../core/process.ts";
import {
  decodeTable,
  TABLE_ENTRY_BYTES,
  TABLE_FOOTER_BYTES,
  TABLE_OVERHEAD_BYTES,
  type Frame,
} from "../image/layer-frames.ts";
import { computeDelta, type DeltaOp } from "./frame-delta.ts";
import type { SshSession } from "./shared-session.ts";
import type { ImageUpload } from "./image-upload.ts";
import { SshConnectionLost } from "./errors.ts";
import { shellQuote } from "./shell-quote.ts";

export interface DeliveryResult {
  /** Result of the import. */
  result: ProcessResult;
  /** Bytes that were sent, before ssh's compression. */
  bytes: number;
  /** Why the full archive was sent although the host has a base image. */
  fallbackReason?: string;
}

type OnProgress = (sentBytes: number, totalBytes: number) => void;

/** A layer in the host's content store. */
interface RemoteLayer {
  /** In hex. */
  digest: string;
  /** Compressed, in bytes. */
  size: number;
  /** Undefined if the layer has no table, for example because another tool wrote it. */
  frames: Frame[] | undefined;
}

/** A part of the archive. Without a blob on the host, all operations are inserts. */
interface Part {
  blob?: string;
  operations: DeltaOp[];
}

/** k3s's content store. With another --data-dir, blobs are read through ctr, which is slow. https://docs.k3s.io/cli/agent */
const BLOBS = "/var/lib/rancher/k3s/agent/containerd/io.containerd.content.v1.content/blobs/sha256";
const CTR = "k3s ctr -n k8s.io";
/** Exit code of the script if the rebuilt archive has another checksum. */
const CHECKSUM_MISMATCH = 80;
/** Enough for 115 MB at 1 Mbit/s. */
const FULL_TIMEOUT_SECONDS = 1200;
const DELTA_TIMEOUT_SECONDS = 180;
/** Limit of the table that is read. A layer with more frames, which are at least 80 MB, counts as foreign. */
const MAX_FRAMES = 80_000;
/** Limit for the archive's end, which a pipe must be able to buffer. pipe(7) */
const MAX_TAIL_BYTES = 1 << 15;
const PIECE_BYTES = 1 << 18;

export class RemoteContainerd {
  readonly #layers = new Map<string, Promise<RemoteLayer[]>>();
  #supportsLocal: Promise<boolean> | undefined;

  constructor(readonly session: SshSession) {}

  /** Runs ctr in the kubelet's namespace. */
  async ctr(args: string[], options: Pick<ProcessOptions, "timeoutSeconds"> = {}): Promise<ProcessResult> {
    const { sudo } = await this.session.hostInfo();
    return this.session.run(`${sudo}${CTR} ${args.map(shellQuote).join(" ")}`, options);
  }

  /** Starts reading the tables of an image before a transfer needs them. @param manifest its digest */
  prefetch(manifest: string): void {
    this.#layersOf(manifest).catch(() => {});
    this.#importCommand().catch(() => {});
  }

  /**
   * Sends an archive to the host and imports it.
   *
   * @param baseManifest digest of a similar image on the host. Default: the full archive is sent.
   * @throws {SshConnectionLost}
   */
  async deliver(
    upload: ImageUpload,
    baseManifest: string | undefined,
    onProgress: OnProgress,
  ): Promise<DeliveryResult> {
    let fallbackReason: string | undefined;
    if (baseManifest !== undefined) {
      const delivered = await this.#deliverDelta(upload, baseManifest, onProgress).catch((error: Error) => {
        if (error instanceof SshConnectionLost) throw error;
        return error.message;
      });
      if (typeof delivered !== "string") return delivered;
      fallbackReason = delivered;
    }
    const file = Bun.file(upload.path);
    const input = () => readPieces(file, onProgress);
    const result = await this.session.run(await this.#importCommand(), { input, timeoutSeconds: FULL_TIMEOUT_SECONDS });
    return {
      result,
      bytes: file.size,
      ...(fallbackReason !== undefined && { fallbackReason }),
    };
  }

  /** @returns the reason as a text if the delta fails */
  async #deliverDelta(
    upload: ImageUpload,
    baseManifest: string,
    onProgress: OnProgress,
  ): Promise<DeliveryResult | string> {
    const { bytes, layers, sha256 } = upload;
    const baseLayers = await this.#layersOf(baseManifest);
    const parts: Part[] = [];
    let position = 0;
    for (const { index, offset, content, frames } of layers) {
      const base = baseLayers[index];
      if (!frames || !base?.frames) continue;
      parts.push({ operations: [{ insert: bytes.subarray(position, offset) }] });
      position = offset + content.length;
      const { digest, size } = base;
      parts.push({ blob: digest, operations: computeDelta(content, frames, { frames: base.frames, size }) });
    }
    if (parts.length === 0) return "it has no earlier version with frames";
    parts.push({ operations: [{ insert: bytes.subarray(position) }] });
    const inserts = parts
      .flatMap(({ operations }) => operations)
      .flatMap((operation) => ("insert" in operation ? [operation.insert] : []));
    const input = Buffer.concat(inserts);
    const { directory } = await this.session.hostInfo();
    // The tail turns the archive into an image. The script holds it back until the checksum is verified.
    const tailBytes = bytes.length - Math.max(...layers.map(({ offset, content }) => offset + content.length));
    if (tailBytes > MAX_TAIL_BYTES) return `the archive has ${tailBytes} bytes after its last layer`;
    const script = `${await this.#blobFunction()}
new=${directory}/new.$$ whole=${directory}/whole.$$ verdict=${directory}/verdict.$$
trap 'rm -f "$new" "$whole" "$verdict"' EXIT
mkfifo "$whole" "$verdict" && exec 5<>"$verdict" || exit
head -c ${input.length} >"$new"
i() { head -c "$1" <&4; }
c() { head -c "$1"; }
s() { head -c "$1" >/dev/null; }
make() {
${parts.map(commandsOf).join("\n")}
}
{ head -c ${bytes.length - tailBytes} && read -r sum <&5 && [ "$sum" = ${sha256} ] && cat; } <"$whole" |
  ${await this.#importCommand()} &
sum=$(make 4<"$new" | tee -p "$whole" | sha256sum)
echo "\${sum%% *}" >&5
wait $!
code=$?
[ "\${sum%% *}" = ${sha256} ] || exit ${CHECKSUM_MISMATCH}
exit $code`;
    onProgress(0, input.length);
    const result = await this.session.run(script, { input, timeoutSeconds: DELTA_TIMEOUT_SECONDS });
    // containerd hangs, for example because the disk is full. It would also hang for the full archive.
    if (result.code === TIMEOUT_EXIT_CODE) return { result, bytes: input.length };
    if (result.code === CHECKSUM_MISMATCH) return "the host's copy of an earlier version is damaged";
    if (result.code !== 0)
      return result.stderr.trim().split("\n").at(-1) || `the import failed with exit code ${result.code}`;
    return { result, bytes: input.length };
  }

  /**
   * Returns the command that imports an archive from stdin. By default, ctr of containerd 2 sends the archive through a
   * service, which takes twice the time. `--local` avoids that. Older versions lack the option.
   */
  async #importCommand(): Promise<string> {
    this.#supportsLocal ??= this.ctr(["images", "import", "--help"]).then(({ stdout }) => /--local\b/.test(stdout));
    const [{ sudo }, supportsLocal] = await Promise.all([this.session.hostInfo(), this.#supportsLocal]);
    return `${sudo}${CTR} images import ${supportsLocal ? "--local " : ""}-`;
  }

  /** Returns the shell function `blob DIGEST`, which writes a blob to stdout. */
  async #blobFunction(): Promise<string> {
    const { sudo } = await this.session.hostInfo();
    return `blob() {
  if [ -n "$(${sudo}cat "${BLOBS}/$1" 2>/dev/null | head -c 1)" ]; then ${sudo}cat "${BLOBS}/$1"
  else ${sudo}${CTR} content get "sha256:$1"; fi
}`;
  }

  #layersOf(manifest: string): Promise<RemoteLayer[]> {
    let layers = this.#layers.get(manifest);
    if (!layers) this.#layers.set(manifest, (layers = this.#readLayers(manifest)));
    return layers;
  }

  async #readLayers(manifest: string): Promise<RemoteLayer[]> {
    const { code, stdout, stderr } = await this.ctr(["content", "get", manifest]);
    if (code !== 0) throw new Error(`cannot read the manifest of the base image (${stderr.trim()})`);
    const { layers = [] } = JSON.parse(stdout) as {
      layers?: { digest: string; size: number; mediaType: string }[];
    };
    return Promise.all(
      layers.map(async ({ digest, size }) => {
        const hex = digest.slice("sha256:".length);
        return { digest: hex, size, frames: await this.#framesOf(hex, size) };
      }),
    );
  }

  async #framesOf(digest: string, size: number): Promise<Frame[] | undefined> {
    const { directory } = await this.session.hostInfo();
    const tableBytes = (count: string | number) => `${count} * ${TABLE_ENTRY_BYTES} + ${TABLE_OVERHEAD_BYTES}`;
    const script = `${await this.#blobFunction()}
end=${directory}/${digest}.$$
trap 'rm -f "$end"' EXIT
blob ${digest} | tail -c $((${tableBytes(MAX_FRAMES)})) >"$end"
[ -s "$end" ] || { echo "no blob ${digest}" >&2; exit 1; }
count=$(tail -c ${TABLE_FOOTER_BYTES} "$end" | od -An -tu4 -N4 | tr -d ' ')
[ "$count" -le ${MAX_FRAMES} ] || exit 0
tail -c $((${tableBytes("count")})) "$end" | base64 -w 0`;
    const { code, stdout, stderr } = await this.session.run(script);
    if (code !== 0) throw new Error(`cannot read an earlier version on the host (${stderr.trim().split("\n").at(-1)})`);
    return decodeTable(Buffer.from(stdout, "base64"), size);
  }
}

/** Returns the sh commands that write a part, with the script's functions i, c and s. */
function commandsOf({ blob, operations }: Part): string {
  const commands = operations.map((operation) => {
    if ("insert" in operation) return `i ${operation.insert.length}`;
    return "copy" in operation ? `c ${operation.copy}` : `s ${operation.skip}`;
  });
  return blob === undefined ? commands.join("; ") : `blob ${blob} | { ${commands.join("; ")}; }`;
}

async function* readPieces(file: Bun.BunFile, onProgress: OnProgress): AsyncIterable<Uint8Array> {
  for (let start = 0; start < file.size; start += PIECE_BYTES) {
    const end = Math.min(file.size, start + PIECE_BYTES);
    yield await file.slice(start, end).bytes();
    onProgress(end, file.size);
  }
}
