/**
 * Fault injection: the API server fails once, at each request of a deploy in turn and with each kind of fault, while
 * 80 clients send requests. The exit code must match the cluster's state, no client request may fail, and objects of
 * others must not change.
 *
 * By default, every second request of a deploy meets one kind of fault, in turn, and every fifth request of the other
 * commands. That takes ten minutes. E2E_CAMPAIGN=each tests one fault at every request of every flow, in most of an
 * hour. E2E_CAMPAIGN=all tests every fault at every request, which takes hours, and E2E_CAMPAIGN=FLOW does so for one
 * flow. These print the result of each case.
 */
import { expect, setDefaultTimeout, test } from "bun:test";
import { faults, transientFaults, type Fault, type RequestPosition } from "./faulty-api-proxy.ts";
import { TestService, type RunResult, type ObjectsByPath } from "./deployed-service.ts";
import { describeWith, sh, temporaryDirectory } from "./setup.ts";

const { E2E_CAMPAIGN: wanted } = process.env;
const HOURS = 12 * 3_600_000;
setDefaultTimeout(wanted ? HOURS : 1_200_000);

interface Flow {
  name: string;
  port: number;
  /** Exit code of a run without a fault. */
  code: 0 | 1;
  args: string[];
  /** Every n-th case runs by default. Not a multiple of 3, so that all nine faults have their turn. */
  stride: number;
  /** Runs once, before the first case. */
  begin(testService: TestService): Promise<void>;
  /** Runs before each case. @returns the version that must serve afterwards */
  prepare(testService: TestService): Promise<"a" | "b">;
}

async function mustRun(testService: TestService, args: string[], code = 0): Promise<void> {
  const ended = await testService.run(args, Object.values(testService.ids));
  if (ended.code !== code) throw new Error(`a run without a fault exits with ${ended.code}:\n${ended.output}`);
}

/** Deploys versions in turn. */
async function deployBoth(testService: TestService, ...versions: ("a" | "b")[]): Promise<void> {
  for (const version of versions) {
    testService.version(version);
    await mustRun(testService, []);
  }
}

let initialObjects: ObjectsByPath;
const flows: Flow[] = [
  {
    name: "good",
    port: 30960,
    code: 0,
    args: [],
    stride: 2,
    begin: (testService) => deployBoth(testService, "b", "a", "b"),
    prepare: async (testService) => testService.version(),
  },
  {
    name: "bad",
    port: 30961,
    code: 1,
    args: [],
    stride: 5,
    begin: (testService) => deployBoth(testService, "b", "a"),
    async prepare(testService) {
      testService.version("b", { crashes: true });
      return "a";
    },
  },
  {
    name: "rollback",
    port: 30962,
    code: 0,
    args: ["rollback"],
    stride: 5,
    begin: (testService) => deployBoth(testService, "a"),
    async prepare(testService) {
      await deployBoth(testService, "b");
      return "a";
    },
  },
  {
    name: "first",
    port: 30963,
    code: 0,
    args: [],
    stride: 5,
    async begin(testService) {
      initialObjects = await testService.objects();
    },
    async prepare(testService) {
      await testService.reset(initialObjects);
      testService.version("a");
      return "a";
    },
  },
  {
    name: "nothing",
    port: 30964,
    code: 0,
    args: [],
    stride: 11,
    begin: async () => {},
    async prepare(testService) {
      await testService.remove();
      testService.version("a");
      return "a";
    },
  },
];

/** Returns the positions to test: each request, and of repeated requests the first, second, fourth, eighth… */
function positionsIn(requests: string[]): RequestPosition[] {
  return [...new Set(requests)].flatMap((request) => {
    const count = requests.filter((one) => one === request).length;
    // The number of polls differs from run to run.
    const limit = count > 4 ? count * 0.6 : count;
    const positions: RequestPosition[] = [];
    for (let nth = 1; nth <= limit; nth *= 2) positions.push({ request, nth });
    return positions;
  });
}

type Case = RequestPosition & { fault: Fault };

function casesOf(positions: RequestPosition[], { name, stride }: Flow): Case[] {
  const turn = (offset: number) =>
    positions.map((position, i) => ({ ...position, fault: faults[(i + offset) % faults.length]! }));
  if (wanted === "all" || wanted === name) {
    const all = faults.flatMap((_, offset) => turn(offset));
    // Writes first: they matter most if the run is stopped early.
    return [...all.filter(isWrite), ...all.filter((one) => !isWrite(one))];
  }
  if (wanted === "each") return turn(0);
  if (wanted) return [];
  return turn(0).filter((_, i) => i % stride === 0);
}

const isWrite = ({ request }: RequestPosition) => !request.startsWith("GET ") && !request.endsWith("(dry run)");

const changedPaths = (before: ObjectsByPath, after: ObjectsByPath) =>
  [...new Set([...Object.keys(before), ...Object.keys(after)])].filter(
    (path) => !Bun.deepEquals(before[path], after[path]),
  );
const isLease = (path: string) => path.includes("/leases/");
/** Returns whether the error describes the state and the next step. */
const describesOutcome = (output: string, state: RegExp, next: RegExp) => {
  const error = output.slice(output.lastIndexOf("\nerror: "));
  return state.test(error) && next.test(error);
};

/** Returns the violations of what the exit code promises. */
function findViolations(
  flow: Flow,
  { fault, request }: Case,
  ended: RunResult,
  before: ObjectsByPath,
  after: ObjectsByPath,
): string[] {
  const { code, output, failed, sent } = ended;
  const violations: string[] = [];
  const all = changedPaths(before, after);
  // A Lease that cannot be deleted expires. Without any rights left, a run may not even reach the release.
  const leaseMayRemain = fault === "revoke" || output.includes("the deploy lock could not be released");
  const changed = leaseMayRemain ? all.filter((path) => !isLease(path)) : all;
  if (ended.faulted && transientFaults.has(fault) && code !== flow.code && !isFirstRequest(request))
    violations.push(`exit ${code}: a transient fault was not retried`);
  if (![flow.code, 3, 4].includes(code)) violations.push(`exit ${code}`);
  if ((code === 3 || code === 1) && changed.length > 0)
    violations.push(`exit ${code}, and changed: ${changed.join(", ")}`);
  if (code === 1 && !describesOutcome(output, /Rolled back: \S+ serves, as before/, /run the same command again/))
    violations.push("exit 1 without state and next step");
  const state = /serves(?: again)? and is verified, but|The rollback of|Nothing was rolled out|Left in the cluster/;
  if (code === 4 && !describesOutcome(output, state, /goes on from there|again to continue/))
    violations.push("exit 4 without state and next step");
  if (failed.length > 0 && !isFirstDeploy(flow, code))
    violations.push(`${failed.length} of ${sent} requests failed: ${[...new Set(failed)].join("; ")}`);
  const foreign = all.filter((path) => path.endsWith("/by-hand"));
  if (foreign.length > 0) violations.push(`changed objects of others: ${foreign.join(", ")}`);
  return violations;
}

/**
 * A first deploy that is undone has no previous version to serve. kube-proxy opens the port for the next one in two
 * tables, one after the other.
 */
const isFirstDeploy = ({ name }: Flow, code: number) => ["first", "nothing"].includes(name) && code !== 0;
/** The first request to a cluster is retried for one second only. */
const isFirstRequest = (request: string) => request === "GET /api/v1/nodes";

const isRunning = process.env.E2E_CLUSTER === "k3s" && sh(["sh", "-c", "k3s kubectl get nodes"]).code === 0;
const k3s = { name: "E2E_CLUSTER=k3s and a running k3s", isMet: isRunning };

describeWith(
  "an API server that fails once",
  [],
  () => {
    const directory = temporaryDirectory();

    test.each(flows.filter(({ name }) => !wanted || ["all", "each", name].includes(wanted)))(
      "$name: the exit code matches the state, no request fails, and the next run succeeds",
      async (flow) => {
        const namespace = `helloapp-faults-${flow.name}`;
        const testService = new TestService(directory, flow.name, { namespace, port: flow.port });
        await testService.start();
        try {
          await testService.remove();
          if (flow.name !== "nothing") await testService.createForeignObjects();
          expect(await runCases(flow, testService)).toEqual([]);
        } finally {
          testService.server.stop();
          await testService.remove();
        }
      },
    );
  },
  k3s,
);

/** Runs the cases of a flow. @returns the violations, one line each */
async function runCases(flow: Flow, testService: TestService): Promise<string[]> {
  const problems: string[] = [];
  const counts: Record<string, Record<string, number>> = {};
  const ids = Object.values(testService.ids);
  await flow.begin(testService);
  await flow.prepare(testService);
  const clean = await testService.run(flow.args, ids);
  expect(clean.code, clean.output).toBe(flow.code);
  const cases = casesOf(positionsIn(clean.requests), flow);
  expect(cases.length).toBeGreaterThan(5);
  for (const one of cases) {
    const served = await flow.prepare(testService);
    const before = await testService.objects();
    const ended = await testService.run(flow.args, ids, { at: one });
    const violations = findViolations(flow, one, ended, before, await testService.objects());
    let outputs = ended.output;
    let next = "";
    if (ended.code !== flow.code) {
      // The next command, if the message names another than the same.
      const named = /`bun ci\/pipeline\.ts (rollback [0-9a-f]+)` (?:goes on|(?:again )?to continue)/.exec(
        ended.output,
      )?.[1];
      const again = await testService.run(named?.split(" ") ?? flow.args, ids);
      next = `, next run ${again.code}`;
      outputs += `\nnext run:\n${again.output}`;
      if (again.code !== flow.code) violations.push(`the next run exits with ${again.code}`);
      if (again.failed.length > 0 && !isFirstDeploy(flow, ended.code))
        violations.push(`next run: ${[...new Set(again.failed)].join("; ")}`);
    }
    const serves = await testService.served();
    if (serves !== testService.ids[served]) violations.push(`${serves} serves`);
    const result = ended.faulted ? `exit ${ended.code}` : "fault not met";
    const count = (counts[one.fault] ??= {});
    count[result] = (count[result] ?? 0) + 1;
    const line = `${flow.name}: ${one.fault} at ${one.request} (${one.nth}): ${result}${next}`;
    if (wanted) console.log(line);
    if (violations.length === 0) continue;
    problems.push(`${line}: ${violations.join("; ")}`);
    console.error(`${problems.at(-1)}\n${outputs.replace(/^/gm, "    ")}`);
  }
  console.log(`${flow.name}: ${cases.length} cases ${JSON.stringify(counts)}`);
  return problems;
}
