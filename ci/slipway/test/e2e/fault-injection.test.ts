/**
 * The campaign: an API server that fails once, at each request of a deploy in turn and in each way, while 80 clients ask. What
 * the exit code says of the cluster has to be so, nobody's request may fail, and what others made stays.
 *
 * By default every second request of a deploy meets one kind of fault, in turn, and of the other flows every fifth does, in ten
 * minutes. E2E_CAMPAIGN=each has every request of every flow meet one, in most of an hour; E2E_CAMPAIGN=all tries each kind at
 * each request, which takes hours, and E2E_CAMPAIGN=FLOW does so for one flow. They say how each ended.
 */
import { expect, setDefaultTimeout, test } from "bun:test";
import { faults, passing, type Fault, type Place } from "./faults.ts";
import { Lane, type Ended, type Objects } from "./test-service.ts";
import { describeWith, sh, temporaryDirectory } from "./setup.ts";

const { E2E_CAMPAIGN: wanted } = process.env;
const HOURS = 12 * 3_600_000;
setDefaultTimeout(wanted ? HOURS : 1_200_000);

interface Flow {
  name: string;
  port: number;
  /** How a run without a fault ends. */
  code: 0 | 1;
  args: string[];
  /** Of the cases, every how-manieth runs by default: no multiple of 3, or the nine faults do not all have their turn. */
  stride: number;
  /** Once, before the first case. */
  begin(lane: Lane): Promise<void>;
  /** Before each case. @returns the version that serves afterwards */
  prepare(lane: Lane): Promise<"a" | "b">;
}

async function must(lane: Lane, args: string[], code = 0): Promise<void> {
  const ended = await lane.run(args, Object.values(lane.ids));
  if (ended.code !== code) throw new Error(`without a fault it ends with ${ended.code}:\n${ended.output}`);
}

/** Two versions in turn, the later one last. */
async function deployBoth(lane: Lane, ...versions: ("a" | "b")[]): Promise<void> {
  for (const version of versions) {
    lane.version(version);
    await must(lane, []);
  }
}

let planted: Objects;
const flows: Flow[] = [
  {
    name: "good",
    port: 30960,
    code: 0,
    args: [],
    stride: 2,
    begin: (lane) => deployBoth(lane, "b", "a", "b"),
    prepare: async (lane) => lane.version(),
  },
  {
    name: "bad",
    port: 30961,
    code: 1,
    args: [],
    stride: 5,
    begin: (lane) => deployBoth(lane, "b", "a"),
    async prepare(lane) {
      lane.version("b", { crashes: true });
      return "a";
    },
  },
  {
    name: "rollback",
    port: 30962,
    code: 0,
    args: ["rollback"],
    stride: 5,
    begin: (lane) => deployBoth(lane, "a"),
    async prepare(lane) {
      await deployBoth(lane, "b");
      return "a";
    },
  },
  {
    name: "first",
    port: 30963,
    code: 0,
    args: [],
    stride: 5,
    async begin(lane) {
      planted = await lane.objects();
    },
    async prepare(lane) {
      await lane.reset(planted);
      lane.version("a");
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
    async prepare(lane) {
      await lane.remove();
      lane.version("a");
      return "a";
    },
  },
];

/** Each request, and of those that are made again and again the first, second, fourth, eighth… */
function placesIn(requests: string[]): Place[] {
  return [...new Set(requests)].flatMap((request) => {
    const count = requests.filter((one) => one === request).length;
    // How often something is asked while pods come and go is never the same.
    const sure = count > 4 ? count * 0.6 : count;
    const places: Place[] = [];
    for (let nth = 1; nth <= sure; nth *= 2) places.push({ request, nth });
    return places;
  });
}

type Case = Place & { fault: Fault };

function casesOf(places: Place[], { name, stride }: Flow): Case[] {
  const turn = (offset: number) =>
    places.map((place, i) => ({ ...place, fault: faults[(i + offset) % faults.length]! }));
  if (wanted === "all" || wanted === name) {
    const all = faults.flatMap((_, offset) => turn(offset));
    // Who stops it early has seen what writes.
    return [...all.filter(writes), ...all.filter((one) => !writes(one))];
  }
  if (wanted === "each") return turn(0);
  if (wanted) return [];
  return turn(0).filter((_, i) => i % stride === 0);
}

const writes = ({ request }: Place) => !request.startsWith("GET ") && !request.endsWith("(dry run)");

const different = (before: Objects, after: Objects) =>
  [...new Set([...Object.keys(before), ...Object.keys(after)])].filter(
    (path) => !Bun.deepEquals(before[path], after[path]),
  );
const isLease = (path: string) => path.includes("/leases/");
/** Whether the last paragraph says what state things are in, and what goes on. */
const says = (output: string, state: RegExp, next: RegExp) => {
  const error = output.slice(output.lastIndexOf("\nerror: "));
  return state.test(error) && next.test(error);
};

/** What is not as the exit code says. */
function judge(
  flow: Flow,
  { fault, request }: Case,
  ended: Ended,
  before: Objects,
  after: Objects,
): string[] {
  const { code, output, failed, asked } = ended;
  const wrong: string[] = [];
  const all = different(before, after);
  // A Lease that may not be taken back ends by itself. Who may do nothing any more may not even have got to it.
  const isTold = fault === "revoke" || output.includes("the deploy lock could not be released");
  const changed = isTold ? all.filter((path) => !isLease(path)) : all;
  if (ended.struck && passing.has(fault) && code !== flow.code && !isFirstQuestion(request))
    wrong.push(`exit ${code}: what passes was not tried again`);
  if (![flow.code, 3, 4].includes(code)) wrong.push(`exit ${code}`);
  if ((code === 3 || code === 1) && changed.length > 0)
    wrong.push(`exit ${code}, and changed: ${changed.join(", ")}`);
  if (code === 1 && !says(output, /Rolled back: \S+ serves, as before/, /run the same command again/))
    wrong.push("exit 1 without its words");
  const state = /serves(?: again)?, verified, but|The way back from|Nothing was rolled out|Left, because/;
  if (code === 4 && !says(output, state, /goes on from there/)) wrong.push("exit 4 without its words");
  if (failed.length > 0 && !isFirst(flow, code))
    wrong.push(`${failed.length} of ${asked} requests failed: ${[...new Set(failed)].join("; ")}`);
  const theirs = all.filter((path) => path.endsWith("/by-hand"));
  if (theirs.length > 0) wrong.push(`lost what others made: ${theirs.join(", ")}`);
  return wrong;
}

/**
 * What a first deploy has begun and undone has nobody before it who would serve, and kube-proxy opens the door to the next one
 * in two tables, one after the other.
 */
const isFirst = ({ name }: Flow, code: number) => ["first", "nothing"].includes(name) && code !== 0;
/** Whether there is a cluster is asked for a second alone. */
const isFirstQuestion = (request: string) => request === "GET /api/v1/nodes";

const answers = process.env.E2E_CLUSTER === "k3s" && sh(["sh", "-c", "k3s kubectl get nodes"]).code === 0;
const surroundings = { name: "E2E_CLUSTER=k3s, and a k3s that answers", isMet: answers };

describeWith(
  "an API server that fails once",
  [],
  () => {
    const directory = temporaryDirectory();

    test.each(flows.filter(({ name }) => !wanted || ["all", "each", name].includes(wanted)))(
      "$name: the exit code says what is so, nobody's request fails, and the same command ends well",
      async (flow) => {
        const namespace = `helloapp-campaign-${flow.name}`;
        const lane = new Lane(directory, flow.name, { namespace, port: flow.port });
        await lane.start();
        try {
          await lane.remove();
          if (flow.name !== "nothing") await lane.plant();
          expect(await campaign(flow, lane)).toEqual([]);
        } finally {
          lane.server.stop();
          await lane.remove();
        }
      },
    );
  },
  surroundings,
);

/** @returns what was not as it should be, a line each */
async function campaign(flow: Flow, lane: Lane): Promise<string[]> {
  const problems: string[] = [];
  const counts: Record<string, Record<string, number>> = {};
  const ids = Object.values(lane.ids);
  await flow.begin(lane);
  await flow.prepare(lane);
  const clean = await lane.run(flow.args, ids);
  expect(clean.code, clean.output).toBe(flow.code);
  const cases = casesOf(placesIn(clean.requests), flow);
  expect(cases.length).toBeGreaterThan(5);
  for (const one of cases) {
    const served = await flow.prepare(lane);
    const before = await lane.objects();
    const ended = await lane.run(flow.args, ids, { at: one });
    const wrong = judge(flow, one, ended, before, await lane.objects());
    let outputs = ended.output;
    let next = "";
    if (ended.code !== flow.code) {
      // What the message says goes on, where that is another command.
      const named = /`bun ci\/pipeline\.ts (rollback [0-9a-f]+)` goes on/.exec(ended.output)?.[1];
      const again = await lane.run(named?.split(" ") ?? flow.args, ids);
      next = `, again ${again.code}`;
      outputs += `\nthe same command again:\n${again.output}`;
      if (again.code !== flow.code) wrong.push(`the same command again ends with ${again.code}`);
      if (again.failed.length > 0 && !isFirst(flow, ended.code))
        wrong.push(`again: ${[...new Set(again.failed)].join("; ")}`);
    }
    const serves = await lane.served();
    if (serves !== lane.ids[served]) wrong.push(`${serves} serves`);
    const how = ended.struck ? `exit ${ended.code}` : "not met";
    const count = (counts[one.fault] ??= {});
    count[how] = (count[how] ?? 0) + 1;
    const line = `${flow.name}: ${one.fault} at ${one.request} (${one.nth}): ${how}${next}`;
    if (wanted) console.log(line);
    if (wrong.length === 0) continue;
    problems.push(`${line}: ${wrong.join("; ")}`);
    console.error(`${problems.at(-1)}\n${outputs.replace(/^/gm, "    ")}`);
  }
  console.log(`${flow.name}: ${cases.length} cases ${JSON.stringify(counts)}`);
  return problems;
}
