/** The way to a cluster, where kubectl is silent or has something to say; a stand-in on PATH plays it. */
import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { ApiClient } from "../kubernetes/api.ts";
import { connectApi } from "../kubernetes/connect.ts";
import { waitUntilReady } from "../commands/install-k3s.ts";
import type { PipelineError } from "../core/errors.ts";
import { service } from "./helloapp-fixture.ts";

// Programs are started, on a machine that may be busy with other things.
setDefaultTimeout(60_000);

const failureOf = (promise: Promise<unknown>): Promise<PipelineError> =>
  promise.then(
    () => expect.unreachable(),
    (error: PipelineError) => error,
  );
const until = async (holds: () => boolean) => {
  while (!holds()) await Bun.sleep(20);
};

const path = process.env.PATH;
const { signal } = new AbortController();
let bin: string;
let opened: ApiClient[] = [];
afterEach(async () => {
  for (const api of opened.splice(0)) await api.close();
  process.env.PATH = path;
  rmSync(bin, { recursive: true });
});

/** Puts a program on PATH that does what `body` says, in sh; `$0` lies in a directory of its own. */
function standIn(name: string, body: string): void {
  bin = mkdtempSync(join(tmpdir(), "helloapp-connect-"));
  writeFileSync(join(bin, name), `#!/bin/sh\n${body}\n`);
  chmodSync(join(bin, name), 0o755);
  process.env.PATH = `${bin}:${path}`;
}

describe("a kubectl that says nothing", () => {
  const silent = `echo "$@" > "\${0%/*}/args"; echo 'Password for me:' >&2; echo $$ > "\${0%/*}/pid"; exec sleep 1000`;
  const read = (file: string) => readFileSync(join(bin, file), "utf8").trim();
  const started = () => existsSync(join(bin, "pid")) && read("pid") !== "";
  /** It is gone, and so is the directory for its socket. */
  const gone = async () => {
    const pid = read("pid");
    await until(() => !existsSync(`/proc/${pid}`) || /\) Z /.test(readFileSync(`/proc/${pid}/stat`, "utf8")));
    expect(existsSync(dirname(/--unix-socket=(.*)$/.exec(read("args"))![1]!))).toBe(false);
  };

  test("is given up at the deadline, with what it was asked and its last words", async () => {
    standIn("kubectl", silent);
    const error = await failureOf(
      connectApi({ service, kubectl: ["kubectl", "--context=x"], firstSeconds: 3, signal }),
    );
    expect(error.kind).toBe("environment");
    expect(error.message).toBe("kubectl has not started its proxy within 3 s");
    expect(error.hint).toContain("`kubectl --context=x version`");
    expect(error.output).toBe("Password for me:");
    await gone();
  });

  test("is ended by an interruption, with its reason", async () => {
    standIn("kubectl", silent);
    const interrupted = new AbortController();
    const options = {
      service,
      kubectl: ["kubectl"],
      firstSeconds: 1000,
      signal: interrupted.signal,
    };
    const failing = failureOf(connectApi(options));
    await until(started);
    interrupted.abort(new Error("stop"));
    expect((await failing).message).toBe("stop");
    await gone();
  });
});

describe("a refusal", () => {
  /** Connects to a proxy that says something on stderr, then answers so. */
  async function connect(
    program: "kubectl" | "k3s",
    status: number,
    reply: string,
    words = "",
  ): Promise<ApiClient> {
    standIn(program, `exec ${process.execPath} "\${0%/*}/proxy.ts" "$@"`);
    const proxy = `const unix = process.argv.at(-1).replace("--unix-socket=", "");
const [status, reply, words] = ${JSON.stringify([status, reply, words])};
Bun.serve({ unix, fetch() {
  if (words) console.error(words);
  return new Response(reply, { status });
} });
console.log("Starting to serve");`;
    writeFileSync(join(bin, "proxy.ts"), proxy);
    const kubectl = program === "k3s" ? ["k3s", "kubectl"] : ["kubectl", "--context=prod"];
    const api = await connectApi({ service, kubectl, firstSeconds: 30, signal });
    api.retryBudgetSeconds = 0;
    opened.push(api);
    return api;
  }

  const expired = "Error: your SSO session has expired, run `cloud login`";
  const noCredentials = "getting credentials: exec: executable cloud failed with exit code 255";

  test.each([
    ["Unauthorized", 401, JSON.stringify({ kind: "Status", message: "Unauthorized" }), "credentials"],
    ["getting credentials", 500, noCredentials, "log in"],
  ])("(%s) shows what the credential plugin has said", async (message, status, reply, hint) => {
    const words = [...Array.from({ length: 20 }, (_, index) => `line ${index}`), expired].join("\n");
    const error = await failureOf((await connect("kubectl", status, reply, words)).json("/version"));
    expect(error.message).toContain(message);
    expect(error.output).toContain(`kubectl says:\nline 16\n`);
    expect(error.output).toEndWith(expired);
    expect(error.hint).toContain(hint);
  });

  test("of an object shows nothing of it: it is the server's own", async () => {
    const reply = JSON.stringify({ kind: "Status", message: "spec is wrong" });
    const error = await failureOf((await connect("kubectl", 422, reply, "a warning")).json("/version"));
    expect(error.output).toBe("spec is wrong");
  });

  test.each([
    ["k3s", "Is k3s running?"],
    ["kubectl", "`kubectl --context=prod cluster-info`"],
  ] as const)("of nobody, through %s, asks after that cluster", async (program, hint) => {
    const reply = "dial tcp 192.0.2.1:6443: connect: connection refused";
    const error = await failureOf((await connect(program, 502, reply)).json("/version"));
    expect(error.hint).toContain(hint);
    expect(error.hint!.includes("k3s")).toBe(program === "k3s");
  });
});

describe("a new k3s", () => {
  const answers = (states: string) =>
    standIn("k3s", `case "$*" in *nodes*) echo "${states}" ;; *) echo serviceaccount/default ;; esac`);

  test("is waited for until the deadline, also when its server hangs", async () => {
    standIn("k3s", "sleep 1000; true");
    const error = await failureOf(waitUntilReady({ seconds: 1, signal }));
    expect(error.message).toContain("not ready after 1 s");
  });

  test("is not waited for any more by one who interrupts", async () => {
    standIn("k3s", `echo > "\${0%/*}/asked"; sleep 1000; true`);
    const interrupted = new AbortController();
    const failing = failureOf(waitUntilReady({ signal: interrupted.signal }));
    await until(() => existsSync(join(bin, "asked")));
    interrupted.abort(new Error("stop"));
    expect((await failing).message).toBe("stop");
  });

  test.each(["True", "True True True"])("whose nodes say %s is ready", async (states) => {
    answers(states);
    await waitUntilReady({ signal });
  });

  test.each(["", "True False", "Unknown"])("whose nodes say '%s' is not", async (states) => {
    answers(states);
    const error = await failureOf(waitUntilReady({ seconds: 0.5, signal }));
    expect(error.kind).toBe("environment");
  });
});
