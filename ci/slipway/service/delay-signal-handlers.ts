/**
 * Delays the service's handlers of SIGTERM and SIGINT until the drain has finished.
 *
 * The handlers would interrupt requests in flight. They are listeners of `process` as from source, but of another
 * event: every method that takes the name of a signal takes a symbol in its place. Removing, counting and listing
 * handlers works for this reason.
 */
import { deferHandlers, receiveSignal, SIGNAL_NUMBERS, type Signal } from "./shutdown.ts";

type Listener = (...values: unknown[]) => unknown;
type Method = (event: unknown, ...values: unknown[]) => unknown;

const signals = Object.keys(SIGNAL_NUMBERS) as Signal[];
// Bun takes a symbol that is described as a signal for the signal.
const events = new Map<unknown, symbol>(signals.map((signal) => [signal, Symbol(`handlers of ${signal}`)]));
const eventOf = (event: unknown) => events.get(event) ?? event;
const { emit, eventNames, kill, listenerCount, on, removeAllListeners } = process as unknown as Record<string, Method>;
/** Handlers of this package, which stay when the service removes all listeners. */
const onSignal: Record<Signal, Listener> = {
  SIGTERM: () => receiveSignal("SIGTERM"),
  SIGINT: () => receiveSignal("SIGINT"),
};
const countOf = (signal: Signal) => listenerCount!.call(process, events.get(signal)) as number;

/** Replaces the methods of `process`. */
export function delayHandlers(): void {
  const methods = process as unknown as Record<string, unknown>;
  for (const name of [
    ...["on", "once", "addListener", "prependListener", "prependOnceListener", "off", "removeListener"],
    ...["listeners", "rawListeners", "listenerCount"],
  ]) {
    const method = (methods[name] as Method).bind(process);
    methods[name] = (event: unknown, ...values: unknown[]) => method(eventOf(event), ...values);
  }
  methods.removeAllListeners = (...names: unknown[]) => {
    removeAllListeners!.apply(process, names.map(eventOf) as [unknown]);
    if (names.length === 0) listen();
    return process;
  };
  methods.eventNames = () => {
    const found = (eventNames as () => unknown[]).call(process).filter((event) => !events.has(event));
    return found.map((event) => signals.find((signal) => events.get(signal) === event) ?? event);
  };
  // The service sends a signal to itself. The process must not wait for the kernel, which ignores it in process 1.
  methods.emit = (event: unknown, ...values: unknown[]) => {
    if (!events.has(event)) return emit!.call(process, event, ...values);
    if (countOf(event as Signal) === 0) return false;
    receiveSignal(event as Signal, true);
    return true;
  };
  methods.kill = (pid: unknown, given: unknown = "SIGTERM") => {
    const signal = signals.find((name) => given === name || given === SIGNAL_NUMBERS[name]);
    if (pid !== process.pid || signal === undefined) return kill!.call(process, pid, given);
    setImmediate(receiveSignal, signal, true);
    return true;
  };
  deferHandlers((signal) => {
    if (countOf(signal) === 0) return false;
    emit!.call(process, events.get(signal), signal, SIGNAL_NUMBERS[signal]);
    return true;
  });
  listen();
}

function listen(): void {
  for (const signal of signals) on!.call(process, signal, onSignal[signal]);
}
