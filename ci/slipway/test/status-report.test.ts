/** Facts of `status`, and who deployed. */
import { expect, test } from "bun:test";
import { hostname } from "node:os";
import { identifyDeployer } from "../core/deployer.ts";
import { describePod, parseCpu, readPodFacts } from "../deploy/pod-facts.ts";
import { describeStatus, type StatusReport } from "../deploy/status-report.ts";
import { ApiClient } from "../kubernetes/api.ts";
import type { Pod } from "../kubernetes/objects.ts";
import { service } from "./helloapp-service.ts";

const github = {
  ...{ GITHUB_ACTIONS: "true", GITHUB_ACTOR: "ann", GITHUB_SERVER_URL: "https://github.com" },
  ...{ GITHUB_REPOSITORY: "o/r", GITHUB_RUN_ID: "7" },
};

test.each([
  [github, { name: "ann", run: "https://github.com/o/r/actions/runs/7" }],
  [
    { ...github, GITHUB_RUN_ID: undefined },
    { name: "ann", run: undefined },
  ],
  [
    { GITLAB_CI: "true", GITLAB_USER_LOGIN: "bo", CI_JOB_URL: "https://git/1" },
    { name: "bo", run: "https://git/1" },
  ],
  [{ USER: "cy" }, { name: `cy@${hostname()}`, run: undefined }],
  // A variable of GitHub that was set by hand is no workflow.
  [
    { GITHUB_ACTOR: "ann", LOGNAME: "cy" },
    { name: `cy@${hostname()}`, run: undefined },
  ],
])("the deployer of %p", (env, expected) => expect(identifyDeployer(env)).toEqual(expected));

test.each([
  ["250m", 250],
  ["1200000n", 1.2],
  ["1500u", 1.5],
  ["2", 2000],
])("%s is %d thousandths of a CPU", (quantity, expected) => expect(parseCpu(quantity)).toBeCloseTo(expected));

const pod = (status: object): Pod =>
  ({
    metadata: { name: "p" },
    spec: { containers: [{ name: "main", resources: { limits: { memory: "64Mi" } } }] },
    status,
  }) as never;
const container = (more: object) => ({ containerStatuses: [{ name: "main", ready: true, restartCount: 2, ...more }] });
const read = async (status: object, metrics: Response) => {
  const api = new ApiClient(service, async () => metrics.clone(), new AbortController().signal);
  return (await readPodFacts(api, [pod(status)]))[0]!;
};
const measured = Response.json({
  items: [{ metadata: { name: "p" }, containers: [{ usage: { cpu: "12m", memory: "20Mi" } }] }],
});

test("usage is shown where the cluster measures it, and unknown otherwise", async () => {
  const facts = await read(container({}), measured);
  expect(facts).toMatchObject({ restarts: 2, ready: true, cpuMillicores: 12, memoryBytes: 20 * 1024 ** 2 });
  expect(describePod(facts)).toBe("  p  ready, 2 restarts, 12m CPU, 20Mi memory");
  for (const status of [403, 404, 503])
    expect(await read(container({}), Response.json({}, { status }))).toMatchObject({
      cpuMillicores: null,
      memoryBytes: null,
    });
});

test.each([
  [
    { lastState: { terminated: { exitCode: 137, reason: "OOMKilled" } } },
    "main exceeded its memory limit of 64Mi (OOMKilled)",
  ],
  [{ lastState: { terminated: { exitCode: 3 } } }, "main exited with 3"],
  [{ state: { waiting: { reason: "ErrImagePull", message: "no such image" } } }, "ErrImagePull: no such image"],
  [{ state: { waiting: { reason: "ContainerCreating" } } }, null],
  [{ lastState: { terminated: { exitCode: 0 } } }, null],
])("the last error of %p", async (more, expected) => {
  expect((await read(container(more), measured)).lastError).toBe(expected as string);
});

test("the lines name the deployer, and a service that is absent has one line", () => {
  const stored = {
    name: "v",
    id: "a",
    commit: null,
    verified: "now",
    rolledBack: null,
    deployedBy: "ann",
    run: "https://r",
  };
  const report: StatusReport = {
    ...{ service: "shop", namespace: "shop", state: "complete", desiredPods: 0, pods: [], failure: null, lock: null },
    ...{
      nodesWithoutImage: [],
      versions: [stored],
      running: { ...stored, url: "http://x", isWorker: false, isServed: true, lastReply: "" },
    },
  };
  const text = describeStatus(report).join("\n");
  for (const part of ["verified now, by ann", "https://r", "  a  now  no commit  v  ann"]) expect(text).toContain(part);
  expect(describeStatus({ ...report, running: null, state: "absent" })).toEqual(["shop is not deployed"]);
});
