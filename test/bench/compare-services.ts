/**
 * `bun run bench`: compares the built service with alternatives. It runs them in turn and several times, so that a noisy
 * machine affects all of them alike. Compare the ratios.
 *
 *     bun run bench [--rounds N] [--seconds N] [--json FILE] [--only load,start,memory,drain]
 *     bun run bench --only soak [--minutes N]    run the soak test, see soak.ts
 *
 * The load generator is wrk if it is installed, else autocannon from npm.
 */
import { closeSync, existsSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { buildImage } from "../../ci/slipway/image/build-image-files.ts";
import { compileOptions } from "../../ci/slipway/image/image-spec.ts";
import { image, service } from "../../ci/slipway/test/helloapp-service.ts";
import { JSON_HEADERS, logLine, machineInfo, median, printTable } from "./shared.ts";
import { residentMegabytes, TRACE_HEADERS } from "./shared.ts";
import { must } from "../../ci/slipway/test/e2e/setup.ts";
import { drainUnderLoad, type Instance } from "./drain.ts";
import { soak } from "./soak.ts";

const { values: options } = parseArgs({
  options: {
    rounds: { type: "string", default: "11" },
    seconds: { type: "string", default: "3" },
    minutes: { type: "string", default: "60" },
    json: { type: "string" },
    only: { type: "string", default: "load,start,memory,drain" },
  },
});
const rounds = Number(options.rounds);
const seconds = Number(options.seconds);
const parts = new Set(options.only.split(","));
const directory = mkdtempSync(join(tmpdir(), "helloapp-bench-"));
process.on("exit", () => rmSync(directory, { recursive: true, force: true }));

interface Candidate {
  name: string;
  /** Request headers. Default: JSON_HEADERS. */
  headers?: string[];
  command(port: number): string[];
  env?: Record<string, string>;
  path: string;
  /** Sends the log to a pipe like a container's, instead of a file. */
  isPiped?: boolean;
}

async function buildCandidates(): Promise<Record<string, Candidate>> {
  logLine("building");
  const dist = join(directory, "dist");
  await buildImage(service, dist);
  const bare = join(directory, "bare");
  const { autoloadBunfig, autoloadDotenv, ...flags } = compileOptions;
  await Bun.build({
    ...flags,
    entrypoints: [join(import.meta.dir, "bare-server.ts")],
    target: "bun",
    compile: { outfile: bare, autoloadBunfig, autoloadDotenv },
  });
  const helloapp = { command: () => [join(dist, "app", image.binary)], path: "/" };
  const env = {
    HOST: "127.0.0.1",
    ADMIN_PORT: "0",
    POD_NAME: "bench",
    DRAIN_DELAY_SECONDS: "0",
    ACCESS_LOG: "off",
  };
  return {
    bare: { name: "bare Bun.serve", command: () => [bare], path: "/" },
    helloapp: { name: "helloapp", ...helloapp, env },
    traced: { name: "helloapp, clients send a trace", ...helloapp, env, headers: TRACE_HEADERS },
    logging: { name: "helloapp, access log to a file", ...helloapp, env: { ...env, ACCESS_LOG: "on" } },
    piped: {
      name: "helloapp, access log to a pipe",
      ...helloapp,
      env: { ...env, ACCESS_LOG: "on" },
      isPiped: true,
    },
    version: {
      name: "helloapp /version, access log to a file",
      ...helloapp,
      env: { ...env, ACCESS_LOG: "on" },
      path: "/version",
    },
    ...(Bun.which("node") && {
      node: {
        name: "Node's http",
        command: () => ["node", join(import.meta.dir, "node-server.mjs")],
        path: "/",
      },
    }),
    ...(Bun.which("podinfo") && {
      podinfo: {
        name: "podinfo /version",
        command: (port: number) => ["podinfo", `--port=${port}`],
        path: "/version",
      },
    }),
  };
}

/** Below Linux's range of ephemeral ports, which clients may occupy. */
let nextPort = 10_000 + (process.pid % 20_000);

/** Starts a candidate and waits for its first 200. Logs go to a file or a pipe, because a terminal would be too slow. */
async function start({ command, env, path, isPiped }: Candidate) {
  const port = nextPort++;
  const log = join(directory, isPiped ? "pipe" : "log");
  if (isPiped && !existsSync(log)) must(["mkfifo", log]);
  const reader = isPiped && Bun.spawn(["cat", log], { stdout: "ignore" });
  // For a pipe, this waits for the reader.
  const stdout = openSync(log, "w");
  const began = performance.now();
  const child = Bun.spawn(command(port), {
    env: { ...process.env, NODE_ENV: "production", PORT: String(port), ...env },
    stdin: "ignore",
    stdout,
    stderr: "ignore",
  });
  closeSync(stdout);
  const url = `http://127.0.0.1:${port}${path}`;
  const end = performance.now() + 20_000;
  while (
    !(await fetch(url, { keepalive: false }).then(
      ({ ok }) => ok,
      () => false,
    ))
  ) {
    if (child.exitCode !== null || performance.now() > end) {
      throw new Error(`${command(port).join(" ")} does not respond`);
    }
  }
  const milliseconds = performance.now() - began;
  const stop = async () => {
    child.kill("SIGTERM");
    await child.exited;
    // The reader ends after the last writer has closed the pipe.
    if (reader) await reader.exited;
  };
  return { url, pid: child.pid, milliseconds, stop };
}

interface Load {
  perSecond: number;
  p99Milliseconds: number;
  requests: number;
}

async function load(url: string, seconds: number, headers = JSON_HEADERS): Promise<Load> {
  const flags = headers.flatMap((header) => ["-H", header]);
  const wrk = ["wrk", "-t1", "-c64", `-d${seconds}s`, "--latency", "--timeout", "10s", ...flags, url];
  const autocannon = [
    "bun",
    "x",
    "autocannon@8.0.0",
    "-c64",
    `-d${seconds}`,
    "-j",
    ...flags.map((f) => f.replace(": ", "=")),
    url,
  ];
  const useWrk = Bun.which("wrk") !== null;
  const child = Bun.spawn(useWrk ? wrk : [process.execPath, ...autocannon.slice(1)], {
    stdout: "pipe",
    stderr: "ignore",
  });
  const text = await new Response(child.stdout).text();
  if (!useWrk) {
    const { requests, latency, non2xx } = JSON.parse(text);
    if (non2xx > 0) throw new Error(`${url}: ${non2xx} replies were not 2xx`);
    return { perSecond: requests.average, p99Milliseconds: latency.p99, requests: requests.total };
  }
  const bad = /Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)/.exec(text);
  if (bad) throw new Error(`${url}: ${bad[0]}`);
  const [, p99, unit] = /99%\s+([\d.]+)(us|ms|s)/.exec(text)!;
  const scale = { us: 0.001, ms: 1, s: 1000 }[unit!]!;
  return {
    perSecond: Number(/Requests\/sec:\s+([\d.]+)/.exec(text)![1]),
    p99Milliseconds: Number(p99) * scale,
    requests: Number(/(\d+) requests in/.exec(text)![1]),
  };
}

/** Returns the CPU time of all threads of a process in microseconds. */
function cpuMicroseconds(pid: number): number {
  const nanoseconds = (task: string) =>
    Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, "utf8").split(" ")[0]);
  return readdirSync(`/proc/${pid}/task`).reduce((sum, task) => sum + nanoseconds(task), 0) / 1000;
}

const all = await buildCandidates();
const results: Record<string, unknown> = {};
const table: [measure: string, value: string, ratio: string][] = [];
const formatRatio = (value: number) => value.toFixed(2);

if (parts.has("load")) {
  const running = Object.entries(all);
  const measured = Object.fromEntries(running.map(([key]) => [key, [] as (Load & { cpuMicroseconds: number })[]]));
  for (let round = 1; round <= rounds; round += 1) {
    logLine(`load, round ${round} of ${rounds}`);
    for (const [key, candidate] of running) {
      const server = await start(candidate);
      // Warm-up: JavaScript is compiled in the first second.
      await load(server.url, 1, candidate.headers);
      const before = cpuMicroseconds(server.pid);
      const run = await load(server.url, seconds, candidate.headers);
      measured[key]!.push({ ...run, cpuMicroseconds: (cpuMicroseconds(server.pid) - before) / run.requests });
      await server.stop();
    }
  }
  for (const [key, { name }] of running) {
    const runs = measured[key]!;
    const baseline = key === "version" ? measured.podinfo : key === "bare" ? undefined : measured.bare;
    const ratio = baseline && median(runs.map(({ perSecond }, i) => perSecond / baseline[i]!.perSecond));
    const [rate, p99] = [median(runs.map((r) => r.perSecond)), median(runs.map((r) => r.p99Milliseconds))];
    // CPU time varies least on a busy machine, so its ratio is the most reliable.
    const cpu = median(runs.map((r) => r.cpuMicroseconds));
    const cpuRatio = baseline && median(runs.map((r, i) => baseline[i]!.cpuMicroseconds / r.cpuMicroseconds));
    results[key] = {
      name,
      perSecond: rate,
      p99Milliseconds: p99,
      cpuMicroseconds: cpu,
      ratio,
      cpuRatio,
      runs,
    };
    const peer = key === "version" ? "podinfo" : "bare";
    table.push([
      name,
      `${Math.round(rate / 100) / 10} k requests/s, p99 ${p99.toFixed(2)} ms, ${cpu.toFixed(1)} µs of CPU each`,
      ratio ? `${formatRatio(ratio)} × ${peer}; by CPU ${formatRatio(cpuRatio!)}` : "",
    ]);
  }
}

if (parts.has("start")) {
  logLine("cold start");
  const times: Record<string, number[]> = { bare: [], helloapp: [] };
  for (let i = 0; i < 20; i += 1) {
    for (const key of ["bare", "helloapp"]) {
      const server = await start(all[key]!);
      times[key]!.push(server.milliseconds);
      await server.stop();
    }
  }
  const [bare, helloapp] = [median(times.bare!), median(times.helloapp!)];
  results.start = { bareMilliseconds: bare, milliseconds: helloapp, ratio: helloapp / bare };
  table.push(["cold start to the first 200", `${helloapp.toFixed(1)} ms`, `${formatRatio(helloapp / bare)} × bare`]);
}

if (parts.has("memory")) {
  logLine("memory");
  const server = await start(all.logging!);
  const idle = residentMegabytes(server.pid);
  let requests = 0;
  const sendUntil = async (count: number) => {
    while (requests < count) requests += (await load(server.url, 1)).requests;
    return residentMegabytes(server.pid);
  };
  const [early, late] = [await sendUntil(100_000), await sendUntil(1_000_000)];
  await server.stop();
  results.memory = { idle, after100k: early, after1M: late, ratio: late / early };
  const value = `${idle.toFixed(0)} MB idle, ${early.toFixed(0)} after 100,000 requests, ${late.toFixed(0)} after 1,000,000`;
  table.push(["resident memory", value, `${formatRatio(late / early)} × the earlier`]);
}

if (parts.has("drain")) {
  const total = { requests: 0, failed: 0 };
  for (let i = 1; i <= 20; i += 1) {
    logLine(`drain, run ${i} of 20`);
    const instance = (): Promise<Instance> =>
      start({ ...all.helloapp!, env: { ...all.helloapp!.env, DRAIN_DELAY_SECONDS: "2" } });
    const { requests, failed, first } = await drainUnderLoad(instance);
    if (first) logLine(`failed: ${first}`);
    total.requests += requests;
    total.failed += failed;
  }
  results.drain = total;
  const value = `${total.failed} of ${total.requests} requests`;
  table.push(["failed requests while one of two instances drains, 64 keep-alive clients, 20 runs", value, ""]);
}

if (parts.has("soak")) {
  const adminPort = nextPort++;
  const logging = all.logging!;
  const server = await start({ ...logging, env: { ...logging.env, ADMIN_PORT: String(adminPort) } });
  const found = await soak(
    {
      ...server,
      adminUrl: `http://127.0.0.1:${adminPort}/`,
      load: async (...args) => (await load(...args)).requests,
    },
    Number(options.minutes),
  );
  await server.stop();
  results.soak = found;
  const { minutes, requests, early, late } = found;
  const value = `${early.toFixed(0)} MB early, ${late.toFixed(0)} late`;
  table.push([
    `resident memory, ${(requests / 1e6).toFixed(1)} million requests in ${minutes} minutes`,
    value,
    `${formatRatio(late / early)} × the earlier`,
  ]);
}

printTable(table);
if (options.json) await Bun.write(options.json, JSON.stringify({ machine: machineInfo, ...results }, null, 2) + "\n");
process.exit(0);
