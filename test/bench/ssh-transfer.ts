/**
 * `bun run bench:remote`: what a deploy to a k3s behind a slow line costs: bytes on the line, everything counted, and seconds from
 * an edited line to the version that is served; by the pipeline, with and without what it remembers of the version before, and
 * by what people would use in its place. In turn, so that a noisy machine disturbs all of them alike.
 *
 * The host is this machine by way of its own sshd, so that the same edit can also be deployed without a line, and the line
 * is the relay of line.ts. All goes to a namespace and a port of the bench's own, which are gone afterwards, as are the images.
 */
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Copy } from "../../ci/slipway/test/e2e/copies.ts";
import { eventually, must, startRegistry, stopRegistries } from "../../ci/slipway/test/e2e/setup.ts";
import { ask, deleteNamespace, kubectlIn, median, printTable } from "./shared.ts";
import { removeImages, say, servedFirst } from "./shared.ts";
import { causeOf, Programs, type Ended } from "./processes.ts";
import { Line, type Count } from "./slow-relay.ts";

const usage = `Measures deploys to a k3s behind a slow line: bytes on it, and seconds from an edited line to a served version.

usage: bun run bench:remote --host [USER@]HOST [--ssh-config FILE] [--edits N] [--mbits N] [--round-trip MS] [--only LIST]

  --host         how ssh reaches this machine, where k3s runs: an sshd of it, as root or as a user that ctr is allowed
  --ssh-config   ssh's configuration (its own)
  --edits N      edits of one source line that each flow is measured with (10)
  --mbits N      what the line carries each way, in 1,000,000 bits a second (10)
  --round-trip   milliseconds there and back (40)
  --only LIST    flows, of: import, registry, here, fresh, known (all), and whether to measure what was not changed: nothing;
                 known takes fresh with it, after whose turn the version before is known

The relay is put between ssh and that sshd by a wrapper of ssh on PATH. A flow whose tools are missing is skipped, by name.

exit codes: 0 all was measured or skipped; 1 a flow broke; 2 the command line is wrong; 130 interrupted, after the table
            of what was measured until then
`;

const name = "wire";
const place = { namespace: "wire", port: 30926 };
const url = `http://127.0.0.1:${place.port}/version`;
/** Seconds that a version may take to serve alone after its flow has ended. */
const PATIENCE = 10;
/** How often a command that has nothing to do is measured. */
const UNCHANGED = 5;
/** Milliseconds between two looks at the line's counters. */
const LOOK = 5;
const kubectl = kubectlIn(place.namespace);

const directory = mkdtempSync(join(tmpdir(), "helloapp-bench-"));
process.on("exit", () => rmSync(directory, { recursive: true, force: true }));
/** What all programs here get beside the environment: a PATH with ssh's wrapper. */
const surroundings: Record<string, string> = {};
const programs = new Programs(name, surroundings);
let broke = false;

const table: [measure: string, value: string, verdict: string][] = [];

/** A way from an edited line to a served version. */
interface Flow {
  name: string;
  /** Programs without which it is skipped. */
  missing: string[];
  /** Done before an edit, and not measured. */
  prepare?(): void;
  run(): Promise<Ran>;
}

interface Ran {
  /** The version that was deployed; undefined: there was nothing to do. */
  id: string | undefined;
  /** When each of its steps had ended, on performance.now()'s clock. */
  steps: { name: string; at: number }[];
}

interface Sample {
  seconds: number;
  /** Bytes on the line, until the command had ended. */
  bytes: Count;
  /** What passed until the end of each step, and how long that took. */
  parts: Record<string, { bytes: number; seconds: number }>;
}

/** What the line's counters were, from when on. */
class Looks {
  readonly #looks: { at: number; bytes: Count }[] = [];
  readonly #timer: Timer;

  constructor(private readonly line: Line) {
    this.#look();
    this.#timer = setInterval(() => this.#look(), LOOK);
  }

  #look() {
    this.#looks.push({ at: performance.now(), bytes: this.line.count() });
  }

  end(): Count {
    clearInterval(this.#timer);
    this.#look();
    return this.since(this.#looks[0]!.at, performance.now());
  }

  /** Bytes between two moments. */
  since(from: number, to: number): Count {
    const at = (time: number) => this.#looks.findLast((look) => look.at <= time) ?? this.#looks[0]!;
    const [a, b] = [at(from).bytes, at(to).bytes];
    return { there: b.there - a.there, back: b.back - a.back };
  }
}

const both = ({ there, back }: Count) => there + back;

/** The service, under the bench's name: images of its own name belong to others. */
function service(): Copy {
  const copy = new Copy(directory, name, place);
  // What comes from a registry is pulled, and what is there is not.
  const container = "/spec/template/spec/containers/0";
  copy.patch([{ op: "add", path: `${container}/imagePullPolicy`, value: "IfNotPresent" }]);
  const manifests = [...new Bun.Glob("k8s/**/*.yaml").scanSync(copy.directory)];
  for (const file of manifests)
    if (readFileSync(join(copy.directory, file), "utf8").includes("helloapp"))
      copy.rewrite(file, /helloapp/g, name);
  const namespace = `  namespace: "${place.namespace}",\n`;
  copy.rewrite("ci/pipeline.ts", namespace, `${namespace}  name: "${name}",\n`);
  return copy;
}

const pipeline = [process.execPath, "ci/pipeline.ts"];

/** Steps as the pipeline has printed their ends. */
function stepsOf({ lines }: Ended): Ran["steps"] {
  return lines.flatMap(({ at, line }) => {
    const [, name] = /^ {2}(\w+) +(?:ok|reused|none) +[\d.]+ s/.exec(line) ?? [];
    return name ? [{ name, at }] : [];
  });
}

function pipelineFlow(copy: Copy, name: string, target: string[], prepare: () => void = () => {}): Flow {
  return {
    name,
    missing: [],
    prepare,
    async run() {
      const ended = await programs.execute([...pipeline, "--engine", "host", ...target], copy.directory);
      const { stdout } = ended;
      const id = stdout.includes("nothing to deploy")
        ? undefined
        : /\bwire:([0-9a-f]{12}) serves at/.exec(stdout)?.[1];
      return { id, steps: stepsOf(ended) };
    },
  };
}

/** The archive alone, without checks and tests, and what comes after it in commands over the line. */
function byHandFlow(
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
      const ran: Ran["steps"] = [];
      const step = async (name: string, command: string[]) => {
        const ended = await programs.execute(command, copy.directory);
        ran.push({ name, at: performance.now() });
        return ended;
      };
      const made = await step("image", [...pipeline, "image", "--engine", "host", ...options]);
      const [, id] = /\bwire:([0-9a-f]{12})\b/.exec(made.stdout) ?? [];
      if (!id) throw new Error(`no id in\n${made.stdout}`);
      for (const [name, command] of steps(id)) await step(name, command);
      return { id, steps: ran };
    },
  };
}

/** kubectl at the other end. */
function setImage(host: string, image: string): [string, string[]][] {
  const there = ["ssh", host, "k3s", "kubectl", "-n", place.namespace];
  return [["set image", [...there, "set", "image", `deployment/${name}`, `${name}=${image}`]]];
}

function flowsOf(copy: Copy, host: string, registry: Registry | undefined): Record<string, Flow> {
  const memory = join(copy.directory, "node_modules/.cache/slipway/layers");
  const absent = (...programs: string[]) => programs.filter((program) => !Bun.which(program));
  const archive = `${name}.tar`;
  return {
    import: byHandFlow(copy, "gzip -1, ssh, ctr images import", absent("gzip"), [], (id) => [
      ["import", ["sh", "-c", `gzip -1 <${archive} | ssh ${host} k3s ctr -n k8s.io images import -`]],
      ...setImage(host, `${name}:${id}`),
    ]),
    registry: byHandFlow(
      copy,
      "push to a registry there",
      registry ? [] : ["docker-registry"],
      ["--compress", "fast"],
      (id) => [
        ["push", [...pipeline, "push", archive, "--registry", `${registry?.far}/${name}`]],
        ...setImage(host, `${registry?.near}/${name}:${id}`),
      ],
    ),
    here: pipelineFlow(copy, "the pipeline, on the machine itself", ["--target", "k3s"]),
    fresh: pipelineFlow(copy, "the pipeline, from a fresh clone", ["--host", host], () =>
      rmSync(memory, { recursive: true, force: true }),
    ),
    // After a fresh clone's turn the version that runs is known here.
    known: pipelineFlow(copy, "the pipeline, the version before known here", ["--host", host]),
  };
}

/** What any connection costs: keys, and the greeting. */
function connectionAlone(host: string): Flow {
  return {
    name: "a connection alone",
    missing: [],
    async run() {
      await programs.execute(["ssh", host, "true"], directory);
      return { id: undefined, steps: [] };
    },
  };
}

/** A registry beside the cluster, by its `host:port` from there and from here. */
interface Registry {
  near: string;
  far: string;
}

/** Tells that a flow did not do what it should. */
function reportBroken({ name }: Flow, error: Error): void {
  if (programs.stopping) return;
  broke = true;
  say(`${name} broke: ${error.message}`);
  table.push([name, `**broke**: ${causeOf(error)}`, ""]);
}

const seconds = (value: number) => `${value.toFixed(2)} s`;
const amount = (value: number) =>
  value < 1e6 ? `${(value / 1e3).toFixed(0)} kB` : `${(value / 1e6).toFixed(2)} MB`;
const judged = (value: number, limit: number, unit: string) =>
  `≤ ${limit} ${unit}: ${value <= limit ? "holds" : "**does not hold**"}`;

function sayTurn(turn: string, { name }: Flow, { seconds: took, bytes, parts }: Sample): void {
  const each = Object.entries(parts).map(
    ([part, { bytes, seconds: took }]) => `${part} ${amount(bytes)} in ${seconds(took)}`,
  );
  const { there, back } = bytes;
  say(`${turn}, ${name}: ${seconds(took)}, ${amount(there)} there, ${amount(back)} back; ${each.join(", ")}`);
}

/** Steps beside which the line is opened and looked at already: what passes then is for the next one. */
const BESIDE = ["check", "test", "image"];

/** Bytes and seconds until the end of each step, since that of the one before. */
function partsOf(looks: Looks, steps: Ran["steps"], start: number, end: number): Sample["parts"] {
  const parts: Sample["parts"] = {};
  let from = start;
  const ended = steps.filter(({ name }) => !BESIDE.includes(name)).toSorted((a, b) => a.at - b.at);
  for (const { name, at } of [...ended, { name: "then", at: end }]) {
    const { bytes = 0, seconds = 0 } = parts[name] ?? {};
    const more = both(looks.since(from, at));
    parts[name] = { bytes: bytes + more, seconds: seconds + Math.max(0, at - from) / 1000 };
    from = at;
  }
  return parts;
}

/** Waits until all pods but those that serve are gone. */
async function settled(): Promise<void> {
  await eventually(
    async () => kubectl("get", "pods", "-o", "name").trim().split("\n").length <= 2 || undefined,
  );
}

/** Runs a flow, and counts. @param served when its version was, on performance.now()'s clock; undefined: its end counts */
async function counted(
  line: Line,
  flow: Flow,
  served: (running: Promise<Ran>) => Promise<number | undefined>,
): Promise<{ ran: Ran; sample: Sample }> {
  const looks = new Looks(line);
  const start = performance.now();
  try {
    const running = flow.run();
    const [ran, at] = await Promise.all([running, served(running)]);
    const end = performance.now();
    const parts = partsOf(looks, ran.steps, start, end);
    return { ran, sample: { seconds: ((at ?? end) - start) / 1000, bytes: looks.end(), parts } };
  } finally {
    looks.end();
  }
}

/** From an edit to the first of the replies that show that its version serves alone. */
async function untilServed(line: Line, flow: Flow, copy: Copy): Promise<Sample> {
  await settled();
  flow.prepare?.();
  const before = await ask(url);
  copy.edit();
  const isNew = (answer: string) => /^[0-9a-f]{12}$/.test(answer) && answer !== before;
  let seen: { id: string; at: number } | undefined;
  const { ran, sample } = await counted(line, flow, async (running) => {
    const patience = running.then(() => Bun.sleep(PATIENCE * 1000));
    seen = await servedFirst(url, isNew, patience);
    return seen?.at;
  });
  if (programs.stopping) throw new Error("interrupted");
  if (!seen || seen.id !== ran.id)
    throw new Error(`${seen?.id ?? before} is served, and ${ran.id} was deployed`);
  return sample;
}

/** The whole command where there is nothing to do, after one that has deployed what is there. */
async function whenUnchanged(line: Line, flow: Flow): Promise<Sample[]> {
  const samples: Sample[] = [];
  for (let turn = 0; turn <= UNCHANGED; turn += 1) {
    await settled();
    const { ran, sample } = await counted(line, flow, async () => undefined);
    sayTurn(turn === 0 ? "to start from" : "nothing changed", flow, sample);
    if (turn === 0) continue;
    if (ran.id) throw new Error("there was something to deploy, although nothing had changed");
    samples.push(sample);
  }
  return samples;
}

interface Limits {
  seconds?: number;
  bytes?: number;
}

/** Rows for a flow: bytes, seconds, and what they were for. */
function reportFlow(what: string, samples: Sample[], limits: Limits = {}): void {
  const middle = (of: (sample: Sample) => number) => median(samples.map(of));
  const range = (of: (sample: Sample) => number, text: (value: number) => string) => {
    if (samples.length === 1) return text(of(samples[0]!));
    const values = samples.map(of);
    return `${text(median(values))} (${text(Math.min(...values))}–${text(Math.max(...values))}, ${samples.length} times)`;
  };
  const bytesOf = ({ bytes }: Sample) => both(bytes);
  const parts = [...new Set(samples.flatMap(({ parts }) => Object.keys(parts)))];
  const partly = (
    of: (part: { bytes: number; seconds: number }) => number,
    text: (value: number) => string,
  ) =>
    parts
      .map((name) => `${name} ${text(middle(({ parts }) => (parts[name] ? of(parts[name]) : 0)))}`)
      .join(", ");
  if (middle(bytesOf) > 0) {
    const limit = limits.bytes === undefined ? "" : judged(middle(bytesOf) / 1e3, limits.bytes / 1e3, "kB");
    table.push([`${what}: bytes`, range(bytesOf, amount), limit]);
    const ways = `${amount(middle(({ bytes }) => bytes.there))} there, ${amount(middle(({ bytes }) => bytes.back))} back`;
    table.push(["… until the end of each step", `${partly(({ bytes }) => bytes, amount)}; ${ways}`, ""]);
  }
  const limit =
    limits.seconds === undefined
      ? ""
      : judged(
          middle(({ seconds }) => seconds),
          limits.seconds,
          "s",
        );
  table.push([`${what}: seconds`, range(({ seconds }) => seconds, seconds), limit]);
  if (parts.length > 1)
    table.push(["… until the end of each step", partly(({ seconds }) => seconds, seconds), ""]);
}

/** What the pipeline is held to, on the line of 10 Mbit/s. */
const targets = {
  known: { bytes: 250e3 },
  fresh: { bytes: 2.0e6 },
  first: { bytes: 43e6 },
  nothing: { bytes: 60e3, seconds: 2.5 },
  /** Seconds more than on the machine itself. */
  more: 2.0,
};

async function measure(line: Line, options: Options, registry: Registry | undefined): Promise<void> {
  const { edits, only, host } = options;
  const copy = service();
  const all = flowsOf(copy, host, registry);
  const isPresent = ({ name, missing }: Flow) => {
    if (missing.length > 0) table.push([name, `skipped: no ${missing.join(", no ")}`, ""]);
    return missing.length === 0;
  };
  const flows = Object.entries(all).filter(([key, flow]) => only.includes(key) && isPresent(flow));

  const alone = await counted(line, connectionAlone(host), async () => undefined);
  reportFlow("a connection alone, `ssh HOST true`", [alone.sample]);
  const first = await counted(line, all.known!, async () => undefined);
  sayTurn("the first", all.known!, first.sample);

  const measured = new Map(flows.map(([key]): [string, Sample[]] => [key, []]));
  for (let edit = 1; edit <= edits && !programs.stopping; edit += 1) {
    for (const [key, flow] of flows) {
      const samples = measured.get(key);
      if (!samples) continue;
      try {
        const sample = await untilServed(line, flow, copy);
        sayTurn(`edit ${edit} of ${edits}`, flow, sample);
        samples.push(sample);
      } catch (error) {
        if (programs.stopping) break;
        reportBroken(flow, error as Error);
        measured.delete(key);
      }
    }
  }
  const here = measured.get("here");
  const local = here?.length ? median(here.map(({ seconds }) => seconds)) : undefined;
  const limitsOf = (key: string): Limits => {
    const limits: Limits = { ...(key === "known" ? targets.known : key === "fresh" ? targets.fresh : {}) };
    if (limits.bytes && local !== undefined) limits.seconds = Number((local + targets.more).toFixed(2));
    return limits;
  };
  for (const [key, samples] of measured)
    if (samples.length > 0) reportFlow(`edit to served, ${all[key]!.name}`, samples, limitsOf(key));
  reportFlow("the first deploy, the whole command", [first.sample], targets.first);
  if (!only.includes("nothing") || programs.stopping) return;
  const samples = await whenUnchanged(line, all.known!).catch((error: Error) =>
    reportBroken(all.known!, error),
  );
  if (samples) reportFlow("nothing changed, the whole command", samples, targets.nothing);
}

/** Puts a line between ssh and where it would go. */
function wrapSsh(line: Line, { host, config }: Options): void {
  const ssh = [Bun.which("ssh") ?? "ssh", ...(config ? ["-F", config] : [])];
  const settings = new Map(
    must([...ssh, "-G", "--", host])
      .split("\n")
      .map((row): [string, string] => [row.slice(0, row.indexOf(" ")), row.slice(row.indexOf(" ") + 1)]),
  );
  const [hostname, port] = [settings.get("hostname") ?? host, settings.get("port") ?? "22"];
  const known = settings.get("hostkeyalias") ?? (port === "22" ? hostname : `[${hostname}]:${port}`);
  const relay = line.listen(hostname, Number(port));
  const way = ["HostName=127.0.0.1", `Port=${relay}`, `HostKeyAlias=${known}`].map((option) => `-o${option}`);
  const bin = join(directory, "bin");
  mkdirSync(bin);
  const words = [...ssh, ...way].map((word) => `'${word}'`).join(" ");
  writeFileSync(join(bin, "ssh"), `#!/bin/sh\nexec ${words} "$@"\n`);
  chmodSync(join(bin, "ssh"), 0o755);
  surroundings.PATH = `${bin}:${process.env.PATH}`;
}

/** Ends what was left behind, and removes what was made. */
async function cleanUp(line: Line): Promise<void> {
  await programs.end();
  line.close();
  await stopRegistries();
  deleteNamespace(place.namespace);
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

const parts = ["import", "registry", "here", "fresh", "known", "nothing"];

/** What the command line asks for; undefined: it is wrong. */
function parse(args: string[]): Options | "help" | undefined {
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
    // It is what comes after a fresh clone's turn.
    if (only.includes("known") && !only.includes("fresh")) return undefined;
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
  const options = parse(args);
  if (options === undefined || options === "help") {
    console.log(usage);
    return options ? 0 : 2;
  }
  const { mbits, roundTrip } = options;
  const line = new Line({ rate: (mbits * 1e6) / 8, delay: roundTrip / 2 });
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    // What was measured until then is reported, for it took long.
    process.on(signal, () => programs.interrupt());
  }
  let isWhole = false;
  try {
    wrapSsh(line, options);
    deleteNamespace(place.namespace);
    const near = Bun.which("docker-registry") ? await startRegistry(join(directory, "registry")) : undefined;
    const far = near && `127.0.0.1:${line.listen("127.0.0.1", Number(near.split(":")[1]))}`;
    await measure(line, options, near && far ? { near, far } : undefined);
    isWhole = !programs.stopping;
  } catch (error) {
    if (!programs.stopping) throw error;
  } finally {
    await cleanUp(line);
  }
  table.unshift(["the line", `${mbits} Mbit/s each way, ${roundTrip} ms there and back`, ""]);
  printTable(table, "target, on medians");
  if (!isWhole) return 130;
  return broke ? 1 : 0;
}

process.exit(await main(process.argv.slice(2)));
