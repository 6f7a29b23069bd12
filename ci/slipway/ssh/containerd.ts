/**
 * A node's containerd at the other end of a line, and images on their way to it: what the node has of one already is taken from
 * there, and the rest travels. What is put together there is compared by its SHA-256 before it can become an image, which is
 * then the one that an import of the whole would give; whatever goes wrong with that, the whole goes.
 *
 * containerd keeps an imported layer as it came, a tar in its content store, and so a version of before has nearly all of the next.
 */
import { TIMED_OUT, type ProcessResult, type ProcessOptions } from "../core/process.ts";
import {
  BLOCK_BYTES,
  CHUNK_BYTES,
  computeDelta,
  HASH_PREFIX_LENGTH,
  unknownChunks,
  type DeltaBase,
  type DeltaOp,
} from "./delta.ts";
import type { SshSession } from "./session.ts";
import { loadCachedLayer, saveCachedLayer } from "./layer-cache.ts";
import type { PackedLayer, ImageUpload } from "./image-upload.ts";
import { SshConnectionLost } from "./errors.ts";
import { shellQuote } from "./shell-quote.ts";

export interface DeliveryResult {
  /** Of the import. */
  result: ProcessResult;
  /** Names of the images that are there now. */
  names: Set<string>;
  /** Bytes that were sent, before the line's compression. */
  bytes: number;
  /** Why the whole was sent although there was something to take most of it from. */
  whole?: string;
}

/** A layer of an image that is there. */
interface Layer extends DeltaBase {
  /** In hex. */
  digest: string;
}

/** What an archive is put together of: bytes that are sent, and what orders make of a blob that is there. */
type Part = { put: Uint8Array } | { blob: string; orders: DeltaOp[] };

/** Where k3s's containerd has its blobs; with another --data-dir they are asked for, which is slow. https://docs.k3s.io/cli/agent */
const BLOBS = "/var/lib/rancher/k3s/agent/containerd/io.containerd.content.v1.content/blobs/sha256";
const CTR = "k3s ctr -n k8s.io";
/** The script's code for what is not what it should be when it is put together. */
const DIFFERS = 80;
/** Seconds that the whole may take, 115 MB by 1 Mbit/s; and a delta, most of which is read there. */
const LONGEST_SECONDS = 1200;
const DELTA_SECONDS = 180;
/** Bytes that an archive may have after its layers: a pipe holds them. pipe(7) */
const MOST_LAST = 1 << 15;
/** Bytes that are sent at once. */
const PIECE = 1 << 18;

export class RemoteContainerd {
  readonly #layers = new Map<string, Promise<Layer[]>>();
  /** Whether ctr has to be asked to import by itself. */
  #local: Promise<boolean> | undefined;

  /** @param memory a directory here for what is remembered of layers */
  constructor(
    readonly line: SshSession,
    private readonly memory: string,
  ) {}

  /** Runs ctr for the kubelet's images. */
  async ctr(args: string[], options: ProcessOptions = {}): Promise<ProcessResult> {
    const { sudo } = await this.line.there();
    return this.line.run(`${sudo}${CTR} ${args.map(shellQuote).join(" ")}`, options);
  }

  /** Begins to find out what an image there is like: a second that need not be waited for. @param manifest its digest */
  learn(manifest: string): void {
    this.#layersOf(manifest).catch(() => {});
    this.#importing().catch(() => {});
  }

  /**
   * Brings an archive there and imports it.
   *
   * @param base the digest of an image that is there, to take most of it from; undefined: there is none
   * @param sent is told how many bytes have been sent, of how many
   * @throws {SshConnectionLost}
   */
  async deliver(
    parcel: ImageUpload,
    base: string | undefined,
    sent: (bytes: number, of: number) => void,
  ): Promise<DeliveryResult> {
    let whole: string | undefined;
    if (base !== undefined && !parcel.isPacked) {
      const delta = await this.#delta(parcel, base, sent).catch((error: Error) => {
        if (error instanceof SshConnectionLost) throw error;
        return error.message;
      });
      if (typeof delta !== "string") return delta;
      whole = delta;
    }
    const file = Bun.file(parcel.path);
    const result = await this.#import(piecesOf(file, sent));
    return { result, bytes: file.size, names: namesIn(result), ...(whole !== undefined && { whole }) };
  }

  /** @returns what went wrong, as a text */
  async #delta(
    parcel: ImageUpload,
    manifest: string,
    sent: (bytes: number, of: number) => void,
  ): Promise<DeliveryResult | string> {
    const { bytes, layers } = parcel;
    const there = await this.#layersOf(manifest);
    const parts: Part[] = [];
    let at = 0;
    const changed: { layer: PackedLayer; before: Layer }[] = [];
    for (const layer of layers) {
      const { digest, index, offset, content } = layer;
      const before = there.find((one) => one.digest === digest) ?? there[index];
      if (!before) continue;
      parts.push({ put: bytes.subarray(at, offset) });
      at = offset + content.length;
      if (before.digest === digest) {
        parts.push({ blob: digest, orders: [{ keep: content.length }] });
        continue;
      }
      const hashes = parcel.hashesOf(layer);
      const blocks = await this.#blocksOf(before, unknownChunks(hashes, before));
      const known = { ...before, blocks: (chunk: number) => blocks.get(chunk) };
      parts.push({ blob: before.digest, orders: computeDelta(content, known, hashes) });
      changed.push({ layer, before });
    }
    parts.push({ put: bytes.subarray(at) });
    const put = Buffer.concat(parts.flatMap((part) => ("put" in part ? [part.put] : putsOf(part.orders))));
    const { directory } = await this.line.there();
    const { sha256 } = parcel;
    // What says that it is an image comes last, and is held back until all of it is known to be right.
    const last = bytes.length - Math.max(...layers.map(({ offset, content }) => offset + content.length));
    if (last > MOST_LAST) return `it ends with ${last} bytes that are no layer`;
    const script = `${await this.#reading()}
new=${directory}/new.$$ whole=${directory}/whole.$$ verdict=${directory}/verdict.$$
trap 'rm -f "$new" "$whole" "$verdict"' EXIT
mkfifo "$whole" "$verdict" && exec 5<>"$verdict" || exit
head -c ${put.length} >"$new"
p() { head -c "$1" <&4; }
k() { head -c "$1"; }
s() { head -c "$1" >/dev/null; }
make() {
${parts.map(linesOf).join("\n")}
}
{ head -c ${bytes.length - last} && read -r sum <&5 && [ "$sum" = ${sha256} ] && cat; } <"$whole" |
  ${await this.#importing()} &
sum=$(make 4<"$new" | tee -p "$whole" | sha256sum)
echo "\${sum%% *}" >&5
wait $!
code=$?
[ "\${sum%% *}" = ${sha256} ] || exit ${DIFFERS}
[ $code = 0 ] || exit $code
${await this.#listing()}`;
    sent(0, put.length);
    const result = await this.line.run(script, { input: put, timeoutSeconds: DELTA_SECONDS });
    // A containerd that is silent, as one whose disk is full can be, would be so for the whole as well.
    if (result.code === TIMED_OUT) return { result, bytes: put.length, names: new Set() };
    if (result.code === DIFFERS) return "what it has of an earlier version is not what it should be";
    if (result.code !== 0)
      return result.stderr.trim().split("\n").at(-1) || `the import has ended with ${result.code}`;
    for (const { layer, before } of changed) {
      const { digest, content } = layer;
      await saveCachedLayer(this.memory, digest, content, parcel.hashesOf(layer), before.hashes).catch(
        () => {},
      );
    }
    return { result, bytes: put.length, names: namesIn(result) };
  }

  async #import(input: AsyncIterable<Uint8Array>): Promise<ProcessResult> {
    const script = `${await this.#importing()} || exit\n${await this.#listing()}`;
    return this.line.run(script, { input, timeoutSeconds: LONGEST_SECONDS });
  }

  async #listing(): Promise<string> {
    const { sudo } = await this.line.there();
    return `${sudo}${CTR} images ls -q`;
  }

  /**
   * Imports what comes over stdin, by ctr itself where that has to be asked for: containerd 2's sends it through a service by default,
   * which takes twice the time. Before that there was no such option.
   */
  async #importing(): Promise<string> {
    this.#local ??= this.ctr(["images", "import", "--help"]).then(({ stdout }) => /--local\b/.test(stdout));
    const [{ sudo }, local] = await Promise.all([this.line.there(), this.#local]);
    return `${sudo}${CTR} images import ${local ? "--local " : ""}-`;
  }

  /** Defines `blob DIGEST`, which writes it to stdout. */
  async #reading(): Promise<string> {
    const { sudo } = await this.line.there();
    return `blob() {
  if [ -n "$(${sudo}cat "${BLOBS}/$1" 2>/dev/null | head -c 1)" ]; then ${sudo}cat "${BLOBS}/$1"
  else ${sudo}${CTR} content get "sha256:$1"; fi
}`;
  }

  #layersOf(manifest: string): Promise<Layer[]> {
    let layers = this.#layers.get(manifest);
    if (!layers) this.#layers.set(manifest, (layers = this.#look(manifest)));
    return layers;
  }

  async #look(manifest: string): Promise<Layer[]> {
    const { code, stdout, stderr } = await this.ctr(["content", "get", manifest]);
    if (code !== 0) throw new Error(`its manifest cannot be read (${stderr.trim()})`);
    const { layers = [] } = JSON.parse(stdout) as {
      layers?: { digest: string; size: number; mediaType: string }[];
    };
    // A layer that was pulled from a registry is packed there, and no use.
    if (layers.length === 0 || layers.some(({ mediaType }) => /gzip|zstd/.test(mediaType)))
      throw new Error("it has no earlier version whose layers are plain");
    return Promise.all(
      layers.map(async ({ digest: whole, size }) => {
        const digest = whole.slice("sha256:".length);
        const { hashes, content = () => undefined } = (await loadCachedLayer(this.memory, digest)) ?? {
          hashes: await this.#chunksOf(digest, size),
        };
        return { digest, size, hashes, content, blocks: () => undefined };
      }),
    );
  }

  /** Hashes of a blob's chunks. */
  async #chunksOf(digest: string, size: number): Promise<string[]> {
    const script = `${await this.#reading()}
blob ${digest} | split -b ${CHUNK_BYTES} --filter='sha256sum | cut -c1-${HASH_PREFIX_LENGTH}'`;
    return hashesIn(await this.line.run(script), Math.ceil(size / CHUNK_BYTES));
  }

  /** Hashes of the blocks of some chunks of a blob. */
  async #blocksOf({ digest, size }: Layer, chunks: number[]): Promise<Map<number, string[]>> {
    if (chunks.length === 0) return new Map();
    const { directory } = await this.line.there();
    let at = 0;
    const lines = chunks.map((chunk) => {
      const skipped = chunk * CHUNK_BYTES - at;
      at = Math.min(size, (chunk + 1) * CHUNK_BYTES);
      return `head -c ${skipped} >/dev/null; head -c ${at - chunk * CHUNK_BYTES} | hashes`;
    });
    const script = `${await this.#reading()}
d=${directory}/blocks.$$
trap 'rm -rf "$d"' EXIT
hashes() {
  mkdir "$d" && split -b ${BLOCK_BYTES} -a 4 - "$d/" && (cd "$d" && sha256sum -- * | cut -c1-${HASH_PREFIX_LENGTH}) && rm -rf "$d"
}
blob ${digest} | { ${lines.join("; ")}; }`;
    const counts = chunks.map((chunk) =>
      Math.ceil(Math.min(CHUNK_BYTES, size - chunk * CHUNK_BYTES) / BLOCK_BYTES),
    );
    const hashes = hashesIn(await this.line.run(script), sum(counts));
    let from = 0;
    return new Map(chunks.map((chunk, i) => [chunk, hashes.slice(from, (from += counts[i]!))]));
  }
}

function namesIn({ stdout }: ProcessResult): Set<string> {
  return new Set(stdout.split("\n"));
}

/** @param count how many there are to be: a blob that is gone has none, and nothing else says so */
function hashesIn({ stdout, stderr }: ProcessResult, count: number): string[] {
  const hashes = stdout.split("\n").filter(Boolean);
  if (hashes.length === count) return hashes;
  throw new Error(`what it has of an earlier version cannot be read (${stderr.trim().split("\n").at(-1)})`);
}

const sum = (numbers: number[]) => numbers.reduce((all, one) => all + one, 0);

function putsOf(orders: DeltaOp[]): Uint8Array[] {
  return orders.flatMap((order) => ("put" in order ? [order.put] : []));
}

/** What makes a part, as a line of sh: see the functions p, k and s. */
function linesOf(part: Part): string {
  if ("put" in part) return part.put.length > 0 ? `p ${part.put.length}` : ":";
  const words = part.orders.map((order) => {
    if ("put" in order) return `p ${order.put.length}`;
    return "keep" in order ? `k ${order.keep}` : `s ${order.skip}`;
  });
  return `blob ${part.blob} | { ${words.join("; ")}; }`;
}

async function* piecesOf(
  file: Bun.BunFile,
  sent: (bytes: number, of: number) => void,
): AsyncIterable<Uint8Array> {
  for (let at = 0; at < file.size; at += PIECE) {
    yield await file.slice(at, Math.min(file.size, at + PIECE)).bytes();
    sent(Math.min(file.size, at + PIECE), file.size);
  }
}
