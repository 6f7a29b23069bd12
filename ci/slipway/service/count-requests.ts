/** Counts the requests of a Bun server around its handlers. */
import type { Handler } from "./health-routes.ts";
import { type ActiveRequest, endRequest, type RouteCounter } from "./metrics.ts";
import { closeIfDraining, drainState, noteRequest } from "./shutdown.ts";

/** Calls the handler, and measures the time until the head of the response. Functions are made for a promise alone. */
export function countRequests(handler: Handler, counter: RouteCounter, hasErrorHandler: boolean): Handler {
  const succeed = (request: ActiveRequest, response: unknown) => {
    // A handler that upgrades to a websocket returns no response.
    endRequest(request, response instanceof Response ? response.status : 101);
    return closeIfDraining(response);
  };
  const fail = (request: ActiveRequest, error: unknown) => {
    if (hasErrorHandler && typeof error === "object" && error !== null) noteFailed(error, request);
    else endRequest(request, 500);
    throw error;
  };
  return function (request, server) {
    if (drainState.leaving) noteRequest(request.headers?.get("user-agent"));
    const active = counter.begin(request.method);
    let response: unknown;
    try {
      response = handler.call(this, request, server);
    } catch (error) {
      return fail(active, error);
    }
    if (!(response instanceof Promise)) return succeed(active, response);
    return response.then(
      (response) => succeed(active, response),
      (error) => fail(active, error),
    );
  };
}

/** Requests that wait for the reply of the service's handler of errors, which does not get the request. */
const failedRequests = new WeakMap<object, ActiveRequest[]>();

function noteFailed(error: object, request: ActiveRequest): void {
  failedRequests.set(error, [...(failedRequests.get(error) ?? []), request]);
}

/** Calls the service's handler of errors, and counts its reply for the request that failed. */
export function countFailures(handler: Handler): Handler {
  return function (error, server) {
    const request = failedRequests.get(error)?.shift();
    const end = (response: unknown) => {
      if (request) endRequest(request, response instanceof Response ? response.status : 500);
      return closeIfDraining(response);
    };
    const fail = (failure: unknown) => {
      if (request) endRequest(request, 500);
      throw failure;
    };
    let response: unknown;
    try {
      response = handler.call(this, error, server);
    } catch (failure) {
      return fail(failure);
    }
    return response instanceof Promise ? response.then(end, fail) : end(response);
  };
}
