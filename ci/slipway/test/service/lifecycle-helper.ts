/** What the services of the tests have in common: a request that ends when the test says so, and where they listen. */
import type { Server } from "node:http";

const { promise: told, resolve } = Promise.withResolvers<void>();

/** Waits for a line on stdin, after saying on stdout that it does. */
export async function slow(): Promise<string> {
  console.log("slow");
  await told;
  return "slow\n";
}

/** Says where the service listens. */
export function listening(server: { port: number | undefined } | Server): void {
  const say = (port: number | undefined) => console.log(`port ${port}`);
  process.stdin.once("data", () => resolve()).unref();
  if ("port" in server) return say(server.port);
  const port = () => say((server.address() as { port: number }).port);
  if (server.listening) port();
  else server.once("listening", port);
}

/** A test that dies leaves nothing running. */
setTimeout(() => process.exit(99), 120_000).unref();
