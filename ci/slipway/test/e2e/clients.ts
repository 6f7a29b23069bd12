/**
 * An HTTP client on a raw socket. A library's client repairs what a bench wants to see: it sends a request again when its
 * connection was closed under it.
 */
export interface Client {
  /** Sent as it is. */
  request: string;
  /** Milliseconds from a reply to the next request on the same connection. */
  pause?: number;
  /** Seconds that a reply may take, connecting included. */
  patience?: number;
  /** No further request on this connection. */
  over(): boolean;
  /** A request begins, the first of a connection with the connecting. */
  asked(): void;
  /** What is wrong with the body of a whole reply with status 200; undefined: nothing. */
  judge?(body: string): string | undefined;
  failed(why: string): void;
}

/**
 * Asks over one connection until a reply says that it ends, a request fails, or the client is over. Resolves when the
 * connection is closed. A connection that closes between two requests is no failure.
 */
export async function converse(url: string, client: Client): Promise<void> {
  const { hostname, port } = new URL(url);
  const closed = Promise.withResolvers<void>();
  let socket: Bun.Socket<undefined> | undefined;
  let buffer = "";
  let waiting = false;
  let timer: Timer | undefined;

  const begin = () => {
    waiting = true;
    client.asked();
    const { patience } = client;
    if (patience) timer = setTimeout(() => fail(`no reply within ${patience} s`), patience * 1000);
  };
  const settle = () => {
    waiting = false;
    clearTimeout(timer);
  };
  const fail = (why: string) => {
    if (!waiting) return;
    settle();
    client.failed(why);
    socket?.terminate();
    closed.resolve();
  };
  const next = async () => {
    if (client.pause) await Bun.sleep(client.pause);
    if (client.over()) socket!.end();
    else if (socket!.readyState > 0) {
      begin();
      socket!.write(client.request);
    }
  };

  begin();
  const attempt = Bun.connect({
    hostname,
    port: Number(port),
    socket: {
      open(opened) {
        // Too late: the request has failed already.
        if (!waiting) return void opened.terminate();
        socket = opened;
        socket.write(client.request);
      },
      data(_, data) {
        // One character for each byte, as Content-Length counts them.
        buffer += data.toString("latin1");
        const reply = waiting ? parse(buffer) : undefined;
        if (!reply) return;
        const wrong = reply.wrong ?? client.judge?.(reply.body);
        if (wrong) return fail(wrong);
        buffer = "";
        settle();
        if (reply.last) socket!.end();
        else void next();
      },
      close() {
        fail(buffer ? "closed in the middle of the reply" : "closed before the reply");
        closed.resolve();
      },
      error(_, error) {
        fail(error.message);
      },
    },
  });
  attempt.catch((error: Error) => fail(error.message));
  await closed.promise;
}

interface Reply {
  body: string;
  /** The server announces that it closes the connection. */
  last: boolean;
  /** Why this is no good reply, whatever its body says. */
  wrong: string | undefined;
}

/** The reply that a text is, once all of it is there. */
function parse(text: string): Reply | undefined {
  const end = text.indexOf("\r\n\r\n");
  if (end < 0) return undefined;
  const head = text.slice(0, end).replaceAll("\r", "");
  const length = Number(/^content-length: (\d+)$/im.exec(head)?.[1]);
  const body = text.slice(end + 4);
  if (body.length < length) return undefined;
  const wrong = !head.startsWith("HTTP/1.1 200 ")
    ? head.slice(0, 40).split("\n")[0]
    : body.length !== length
      ? `a body of ${body.length} bytes, announced were ${length}`
      : undefined;
  return { body, last: /^connection: close$/im.test(head), wrong };
}
