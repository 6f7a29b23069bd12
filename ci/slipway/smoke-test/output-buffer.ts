/** Collects the output of a container with bounded memory. */

/** Characters to keep from the start and from the end. */
const HEAD_LENGTH = 16_384;
const TAIL_LENGTH = 49_152;

export class OutputBuffer {
  #head = "";
  #tail = "";
  #dropped = 0;
  readonly #streams: Promise<void>[] = [];

  /** Reads the stream until it ends. */
  collect(stream: ReadableStream<Uint8Array>): void {
    this.#streams.push(this.#read(stream));
  }

  async #read(stream: ReadableStream<Uint8Array>): Promise<void> {
    const decoder = new TextDecoder();
    for await (const chunk of stream) this.#append(decoder.decode(chunk, { stream: true }));
  }

  #append(text: string): void {
    const free = Math.max(0, HEAD_LENGTH - this.#head.length);
    this.#head += text.slice(0, free);
    this.#tail += text.slice(free);
    const excess = this.#tail.length - TAIL_LENGTH;
    if (excess <= 0) return;
    this.#dropped += excess;
    this.#tail = this.#tail.slice(excess);
  }

  /** Returns the output when the streams end, or after 500 ms, because a child process may keep them open. */
  async all(): Promise<string> {
    await Promise.race([Promise.all(this.#streams), Bun.sleep(500)]);
    return this.#dropped > 0
      ? `${this.#head}\n… ${this.#dropped} characters omitted …\n${this.#tail}`
      : this.#head + this.#tail;
  }
}
