/**
 * `bun run bench:remote`: measures deploys to k3s over a slow SSH connection: all bytes sent, and the time from an edit to the
 * served version. It compares the pipeline with alternatives.
 *
 * The flows run in turn, so that a noisy machine affects all of them alike. The host is this machine through its own sshd, so
 * that a local deploy of the same edit is comparable. slow-relay.ts simulates the slow connection.
 *
 * The benchmark uses a separate namespace and port. It removes them and the images afterwards.
 */
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Copy } from "../../ci/slipway/test/e2e/project-versions.ts";
import { eventually, must, startRegistry, stopRegistries } from "../../ci/slipway/test/e2e/setup.ts";
import { createKubectl, deleteNamespace, fetchId, logLine, median } from "./shared.ts";
import { printTable, removeImages, waitUntilServed } from "./shared.ts";
import { extractCause, ProgramRunner, type ProgramResult } from "./program-runner.ts";
import { SlowRelay, type ByteCounts } from "./slow-relay.ts";

const usage = `Measure deploys to k3s over a slow SSH connection: bytes sent, and time from an edit to the served version.

usage: bun run bench:remote --host [USER@]HOST [--ssh-config FILE] [--edits N] [--mbits N] [--round-trip MS] [--only LIST]

  --host         Connect to this host. It must be this machine, with k3s, as root or as a user who may run ctr
  --ssh-config   Use this configuration of ssh (default: ssh's own)
  --edits N      Measure N edits with each flow (10)
  --mbits N      Limit each direction to N Mbit/s, that is 1,000,000 bits a second (10)
  --round-trip   Set the round-trip time in milliseconds (40)
  --only LIST    Measure only these flows (all):
                   import     the archive with gzip, ssh and ctr
                   registry   a push to a registry on the host
                   local      the pipeline without SSH
                   ssh        the pipeline
                   unchanged  the pipeline without a change

A wrapper of ssh on PATH redirects connections through the relay. Flows with missing tools are skipped.

exit codes: 0 all flows measured or skipped; 1 a flow failed; 2 invalid command line; 130 interrupted,
            prints the results so far
`;

const name = "wire";
const location = { namespace: "wire", port: 30926 };
const url = `http://127.0.0.1:${location.port}/version`;
/** Maximum time between the end of a flow and its version serving alone. */
const SERVE_TIMEOUT_SECONDS = 10;
/** Number of measurements without a change. */
const UNCHANGED_RUNS = 5;
/** Milliseconds between two samples of the relay's counters. */
const SAMPLE_MS = 5;
const kubectl = createKubectl(location.namespace);

const directory = mkdtempSync(join(tmpdir(), "helloapp-bench-"));
process.on("exit", () => rmSync(directory, { recursive: true, force: true }));
/** Additional environment of all programs: a PATH with the wrapper of ssh. */
const programEnv: Record<string, string> = {};
const programs = new ProgramRunner(name, programEnv);
let hasFailed = false;

const table: [measure: string, value: string, verdict: string][] = [];

/** A measured sequence of commands. */
interface Flow {
  name: string;
  /** Missing programs. If there are any, the flow is skipped. */
  missing: string[];
  run(): Promise<FlowResult>;
}

interface FlowResult {
  /** ID of the deployed version, or undefined if nothing had changed. */
  id: string | undefined;
  /** Steps with their end time (performance.now()). */
  steps: { name: string; endedAt: number }[];
}

interface Sample {
  seconds: number;
  /** Bytes until the end of the command. */
  bytes: ByteCounts;
  /** Bytes and duration of each step. */
  steps: Record<string, { bytes: number; seconds: number }>;
}

/** Samples the relay's byte counters over time. */
class TrafficRecorder {
  readonly #samples: { time: number; bytes: ByteCounts }[] = [];
  readonly #timer: Timer;

  constructor(private readonly relay: SlowRelay) {
    this.#sample();
    this.#timer = setInterval(() => this.#sample(), SAMPLE_MS);
  }

  #sample() {
    this.#samples.push({ time: performance.now(), bytes: this.relay.byteCounts() });
  }

  /** Stops sampling. @returns all bytes */
  stop(): ByteCounts {
    clearInterval(this.#timer);
    this.#sample();
    return this.bytesBetween(this.#samples[0]!.time, performance.now());
  }

  bytesBetween(from: number, to: number): ByteCounts {
    const at = (time: number) => this.#samples.findLast((sample) => sample.time <= time) ?? this.#samples[0]!;
    const [a, b] = [at(from).bytes, at(to).bytes];
    return { sent: b.sent - a.sent, received: b.received - a.received };
  }
}

const totalOf = ({ sent, received }: ByteCounts) => sent + received;

/** Copies the project and renames the service, because images of its own name belong to other deploys. */
function createCopy(): Copy {
  const copy = new Copy(directory, name, location);
  // Allows images from the registry as well as imported images.
  const container = "/spec/template/spec/containers/0";
  copy.patch([{ op: "add", path: `${container}/imagePullPolicy`, value: "IfNotPresent" }]);
  const manifests = [...new Bun.Glob("k8s/**/*.yaml").scanSync(copy.directory)];
  for (const file of manifests)
    if (readFileSync(join(copy.directory, file), "utf8").includes("helloapp")) copy.rewrite(file, /helloapp/g, name);
  const namespace = `  namespace: "${location.namespace}",\n`;
  copy.rewrite("ci/pipeline.ts", namespace, `${namespace}  name: "${name}",\n`);
  return copy;
}

const pipeline = [process.execPath, "ci/pipeline.ts"];

/** Reads the steps from the pipeline's output. */
function stepsOf({ lines }: ProgramResult): FlowResult["steps"] {
  return lines.flatMap(({ at, line }) => {
    const [, name] = /^ {2}(\w+) +(?:ok|reused|none) +[\d.]+ s/.exec(line) ?? [];
    return name ? [{ name, endedAt: at }] : [];
  });
}

function pipelineFlow(copy: Copy, name: string, target: string[]): Flow {
  return {
    name,
    missing: [],
    async run() {
      const result = await programs.execute([...pipeline, "--engine", "host", ...target], copy.directory);
      const { stdout } = result;
      const id = stdout.includes("nothing to deploy") ? undefined : /\bwire:([0-9a-f]{12}) serves at/.exec(stdout)?.[1];
      return { id, steps: stepsOf(result) };
    },
  };
}

/** Builds the archive without checks and tests, then runs other commands to deploy it. */
function manualFlow(
  copy: Copy,
  name: string,
  missing: string[],
  options: string[],
  steps: (id: string) => [string, string[]][],
): Flow {
  return {
    name,
    missing,
    async run() {
      const completed: FlowResult["steps"] = [];
      const step = async (name: string, command: string[]) => {
        const result = await programs.execute(command, copy.directory);
        completed.push({ name, endedAt: performance.now() });
        return result;
      };
      const built = await step("image", [...pipeline, "image", "--engine", "host", ...options]);
      const [, id] = /\bwire:([0-9a-f]{12})\b/.exec(built.stdout) ?? [];
      if (!id) throw new Error(`no image ID in\n${built.stdout}`);
      for (const [name, command] of steps(id)) await step(name, command);
      return { id, steps: completed };
    },
  };
}

/** Runs `kubectl set image` on the host. */
function setImage(host: string, image: string): [string, string[]][] {
  const kubectl = ["ssh", host, "k3s", "kubectl", "-n", location.namespace];
  return [["set image", [...kubectl, "set", "image", `deployment/${name}`, `${name}=${image}`]]];
}

function createFlows(copy: Copy, host: string, registry: Registry | undefined): Record<string, Flow> {
  const findMissing = (...programs: string[]) => programs.filter((program) => !Bun.which(program));
  const archive = `${name}.tar`;
  return {
    import: manualFlow(copy, "gzip -1, ssh, ctr images import", findMissing("gzip"), ["--compress", "none"], (id) => [
      ["import", ["sh", "-c", `gzip -1 <${archive} | ssh ${host} k3s ctr -n k8s.io images import -`]],
      ...setImage(host, `${name}:${id}`),
    ]),
    registry: manualFlow(copy, "push to a registry on the host", registry ? [] : ["docker-registry"], [], (id) => [
      ["push", [...pipeline, "push", archive, "--registry", `${registry?.relayed}/${name}`]],
      ...setImage(host, `${registry?.local}/${name}:${id}`),
    ]),
    local: pipelineFlow(copy, "pipeline, local", ["--target", "k3s"]),
    ssh: pipelineFlow(copy, "pipeline", ["--host", host]),
  };
}

/** Measures the overhead of an SSH connection. */
function connectionFlow(host: string): Flow {
  return {
    name: "SSH connection",
    missing: [],
    async run() {
      await programs.execute(["ssh", host, "true"], directory);
      return { id: undefined, steps: [] };
    },
  };
}

/** A registry on the host. */
interface Registry {
  /** `host:port` on the host. */
  local: string;
  /** `host:port` through the relay. */
  relayed: string;
}

/** Reports a failed flow. */
function reportFailure({ name }: Flow, error: Error): void {
  if (programs.isStopping) return;
  hasFailed = true;
  logLine(`${name} failed: ${error.message}`);
  table.push([name, `**failed**: ${extractCause(error)}`, ""]);
}

const formatSeconds = (value: number) => `${value.toFixed(2)} s`;
const formatBytes = (value: number) =>
  value < 1e6 ? `${(value / 1e3).toFixed(0)} kB` : `${(value / 1e6).toFixed(2)} MB`;
const judge = (value: number, limit: number, unit: string) =>
  `≤ ${limit} ${unit}: ${value <= limit ? "met" : "**missed**"}`;

function logSample(label: string, { name }: Flow, { seconds, bytes, steps }: Sample): void {
  const each = Object.entries(steps).map(
    ([step, { bytes, seconds }]) => `${step} ${formatBytes(bytes)} in ${formatSeconds(seconds)}`,
  );
  const { sent, received } = bytes;
  logLine(
    `${label}, ${name}: ${formatSeconds(seconds)}, ${formatBytes(sent)} sent, ${formatBytes(received)} received; ${each.join(", ")}`,
  );
}

/** Steps that run in parallel with the connection. Bytes in their time belong to the next step. */
const PARALLEL_STEPS = ["check", "test", "image"];

/** Calculates bytes and duration of each step. */
function measureSteps(
  traffic: TrafficRecorder,
  steps: FlowResult["steps"],
  start: number,
  end: number,
): Sample["steps"] {
  const measured: Sample["steps"] = {};
  let from = start;
  const sequential = steps
    .filter(({ name }) => !PARALLEL_STEPS.includes(name))
    .toSorted((a, b) => a.endedAt - b.endedAt);
  for (const { name, endedAt } of [...sequential, { name: "rest", endedAt: end }]) {
    const { bytes = 0, seconds = 0 } = measured[name] ?? {};
    measured[name] = {
      bytes: bytes + totalOf(traffic.bytesBetween(from, endedAt)),
      seconds: seconds + Math.max(0, endedAt - from) / 1000,
    };
    from = endedAt;
  }
  return measured;
}

/** Waits until the old pods are gone. */
async function waitForOldPods(): Promise<void> {
  await eventually(async () => kubectl("get", "pods", "-o", "name").trim().split("\n").length <= 2 || undefined);
}

/**
 * Runs a flow and measures it.
 *
 * @param waitForVersion returns the time at which the version serves, or undefined to measure until the end of the command
 */
async function measureFlow(
  relay: SlowRelay,
  flow: Flow,
  waitForVersion: (running: Promise<FlowResult>) => Promise<number | undefined>,
): Promise<{ result: FlowResult; sample: Sample }> {
  const traffic = new TrafficRecorder(relay);
  const start = performance.now();
  try {
    const running = flow.run();
    const [result, servedAt] = await Promise.all([running, waitForVersion(running)]);
    const end = performance.now();
    const steps = measureSteps(traffic, result.steps, start, end);
    return { result, sample: { seconds: ((servedAt ?? end) - start) / 1000, bytes: traffic.stop(), steps } };
  } finally {
    traffic.stop();
  }
}

/** Measures the time from an edit until its version serves alone. */
async function measureEdit(relay: SlowRelay, flow: Flow, copy: Copy): Promise<Sample> {
  await waitForOldPods();
  const before = await fetchId(url);
  copy.edit();
  const isNew = (reply: string) => /^[0-9a-f]{12}$/.test(reply) && reply !== before;
  let served: { id: string; at: number } | undefined;
  const { result, sample } = await measureFlow(relay, flow, async (running) => {
    const deadline = running.then(() => Bun.sleep(SERVE_TIMEOUT_SECONDS * 1000));
    served = await waitUntilServed(url, isNew, deadline);
    return served?.at;
  });
  if (programs.isStopping) throw new Error("interrupted");
  if (!served || served.id !== result.id) throw new Error(`${served?.id ?? before} serves, expected ${result.id}`);
  return sample;
}

/** Measures the command without a change, after a deploy of the current source. */
async function measureUnchanged(relay: SlowRelay, flow: Flow): Promise<Sample[]> {
  const samples: Sample[] = [];
  for (let turn = 0; turn <= UNCHANGED_RUNS; turn += 1) {
    await waitForOldPods();
    const { result, sample } = await measureFlow(relay, flow, async () => undefined);
    logSample(turn === 0 ? "initial" : "unchanged", flow, sample);
    if (turn === 0) continue;
    if (result.id) throw new Error("the flow deployed a version although nothing had changed");
    samples.push(sample);
  }
  return samples;
}

interface Limits {
  seconds?: number;
  bytes?: number;
}

/** Adds rows for a flow: bytes and seconds, in total and for each step. */
function reportFlow(measure: string, samples: Sample[], limits: Limits = {}): void {
  const medianOf = (select: (sample: Sample) => number) => median(samples.map(select));
  const formatRange = (select: (sample: Sample) => number, format: (value: number) => string) => {
    if (samples.length === 1) return format(select(samples[0]!));
    const values = samples.map(select);
    return `${format(median(values))} (${format(Math.min(...values))}–${format(Math.max(...values))}, ${samples.length} times)`;
  };
  const bytesOf = ({ bytes }: Sample) => totalOf(bytes);
  const names = [...new Set(samples.flatMap(({ steps }) => Object.keys(steps)))];
  const formatSteps = (
    select: (step: { bytes: number; seconds: number }) => number,
    format: (value: number) => string,
  ) =>
    names
      .map((name) => `${name} ${format(medianOf(({ steps }) => (steps[name] ? select(steps[name]) : 0)))}`)
      .join(", ");
  if (medianOf(bytesOf) > 0) {
    const limit = limits.bytes === undefined ? "" : judge(medianOf(bytesOf) / 1e3, limits.bytes / 1e3, "kB");
    table.push([`${measure}: bytes`, formatRange(bytesOf, formatBytes), limit]);
    const directions = `${formatBytes(medianOf(({ bytes }) => bytes.sent))} sent, ${formatBytes(medianOf(({ bytes }) => bytes.received))} received`;
    table.push(["… by step", `${formatSteps(({ bytes }) => bytes, formatBytes)}; ${directions}`, ""]);
  }
  const limit =
    limits.seconds === undefined
      ? ""
      : judge(
          medianOf(({ seconds }) => seconds),
          limits.seconds,
          "s",
        );
  table.push([`${measure}: seconds`, formatRange(({ seconds }) => seconds, formatSeconds), limit]);
  if (names.length > 1) table.push(["… by step", formatSteps(({ seconds }) => seconds, formatSeconds), ""]);
}

/** Targets for a connection with 10 Mbit/s. */
const targets = {
  ssh: { bytes: 150e3 },
  first: { bytes: 46e6 },
  unchanged: { bytes: 60e3, seconds: 2.5 },
  /** Additional seconds compared with a local deploy. */
  sshOverheadSeconds: 1.2,
};

async function measureAll(relay: SlowRelay, options: Options, registry: Registry | undefined): Promise<void> {
  const { edits, only, host } = options;
  const copy = createCopy();
  const all = createFlows(copy, host, registry);
  const isPresent = ({ name, missing }: Flow) => {
    if (missing.length > 0) table.push([name, `skipped, missing: ${missing.join(", ")}`, ""]);
    return missing.length === 0;
  };
  const flows = Object.entries(all).filter(([key, flow]) => only.includes(key) && isPresent(flow));

  const connection = await measureFlow(relay, connectionFlow(host), async () => undefined);
  reportFlow("SSH connection, `ssh HOST true`", [connection.sample]);
  const first = await measureFlow(relay, all.ssh!, async () => undefined);
  logSample("first deploy", all.ssh!, first.sample);

  const measured = new Map(flows.map(([key]): [string, Sample[]] => [key, []]));
  for (let edit = 1; edit <= edits && !programs.isStopping; edit += 1) {
    for (const [key, flow] of flows) {
      const samples = measured.get(key);
      if (!samples) continue;
      try {
        const sample = await measureEdit(relay, flow, copy);
        logSample(`edit ${edit} of ${edits}`, flow, sample);
        samples.push(sample);
      } catch (error) {
        if (programs.isStopping) break;
        reportFailure(flow, error as Error);
        measured.delete(key);
      }
    }
  }
  const local = measured.get("local");
  const localSeconds = local?.length ? median(local.map(({ seconds }) => seconds)) : undefined;
  const limitsOf = (key: string): Limits => {
    const limits: Limits = {
      ...(key === "ssh" ? targets.ssh : {}),
    };
    if (limits.bytes && localSeconds !== undefined)
      limits.seconds = Number((localSeconds + targets.sshOverheadSeconds).toFixed(2));
    return limits;
  };
  for (const [key, samples] of measured)
    if (samples.length > 0) reportFlow(`edit to served version, ${all[key]!.name}`, samples, limitsOf(key));
  reportFlow("first deploy, command", [first.sample], targets.first);
  if (!only.includes("unchanged") || programs.isStopping) return;
  const samples = await measureUnchanged(relay, all.ssh!).catch((error: Error) => reportFailure(all.ssh!, error));
  if (samples) reportFlow("command without a change", samples, targets.unchanged);
}

/** Creates a wrapper of ssh that connects through the relay. */
function wrapSsh(relay: SlowRelay, { host, config }: Options): void {
  const ssh = [Bun.which("ssh") ?? "ssh", ...(config ? ["-F", config] : [])];
  const settings = new Map(
    must([...ssh, "-G", "--", host])
      .split("\n")
      .map((row): [string, string] => [row.slice(0, row.indexOf(" ")), row.slice(row.indexOf(" ") + 1)]),
  );
  const [hostname, port] = [settings.get("hostname") ?? host, settings.get("port") ?? "22"];
  const hostKeyAlias = settings.get("hostkeyalias") ?? (port === "22" ? hostname : `[${hostname}]:${port}`);
  const relayPort = relay.listen(hostname, Number(port));
  const overrides = ["HostName=127.0.0.1", `Port=${relayPort}`, `HostKeyAlias=${hostKeyAlias}`].map(
    (option) => `-o${option}`,
  );
  const bin = join(directory, "bin");
  mkdirSync(bin);
  const words = [...ssh, ...overrides].map((word) => `'${word}'`).join(" ");
  writeFileSync(join(bin, "ssh"), `#!/bin/sh\nexec ${words} "$@"\n`);
  chmodSync(join(bin, "ssh"), 0o755);
  programEnv.PATH = `${bin}:${process.env.PATH}`;
}

/** Ends all programs and removes all objects and images. */
async function cleanUp(relay: SlowRelay): Promise<void> {
  await programs.end();
  relay.close();
  await stopRegistries();
  deleteNamespace(location.namespace);
  removeImages([...programs.images]);
}

interface Options {
  host: string;
  config: string | undefined;
  edits: number;
  mbits: number;
  roundTrip: number;
  only: string[];
}

const parts = ["import", "registry", "local", "ssh", "unchanged"];

/** Parses the command line. @returns undefined if it is invalid */
function parseArguments(args: string[]): Options | "help" | undefined {
  try {
    const { values } = parseArgs({
      args,
      options: {
        host: { type: "string" },
        "ssh-config": { type: "string" },
        edits: { type: "string", default: "10" },
        mbits: { type: "string", default: "10" },
        "round-trip": { type: "string", default: "40" },
        only: { type: "string", default: parts.join() },
        help: { type: "boolean", short: "h", default: false },
      },
    });
    if (values.help) return "help";
    const only = values.only.split(",");
    const numbers = [values.edits, values.mbits, values["round-trip"]];
    if (!values.host || !only.every((part) => parts.includes(part))) return undefined;
    if (!numbers.every((text) => /^[1-9]\d*$/.test(text))) return undefined;
    const [edits, mbits, roundTrip] = numbers.map(Number) as [number, number, number];
    return { host: values.host, config: values["ssh-config"], edits, mbits, roundTrip, only };
  } catch {
    return undefined;
  }
}

async function main(args: string[]): Promise<number> {
  const options = parseArguments(args);
  if (options === undefined || options === "help") {
    console.log(usage);
    return options ? 0 : 2;
  }
  const { mbits, roundTrip } = options;
  const relay = new SlowRelay({ rate: (mbits * 1e6) / 8, delay: roundTrip / 2 });
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    // The results so far are printed.
    process.on(signal, () => programs.interrupt());
  }
  let isComplete = false;
  try {
    wrapSsh(relay, options);
    deleteNamespace(location.namespace);
    const local = Bun.which("docker-registry") ? await startRegistry(join(directory, "registry")) : undefined;
    const relayed = local && `127.0.0.1:${relay.listen("127.0.0.1", Number(local.split(":")[1]))}`;
    await measureAll(relay, options, local && relayed ? { local, relayed } : undefined);
    isComplete = !programs.isStopping;
  } catch (error) {
    if (!programs.isStopping) throw error;
  } finally {
    await cleanUp(relay);
  }
  table.unshift(["connection", `${mbits} Mbit/s in each direction, ${roundTrip} ms round trip`, ""]);
  printTable(table, "target, on medians");
  if (!isComplete) return 130;
  return hasFailed ? 1 : 0;
}

process.exit(await main(process.argv.slice(2)));
