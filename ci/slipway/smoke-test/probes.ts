/** Asks as the kubelet does. https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/ */
import { connect } from "node:net";
import type { ProbeCheck } from "../kubernetes/probe-spec.ts";

/** Runs a command in the container. @returns what is wrong; undefined: it ended with 0 */
export type ExecProbe = (command: string[], seconds: number) => Promise<string | undefined>;

/**
 * Asks once.
 *
 * @param seconds within which it has to be answered
 * @returns what is wrong; undefined: it passes
 */
export async function runProbe(
  host: string,
  check: ProbeCheck,
  seconds: number,
  exec: ExecProbe,
): Promise<string | undefined> {
  if (check.how === "exec") return exec(check.command, seconds);
  if (check.how === "tcp") return knock(host, check.port, seconds);
  try {
    const response = await fetch(`${check.scheme}://${host}:${check.port}${check.path}`, {
      headers: { "User-Agent": "kube-probe/1.32", Connection: "close", ...Object.fromEntries(check.headers) },
      keepalive: false,
      redirect: "manual",
      proxy: false,
      tls: { rejectUnauthorized: false },
      signal: AbortSignal.timeout(seconds * 1000),
    });
    await response.body?.cancel();
    return response.status >= 200 && response.status < 400 ? undefined : `status ${response.status}`;
  } catch (error) {
    return reason(error, seconds);
  }
}

function knock(host: string, port: number, seconds: number): Promise<string | undefined> {
  const { promise, resolve } = Promise.withResolvers<string | undefined>();
  const socket = connect({ host, port, timeout: seconds * 1000 });
  socket.once("connect", () => resolve(undefined));
  socket.once("timeout", () => resolve(`no answer within ${seconds} s`));
  socket.once("error", (error) => resolve(reason(error, seconds)));
  return promise.finally(() => socket.destroy());
}

function reason(error: unknown, seconds: number): string {
  const { name, code, message } = error as NodeJS.ErrnoException;
  if (name === "TimeoutError") return `no answer within ${seconds} s`;
  return code === "ConnectionRefused" || code === "ECONNREFUSED" ? "nobody listens there" : message;
}

/** A request that has begun: it is in flight until finish(). */
export interface PendingRequest {
  /** Sends the rest. @returns what is wrong with the reply; undefined: it is whole and says what is expected */
  finish(): Promise<string | undefined>;
}

/** Seconds that the reply may take. */
const REPLY_SECONDS = 5;

/**
 * Sends the first half of a request's head. Servers count a connection as busy from then on, so that a drain has to wait
 * for it, whichever handler it is for.
 *
 * @param expected what the reply has to contain
 */
export async function beginRequest(
  { host, port, path }: { host: string; port: number; path: string },
  expected: string,
): Promise<PendingRequest> {
  let reply = "";
  const ended = Promise.withResolvers<string>();
  const socket = connect({ host, port });
  socket.setTimeout(REPLY_SECONDS * 1000);
  socket.on("data", (data) => {
    reply += data.toString("latin1");
    // It need not close the connection for that.
    if (reply.includes(expected)) ended.resolve("");
  });
  socket.once("timeout", () => ended.resolve(`no reply within ${REPLY_SECONDS} s`));
  socket.once("error", (error) => ended.resolve(error.message));
  socket.once("close", () => ended.resolve("the connection was closed without a reply"));
  await new Promise<void>((resolve) => {
    socket.once("connect", resolve);
    void ended.promise.then(() => resolve());
  });
  socket.write(`GET ${path} HTTP/1.1\r\nHost: ${host}:${port}\r\nConnection: close\r\nUser-Agent: sli`);
  return {
    async finish() {
      if (!socket.destroyed) socket.write("pway\r\n\r\n");
      const wrong = await ended.promise;
      socket.destroy();
      if (reply.includes(expected)) return undefined;
      const [status = ""] = reply.split("\r\n");
      return status ? `it was answered with ${status}` : wrong;
    },
  };
}
