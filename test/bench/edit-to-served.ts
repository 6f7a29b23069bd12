/**
 * `bun run bench:deploy`: measures the time from an edit to the served version, and to the image archive. It compares the
 * pipeline with alternatives.
 *
 * The flows run in turn, so that a noisy machine affects all of them alike. A warm-up round comes first. Compare the ratios.
 *
 * The benchmark uses the local k3s with a separate namespace and port. It removes them and the images afterwards.
 */
import { mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Copy } from "../../ci/slipway/test/e2e/project-versions.ts";
import { daggerEngine, eventually, sh } from "../../ci/slipway/test/e2e/setup.ts";
import { createKubectl, deleteNamespace, fetchId, logLine, median } from "./shared.ts";
import { printTable, removeImages, secondsSince, waitUntilServed } from "./shared.ts";
import { extractCause, ProgramRunner } from "./program-runner.ts";

const usage = `Measure the time from an edit to the served version and to the image archive, for several flows in turn.

usage: bun run bench:deploy [--edits N] [--only deploys,archives]

  --edits N   Measure N edits with each flow (10)
  deploys     Deploy to the local k3s, as root: with buildah and kubectl, with the pipeline (Dagger engine and host
              engine), and with a baseline for each engine that runs only the required steps
  archives    Build the image archive without checks and tests: the pipeline, ko with a small service in Go, and
              services with 20 and 2,000 additional modules

Flows with missing tools are skipped: k3s, buildah, dagger with a running engine, ko with go.

buildah uses a separate storage directory, about 300 MB for each edit. In a restricted environment, set
BUILDAH_ISOLATION, CONTAINERS_CONF and NODE_EXTRA_CA_CERTS. ko pulls its base image from a registry. To use another base
image, set KO_DEFAULTBASEIMAGE. It becomes part of the archive, so use a small image for a fair comparison. The Dagger
engine keeps its cache.

exit codes: 0 all flows measured or skipped; 1 a flow failed; 2 invalid command line
`;

const parts = ["deploys", "archives"];
const location = { namespace: "helloapp-bench-deploy", port: 30985 };
const url = `http://127.0.0.1:${location.port}/version`;
/** Name of buildah's image, unique on this machine. */
const buildahImage = "helloapp-bench-deploy";
/** Maximum time between the end of a flow and its version serving alone. */
const SERVE_TIMEOUT_SECONDS = 10;
/** Number of measurements without a change. */
const UNCHANGED_RUNS = 5;
const kubectl = createKubectl(location.namespace);

const directory = mkdtempSync(join(tmpdir(), "helloapp-bench-"));
process.on("exit", () => rmSync(directory, { recursive: true, force: true }));
const programs = new ProgramRunner("helloapp");
let hasFailed = false;

const table: [measure: string, value: string, verdict: string][] = [];

/** A measured sequence of commands. */
interface Flow {
  name: string;
  /** Missing programs and services. If there are any, the flow is skipped. */
  missing: string[];
  edit(): void;
  run(): Promise<FlowResult>;
  /** Path of the archive. */
  archive?: string;
}

interface DeployFlow extends Flow {
  /** Runs before an edit and is not measured. */
  prepare?(): void;
}

interface FlowResult {
  /** ID of the deployed version, if any. */
  id?: string | undefined;
  /** Seconds of each step. */
  steps: Record<string, number>;
}

interface Sample {
  seconds: number;
  steps: Record<string, number>;
}

const findMissing = (...programs: string[]) => programs.filter((program) => !Bun.which(program));

/** Commands without the pipeline: the Dockerfile runs the tests, and Kubernetes' default strategy rolls out. */
function buildahFlow(): DeployFlow {
  const copy = new Copy(directory, "buildah", location);
  copy.patch([{ op: "remove", path: "/spec/strategy" }]);
  // A separate storage has no other layers and is easy to remove.
  const buildah = ["buildah", ...storage];
  const bundle = process.env.NODE_EXTRA_CA_CERTS;
  const secret = bundle ? ["--secret", `id=ca,src=${bundle}`] : [];
  const ctr = ["k3s", "ctr", "-n", "k8s.io", "images"];
  const local = `localhost/${buildahImage}:latest`;
  let turn = 0;
  return {
    name: "buildah and kubectl",
    missing: findMissing("buildah", "k3s"),
    edit: () => copy.edit(),
    prepare() {
      // Removes the pipeline's rollout strategy. There is no Deployment before the first deploy.
      sh(["k3s", "kubectl", "-n", location.namespace, ...withoutStrategy]);
      // The latest image may still run.
      removeImages([`docker.io/library/${buildahImage}:${turn - 1}`]);
    },
    async run() {
      const image = `${buildahImage}:${(turn += 1)}`;
      programs.images.add(local).add(`docker.io/library/${image}`);
      const step = (...command: string[]) => programs.execute(command, copy.directory);
      const build = ["bud", "--layers", "--format", "docker", ...secret, "-t", buildahImage, "."];
      const built = await step(...buildah, ...build);
      // buildah does not overwrite an existing archive.
      rmSync(join(copy.directory, "helloapp.tar"), { force: true });
      const pushed = await step(...buildah, "push", `${buildahImage}:latest`, "docker-archive:helloapp.tar");
      const imported = await step(...ctr, "import", "helloapp.tar");
      const tagged = await step(...ctr, "tag", local, `docker.io/library/${image}`);
      const manifests = `k3s kubectl kustomize k8s/overlays/k3s | sed 's/image: helloapp$/image: ${image}/'`;
      const applied = await step("sh", "-c", `${manifests} | k3s kubectl apply -f -`);
      const status = ["rollout", "status", "deployment/helloapp", "--timeout=120s"];
      const rolledOut = await step("k3s", "kubectl", "-n", location.namespace, ...status);
      return {
        id: /^helloapp:([0-9a-f]{12})$/m.exec(built.stdout)?.[1],
        steps: {
          build: built.seconds,
          push: pushed.seconds,
          import: imported.seconds + tagged.seconds,
          rollout: applied.seconds + rolledOut.seconds,
        },
      };
    },
  };
}

const storage = ["--root", join(directory, "storage"), "--runroot", join(directory, "storage-run")];
const withoutStrategy = ["patch", "deployment", "helloapp", "--patch", '{"spec":{"strategy":null}}'];

function missingFor(engine: "Dagger" | "host"): string[] {
  const services = engine === "Dagger" ? [daggerEngine()] : [];
  const unavailable = services.filter(({ isMet }) => !isMet);
  return [...findMissing("k3s"), ...unavailable.map(({ name }) => name.replace(/^a /, ""))];
}

/** The pipeline. Its steps check, test and image run in parallel. */
function pipelineFlow(engine: "Dagger" | "host"): DeployFlow {
  const copy = new Copy(directory, engine, location);
  const pipeline = [process.execPath, "ci/pipeline.ts"];
  const command = engine === "Dagger" ? ["dagger", "run", ...pipeline] : [...pipeline, "--engine", "host"];
  return {
    name: `pipeline, ${engine} engine`,
    missing: missingFor(engine),
    edit: () => copy.edit(),
    async run() {
      const { seconds, stdout } = await programs.execute(command, copy.directory);
      const steps = [...stdout.matchAll(/^ +(\w+) +ok +([\d.]+) s/gm)].map(([, step, took]): [string, number] => [
        step!,
        Number(took),
      ]);
      const isUnchanged = stdout.includes("nothing to deploy");
      return {
        id: isUnchanged ? undefined : /\bhelloapp:([0-9a-f]{12}) serves at/.exec(stdout)?.[1],
        steps: { ...Object.fromEntries(steps), "whole command": seconds },
      };
    },
  };
}

/** Only the required steps, see minimal-deploy.ts. It uses the rollout strategy of the previous flows. */
function baselineFlow(engine: "Dagger" | "host"): DeployFlow {
  const copy = new Copy(directory, `baseline-${engine}`, location);
  const program = join(import.meta.dir, "minimal-deploy.ts");
  const baseline = [process.execPath, program, engine.toLowerCase(), location.namespace];
  return {
    name: `baseline, ${engine} engine`,
    missing: missingFor(engine),
    edit: () => copy.edit(),
    async run() {
      const command = engine === "Dagger" ? ["dagger", "run", ...baseline] : baseline;
      const { seconds, stdout } = await programs.execute(command, copy.directory);
      return {
        id: /^helloapp:([0-9a-f]{12})$/m.exec(stdout)?.[1],
        steps: { "whole command": seconds },
      };
    },
  };
}

/** The command `image`. @param modules number of modules added to the service */
function archiveFlow(name: string, modules = 0): Flow {
  const copy = new Copy(directory, `archive-${modules}`, location);
  if (modules > 0) addModules(copy, modules);
  return {
    name,
    missing: [],
    archive: join(copy.directory, "helloapp.tar"),
    edit: () =>
      modules > 0
        ? copy.state(`if (process.env.BENCH === "${crypto.randomUUID()}") console.log(total([1]));`)
        : copy.edit(),
    async run() {
      await programs.execute([process.execPath, "ci/pipeline.ts", "image", "--engine", "host"], copy.directory);
      return { steps: {} };
    },
  };
}

/** Adds modules that the service imports. Their results are used, so that the bundler keeps all of them. */
function addModules(copy: Copy, count: number): void {
  const generated = join(copy.directory, "src/generated");
  mkdirSync(generated);
  const numbers = Array.from({ length: count }, (_, i) => i + 1);
  for (const n of numbers) writeFileSync(join(generated, `part${n}.ts`), moduleText(n));
  const imports = numbers.map((n) => `import { total${n} } from "./part${n}.ts";\n`).join("");
  const calls = numbers.map((n) => `total${n}(weights)`).join(",\n");
  const total = `export const total = (weights: number[]) => Math.max(${calls});\n`;
  writeFileSync(join(generated, "index.ts"), `${imports}${total}`);
  copy.rewrite("src/main.ts", "import ", 'import { total } from "./generated/index.ts";\nimport ');
}

/** Returns a typical module of 1 kB: a type, a class, a function, and an import of another module. */
function moduleText(n: number): string {
  const before = Math.floor(n / 2);
  return `${before ? `import { total${before} } from "./part${before}.ts";` : "const total0 = () => 0;"}

/** A thing in part ${n}. */
export interface Thing${n} {
  name: string;
  weight: number;
  others: string[];
}

const names = ["first of ${n}", "second of ${n}", "third of ${n}"];

/** The things of part ${n}, by name. */
export class Part${n} {
  readonly #things = new Map<string, Thing${n}>();

  add(name: string, weight: number): this {
    if (!Number.isFinite(weight)) throw new RangeError(\`part ${n}: \${name} cannot weigh \${weight}\`);
    this.#things.set(name, { name, weight, others: names.filter((other) => other !== name) });
    return this;
  }

  heaviest(): Thing${n} | undefined {
    return [...this.#things.values()].sort((a, b) => b.weight - a.weight)[0];
  }
}

/** Adds the weight of the heaviest thing and the total of the imported part. */
export function total${n}(weights: number[]): number {
  const part = new Part${n}();
  for (const [index, weight] of weights.entries()) part.add(names[index % names.length]!, weight + ${n});
  return (part.heaviest()?.weight ?? 0) + total${before}(weights);
}
`;
}

/** ko with its defaults and a service that uses Go's standard library. */
function koFlow(): Flow {
  const module = join(directory, "ko");
  mkdirSync(module);
  writeFileSync(join(module, "go.mod"), "module hello\n\ngo 1.21\n");
  return {
    name: "ko, a small service in Go",
    missing: findMissing("ko", "go"),
    archive: join(module, "hello.tar"),
    edit: () => writeFileSync(join(module, "main.go"), goText(crypto.randomUUID())),
    async run() {
      const command = ["ko", "build", "--push=false", "--tarball=hello.tar", "--bare", "."];
      // The module has no dependencies, so nothing is downloaded, including other Go versions.
      const env = { KO_DOCKER_REPO: "hello", GOFLAGS: "-mod=mod", GOTOOLCHAIN: "local", GOWORK: "off" };
      await programs.execute(command, module, env);
      return { steps: {} };
    },
  };
}

const goText = (edit: string) => `package main

import (
	"fmt"
	"log"
	"net/http"
)

const edit = "${edit}"

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "Hello from", edit) })
	log.Fatal(http.ListenAndServe(":8080", nil))
}
`;

/** Returns the flows without missing tools, and reports the others. */
function selectAvailable<F extends Flow>(flows: F[]): F[] {
  for (const { name, missing } of flows) {
    if (missing.length > 0) table.push([name, `skipped, missing: ${missing.join(", ")}`, ""]);
  }
  return flows.filter(({ missing }) => missing.length === 0);
}

/** Reports a failed flow. */
function reportFailure({ name }: Flow, error: Error): void {
  if (programs.isStopping) return;
  hasFailed = true;
  logLine(`${name} failed: ${error.message}`);
  table.push([name, `**failed**: ${extractCause(error)}`, ""]);
}

function logSample(label: string, { name }: Flow, sample: Sample): void {
  const steps = Object.entries(sample.steps).map(([step, took]) => `${step} ${formatSeconds(took)}`);
  logLine(`${label}, ${name}: ${[formatSeconds(sample.seconds), ...steps].join(", ")}`);
}

/** Measures flows in turn, `edits` times after a warm-up round. A flow that fails is not run again. */
async function measureInTurn<F extends Flow>(
  flows: F[],
  edits: number,
  measure: (flow: F) => Promise<Sample>,
): Promise<Map<F, Sample[]>> {
  const measured = new Map(flows.map((flow): [F, Sample[]] => [flow, []]));
  for (let round = 0; round <= edits; round += 1) {
    for (const [flow, samples] of measured) {
      try {
        const sample = await measure(flow);
        logSample(round === 0 ? "warm-up" : `edit ${round} of ${edits}`, flow, sample);
        if (round > 0) samples.push(sample);
      } catch (error) {
        reportFailure(flow, error as Error);
        measured.delete(flow);
      }
    }
  }
  return measured;
}

const formatSeconds = (value: number) => `${value.toFixed(2)} s`;
const formatRange = (values: number[]) =>
  `${formatSeconds(median(values))} (${Math.min(...values).toFixed(2)}–${Math.max(...values).toFixed(2)})`;
const judge = (value: number, limit: number, unit = "") =>
  `≤ ${limit}${unit}: ${value <= limit ? "met" : "**missed**"}`;
const medianSeconds = (samples: Sample[]) => median(samples.map(({ seconds }) => seconds));

/** Adds rows for a flow and its steps. */
function reportFlow(measure: string, samples: Sample[], limit?: number): void {
  const value = medianSeconds(samples);
  const verdict = limit === undefined ? "" : judge(value, limit, " s");
  table.push([measure, formatRange(samples.map(({ seconds }) => seconds)), verdict]);
  const steps = new Set(samples.flatMap(({ steps }) => Object.keys(steps)));
  const stepMedians = [...steps].map(
    (step) => `${step} ${formatSeconds(median(samples.flatMap(({ steps }) => steps[step] ?? [])))}`,
  );
  if (stepMedians.length > 0) table.push(["… steps, medians", stepMedians.join(", "), ""]);
}

function reportRatio(measure: string, samples: Sample[] = [], reference: Sample[] = [], limit: number): void {
  if (samples.length === 0 || reference.length === 0) return;
  const value = medianSeconds(samples) / medianSeconds(reference);
  table.push([measure, `${value.toFixed(2)} ×`, judge(value, limit)]);
}

/** Waits until the old pods are gone. */
async function waitForOldPods(): Promise<void> {
  await eventually(async () => kubectl("get", "pods", "-o", "name").trim().split("\n").length <= 2 || undefined);
}

const isId = (reply: string) => /^[0-9a-f]{12}$/.test(reply);

/** Measures the time from an edit until its version serves alone. */
async function measureEdit(flow: DeployFlow): Promise<Sample> {
  await waitForOldPods();
  flow.prepare?.();
  let before = await fetchId(url);
  // After a flow that did not wait, the node's proxy may still route to pods that have ended.
  for (let retries = 0; retries < 5 && !isId(before); retries += 1) {
    await Bun.sleep(300);
    before = await fetchId(url);
  }
  flow.edit();
  const start = performance.now();
  const running = flow.run();
  const isNew = (reply: string) => isId(reply) && reply !== before;
  const deadline = running.then(() => Bun.sleep(SERVE_TIMEOUT_SECONDS * 1000));
  const [{ id, steps }, served] = await Promise.all([running, waitUntilServed(url, isNew, deadline)]);
  if (!served || served.id !== id) throw new Error(`${served?.id ?? before} serves, expected ${id}`);
  return { seconds: (served.at - start) / 1000, steps };
}

/** Measures the command without a change, after a deploy of the current source. */
async function measureUnchanged(flow: DeployFlow): Promise<Sample[]> {
  const samples: Sample[] = [];
  await waitForOldPods();
  for (let turn = 0; turn <= UNCHANGED_RUNS; turn += 1) {
    const start = performance.now();
    const { id, steps } = await flow.run();
    const sample = { seconds: secondsSince(start), steps };
    logSample(turn === 0 ? "initial" : "unchanged", flow, sample);
    if (turn === 0) await waitForOldPods();
    else if (id) throw new Error("the flow deployed a version although nothing had changed");
    else samples.push(sample);
  }
  return samples;
}

async function deploys(edits: number): Promise<void> {
  const [buildah, dagger, host] = [buildahFlow(), pipelineFlow("Dagger"), pipelineFlow("host")];
  const [daggerBaseline, hostBaseline] = [baselineFlow("Dagger"), baselineFlow("host")];
  const flows = selectAvailable([buildah, dagger, daggerBaseline, host, hostBaseline]);
  if (flows.length > 0) deleteNamespace(location.namespace);
  const measured = await measureInTurn(flows, edits, measureEdit);
  for (const [{ name }, samples] of measured) reportFlow(`edit to served version: ${name}`, samples);
  const reference = "buildah and kubectl (maxSurge and maxUnavailable: 25%, Kubernetes' default)";
  reportRatio(`host engine / ${reference}`, measured.get(host), measured.get(buildah), 0.3);
  reportRatio("host engine / its baseline", measured.get(host), measured.get(hostBaseline), 1.15);
  reportRatio(`Dagger engine / ${reference}`, measured.get(dagger), measured.get(buildah), 0.45);
  reportRatio("Dagger engine / its baseline", measured.get(dagger), measured.get(daggerBaseline), 1.15);
  for (const flow of [dagger, host].filter((flow) => measured.has(flow))) {
    const samples = await measureUnchanged(flow).catch((error: Error) => reportFailure(flow, error));
    const limit = flow === dagger ? 2 : undefined;
    if (samples) reportFlow(`command without a change: ${flow.name}`, samples, limit);
  }
}

async function archives(edits: number): Promise<void> {
  const [pipeline, ko] = [archiveFlow("pipeline"), koFlow()];
  const few = archiveFlow("20 additional modules", 20);
  const many = archiveFlow("2,000 additional modules, 1 kB each", 2000);
  const measured = await measureInTurn(selectAvailable([pipeline, ko, few, many]), edits, async (flow) => {
    flow.edit();
    const start = performance.now();
    const { steps } = await flow.run();
    return { seconds: secondsSince(start), steps };
  });
  for (const [flow, samples] of measured) {
    const size = `${(statSync(flow.archive!).size / 1e6).toFixed(0)} MB`;
    reportFlow(`edit to archive: ${flow.name}, ${size}`, samples, flow === pipeline ? 1 : undefined);
  }
  reportRatio("pipeline / ko", measured.get(pipeline), measured.get(ko), 1.2);
  reportRatio("2,000 modules / 20 modules", measured.get(many), measured.get(few), 2);
}

let cleaned: Promise<void> | undefined;
/** Ends all programs and removes all objects and images, once. */
function cleanUp(): Promise<void> {
  return (cleaned ??= (async () => {
    await programs.end();
    if (Bun.which("k3s")) {
      deleteNamespace(location.namespace);
      removeImages([...programs.images]);
    }
    if (Bun.which("buildah")) {
      // buildah must unmount its containers before the directory is removed.
      sh(["buildah", ...storage, "rm", "--all"]);
      sh(["buildah", ...storage, "rmi", "--all", "--force"]);
    }
  })());
}

/** Parses the command line. @returns undefined if it is invalid */
function parseArguments(args: string[]): { edits: number; only: string[]; help: boolean } | undefined {
  try {
    const { values } = parseArgs({
      args,
      options: {
        edits: { type: "string", default: "10" },
        only: { type: "string", default: parts.join() },
        help: { type: "boolean", short: "h", default: false },
      },
    });
    const only = values.only.split(",");
    if (!/^[1-9]\d*$/.test(values.edits) || !only.every((part) => parts.includes(part))) return undefined;
    return { edits: Number(values.edits), only, help: values.help };
  } catch {
    return undefined;
  }
}

async function main(args: string[]): Promise<number> {
  const options = parseArguments(args);
  if (!options || options.help) {
    console.log(usage);
    return options ? 0 : 2;
  }
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => void cleanUp().then(() => process.exit(130)));
  }
  const { edits, only } = options;
  try {
    if (only.includes("deploys")) await deploys(edits);
    if (only.includes("archives")) await archives(edits);
  } finally {
    await cleanUp();
  }
  printTable(table, `target, on medians of ${edits} edits`);
  return hasFailed ? 1 : 0;
}

process.exit(await main(process.argv.slice(2)));
