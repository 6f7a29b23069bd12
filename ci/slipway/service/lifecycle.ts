/** State machine of a service, with the drain. */
import type { State, Stoppable } from "./service.d";

/** Milliseconds between two looks whether requests still come. */
const POLL_MS = 50;

/**
 * Tracks the state of a service: starting, ready, draining, stopped. It never moves back.
 *
 * The drain is designed so that no client sees a failed request. It was measured with 64 keep-alive clients
 * on one of two backends. Stopping at once fails dozens of requests, and waiting before stopping still fails
 * some. Sending `Connection: close` during the wait fails none, because every client has disconnected before
 * the server stops.
 */
export class Lifecycle {
  #state: State = "starting";

  /** @param changed callback that receives each new state */
  constructor(private readonly changed: (state: State) => void = () => {}) {}

  get state(): State {
    return this.#state;
  }

  /** Whether the drain has begun. From then on, responses should have `Connection: close`. */
  get leaving(): boolean {
    return this.#state === "draining" || this.#state === "stopped";
  }

  ready(): void {
    this.#enter("ready");
  }

  /**
   * Drains the servers: waits `delaySeconds`, stops accepting, waits at most `timeoutSeconds` for requests in
   * flight, and closes the remaining connections.
   *
   * On a busy node, a Service can send new connections for seconds. So the delay goes on while requests come, for at
   * most half of `timeoutSeconds`, unless `delaySeconds` is 0.
   *
   * @param options.isQuiet whether no more requests come. Default: they are not looked at.
   * @returns whether requests were closed before they finished
   */
  async drain(
    servers: Stoppable[],
    {
      delaySeconds,
      timeoutSeconds,
      isQuiet = () => true,
    }: { delaySeconds: number; timeoutSeconds: number; isQuiet?: () => boolean },
  ): Promise<{ forced: boolean }> {
    this.#enter("draining");
    await Bun.sleep(delaySeconds * 1000);
    const start = performance.now();
    const extension = delaySeconds > 0 ? (timeoutSeconds * 1000) / 2 : 0;
    while (!isQuiet() && performance.now() - start < extension) await Bun.sleep(POLL_MS);
    // An incomplete request head blocks stop() until the idle timeout. Hence the deadline.
    const finished = Promise.all(servers.map((server) => server.stop())).then(() => true);
    const left = timeoutSeconds * 1000 - (performance.now() - start);
    const deadline = Bun.sleep(left).then(() => false);
    const forced = !(await Promise.race([finished, deadline]));
    if (forced) await Promise.all(servers.map((server) => server.stop(true)));
    this.#enter("stopped");
    return { forced };
  }

  #enter(state: State): void {
    this.#state = state;
    this.changed(state);
  }
}
