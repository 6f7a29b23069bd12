/** Leads a local port to a pod or a Service, through the connection and through rollouts. */
import { connect, createServer, type Socket } from "node:net";
import { PipelineError } from "../core/errors.ts";
import { collectOutput, signalProcessGroup } from "../core/process.ts";
import type { ApiClient } from "../kubernetes/api.ts";

/** Milliseconds between attempts to reach another pod after one is gone, and the seconds for which they go on. */
const RETRY_MS = 500;
const RETRY_SECONDS = 120;

interface Forwarding {
  /** Port that kubectl has opened. */
  port: number;
  /** Resolves when kubectl has ended, for example because the pod is gone. */
  ended: Promise<unknown>;
  stop(): void;
}

export interface PortProxyOptions {
  localPort: number;
  port: number;
  /** Object in kubectl's form, such as `service/shop`. */
  object: string;
  /** Called once, when connections are accepted. */
  onReady(localPort: number): void;
}

/**
 * Accepts connections until the signal is aborted.
 *
 * @throws {PipelineError} "environment" if the local port is in use, or kubectl cannot forward
 */
export async function proxyPort(api: ApiClient, options: PortProxyOptions, signal: AbortSignal): Promise<void> {
  const { localPort, port, object, onReady } = options;
  let forwarding = await startForwarding(api, object, port);
  /** Connections wait for it while a pod is replaced. */
  let next = Promise.resolve(forwarding);
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (client) => {
    sockets.add(client);
    client.on("close", () => sockets.delete(client)).on("error", () => client.destroy());
    const dialling = next.then((current) => api.dial(current.port));
    void dialling.then(
      (address) => {
        const upstream = connect({ ...address, allowHalfOpen: true });
        upstream.on("error", () => client.destroy()).on("close", () => client.destroy());
        client.on("close", () => upstream.destroy());
        client.pipe(upstream).pipe(client);
      },
      () => client.destroy(),
    );
  });
  const aborted = new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
  try {
    await listen(server, localPort);
    onReady((server.address() as { port: number }).port);
    while (!signal.aborted) {
      await Promise.race([forwarding.ended, aborted]);
      if (signal.aborted) return;
      next = startAgain();
      next.catch(() => {});
      forwarding = await next;
    }
  } finally {
    forwarding.stop();
    server.close();
    for (const socket of sockets) socket.destroy();
  }

  /** Chooses another pod. The first choice may be one that terminates. */
  async function startAgain(): Promise<Forwarding> {
    const end = performance.now() + RETRY_SECONDS * 1000;
    for (;;) {
      await Promise.race([Bun.sleep(RETRY_MS), aborted]);
      if (signal.aborted) return forwarding;
      try {
        return await startForwarding(api, object, port);
      } catch (error) {
        if (performance.now() > end) throw error;
      }
    }
  }
}

function listen(server: ReturnType<typeof createServer>, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      const cause = error.code === "EADDRINUSE" ? "is in use" : `cannot be opened (${error.code})`;
      const hint = "Name another one before the port: `proxy LOCAL:PORT`.";
      reject(
        new PipelineError("environment", `port ${port} of this machine ${cause}`, { code: "port-unusable", hint }),
      );
    });
    server.listen({ port, host: "127.0.0.1" }, () => resolve());
  });
}

/** Starts kubectl, which opens a port of its own choice where it runs. */
async function startForwarding(api: ApiClient, object: string, port: number): Promise<Forwarding> {
  // A terminal, so that kubectl on a host ends with the connection.
  const command = await api.kubectlCommand(["port-forward", object, `:${port}`], true);
  const child = Bun.spawn(command, { stdin: "ignore", stdout: "pipe", stderr: "pipe", detached: true });
  const stderr = collectOutput(child.stderr);
  const stop = () => signalProcessGroup(child.pid, "SIGTERM");
  const decoder = new TextDecoder();
  const reader = child.stdout.getReader();
  let output = "";
  for (;;) {
    const { value, done } = await reader.read();
    output += done ? "" : decoder.decode(value, { stream: true });
    const [, found] = /Forwarding from 127\.0\.0\.1:(\d+)/.exec(output) ?? [];
    if (found !== undefined) {
      // Keeps reading so that the pipe never fills up.
      void (async () => {
        while (!(await reader.read()).done);
      })().catch(() => {});
      return { port: Number(found), ended: child.exited, stop };
    }
    if (!done) continue;
    await child.exited;
    await stderr.complete;
    // On a terminal, kubectl's errors are in the output.
    const text = `${output}${stderr.text()}`.trim();
    const reason = text.split("\n").at(-1)?.trim() || "kubectl ended without output";
    throw new PipelineError("environment", `kubectl cannot forward to ${object}: ${reason}`, {
      code: "forwarding-failed",
      hint: "Check the name and the port with `bun ci/pipeline.ts kubectl -- get services,pods`.",
      output: text,
    });
  }
}
