/**
 * How deploys behave on this machine's k3s while 80 clients ask all the time: many in a row, killed ones, two at once,
 * and versions that will not come up. In a namespace and on a port of its own, which are gone afterwards.
 *
 *     bun test/bench/rollouts.ts [rollouts [N]] [kills [N]] [races [N]] [failures]
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Copy } from "../../ci/slipway/test/e2e/copies.ts";
import { eventually } from "../../ci/slipway/test/e2e/setup.ts";
import { ask, commandOf, deleteNamespace, killMarked, kubectlIn, MARK, marked, median } from "./shared.ts";
import { printTable, removeImages, REPLIES, say, secondsSince, servedFirst } from "./shared.ts";
import { Load, type Tally } from "./load-generator.ts";

const usage = `Measures deploys to this machine's k3s, under load.

usage: bun test/bench/rollouts.ts [rollouts [N]] [kills [N]] [races [N]] [failures]

  rollouts   N deploys in a row, of two versions in turn (100)
  kills      N deploys whose pipeline is killed at some moment, and run again (50)
  races      N times two deploys at the same moment (20)
  failures   one deploy for each way in which a version does not come up

exit codes: 0 all holds; 1 something does not; 2 the command line is wrong
`;

const place = { namespace: "helloapp-bench", port: 30981 };
const url = `http://127.0.0.1:${place.port}/version`;

/** How a deploy ends that another one keeps out. */
const HELD = 3;
/** What its error must name: the process or the version of the other. */
const namesHolder = ({ code, output }: Ended, other: Ended) =>
  code === HELD && new RegExp(`^error: .*\\b(${other.pid}|${other.id})\\b`, "m").test(output);

interface Failure {
  name: string;
  /** What the pipeline's output has to say about it. */
  cause: string[];
  /** Put before the service's main part. */
  statement?: string;
  /** A JSON patch of the Deployment. */
  patch?: object[];
  /** Done to the cluster before, and undone after. */
  before?(): Promise<unknown>;
  after?(): unknown;
}

const container = "/spec/template/spec/containers/0";
const failures: Failure[] = [
  {
    name: "an image that is not there",
    cause: ["ErrImageNeverPull"],
    patch: [
      {
        op: "add",
        path: "/spec/template/spec/containers/-",
        value: {
          name: "missing",
          // Another name than the app's, for which kustomize would set the tag.
          image: "missing:not-there",
          imagePullPolicy: "Never",
          securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: ["ALL"] } },
        },
      },
    ],
  },
  {
    name: "exits at start",
    cause: ["CrashLoopBackOff", "cannot start like this"],
    statement: 'if (process.env.NOTHING === undefined) throw new Error("cannot start like this");',
  },
  {
    name: "a ConfigMap that is not there",
    cause: ["CreateContainerConfigError", "nowhere"],
    patch: [{ op: "add", path: `${container}/envFrom`, value: [{ configMapRef: { name: "nowhere" } }] }],
  },
  {
    name: "a bad value for the service",
    cause: ["CrashLoopBackOff", "the configuration is wrong", "PORT"],
    patch: [{ op: "add", path: `${container}/env/-`, value: { name: "PORT", value: "nonsense" } }],
  },
  {
    name: "refused by pod security",
    cause: ["FailedCreate", "violates PodSecurity"],
    patch: [{ op: "replace", path: `${container}/securityContext`, value: { privileged: true } }],
  },
  {
    name: "refused by a quota",
    cause: ["FailedCreate", "exceeded quota"],
    before: limitPods,
    after: () => kubectl("delete", "resourcequota", "pods", "--ignore-not-found"),
  },
  {
    name: "no room on the node",
    cause: ["Unschedulable", "Insufficient cpu"],
    patch: [{ op: "replace", path: `${container}/resources/requests/cpu`, value: "1000" }],
  },
  {
    name: "never ready",
    cause: ["NotReady"],
    patch: [{ op: "replace", path: `${container}/readinessProbe/httpGet/path`, value: "/nope" }],
  },
];

/** Allows no pod beside the two that serve. */
async function limitPods(): Promise<void> {
  kubectl("create", "quota", "pods", "--hard=pods=2");
  // Until the controller has counted, every pod is refused for another reason.
  await eventually(
    async () =>
      kubectl("get", "resourcequota", "pods", "-o", "jsonpath={.status.used.pods}") === "2" || undefined,
  );
}

const seconds = (value: number) => `${value.toFixed(1)} s`;
const kubectl = kubectlIn(place.namespace);

const directory = mkdtempSync(join(tmpdir(), "helloapp-bench-"));
process.on("exit", () => rmSync(directory, { recursive: true, force: true }));
/** Marks the processes of this run in their environment. */
const run = crypto.randomUUID();
const children = new Set<Bun.Subprocess>();
const loads = new Set<Load>();
const ids = new Set<string>();
let stopping = false;

const table: [measure: string, value: string, verdict: string][] = [];
const report = (measure: string, value: string, holds?: boolean) =>
  void table.push([measure, value, holds === undefined ? "" : holds ? "holds" : "**does not hold**"]);

interface Deploy {
  pid: number;
  /** What marks its processes. */
  mark: string;
  kill(): void;
  ended: Promise<Ended>;
}

interface Ended {
  pid: number;
  /** The version that was deployed. */
  id: string;
  code: number;
  output: string;
  seconds: number;
  /** When it applied the manifests and when it ended, on performance.now()'s clock. */
  applied: number | undefined;
  at: number;
}

/** Starts the pipeline in a copy. */
function deploy(copy: Copy): Deploy {
  if (stopping) throw new Error("interrupted");
  const id = copy.id();
  ids.add(id);
  const mark = `${run}/${crypto.randomUUID()}`;
  const start = performance.now();
  const command = ["ci/pipeline.ts", "--engine", "host"];
  const child = Bun.spawn([process.execPath, ...command], {
    cwd: copy.directory,
    // In GitHub Actions each deploy would add a table to the summary.
    env: { ...process.env, [MARK]: mark, GITHUB_STEP_SUMMARY: undefined },
    stdio: ["ignore", "pipe", "pipe"],
  });
  children.add(child);
  const { pid } = child;

  const follow = async (): Promise<Ended> => {
    let output = "";
    let applied: number | undefined;
    const read = async (stream: ReadableStream<Uint8Array>) => {
      const decoder = new TextDecoder();
      for await (const chunk of stream) {
        output += decoder.decode(chunk, { stream: true });
        if (/^\s*apply /m.test(output)) applied ??= performance.now();
      }
    };
    await Promise.all([read(child.stdout), read(child.stderr)]);
    const code = await child.exited;
    children.delete(child);
    return { pid, id, code, output, seconds: secondsSince(start), applied, at: performance.now() };
  };
  return { pid, mark, kill: () => child.kill("SIGKILL"), ended: follow() };
}

/** Deploys what a measurement starts from. */
async function prepare(copy: Copy): Promise<string> {
  const { code, output, id } = await deploy(copy).ended;
  if (code !== 0) throw new Error(`a deploy without disturbance ended with ${code}:\n${output}`);
  return id;
}

/** Waits until all pods but those that serve are gone. */
async function settled(): Promise<void> {
  await eventually(
    async () => kubectl("get", "pods", "-o", "name").trim().split("\n").length === 2 || undefined,
  );
}

/** Runs `work` while the clients ask; `ids` are those that may answer at first. */
async function underLoad(ids: string[], work: (load: Load) => Promise<void>): Promise<Tally> {
  const load = await Load.start(url, ids);
  loads.add(load);
  try {
    await work(load);
    const tally = await load.stop();
    for (const line of tally.first) say(`  failed request: ${line}`);
    return tally;
  } finally {
    load.kill();
    loads.delete(load);
  }
}

const reportRequests = (what: string, { requests, failed }: Tally) =>
  report(`${what}: failed or wrong requests`, `${failed} of ${requests}`, failed === 0);

/** Who answers now: one id, or several. */
async function served(): Promise<string> {
  const answers = new Set<string>();
  for (let i = 0; i < REPLIES; i += 1) answers.add(await ask(url));
  return [...answers].join(", ");
}

async function rollouts(count: number, [one, two]: [Copy, Copy]): Promise<void> {
  // Both images are made before: what is measured is one kind of deploy.
  const [other, first] = [await prepare(two), await prepare(one)];
  await settled();
  const whole: number[] = [];
  const outside: number[] = [];
  const tally = await underLoad([first], async (load) => {
    for (let round = 1; round <= count; round += 1) {
      const [before, after, copy] = round % 2 ? [first, other, two] : [other, first, one];
      await load.expect([before, after]);
      const start = performance.now();
      const { ended } = deploy(copy);
      const [result, seen] = await Promise.all([ended, servedFirst(url, (id) => id === after, ended)]);
      const good = result.code === 0 && seen !== undefined;
      say(`rollout ${round} of ${count}: exit ${result.code}, ${seconds(result.seconds)}`);
      if (!good) {
        say(result.output);
        continue;
      }
      await load.expect([after]);
      whole.push(result.seconds);
      outside.push((seen.at - start) / 1000);
    }
  });
  const failed = count - whole.length;
  report("rollouts: deploys that failed", `${failed} of ${count}`, failed === 0);
  reportRequests("rollouts", tally);
  report(
    "rollouts: from the command to its end",
    `median ${seconds(median(whole))}, at most ${seconds(Math.max(...whole))}`,
  );
  report(
    "rollouts: from the command to the new version alone, from outside",
    `median ${seconds(median(outside))}`,
  );
}

async function kills(count: number, copies: [Copy, Copy]): Promise<void> {
  let current = await prepare(copies[0]);
  await settled();
  const left: string[] = [];
  let [good, longest, inTime] = [0, 0, 0];
  const tally = await underLoad([current], async (load) => {
    /** Makes the other copy another version, which is the next to be deployed. */
    const edited = async (round: number) => {
      const copy = copies[round % 2]!;
      copy.edit();
      await load.expect([current, copy.id()]);
      return copy;
    };
    const arrived = async (id: string) => {
      forgetImages([current, id]);
      current = id;
      await load.expect([id]);
    };

    const undisturbed: number[] = [];
    for (let round = 1; round <= 3; round += 1) {
      const { seconds, id, code, output } = await deploy(await edited(round)).ended;
      if (code !== 0) throw new Error(`a deploy without disturbance ended with ${code}:\n${output}`);
      undisturbed.push(seconds);
      await arrived(id);
    }

    for (let round = 1; round <= count; round += 1) {
      const copy = await edited(round + 3);
      const moment = Math.random() * median(undisturbed);
      const killed = deploy(copy);
      await Bun.sleep(moment * 1000);
      killed.kill();
      // Its processes, if some go on, may be in the way of the next.
      const orphans = Bun.sleep(3000).then(() => marked(killed.mark));
      const again = await deploy(copy).ended;
      const { code, output } = await killed.ended;
      const answer = await served();
      const holds = again.code === 0 && answer === again.id;
      const found = (await orphans).map(commandOf);
      say(
        `kill ${round} of ${count} after ${seconds(moment)}${code === 0 ? " (too late)" : ""}: ` +
          `then exit ${again.code}, ${seconds(again.seconds)}${found.length ? `; left: ${found.join("; ")}` : ""}`,
      );
      if (!holds) say(`${answer} serves, not ${again.id}\nkilled:\n${output}\nagain:\n${again.output}`);
      // Whatever became of it: the next round starts from one version.
      await arrived(holds ? again.id : await prepare(copy));
      good += Number(holds);
      inTime += Number(code !== 0);
      longest = Math.max(longest, again.seconds);
      left.push(...found);
    }
  });
  report("kills: the same command again ends with 0 and serves", `${good} of ${count}`, good === count);
  report("kills: of these killed before their end", `${inTime} of ${count}`);
  reportRequests("kills", tally);
  report("kills: seconds of the command that follows", `at most ${seconds(longest)}`);
  report("kills: processes left behind 3 s after", String(left.length));
}

async function races(count: number, copies: [Copy, Copy]): Promise<void> {
  let current = await prepare(copies[0]);
  await settled();
  const words = new Map<string, number>();
  let [good, mixed, losers, named] = [0, 0, 0, 0];
  const tally = await underLoad([current], async (load) => {
    for (let round = 1; round <= count; round += 1) {
      for (const copy of copies) copy.edit();
      await load.expect([current, ...copies.map((copy) => copy.id())]);
      const [a, b] = await Promise.all(
        copies.map((copy) => deploy(copy).ended) as [Promise<Ended>, Promise<Ended>],
      );
      const answer = await served();
      const versions = runningVersions();
      const last = [a, b].filter(({ code }) => code === 0).sort((x, y) => y.at - x.at)[0];
      const holds =
        [a, b].every(({ code }) => code === 0 || code === HELD) &&
        answer === last?.id &&
        versions.length === 1;
      for (const [loser, other] of [
        [a, b],
        [b, a],
      ] as const) {
        if (loser.code === 0) continue;
        losers += 1;
        named += Number(namesHolder(loser, other));
        const said = `exit ${loser.code}: ${lastWords(loser.output)}`;
        words.set(said, (words.get(said) ?? 0) + 1);
      }
      say(
        `race ${round} of ${count}: exit ${a.code} and ${b.code}, ${answer} serves, pods of ${versions.join(", ")}` +
          (holds ? "" : `; does not hold\n${a.output}\n${b.output}`),
      );
      good += Number(holds);
      mixed += Number(versions.length !== 1 || answer.includes(","));
      // Whatever became of it: the next race starts from one version.
      if (!holds) await prepare(copies[0]);
      current = await served();
      forgetImages([current]);
      await load.expect([current]);
    }
  });
  report("races: rounds that end with one of the two, whole", `${good} of ${count}`, good === count);
  report("races: rounds that end with a mixture", `${mixed} of ${count}`, mixed === 0);
  reportRequests("races", tally);
  report("races: losers that name the holder", `${named} of ${losers}`, named === losers);
  for (const [said, times] of words) report(`races: losers said, ${times} times`, said);
}

/** Versions of the pods that are there to stay. */
function runningVersions(): string[] {
  interface Pod {
    metadata: { deletionTimestamp?: string };
    spec: { containers: { image: string }[] };
  }
  const { items } = JSON.parse(kubectl("get", "pods", "-o", "json")) as { items: Pod[] };
  const staying = items.filter(({ metadata }) => !metadata.deletionTimestamp);
  return [...new Set(staying.map(({ spec }) => spec.containers[0]!.image))];
}

/** An output's error, without what is another one each time. */
function lastWords(output: string): string {
  const error = /^error: .*/m.exec(output)?.[0] ?? output.trim().split("\n").at(-1)!;
  return error.replace(/\b[0-9a-f]{12}\b/g, "<id>").replaceAll("|", "\\|");
}

async function failEach(_: number, [one, two]: [Copy, Copy]): Promise<void> {
  // The second copy's image is in the node before, and its version must never be seen again.
  await prepare(two);
  const old = await prepare(one);
  for (const failure of failures) {
    const { name, cause, statement, patch } = failure;
    await settled();
    let result: Ended;
    try {
      if (statement) two.state(statement);
      if (patch) two.patch(patch);
      await failure.before?.();
      const tally = await underLoad([old], async () => void (result = await deploy(two).ended));
      reportFailure(name, cause, result!, tally, (await served()) === old);
    } finally {
      failure.after?.();
      two.restore();
    }
  }
}

function reportFailure(name: string, cause: string[], ended: Ended, tally: Tally, back: boolean): void {
  const { code, output, applied, at } = ended;
  const missing = cause.filter((word) => !output.includes(word));
  const problems = [
    code !== 1 && `exit ${code}`,
    missing.length > 0 && `does not say ${missing.join(", ")}`,
    tally.failed > 0 && `${tally.failed} of ${tally.requests} requests failed`,
    !back && "the old version does not serve",
    applied === undefined && "never applied",
  ].filter((problem) => problem !== false);
  const took = applied === undefined ? "" : `${seconds((at - applied) / 1000)} from apply to the end; `;
  const fine = `exit 1, cause named, 0 of ${tally.requests} requests failed, the old version serves`;
  say(`failure, ${name}: ${took}${problems.join("; ") || fine}`);
  if (problems.length) say(output);
  report(`failures: ${name}`, took + (problems.join("; ") || fine), problems.length === 0);
}

/** Removes the images of versions that are over: each takes some 100 MB. */
function forgetImages(except: string[] = []): void {
  const over = [...ids].filter((id) => !except.includes(id));
  removeImages(over.map((id) => `docker.io/library/helloapp:${id}`));
  for (const id of over) ids.delete(id);
}

let cleaned: Promise<void> | undefined;
/** Ends what runs and removes what was made, once. */
function cleanUp(): Promise<void> {
  return (cleaned ??= (async () => {
    stopping = true;
    for (const load of loads) load.kill();
    // The pipeline ends its own processes on SIGTERM; those of killed ones are left to be ended here.
    for (const child of children) child.kill("SIGTERM");
    await Promise.all([...children].map(({ exited }) => exited));
    killMarked(run);
    deleteNamespace(place.namespace);
    forgetImages();
  })());
}

const usual = { rollouts: 100, kills: 50, races: 20, failures: 1 };
type Part = keyof typeof usual;

/** What to measure, from the command line: names, each with a number after it or without; undefined: it is wrong. */
function parse(args: string[]): [name: Part, count: number][] | undefined {
  const parts: [Part, number][] = [];
  for (const arg of args) {
    const last = parts.at(-1);
    if (Object.hasOwn(usual, arg)) parts.push([arg as Part, usual[arg as Part]]);
    else if (/^[1-9]\d*$/.test(arg) && last && last[0] !== "failures") last[1] = Number(arg);
    else return undefined;
  }
  return parts;
}

async function main(args: string[]): Promise<number> {
  const parts = parse(args);
  if (!parts?.length) {
    console.log(usage);
    return parts ? 0 : 2;
  }
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => void cleanUp().then(() => process.exit(130)));
  }
  try {
    deleteNamespace(place.namespace);
    const copies: [Copy, Copy] = [new Copy(directory, "one", place), new Copy(directory, "two", place)];
    const measure = { rollouts, kills, races, failures: failEach };
    for (const [name, count] of parts) {
      await measure[name](count, copies).catch((error: Error) => {
        say(error.stack ?? error.message);
        report(`${name}: not measured to the end`, error.message.split("\n")[0]!, false);
      });
    }
  } finally {
    await cleanUp();
  }
  printTable(table);
  return table.some(([, , verdict]) => verdict.includes("not")) ? 1 : 0;
}

process.exit(await main(process.argv.slice(2)));
