/**
 * Runs probes like the kubelet.
 * https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/
 */
import { connect } from "node:net";
import type { ProbeCheck } from "../kubernetes/convert-probes.ts";
import { describeFetchError } from "../core/fetch-error.ts";

/** Runs a command in the container. @returns the failure, or undefined if the exit code is 0 */
export type ExecProbe = (command: string[], timeoutSeconds: number) => Promise<string | undefined>;

/**
 * Runs a probe once.
 *
 * @returns the failure, or undefined if the probe passes
 */
export async function runProbe(
  host: string,
  check: ProbeCheck,
  timeoutSeconds: number,
  exec: ExecProbe,
): Promise<string | undefined> {
  if (check.how === "exec") return exec(check.command, timeoutSeconds);
  if (check.how === "tcp") return probeTcp(host, check.port, timeoutSeconds);
  try {
    const response = await fetch(`${check.scheme}://${host}:${check.port}${check.path}`, {
      headers: { "User-Agent": "kube-probe/1.32", Connection: "close", ...Object.fromEntries(check.headers) },
      keepalive: false,
      redirect: "manual",
      proxy: false,
      tls: { rejectUnauthorized: false },
      signal: AbortSignal.timeout(timeoutSeconds * 1000),
    });
    await response.body?.cancel();
    return response.status >= 200 && response.status < 400 ? undefined : `status ${response.status}`;
  } catch (error) {
    return describeError(error, timeoutSeconds);
  }
}

function probeTcp(host: string, port: number, timeoutSeconds: number): Promise<string | undefined> {
  const { promise, resolve } = Promise.withResolvers<string | undefined>();
  const socket = connect({ host, port, timeout: timeoutSeconds * 1000 });
  socket.once("connect", () => resolve(undefined));
  socket.once("timeout", () => resolve(`no response within ${timeoutSeconds} s`));
  socket.once("error", (error) => resolve(describeError(error, timeoutSeconds)));
  return promise.finally(() => socket.destroy());
}

function describeError(error: unknown, timeoutSeconds: number): string {
  const { name } = error as Error;
  return name === "TimeoutError" ? `no response within ${timeoutSeconds} s` : describeFetchError(error);
}

/** A request in flight. */
export interface PendingRequest {
  /**
   * Sends the rest of the request.
   * @returns the failure, or undefined if the response contains the expected text
   */
  finish(): Promise<string | undefined>;
}

const RESPONSE_TIMEOUT_SECONDS = 5;

/**
 * Sends the first half of a request head.
 *
 * Servers count a connection as busy from then on. A drain therefore has to wait for it, whichever handler it
 * is for.
 *
 * @param expected text that the response has to contain
 */
export async function beginRequest(
  { host, port, path }: { host: string; port: number; path: string },
  expected: string,
): Promise<PendingRequest> {
  let response = "";
  const ended = Promise.withResolvers<string>();
  const socket = connect({ host, port });
  socket.setTimeout(RESPONSE_TIMEOUT_SECONDS * 1000);
  socket.on("data", (data) => {
    response += data.toString("latin1");
    // Does not wait for the server to close the connection.
    if (response.includes(expected)) ended.resolve("");
  });
  socket.once("timeout", () => ended.resolve(`no response within ${RESPONSE_TIMEOUT_SECONDS} s`));
  socket.once("error", (error) => ended.resolve(describeFetchError(error)));
  socket.once("close", () => ended.resolve("the connection was closed without a response"));
  await new Promise<void>((resolve) => {
    socket.once("connect", resolve);
    void ended.promise.then(() => resolve());
  });
  socket.write(`GET ${path} HTTP/1.1\r\nHost: ${host}:${port}\r\nConnection: close\r\nUser-Agent: sli`);
  return {
    async finish() {
      if (!socket.destroyed) socket.write("pway\r\n\r\n");
      const failure = await ended.promise;
      socket.destroy();
      if (response.includes(expected)) return undefined;
      const [status = ""] = response.split("\r\n");
      return status ? `the response was ${status}` : failure;
    },
  };
}
