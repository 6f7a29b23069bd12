/** Connecting to a cluster with a fake kubectl on PATH that hangs or fails. */
import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { ApiClient } from "../kubernetes/api.ts";
import { connectApi } from "../kubernetes/kubectl-proxy.ts";
import { waitUntilReady } from "../commands/install-k3s.ts";
import type { PipelineError } from "../core/errors.ts";
import { service } from "./helloapp-service.ts";

// The tests start programs, possibly on a busy machine.
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

/** Puts a shell script on PATH. `$0` is in a directory of its own. */
function fakeProgram(name: string, body: string): void {
  bin = mkdtempSync(join(tmpdir(), "helloapp-connect-"));
  writeFileSync(join(bin, name), `#!/bin/sh\n${body}\n`);
  chmodSync(join(bin, name), 0o755);
  process.env.PATH = `${bin}:${path}`;
}

describe("a kubectl that does not start its proxy", () => {
  const hangs = `echo "$@" > "\${0%/*}/args"; echo 'Password for me:' >&2; echo $$ > "\${0%/*}/pid"; exec sleep 1000`;
  const read = (file: string) => readFileSync(join(bin, file), "utf8").trim();
  const hasStarted = () => existsSync(join(bin, "pid")) && read("pid") !== "";
  /** Checks that the process and the directory of its socket are removed. */
  const expectCleanup = async () => {
    const pid = read("pid");
    await until(() => !existsSync(`/proc/${pid}`) || /\) Z /.test(readFileSync(`/proc/${pid}/stat`, "utf8")));
    expect(existsSync(dirname(/--unix-socket=(.*)$/.exec(read("args"))![1]!))).toBe(false);
  };

  test("times out with the command and the end of its output", async () => {
    fakeProgram("kubectl", hangs);
    const error = await failureOf(
      connectApi({ service, kubectl: ["kubectl", "--context=x"], startTimeoutSeconds: 3, signal }),
    );
    expect(error.kind).toBe("environment");
    expect(error.message).toBe("kubectl has not started its proxy within 3 s");
    expect(error.hint).toContain("`kubectl --context=x version`");
    expect(error.output).toBe("Password for me:");
    await expectCleanup();
  });

  test("is stopped by an interruption, which fails with its reason", async () => {
    fakeProgram("kubectl", hangs);
    const interrupted = new AbortController();
    const options = {
      service,
      kubectl: ["kubectl"],
      startTimeoutSeconds: 1000,
      signal: interrupted.signal,
    };
    const failing = failureOf(connectApi(options));
    await until(hasStarted);
    interrupted.abort(new Error("stop"));
    expect((await failing).message).toBe("stop");
    await expectCleanup();
  });
});

describe("an error response", () => {
  /** Connects to a proxy that writes to stderr, then sends this response. */
  async function connect(program: "kubectl" | "k3s", status: number, reply: string, stderr = ""): Promise<ApiClient> {
    fakeProgram(program, `exec ${process.execPath} "\${0%/*}/proxy.ts" "$@"`);
    const proxy = `const unix = process.argv.at(-1).replace("--unix-socket=", "");
const [status, reply, stderr] = ${JSON.stringify([status, reply, stderr])};
Bun.serve({ unix, fetch() {
  if (stderr) console.error(stderr);
  return new Response(reply, { status });
} });
console.log("Starting to serve");`;
    writeFileSync(join(bin, "proxy.ts"), proxy);
    const kubectl = program === "k3s" ? ["k3s", "kubectl"] : ["kubectl", "--context=prod"];
    const api = await connectApi({ service, kubectl, startTimeoutSeconds: 30, signal });
    api.retryBudgetSeconds = 0;
    opened.push(api);
    return api;
  }

  const expired = "Error: your SSO session has expired, run `cloud login`";
  const noCredentials = "getting credentials: exec: executable cloud failed with exit code 255";

  test.each([
    ["Unauthorized", 401, JSON.stringify({ kind: "Status", message: "Unauthorized" }), "credentials"],
    ["getting credentials", 500, noCredentials, "Log in"],
  ])("%s: shows the output of the credential plugin", async (message, status, reply, hint) => {
    const stderr = [...Array.from({ length: 20 }, (_, index) => `line ${index}`), expired].join("\n");
    const error = await failureOf((await connect("kubectl", status, reply, stderr)).json("/version"));
    expect(error.message).toContain(message);
    expect(error.output).toContain(`kubectl output:\nline 16\n`);
    expect(error.output).toEndWith(expired);
    expect(error.hint).toContain(hint);
  });

  test("about an object does not show kubectl's output", async () => {
    const reply = JSON.stringify({ kind: "Status", message: "spec is wrong" });
    const error = await failureOf((await connect("kubectl", 422, reply, "a warning")).json("/version"));
    expect(error.output).toBe("spec is wrong");
  });

  test.each([
    ["k3s", "Check that k3s is running"],
    ["kubectl", "`kubectl --context=prod cluster-info`"],
  ] as const)("without a server behind %s: the hint names that cluster", async (program, hint) => {
    const reply = "dial tcp 192.0.2.1:6443: connect: connection refused";
    const error = await failureOf((await connect(program, 502, reply)).json("/version"));
    expect(error.hint).toContain(hint);
    expect(error.hint!.includes("k3s")).toBe(program === "k3s");
  });
});

describe("waiting for a new k3s", () => {
  const fakeNodes = (states: string) =>
    fakeProgram("k3s", `case "$*" in *nodes*) echo "${states}" ;; *) echo serviceaccount/default ;; esac`);

  test("fails at the deadline, also if its server hangs", async () => {
    fakeProgram("k3s", "sleep 1000; true");
    const error = await failureOf(waitUntilReady({ seconds: 1, signal }));
    expect(error.message).toContain("not ready after 1 s");
  });

  test("stops on an interruption", async () => {
    fakeProgram("k3s", `echo > "\${0%/*}/asked"; sleep 1000; true`);
    const interrupted = new AbortController();
    const failing = failureOf(waitUntilReady({ signal: interrupted.signal }));
    await until(() => existsSync(join(bin, "asked")));
    interrupted.abort(new Error("stop"));
    expect((await failing).message).toBe("stop");
  });

  test.each(["True", "True True True"])("nodes with Ready=%s: succeeds", async (states) => {
    fakeNodes(states);
    await waitUntilReady({ signal });
  });

  test.each(["", "True False", "Unknown"])("nodes with Ready='%s': fails", async (states) => {
    fakeNodes(states);
    const error = await failureOf(waitUntilReady({ seconds: 0.5, signal }));
    expect(error.kind).toBe("environment");
  });
});
