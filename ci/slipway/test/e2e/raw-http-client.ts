/**
 * An HTTP client on a raw socket. HTTP libraries would hide failures: they repeat a request after the server has
 * closed the connection.
 */
export interface Client {
  /** The raw request. */
  request: string;
  /** Milliseconds from a response to the next request on the same connection. */
  pause?: number;
  /** Seconds until a request times out, connecting included. */
  patience?: number;
  /** True if no further request is to be sent. */
  over(): boolean;
  /** Called when a request begins. For the first, that is before connecting. */
  asked(): void;
  /** Checks the body of a complete response with status 200. @returns what is wrong, or undefined */
  judge?(body: string): string | undefined;
  failed(why: string): void;
}

/**
 * Sends requests over one connection until a response announces the end, a request fails, or the client is over.
 * Resolves when the connection is closed. A connection that closes between two requests is not a failure.
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
    if (patience) timer = setTimeout(() => fail(`no response within ${patience} s`), patience * 1000);
  };
  const finish = () => {
    waiting = false;
    clearTimeout(timer);
  };
  const fail = (why: string) => {
    if (!waiting) return;
    finish();
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
        // The request has failed already.
        if (!waiting) return void opened.terminate();
        socket = opened;
        socket.write(client.request);
      },
      data(_, data) {
        // Latin-1 has one character per byte, as Content-Length counts.
        buffer += data.toString("latin1");
        const reply = waiting ? parse(buffer) : undefined;
        if (!reply) return;
        const wrong = reply.wrong ?? client.judge?.(reply.body);
        if (wrong) return fail(wrong);
        buffer = "";
        finish();
        if (reply.last) socket!.end();
        else void next();
      },
      close() {
        fail(buffer ? "closed in the middle of the response" : "closed before the response");
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
  /** True if the server announces the end of the connection. */
  last: boolean;
  /** The error, if the response itself is invalid. */
  wrong: string | undefined;
}

/** Parses a response. @returns undefined while it is incomplete */
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
