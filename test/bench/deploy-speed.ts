/**
 * `bun run bench:deploy`: seconds from an edited line to the version that is served, and to the archive, by the pipeline
 * and by what people would use in its place. In turn, so that a noisy machine disturbs all of them alike, and warm: a
 * round that does not count comes first. What counts are the ratios.
 *
 * The cluster is this machine's k3s, in a namespace and on a port of its own, which are gone afterwards, as are the images.
 */
import { mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Copy } from "../../ci/slipway/test/e2e/copies.ts";
import { daggerEngine, eventually, sh } from "../../ci/slipway/test/e2e/setup.ts";
import { ask, deleteNamespace, kubectlIn, median, printTable } from "./shared.ts";
import { removeImages, say, secondsSince, servedFirst } from "./shared.ts";
import { causeOf, Programs } from "./processes.ts";

const usage = `Measures the way from an edited line to a served version, and to an archive, by several flows in turn.

usage: bun run bench:deploy [--edits N] [--only deploys,archives]

  --edits N   edits of one source line that each flow is measured with (10)
  deploys     to this machine's k3s, as root: buildah by hand as in README.md, the pipeline on the Dagger engine and on
              the host engine, and under each its floor: what must be done, and nothing else
  archives    the archive alone, without checks and tests: the pipeline against ko with a hello in Go, and a service of
              20 modules against one of 2,000

A flow whose tools (k3s, buildah, dagger with an engine that answers, ko with go) are missing is skipped, by name.
buildah keeps its images in a directory of its own, some 300 MB for each edit; BUILDAH_ISOLATION, CONTAINERS_CONF and
NODE_EXTRA_CA_CERTS are what a confined machine needs. ko takes its base image from a registry, KO_DEFAULTBASEIMAGE
names another; all of it goes into the archive, so that a small one is fair. The Dagger engine keeps its cache.

exit codes: 0 all was measured or skipped; 1 a flow broke; 2 the command line is wrong
`;

const parts = ["deploys", "archives"];
const place = { namespace: "helloapp-bench-deploy", port: 30985 };
const url = `http://127.0.0.1:${place.port}/version`;
/** What buildah's image is called: a name that nothing else on this machine has. */
const byHand = "helloapp-bench-deploy";
/** Seconds that a version may take to serve alone after its flow has ended. */
const PATIENCE = 10;
/** How often a command that has nothing to do is measured. */
const UNCHANGED = 5;
const kubectl = kubectlIn(place.namespace);

const directory = mkdtempSync(join(tmpdir(), "helloapp-bench-"));
process.on("exit", () => rmSync(directory, { recursive: true, force: true }));
const programs = new Programs("helloapp");
let broke = false;

const table: [measure: string, value: string, verdict: string][] = [];

/** A way from an edited line to what it is for. */
interface Flow {
  name: string;
  /** Programs and services without which it is skipped. */
  missing: string[];
  edit(): void;
  run(): Promise<Ran>;
  /** The archive that it leaves. */
  archive?: string;
}

interface DeployFlow extends Flow {
  /** Done before an edit, and not measured. */
  prepare?(): void;
}

interface Ran {
  /** The version that was deployed, if one was. */
  id?: string | undefined;
  /** Seconds of what it consists of. */
  steps: Record<string, number>;
}

interface Sample {
  seconds: number;
  steps: Record<string, number>;
}

const absent = (...programs: string[]) => programs.filter((program) => !Bun.which(program));

/** README.md's commands, the first user's: tests run inside the image's build, and Kubernetes' defaults roll it out. */
function buildahFlow(): DeployFlow {
  const copy = new Copy(directory, "buildah", place);
  copy.patch([{ op: "remove", path: "/spec/strategy" }]);
  // A storage of its own holds no other layers to look through, and can be removed as a whole.
  const buildah = ["buildah", ...storage];
  const bundle = process.env.NODE_EXTRA_CA_CERTS;
  const secret = bundle ? ["--secret", `id=ca,src=${bundle}`] : [];
  const ctr = ["k3s", "ctr", "-n", "k8s.io", "images"];
  const local = `localhost/${byHand}:latest`;
  let turn = 0;
  return {
    name: "buildah by hand",
    missing: absent("buildah", "k3s"),
    edit: () => copy.edit(),
    prepare() {
      // What the pipeline has applied says how to roll out; a plain manifest does not. At first there is none.
      sh(["k3s", "kubectl", "-n", place.namespace, ...withoutStrategy]);
      // The last one may still run.
      removeImages([`docker.io/library/${byHand}:${turn - 1}`]);
    },
    async run() {
      const image = `${byHand}:${(turn += 1)}`;
      programs.images.add(local).add(`docker.io/library/${image}`);
      const step = (...command: string[]) => programs.execute(command, copy.directory);
      const build = ["bud", "--layers", "--format", "docker", ...secret, "-t", byHand, "."];
      const built = await step(...buildah, ...build);
      // A docker-archive that is there is not replaced but refused.
      rmSync(join(copy.directory, "helloapp.tar"), { force: true });
      const pushed = await step(...buildah, "push", `${byHand}:latest`, "docker-archive:helloapp.tar");
      const imported = await step(...ctr, "import", "helloapp.tar");
      const tagged = await step(...ctr, "tag", local, `docker.io/library/${image}`);
      const manifests = `k3s kubectl kustomize k8s/overlays/k3s | sed 's/image: helloapp$/image: ${image}/'`;
      const applied = await step("sh", "-c", `${manifests} | k3s kubectl apply -f -`);
      const status = ["rollout", "status", "deployment/helloapp", "--timeout=120s"];
      const rolledOut = await step("k3s", "kubectl", "-n", place.namespace, ...status);
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
  const surroundings = engine === "Dagger" ? [daggerEngine()] : [];
  const silent = surroundings.filter(({ isMet }) => !isMet);
  return [...absent("k3s"), ...silent.map(({ name }) => name.replace(/^a /, ""))];
}

/** The whole pipeline. Its steps check, test and image go on side by side. */
function pipelineFlow(engine: "Dagger" | "host"): DeployFlow {
  const copy = new Copy(directory, engine, place);
  const here = [process.execPath, "ci/pipeline.ts"];
  const command = engine === "Dagger" ? ["dagger", "run", ...here] : [...here, "--engine", "host"];
  return {
    name: `${engine} engine, checks and tests on`,
    missing: missingFor(engine),
    edit: () => copy.edit(),
    async run() {
      const { seconds, stdout } = await programs.execute(command, copy.directory);
      const steps = [...stdout.matchAll(/^ +(\w+) +ok +([\d.]+) s/gm)].map(
        ([, step, took]): [string, number] => [step!, Number(took)],
      );
      const nothing = stdout.includes("nothing to deploy");
      return {
        id: nothing ? undefined : /\bhelloapp:([0-9a-f]{12}) serves at/.exec(stdout)?.[1],
        steps: { ...Object.fromEntries(steps), "the whole command": seconds },
      };
    },
  };
}

/** What must be done, and nothing else; see floor.ts. What the flows before it have applied says how to roll out. */
function floorFlow(engine: "Dagger" | "host"): DeployFlow {
  const copy = new Copy(directory, `floor-${engine}`, place);
  const program = join(import.meta.dir, "baseline.ts");
  const floor = [process.execPath, program, engine.toLowerCase(), place.namespace];
  return {
    name: `the floor, ${engine}`,
    missing: missingFor(engine),
    edit: () => copy.edit(),
    async run() {
      const command = engine === "Dagger" ? ["dagger", "run", ...floor] : floor;
      const { seconds, stdout } = await programs.execute(command, copy.directory);
      return {
        id: /^helloapp:([0-9a-f]{12})$/m.exec(stdout)?.[1],
        steps: { "the whole command": seconds },
      };
    },
  };
}

/** `image` alone, in a copy; `grown` is how many modules the service has beside its own. */
function archiveFlow(name: string, grown = 0): Flow {
  const copy = new Copy(directory, `archive-${grown}`, place);
  if (grown > 0) grow(copy, grown);
  return {
    name,
    missing: [],
    archive: join(copy.directory, "helloapp.tar"),
    edit: () =>
      grown > 0
        ? copy.state(`if (process.env.BENCH === "${crypto.randomUUID()}") console.log(total([1]));`)
        : copy.edit(),
    async run() {
      await programs.execute(
        [process.execPath, "ci/pipeline.ts", "image", "--engine", "host"],
        copy.directory,
      );
      return { steps: {} };
    },
  };
}

/** Gives a service modules that its main part imports; what they say is used, so that none is left out. */
function grow(copy: Copy, count: number): void {
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

/** 1 kB such as people write: a type, a class, a function, and the import of another module. */
function moduleText(n: number): string {
  const before = Math.floor(n / 2);
  return `${before ? `import { total${before} } from "./part${before}.ts";` : "const total0 = () => 0;"}

/** What part ${n} knows of one thing. */
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

/** The weight of the heaviest thing, and of those of the part before. */
export function total${n}(weights: number[]): number {
  const part = new Part${n}();
  for (const [index, weight] of weights.entries()) part.add(names[index % names.length]!, weight + ${n});
  return (part.heaviest()?.weight ?? 0) + total${before}(weights);
}
`;
}

/** ko with its defaults and a service of Go's standard library. */
function koFlow(): Flow {
  const module = join(directory, "ko");
  mkdirSync(module);
  writeFileSync(join(module, "go.mod"), "module hello\n\ngo 1.21\n");
  return {
    name: "ko, a hello in Go",
    missing: absent("ko", "go"),
    archive: join(module, "hello.tar"),
    edit: () => writeFileSync(join(module, "main.go"), goText(crypto.randomUUID())),
    async run() {
      const command = ["ko", "build", "--push=false", "--tarball=hello.tar", "--bare", "."];
      // The module has no dependencies: nothing is to be fetched, and no other Go either.
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

/** Flows that can run here; the others are told. */
function present<F extends Flow>(flows: F[]): F[] {
  for (const { name, missing } of flows) {
    if (missing.length > 0) table.push([name, `skipped: no ${missing.join(", no ")}`, ""]);
  }
  return flows.filter(({ missing }) => missing.length === 0);
}

/** Tells that a flow did not do what it should. */
function reportBroken({ name }: Flow, error: Error): void {
  if (programs.stopping) return;
  broke = true;
  say(`${name} broke: ${error.message}`);
  table.push([name, `**broke**: ${causeOf(error)}`, ""]);
}

function sayTurn(turn: string, { name }: Flow, sample: Sample): void {
  const steps = Object.entries(sample.steps).map(([step, took]) => `${step} ${seconds(took)}`);
  say(`${turn}, ${name}: ${[seconds(sample.seconds), ...steps].join(", ")}`);
}

/** Measures flows in turn, `edits` times after a round that does not count. One that breaks takes no further turn. */
async function inTurn<F extends Flow>(
  flows: F[],
  edits: number,
  measure: (flow: F) => Promise<Sample>,
): Promise<Map<F, Sample[]>> {
  const measured = new Map(flows.map((flow): [F, Sample[]] => [flow, []]));
  for (let round = 0; round <= edits; round += 1) {
    for (const [flow, samples] of measured) {
      try {
        const sample = await measure(flow);
        sayTurn(round === 0 ? "to warm up" : `edit ${round} of ${edits}`, flow, sample);
        if (round > 0) samples.push(sample);
      } catch (error) {
        reportBroken(flow, error as Error);
        measured.delete(flow);
      }
    }
  }
  return measured;
}

const seconds = (value: number) => `${value.toFixed(2)} s`;
const spread = (values: number[]) =>
  `${seconds(median(values))} (${Math.min(...values).toFixed(2)}–${Math.max(...values).toFixed(2)})`;
const judged = (value: number, limit: number, unit = "") =>
  `≤ ${limit}${unit}: ${value <= limit ? "holds" : "**does not hold**"}`;
const middle = (samples: Sample[]) => median(samples.map(({ seconds }) => seconds));

/** Rows for a flow: the whole, and what it consists of. */
function reportFlow(what: string, samples: Sample[], limit?: number): void {
  const value = middle(samples);
  const verdict = limit === undefined ? "" : judged(value, limit, " s");
  table.push([what, spread(samples.map(({ seconds }) => seconds)), verdict]);
  const steps = new Set(samples.flatMap(({ steps }) => Object.keys(steps)));
  const each = [...steps].map(
    (step) => `${step} ${seconds(median(samples.flatMap(({ steps }) => steps[step] ?? [])))}`,
  );
  if (each.length > 0) table.push(["… its steps, medians", each.join(", "), ""]);
}

function reportRatio(what: string, ours: Sample[] = [], theirs: Sample[] = [], limit: number): void {
  if (ours.length === 0 || theirs.length === 0) return;
  const value = middle(ours) / middle(theirs);
  table.push([what, `${value.toFixed(2)} ×`, judged(value, limit)]);
}

/** Waits until all pods but those that serve are gone. */
async function settled(): Promise<void> {
  await eventually(
    async () => kubectl("get", "pods", "-o", "name").trim().split("\n").length <= 2 || undefined,
  );
}

const isId = (answer: string) => /^[0-9a-f]{12}$/.test(answer);

/** From an edit to the first of the replies that show that its version serves alone. */
async function untilServed(flow: DeployFlow): Promise<Sample> {
  await settled();
  flow.prepare?.();
  let before = await ask(url);
  // Of a flow that has not waited for it, the last pods may have left before the node's proxy has heard of it.
  for (let again = 0; again < 5 && !isId(before); again += 1) {
    await Bun.sleep(300);
    before = await ask(url);
  }
  flow.edit();
  const start = performance.now();
  const running = flow.run();
  const isNew = (answer: string) => isId(answer) && answer !== before;
  const patience = running.then(() => Bun.sleep(PATIENCE * 1000));
  const [{ id, steps }, seen] = await Promise.all([running, servedFirst(url, isNew, patience)]);
  if (!seen || seen.id !== id) throw new Error(`${seen?.id ?? before} is served, and ${id} was deployed`);
  return { seconds: (seen.at - start) / 1000, steps };
}

/** The whole command where there is nothing to do, after one that has deployed what is there. */
async function whenUnchanged(flow: DeployFlow): Promise<Sample[]> {
  const samples: Sample[] = [];
  await settled();
  for (let turn = 0; turn <= UNCHANGED; turn += 1) {
    const start = performance.now();
    const { id, steps } = await flow.run();
    const sample = { seconds: secondsSince(start), steps };
    sayTurn(turn === 0 ? "to start from" : "nothing changed", flow, sample);
    if (turn === 0) await settled();
    else if (id) throw new Error("there was something to deploy, although nothing had changed");
    else samples.push(sample);
  }
  return samples;
}

async function deploys(edits: number): Promise<void> {
  const [buildah, dagger, host] = [buildahFlow(), pipelineFlow("Dagger"), pipelineFlow("host")];
  const [floorOfDagger, floorOfHost] = [floorFlow("Dagger"), floorFlow("host")];
  const flows = present([buildah, dagger, floorOfDagger, host, floorOfHost]);
  if (flows.length > 0) deleteNamespace(place.namespace);
  const measured = await inTurn(flows, edits, untilServed);
  for (const [{ name }, samples] of measured)
    reportFlow(`from the edit until it is served: ${name}`, samples);
  const byHand = "buildah by hand (maxSurge and maxUnavailable: Kubernetes' 25%)";
  reportRatio(`host engine / ${byHand}`, measured.get(host), measured.get(buildah), 0.3);
  reportRatio("host engine / its floor", measured.get(host), measured.get(floorOfHost), 1.15);
  reportRatio(`Dagger engine / ${byHand}`, measured.get(dagger), measured.get(buildah), 0.45);
  reportRatio("Dagger engine / its floor", measured.get(dagger), measured.get(floorOfDagger), 1.15);
  for (const flow of [dagger, host].filter((flow) => measured.has(flow))) {
    const samples = await whenUnchanged(flow).catch((error: Error) => reportBroken(flow, error));
    const limit = flow === dagger ? 2 : undefined;
    if (samples) reportFlow(`nothing changed, the whole command: ${flow.name}`, samples, limit);
  }
}

async function archives(edits: number): Promise<void> {
  const [ours, ko] = [archiveFlow("the pipeline's image"), koFlow()];
  const few = archiveFlow("a service of 20 more modules", 20);
  const many = archiveFlow("a service of 2,000 more modules, 1 kB each", 2000);
  const measured = await inTurn(present([ours, ko, few, many]), edits, async (flow) => {
    flow.edit();
    const start = performance.now();
    const { steps } = await flow.run();
    return { seconds: secondsSince(start), steps };
  });
  for (const [flow, samples] of measured) {
    const size = `${(statSync(flow.archive!).size / 1e6).toFixed(0)} MB`;
    reportFlow(`from the edit to the archive: ${flow.name}, ${size}`, samples, flow === ours ? 1 : undefined);
  }
  reportRatio("the pipeline's image / ko", measured.get(ours), measured.get(ko), 1.2);
  reportRatio("2,000 modules / 20 modules", measured.get(many), measured.get(few), 2);
}

let cleaned: Promise<void> | undefined;
/** Ends what runs and removes what was made, once. */
function cleanUp(): Promise<void> {
  return (cleaned ??= (async () => {
    await programs.end();
    if (Bun.which("k3s")) {
      deleteNamespace(place.namespace);
      removeImages([...programs.images]);
    }
    if (Bun.which("buildah")) {
      // Unmounted by buildah itself, before the directory goes.
      sh(["buildah", ...storage, "rm", "--all"]);
      sh(["buildah", ...storage, "rmi", "--all", "--force"]);
    }
  })());
}

/** What the command line asks for; undefined: it is wrong. */
function parse(args: string[]): { edits: number; only: string[]; help: boolean } | undefined {
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
  const options = parse(args);
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
  return broke ? 1 : 0;
}

process.exit(await main(process.argv.slice(2)));
