/** Runs a service as a child process, with a client that sees connections, which `fetch` hides. */
import type { Subprocess } from "bun";

export interface Answer {
  status: number;
  headers: Headers;
  body: string;
}

/** A connection that sends one request after another. */
export class Connection {
  /** Resolves when the server closes the connection. */
  readonly closed: Promise<void>;
  #bytes = "";
  #wake = () => {};
  #open = true;
  #socket: Bun.Socket | undefined;

  private constructor() {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.closed = promise;
    this.#closed = () => {
      this.#open = false;
      resolve();
      this.#wake();
    };
  }
  readonly #closed: () => void;

  /** @throws {Error} if nothing listens on the port */
  static async to(port: number): Promise<Connection> {
    const made = new Connection();
    made.#socket = await Bun.connect({
      hostname: "127.0.0.1",
      port,
      socket: {
        data(_, data) {
          made.#bytes += data.toString("latin1");
          made.#wake();
        },
        close: made.#closed,
        error: made.#closed,
      },
    });
    return made;
  }

  /** @throws {Error} if the connection ends before the response */
  async ask(path: string, { method = "GET", body = "" } = {}): Promise<Answer> {
    this.send(`${method} ${path} HTTP/1.1\r\nHost: test\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
    for (;;) {
      const end = this.#bytes.indexOf("\r\n\r\n");
      const answer = end < 0 ? undefined : this.#answer(end, method);
      if (answer) return answer;
      if (!this.#open) throw new Error(`${method} ${path}: the connection ended after ${this.#bytes}`);
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  send(text: string): void {
    this.#socket?.write(text);
  }

  end(): void {
    this.#socket?.end();
  }

  #answer(end: number, method: string): Answer | undefined {
    const [line = "", ...lines] = this.#bytes.slice(0, end).split("\r\n");
    const headers = new Headers(lines.map((header) => header.split(": ") as [string, string]));
    const rest = this.#bytes.slice(end + 4);
    let length = method === "HEAD" ? 0 : Number(headers.get("content-length") ?? 0);
    let body = rest.slice(0, length);
    if (method !== "HEAD" && headers.get("transfer-encoding") === "chunked") {
      if (!rest.endsWith("0\r\n\r\n")) return undefined;
      length = rest.length;
      body = [...rest.matchAll(/[0-9a-f]+\r\n([^\r]+)\r\n/g)].map(([, chunk]) => chunk).join("");
    } else if (rest.length < length) {
      return undefined;
    }
    this.#bytes = rest.slice(length);
    return { status: Number(line.split(" ")[1]), headers, body };
  }
}

export class Service {
  readonly ports: number[] = [];
  #lines: string[] = [];
  #wake = () => {};
  #ended = false;

  private constructor(readonly process: Subprocess<"pipe", "pipe", "pipe">) {
    void this.#read();
  }

  /**
   * Starts a service and waits until it listens.
   *
   * @param command a program and its arguments
   * @param env variables. DRAIN_DELAY_SECONDS defaults to an hour, so that tests can inspect the drain.
   */
  static async start(command: string[], env: Record<string, string> = {}, servers = 1): Promise<Service> {
    const { PATH = "", HOME = "" } = process.env;
    const child = Bun.spawn(command, {
      env: { PATH, HOME, DRAIN_DELAY_SECONDS: "3600", DRAIN_TIMEOUT_SECONDS: "60", ...env },
      stdio: ["pipe", "pipe", "pipe"],
    });
    const service = new Service(child);
    while (service.ports.length < servers) {
      service.ports.push(Number((await service.line("port ")).slice("port ".length)));
    }
    return service;
  }

  /** Starts a service that listens on PORT and does not print its port. */
  static async onPort(command: string[], env: Record<string, string> = {}): Promise<Service> {
    const probe = Bun.serve({ port: 0, fetch: () => new Response() });
    const { port } = probe;
    await probe.stop(true);
    const service = await Service.start(command, { ...env, PORT: String(port) }, 0);
    service.ports.push(port!);
    for (;;) {
      const connection = await service.connect().catch(() => undefined);
      if (connection) return (connection.end(), service);
      if (service.#ended) throw new Error(`ended before it listened: ${await service.stderr()}`);
      await Bun.sleep(5);
    }
  }

  get port(): number {
    return this.ports[0]!;
  }

  /** Waits for a line on stdout that begins with `start`, and removes it. */
  async line(start: string): Promise<string> {
    for (;;) {
      const at = this.#lines.findIndex((line) => line.startsWith(start));
      if (at >= 0) return this.#lines.splice(at, 1)[0]!;
      if (this.#ended) throw new Error(`ended without ${start}: ${await this.stderr()}`);
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  connect(): Promise<Connection> {
    return Connection.to(this.port);
  }

  /** Sends a request on a new connection. */
  async ask(path: string, how?: { method?: string; body?: string }, port = this.port): Promise<Answer> {
    const connection = await Connection.to(port);
    return connection.ask(path, how).finally(() => connection.end());
  }

  /** Waits until `/readyz` returns this status. */
  async until(status: number): Promise<void> {
    while ((await this.ask("/readyz")).status !== status) await Bun.sleep(5);
  }

  /** Waits until nothing listens on the port. */
  async untilRefused(): Promise<void> {
    for (;;) {
      const connection = await this.connect().catch(() => undefined);
      if (!connection) return;
      connection.end();
      await Bun.sleep(5);
    }
  }

  kill(signal: "SIGTERM" | "SIGINT" | "SIGKILL" = "SIGTERM"): void {
    this.process.kill(signal);
  }

  /** Returns the complete stderr when the service exits. */
  stderr(): Promise<string> {
    return new Response(this.process.stderr).text();
  }

  async #read(): Promise<void> {
    const decoder = new TextDecoder();
    let rest = "";
    for await (const bytes of this.process.stdout) {
      const lines = (rest + decoder.decode(bytes, { stream: true })).split("\n");
      rest = lines.pop()!;
      this.#lines.push(...lines);
      this.#wake();
    }
    this.#ended = true;
    this.#wake();
  }
}
