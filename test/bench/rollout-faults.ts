/**
 * Fault-injection tests for deploys to the local k3s under the load of 80 clients: many deploys, killed pipelines, concurrent
 * deploys, and versions that fail. They use a separate namespace and port, and remove both afterwards.
 *
 *     bun test/bench/rollout-faults.ts [rollouts [N]] [kills [N]] [races [N]] [failures]
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Copy } from "../../ci/slipway/test/e2e/project-versions.ts";
import { eventually } from "../../ci/slipway/test/e2e/setup.ts";
import { commandOf, createKubectl, deleteNamespace, fetchId, findMarked, killMarked } from "./shared.ts";
import { logLine, MARK_VARIABLE, median, printTable, removeImages, secondsSince } from "./shared.ts";
import { VERIFY_REPLIES, waitUntilServed } from "./shared.ts";
import { LoadGenerator, type RequestCounts } from "./load-generator.ts";

const usage = `Test deploys to the local k3s under load.

usage: bun test/bench/rollout-faults.ts [rollouts [N]] [kills [N]] [races [N]] [failures]

  rollouts   Deploy two versions in turn, N times (100)
  kills      Kill the pipeline at a random time and run it again, N times (50)
  races      Start two deploys at the same time, N times (20)
  failures   Deploy a version with each kind of failure

exit codes: 0 all checks passed; 1 a check failed; 2 invalid command line
`;

const location = { namespace: "helloapp-bench", port: 30981 };
const url = `http://127.0.0.1:${location.port}/version`;

/** Exit code of a deploy that another deploy has locked out. */
const EXIT_LOCKED = 3;
/** Checks whether the error names the process or version of the other deploy. */
const namesHolder = ({ code, output }: DeployResult, other: DeployResult) =>
  code === EXIT_LOCKED && new RegExp(`^error: .*\\b(${other.pid}|${other.id})\\b`, "m").test(output);

interface Failure {
  name: string;
  /** Texts that the pipeline's output must contain. */
  cause: string[];
  /** Statement at the start of the service. */
  statement?: string;
  /** A JSON patch of the Deployment. */
  patch?: object[];
  /** Prepares the cluster. */
  setUp?(): Promise<unknown>;
  tearDown?(): unknown;
}

const container = "/spec/template/spec/containers/0";
const failures: Failure[] = [
  {
    name: "missing image",
    cause: ["ErrImageNeverPull"],
    patch: [
      {
        op: "add",
        path: "/spec/template/spec/containers/-",
        value: {
          name: "missing",
          // Not the service's image name, for which kustomize would set the tag.
          image: "missing:not-there",
          imagePullPolicy: "Never",
          securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: ["ALL"] } },
        },
      },
    ],
  },
  {
    name: "exit at start",
    cause: ["CrashLoopBackOff", "cannot start like this"],
    statement: 'if (process.env.NOTHING === undefined) throw new Error("cannot start like this");',
  },
  {
    name: "missing ConfigMap",
    cause: ["CreateContainerConfigError", "nowhere"],
    patch: [{ op: "add", path: `${container}/envFrom`, value: [{ configMapRef: { name: "nowhere" } }] }],
  },
  {
    name: "invalid environment variable",
    cause: ["CrashLoopBackOff", "invalid configuration", "PORT"],
    patch: [{ op: "add", path: `${container}/env/-`, value: { name: "PORT", value: "nonsense" } }],
  },
  {
    name: "rejected by pod security",
    cause: ["FailedCreate", "violates PodSecurity"],
    patch: [{ op: "replace", path: `${container}/securityContext`, value: { privileged: true } }],
  },
  {
    name: "rejected by a quota",
    cause: ["FailedCreate", "exceeded quota"],
    setUp: limitPods,
    tearDown: () => kubectl("delete", "resourcequota", "pods", "--ignore-not-found"),
  },
  {
    name: "insufficient CPU on the node",
    cause: ["Unschedulable", "Insufficient cpu"],
    patch: [{ op: "replace", path: `${container}/resources/requests/cpu`, value: "1000" }],
  },
  {
    name: "never ready",
    cause: ["NotReady"],
    patch: [{ op: "replace", path: `${container}/readinessProbe/httpGet/path`, value: "/nope" }],
  },
];

/** Allows no pods besides the two that serve. */
async function limitPods(): Promise<void> {
  kubectl("create", "quota", "pods", "--hard=pods=2");
  // Waits for the quota controller. Before, pods are rejected for another reason.
  await eventually(
    async () => kubectl("get", "resourcequota", "pods", "-o", "jsonpath={.status.used.pods}") === "2" || undefined,
  );
}

const formatSeconds = (value: number) => `${value.toFixed(1)} s`;
const kubectl = createKubectl(location.namespace);

const directory = mkdtempSync(join(tmpdir(), "helloapp-bench-"));
process.on("exit", () => rmSync(directory, { recursive: true, force: true }));
/** Identifies the processes of this run. */
const runMark = crypto.randomUUID();
const children = new Set<Bun.Subprocess>();
const loads = new Set<LoadGenerator>();
const ids = new Set<string>();
let isStopping = false;

const table: [measure: string, value: string, verdict: string][] = [];
const report = (measure: string, value: string, isOk?: boolean) =>
  void table.push([measure, value, isOk === undefined ? "" : isOk ? "passed" : "**failed**"]);

interface Deploy {
  pid: number;
  /** Identifies the deploy's processes. */
  mark: string;
  kill(): void;
  result: Promise<DeployResult>;
}

interface DeployResult {
  pid: number;
  /** ID of the deployed version. */
  id: string;
  code: number;
  output: string;
  seconds: number;
  /** Time at which the pipeline applied the manifests (performance.now()). */
  appliedAt: number | undefined;
  endedAt: number;
}

/** Starts the pipeline in a copy of the project. */
function deploy(copy: Copy): Deploy {
  if (isStopping) throw new Error("interrupted");
  const id = copy.id();
  ids.add(id);
  const mark = `${runMark}/${crypto.randomUUID()}`;
  const start = performance.now();
  const command = ["ci/pipeline.ts", "--engine", "host"];
  const child = Bun.spawn([process.execPath, ...command], {
    cwd: copy.directory,
    // Without a step summary, because each deploy would add a table in GitHub Actions.
    env: { ...process.env, [MARK_VARIABLE]: mark, GITHUB_STEP_SUMMARY: undefined },
    stdio: ["ignore", "pipe", "pipe"],
  });
  children.add(child);
  const { pid } = child;

  const waitForEnd = async (): Promise<DeployResult> => {
    let output = "";
    let appliedAt: number | undefined;
    const read = async (stream: ReadableStream<Uint8Array>) => {
      const decoder = new TextDecoder();
      for await (const chunk of stream) {
        output += decoder.decode(chunk, { stream: true });
        if (/^\s*apply /m.test(output)) appliedAt ??= performance.now();
      }
    };
    await Promise.all([read(child.stdout), read(child.stderr)]);
    const code = await child.exited;
    children.delete(child);
    return { pid, id, code, output, seconds: secondsSince(start), appliedAt, endedAt: performance.now() };
  };
  return { pid, mark, kill: () => child.kill("SIGKILL"), result: waitForEnd() };
}

/** Deploys the initial version of a test. @returns its ID */
async function deployInitial(copy: Copy): Promise<string> {
  const { code, output, id } = await deploy(copy).result;
  if (code !== 0) throw new Error(`an undisturbed deploy exited with ${code}:\n${output}`);
  return id;
}

/** Waits until the old pods are gone. */
async function waitForOldPods(): Promise<void> {
  await eventually(async () => kubectl("get", "pods", "-o", "name").trim().split("\n").length === 2 || undefined);
}

/** Runs `work` under load. @param ids the versions that may reply at first */
async function withLoad(ids: string[], work: (load: LoadGenerator) => Promise<void>): Promise<RequestCounts> {
  const load = await LoadGenerator.start(url, ids);
  loads.add(load);
  try {
    await work(load);
    const counts = await load.stop();
    for (const failure of counts.first) logLine(`  failed request: ${failure}`);
    return counts;
  } finally {
    load.kill();
    loads.delete(load);
  }
}

const reportRequests = (test: string, { requests, failed }: RequestCounts) =>
  report(`${test}: failed or wrong requests`, `${failed} of ${requests}`, failed === 0);

/** Returns the ID of the version that serves, or several IDs. */
async function fetchServedIds(): Promise<string> {
  const replies = new Set<string>();
  for (let i = 0; i < VERIFY_REPLIES; i += 1) replies.add(await fetchId(url));
  return [...replies].join(", ");
}

async function rollouts(count: number, [one, two]: [Copy, Copy]): Promise<void> {
  // Builds both images first, so that all measured deploys are alike.
  const [other, first] = [await deployInitial(two), await deployInitial(one)];
  await waitForOldPods();
  const commandSeconds: number[] = [];
  const servedSeconds: number[] = [];
  const counts = await withLoad([first], async (load) => {
    for (let round = 1; round <= count; round += 1) {
      const [before, after, copy] = round % 2 ? [first, other, two] : [other, first, one];
      await load.expect([before, after]);
      const start = performance.now();
      const deployed = deploy(copy).result;
      const [result, served] = await Promise.all([deployed, waitUntilServed(url, (id) => id === after, deployed)]);
      logLine(`rollout ${round} of ${count}: exit ${result.code}, ${formatSeconds(result.seconds)}`);
      if (result.code !== 0 || !served) {
        logLine(result.output);
        continue;
      }
      await load.expect([after]);
      commandSeconds.push(result.seconds);
      servedSeconds.push((served.at - start) / 1000);
    }
  });
  const failed = count - commandSeconds.length;
  report("rollouts: failed deploys", `${failed} of ${count}`, failed === 0);
  reportRequests("rollouts", counts);
  report(
    "rollouts: duration of the command",
    `median ${formatSeconds(median(commandSeconds))}, maximum ${formatSeconds(Math.max(...commandSeconds))}`,
  );
  report("rollouts: time until only the new version serves", `median ${formatSeconds(median(servedSeconds))}`);
}

async function kills(count: number, copies: [Copy, Copy]): Promise<void> {
  let current = await deployInitial(copies[0]);
  await waitForOldPods();
  const orphans: string[] = [];
  let [recovered, longest, killedInTime] = [0, 0, 0];
  const counts = await withLoad([current], async (load) => {
    /** Edits the copy for the next deploy. */
    const editNext = async (round: number) => {
      const copy = copies[round % 2]!;
      copy.edit();
      await load.expect([current, copy.id()]);
      return copy;
    };
    const setCurrent = async (id: string) => {
      removeOldImages([current, id]);
      current = id;
      await load.expect([id]);
    };

    const undisturbed: number[] = [];
    for (let round = 1; round <= 3; round += 1) {
      const { seconds, id, code, output } = await deploy(await editNext(round)).result;
      if (code !== 0) throw new Error(`an undisturbed deploy exited with ${code}:\n${output}`);
      undisturbed.push(seconds);
      await setCurrent(id);
    }

    for (let round = 1; round <= count; round += 1) {
      const copy = await editNext(round + 3);
      const delay = Math.random() * median(undisturbed);
      const killed = deploy(copy);
      await Bun.sleep(delay * 1000);
      killed.kill();
      // Counts orphaned processes, which could disturb the next deploy.
      const marked = Bun.sleep(3000).then(() => findMarked(killed.mark));
      const retry = await deploy(copy).result;
      const { code, output } = await killed.result;
      const served = await fetchServedIds();
      const isOk = retry.code === 0 && served === retry.id;
      const found = (await marked).map(commandOf);
      logLine(
        `kill ${round} of ${count} after ${formatSeconds(delay)}${code === 0 ? " (too late)" : ""}: ` +
          `retry exit ${retry.code}, ${formatSeconds(retry.seconds)}${found.length ? `; orphans: ${found.join("; ")}` : ""}`,
      );
      if (!isOk) logLine(`${served} serves, expected ${retry.id}\nkilled:\n${output}\nretry:\n${retry.output}`);
      // The next round starts from one version in any case.
      await setCurrent(isOk ? retry.id : await deployInitial(copy));
      recovered += Number(isOk);
      killedInTime += Number(code !== 0);
      longest = Math.max(longest, retry.seconds);
      orphans.push(...found);
    }
  });
  report("kills: retries that succeed and serve", `${recovered} of ${count}`, recovered === count);
  report("kills: deploys killed before their end", `${killedInTime} of ${count}`);
  reportRequests("kills", counts);
  report("kills: duration of the retry", `maximum ${formatSeconds(longest)}`);
  report("kills: orphaned processes after 3 s", String(orphans.length));
}

async function races(count: number, copies: [Copy, Copy]): Promise<void> {
  let current = await deployInitial(copies[0]);
  await waitForOldPods();
  const errors = new Map<string, number>();
  let [passed, mixed, losers, named] = [0, 0, 0, 0];
  const counts = await withLoad([current], async (load) => {
    for (let round = 1; round <= count; round += 1) {
      for (const copy of copies) copy.edit();
      await load.expect([current, ...copies.map((copy) => copy.id())]);
      const [a, b] = await Promise.all(
        copies.map((copy) => deploy(copy).result) as [Promise<DeployResult>, Promise<DeployResult>],
      );
      const served = await fetchServedIds();
      const versions = runningVersions();
      const last = [a, b].filter(({ code }) => code === 0).sort((x, y) => y.endedAt - x.endedAt)[0];
      const isOk =
        [a, b].every(({ code }) => code === 0 || code === EXIT_LOCKED) && served === last?.id && versions.length === 1;
      for (const [loser, other] of [
        [a, b],
        [b, a],
      ] as const) {
        if (loser.code === 0) continue;
        losers += 1;
        named += Number(namesHolder(loser, other));
        const error = `exit ${loser.code}: ${extractError(loser.output)}`;
        errors.set(error, (errors.get(error) ?? 0) + 1);
      }
      logLine(
        `race ${round} of ${count}: exit ${a.code} and ${b.code}, ${served} serves, pods of ${versions.join(", ")}` +
          (isOk ? "" : `; failed\n${a.output}\n${b.output}`),
      );
      passed += Number(isOk);
      mixed += Number(versions.length !== 1 || served.includes(","));
      // The next race starts from one version in any case.
      if (!isOk) await deployInitial(copies[0]);
      current = await fetchServedIds();
      removeOldImages([current]);
      await load.expect([current]);
    }
  });
  report("races: rounds that end with one of the two versions", `${passed} of ${count}`, passed === count);
  report("races: rounds that end with mixed versions", `${mixed} of ${count}`, mixed === 0);
  reportRequests("races", counts);
  report("races: errors that name the lock holder", `${named} of ${losers}`, named === losers);
  for (const [error, times] of errors) report(`races: error, ${times} times`, error);
}

/** Returns the images of pods that are not being deleted. */
function runningVersions(): string[] {
  interface Pod {
    metadata: { deletionTimestamp?: string };
    spec: { containers: { image: string }[] };
  }
  const { items } = JSON.parse(kubectl("get", "pods", "-o", "json")) as { items: Pod[] };
  const running = items.filter(({ metadata }) => !metadata.deletionTimestamp);
  return [...new Set(running.map(({ spec }) => spec.containers[0]!.image))];
}

/** Extracts the error from an output and removes version IDs. */
function extractError(output: string): string {
  const error = /^error: .*/m.exec(output)?.[0] ?? output.trim().split("\n").at(-1)!;
  return error.replace(/\b[0-9a-f]{12}\b/g, "<id>").replaceAll("|", "\\|");
}

async function testFailures(_: number, [one, two]: [Copy, Copy]): Promise<void> {
  // The image of the second copy is on the node, but this version must not serve again.
  await deployInitial(two);
  const old = await deployInitial(one);
  for (const failure of failures) {
    const { name, cause, statement, patch } = failure;
    await waitForOldPods();
    let result: DeployResult;
    try {
      if (statement) two.state(statement);
      if (patch) two.patch(patch);
      await failure.setUp?.();
      const counts = await withLoad([old], async () => void (result = await deploy(two).result));
      reportFailure(name, cause, result!, counts, (await fetchServedIds()) === old);
    } finally {
      failure.tearDown?.();
      two.restore();
    }
  }
}

function reportFailure(
  name: string,
  cause: string[],
  { code, output, appliedAt, endedAt }: DeployResult,
  { requests, failed }: RequestCounts,
  isRolledBack: boolean,
): void {
  const missing = cause.filter((text) => !output.includes(text));
  const problems = [
    code !== 1 && `exit ${code}`,
    missing.length > 0 && `output lacks ${missing.join(", ")}`,
    failed > 0 && `${failed} of ${requests} requests failed`,
    !isRolledBack && "the old version does not serve",
    appliedAt === undefined && "manifests were not applied",
  ].filter((problem) => problem !== false);
  const duration =
    appliedAt === undefined ? "" : `${formatSeconds((endedAt - appliedAt) / 1000)} from apply to the end; `;
  const success = `exit 1, cause reported, 0 of ${requests} requests failed, the old version serves`;
  logLine(`failure, ${name}: ${duration}${problems.join("; ") || success}`);
  if (problems.length) logLine(output);
  report(`failures: ${name}`, duration + (problems.join("; ") || success), problems.length === 0);
}

/** Removes images of old versions. Each takes about 100 MB. */
function removeOldImages(except: string[] = []): void {
  const old = [...ids].filter((id) => !except.includes(id));
  removeImages(old.map((id) => `docker.io/library/helloapp:${id}`));
  for (const id of old) ids.delete(id);
}

let cleaned: Promise<void> | undefined;
/** Ends all processes and removes all objects and images, once. */
function cleanUp(): Promise<void> {
  return (cleaned ??= (async () => {
    isStopping = true;
    for (const load of loads) load.kill();
    // The pipeline ends its child processes on SIGTERM. Orphans of killed pipelines are ended below.
    for (const child of children) child.kill("SIGTERM");
    await Promise.all([...children].map(({ exited }) => exited));
    killMarked(runMark);
    deleteNamespace(location.namespace);
    removeOldImages();
  })());
}

const defaultCounts = { rollouts: 100, kills: 50, races: 20, failures: 1 };
type TestName = keyof typeof defaultCounts;

/** Parses the command line: names of tests with optional counts. @returns undefined if it is invalid */
function parseArguments(args: string[]): [name: TestName, count: number][] | undefined {
  const tests: [TestName, number][] = [];
  for (const arg of args) {
    const last = tests.at(-1);
    if (Object.hasOwn(defaultCounts, arg)) tests.push([arg as TestName, defaultCounts[arg as TestName]]);
    else if (/^[1-9]\d*$/.test(arg) && last && last[0] !== "failures") last[1] = Number(arg);
    else return undefined;
  }
  return tests;
}

async function main(args: string[]): Promise<number> {
  const tests = parseArguments(args);
  if (!tests?.length) {
    console.log(usage);
    return tests ? 0 : 2;
  }
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => void cleanUp().then(() => process.exit(130)));
  }
  try {
    deleteNamespace(location.namespace);
    const copies: [Copy, Copy] = [new Copy(directory, "one", location), new Copy(directory, "two", location)];
    const run = { rollouts, kills, races, failures: testFailures };
    for (const [name, count] of tests) {
      await run[name](count, copies).catch((error: Error) => {
        logLine(error.stack ?? error.message);
        report(`${name}: aborted`, error.message.split("\n")[0]!, false);
      });
    }
  } finally {
    await cleanUp();
  }
  printTable(table);
  return table.some(([, , verdict]) => verdict.includes("failed")) ? 1 : 0;
}

process.exit(await main(process.argv.slice(2)));
