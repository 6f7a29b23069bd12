import { createRequestId, readRequestId, readTraceParent } from "./telemetry/trace.ts";

/** A request with its start time, trace and ID. */
export class RequestContext {
  readonly start = performance.now();
  readonly method: string;
  readonly headers: Headers;
  /** The request's `traceparent` header, if it is valid. */
  readonly traceParent: string | undefined;
  /** The ID so far: from the client, or created by the first read of `id`. */
  knownId: string | undefined;

  constructor(readonly request: Request) {
    this.method = request.method;
    this.headers = request.headers;
    this.traceParent = readTraceParent(this.headers);
    this.knownId = readRequestId(this.headers);
  }

  /**
   * The request's ID, created at the first read.
   *
   * Only error replies and log lines need an ID. Adding an ID to every reply costs a tenth of the whole request.
   */
  get id(): string {
    return (this.knownId ??= createRequestId());
  }
}
