/** What a container says, bounded: the first of it and the last. */

/** Bytes of each. */
const FIRST = 16_384;
const LAST = 49_152;

export class OutputBuffer {
  #first = "";
  #last = "";
  #left = 0;
  readonly #ends: Promise<void>[] = [];

  /** Listens until the stream ends. */
  hear(stream: ReadableStream<Uint8Array>): void {
    this.#ends.push(this.#listen(stream));
  }

  async #listen(stream: ReadableStream<Uint8Array>): Promise<void> {
    const decoder = new TextDecoder();
    for await (const chunk of stream) this.#take(decoder.decode(chunk, { stream: true }));
  }

  #take(text: string): void {
    const room = Math.max(0, FIRST - this.#first.length);
    this.#first += text.slice(0, room);
    this.#last += text.slice(room);
    const over = this.#last.length - LAST;
    if (over <= 0) return;
    this.#left += over;
    this.#last = this.#last.slice(over);
  }

  /** All of it that was kept, when the streams have ended, or after a moment: a child may hold them. */
  async all(): Promise<string> {
    await Promise.race([Promise.all(this.#ends), Bun.sleep(500)]);
    return this.#left > 0
      ? `${this.#first}\n… ${this.#left} characters are left out …\n${this.#last}`
      : this.#first + this.#last;
  }
}
