/** Signals in the image: handlers that the service registers, removes and inspects, and signals that it sends itself. */
import { afterAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { resolveService } from "../core/resolve-service.ts";
import { buildImage } from "../image/build-image-files.ts";

/** Milliseconds. Generous, because the machine may be busy. */
const LONG = 60_000;
const work = mkdtempSync(join(tmpdir(), "signals-"));
afterAll(() => rmSync(work, { recursive: true }));

let binary: Promise<string> | undefined;
/** Builds one binary that runs the module that CASE names. */
function build(): Promise<string> {
  return (binary ??= (async () => {
    mkdirSync(join(work, "src"));
    writeFileSync(join(work, "package.json"), JSON.stringify({ name: "plain" }));
    const cases = Object.entries(sources).map(([name, [source]]) => {
      writeFileSync(join(work, `src/${name}.ts`), `${source}\nexport {};`);
      return `${JSON.stringify(name)}: () => import("./${name}.ts")`;
    });
    const main = `const cases: Record<string, () => Promise<unknown>> = {\n${cases.join(",\n")} };
      await cases[process.env.CASE!]!(); console.log("started"); export {};`;
    writeFileSync(join(work, "src/main.ts"), main);
    await buildImage(resolveService(work), join(work, "dist"));
    return join(work, "dist/app/plain");
  })());
}

const serve = `Bun.serve({ fetch: () => new Response("own") });`;
type Signal = "SIGTERM" | "SIGINT";
/** Source, signals, the expected exit code and output. */
const sources: Record<string, [source: string, signals: Signal[], code: number, output: string]> = {
  "no-handler": [serve, ["SIGTERM"], 0, ""],
  "removed-handler": [
    `${serve} const stop = () => console.log("stopped"); process.on("SIGTERM", stop); process.off("SIGTERM", stop);`,
    ["SIGTERM"],
    0,
    "",
  ],
  "removed-once": [
    `${serve} const stop = () => console.log("stopped"); process.once("SIGTERM", stop); process.removeListener("SIGTERM", stop);`,
    ["SIGTERM"],
    0,
    "",
  ],
  "removed-all": [
    `${serve} process.on("SIGINT", () => console.log("stopped")); process.removeAllListeners();`,
    ["SIGINT"],
    0,
    "",
  ],
  "replaced-handler": [
    `${serve} process.on("SIGTERM", () => console.log("first")); process.removeAllListeners("SIGTERM");
     process.on("SIGTERM", () => { console.log("second"); process.exit(4); });`,
    ["SIGTERM"],
    4,
    "second",
  ],
  listeners: [
    `${serve} const a = () => {}, b = () => {}; const count = process.listenerCount("SIGTERM");
     process.on("SIGTERM", a); process.once("SIGTERM", b); process.prependListener("SIGINT", a);
     console.log(count, process.listenerCount("SIGTERM"), process.listeners("SIGTERM").indexOf(b),
       process.listeners("SIGINT")[0] === a, process.eventNames().filter((name) => String(name).includes("SIG")).join());
     process.once("SIGTERM", () => process.exit(0));`,
    ["SIGTERM"],
    0,
    "0 2 1 true SIGTERM,SIGINT",
  ],
  "received-signal": [
    `${serve} const stop = (...given: unknown[]) => { console.log(given.join()); process.exit(3); };
     process.on("SIGTERM", stop); process.on("SIGINT", stop);`,
    ["SIGINT"],
    3,
    "SIGINT,2",
  ],
  "only-other-signal": [`${serve} process.on("SIGINT", () => process.exit(5));`, ["SIGTERM"], 0, ""],
  "sent-again": [
    `${serve} process.once("SIGTERM", (signal) => { console.log(signal); process.kill(process.pid, "SIGTERM"); });`,
    ["SIGTERM"],
    0,
    "SIGTERM",
  ],
  "sent-again-as-number": [
    `${serve} process.once("SIGINT", async (signal) => { await Bun.sleep(20); process.kill(process.pid, 2); });`,
    ["SIGINT"],
    0,
    "",
  ],
  // https://github.com/nestjs/nest/blob/master/packages/core/nest-application-context.ts, listenToShutdownSignals
  "nest-shutdown-hooks": [
    `${serve} let received = false; const signals = ["SIGTERM", "SIGINT", "SIGHUP"] as const;
     const cleanup = async (signal: any) => {
       if (received) return;
       received = true;
       await Bun.sleep(10);
       console.log("hooks", signal);
       signals.forEach((name) => process.removeListener(name, cleanup));
       process.kill(process.pid, signal);
     };
     signals.forEach((name) => process.on(name, cleanup));`,
    ["SIGTERM"],
    0,
    "hooks SIGTERM",
  ],
  "sent-by-itself-first": [
    `${serve} process.on("SIGTERM", () => process.exit(6)); setTimeout(() => process.kill(process.pid), 10);`,
    [],
    6,
    "",
  ],
  emitted: [
    `${serve} process.on("SIGTERM", () => process.exit(6)); setTimeout(() => process.emit("SIGTERM"), 10);`,
    [],
    6,
    "",
  ],
  "events-once": [
    `${serve} import { once } from "node:events"; void once(process, "SIGTERM").then(([signal]) => { console.log(signal); process.exit(7); });`,
    ["SIGTERM"],
    7,
    "SIGTERM",
  ],
  "failing-handler": [
    `${serve} process.on("uncaughtException", ({ message }) => { console.log(message); process.exit(8); });
     process.on("SIGTERM", () => { throw new Error("broken"); });`,
    ["SIGTERM"],
    8,
    "broken",
  ],
  "worker-without-handler": [`setInterval(() => {}, 1000);`, ["SIGTERM"], 143, ""],
  "worker-twice": [
    `setInterval(() => {}, 1000); let count = 0; process.on("SIGINT", () => { console.log("got", ++count); if (count === 2) process.exit(9); });`,
    ["SIGINT", "SIGINT"],
    9,
    "got 1\ngot 2",
  ],
};

test.each(Object.entries(sources))(
  "%s",
  async (name, [, signals, code, output]) => {
    const child = Bun.spawn([await build()], {
      env: { PATH: process.env.PATH, CASE: name, PORT: "0", DRAIN_DELAY_SECONDS: "0.05" },
      stdout: "pipe",
      stderr: "inherit",
    });
    const start = performance.now();
    let text = "";
    const decoder = new TextDecoder();
    const pending = [...signals];
    for await (const bytes of child.stdout) {
      text += decoder.decode(bytes, { stream: true });
      if (!text.includes("started")) continue;
      const signal = pending.shift();
      if (signal) child.kill(signal);
    }
    expect(await child.exited).toBe(code);
    expect(text.replace("started\n", "").trim()).toBe(output);
    // A handler that has finished does not delay the exit.
    expect(performance.now() - start).toBeLessThan(4000);
  },
  LONG,
);
