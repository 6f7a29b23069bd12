/** Shared by the test services: a request that ends on a line on stdin, and a log line with the port. */
import type { Server } from "node:http";

const { promise: released, resolve } = Promise.withResolvers<void>();

/** Prints `slow` on stdout, then waits for a line on stdin. */
export async function slow(): Promise<string> {
  console.log("slow");
  await released;
  return "slow\n";
}

/** Prints the port that the service listens on. */
export function listening(server: { port: number | undefined } | Server): void {
  const print = (port: number | undefined) => console.log(`port ${port}`);
  process.stdin.once("data", () => resolve()).unref();
  if ("port" in server) return print(server.port);
  const port = () => print((server.address() as { port: number }).port);
  if (server.listening) port();
  else server.once("listening", port);
}

/** Exits if the test was killed. */
setTimeout(() => process.exit(99), 120_000).unref();
