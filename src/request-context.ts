import { givenId, newId, traceParent } from "./telemetry/trace.ts";

/** One request on its way through the service, and who it belongs to. */
export class Call {
  readonly start = performance.now();
  readonly method: string;
  readonly headers: Headers;
  /** The valid `traceparent` that it came with. */
  readonly traceParent: string | undefined;
  /** The id that it has so far: the client's, or one that somebody has asked for. */
  knownId: string | undefined;

  constructor(readonly request: Request) {
    this.method = request.method;
    this.headers = request.headers;
    this.traceParent = traceParent(this.headers);
    this.knownId = givenId(this.headers);
  }

  /**
   * Its id, which is made when it is first asked for: an error reply or a log line needs one. A reply without either has
   * nothing that its id would lead to, and to put one into each costs a tenth of all that a request costs.
   */
  get id(): string {
    return (this.knownId ??= newId());
  }
}
