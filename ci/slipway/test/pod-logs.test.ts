/** Logs of several pods, merged and followed: over a fake API that cuts connections like a real line. */
import { afterEach, describe, expect, test } from "bun:test";
import { ApiClient } from "../kubernetes/api.ts";
import type { Service } from "../core/resolve-service.ts";
import { compareTimes, type LogLine } from "../operations/log-lines.ts";
import { followServiceLogs, readServiceLogs, type LogOptions } from "../operations/pod-logs.ts";

const service = { name: "shop", namespace: "shop" } as Service;
const all: LogOptions = {
  lines: undefined,
  sinceSeconds: undefined,
  previous: false,
  grep: undefined,
  workload: undefined,
};

interface FakePod {
  version: string;
  /** Default: the service's name with the version as the tag. */
  image?: string;
  /** Lines of the containers that ran one after the other. The last one runs. */
  runs: [time: string, text: string][][];
  isGone?: boolean;
}

/** A kubelet's log files. Times of the query have whole seconds, as in the API. */
class FakeLogs {
  pods = new Map<string, FakePod>();
  /** Bytes after which each stream is cut. Default: never. */
  cutAfter: (() => number) | undefined;
  #waiting = new Set<() => void>();

  write(pod: string, time: string, text: string): void {
    this.pods.get(pod)!.runs.at(-1)!.push([time, text]);
    this.wake();
  }

  wake(): void {
    for (const wake of this.#waiting) wake();
    this.#waiting.clear();
  }

  open = async (path: string, { signal }: RequestInit): Promise<Response> => {
    const url = new URL(path, "http://api");
    const [, name] = /\/pods\/([^/]+)\/log$/.exec(url.pathname) ?? [];
    const [, single] = /\/pods\/([^/]+)$/.exec(url.pathname) ?? [];
    const objects = [...this.pods].filter(([, { isGone }]) => !isGone).map(([name, pod]) => this.#object(name, pod));
    if (single) {
      const found = objects.find(({ metadata }) => metadata.name === single);
      return found ? Response.json(found) : Response.json({ message: "not found" }, { status: 404 });
    }
    if (!name) return Response.json({ items: objects });
    const pod = this.pods.get(name);
    if (!pod || pod.isGone) return Response.json({ message: "not found" }, { status: 404 });
    return this.#log(pod, url.searchParams, signal as AbortSignal);
  };

  #object(name: string, { version, image = `shop:${version}`, runs }: FakePod) {
    const state = { running: {} };
    return {
      metadata: { name, labels: { "app.kubernetes.io/version": version } },
      spec: { containers: [{ name: "main", image }] },
      status: { phase: "Running", containerStatuses: [{ name: "main", restartCount: runs.length - 1, state }] },
    };
  }

  #log(pod: FakePod, query: URLSearchParams, signal: AbortSignal): Response {
    const run = pod.runs.at(query.get("previous") === "true" ? -2 : -1);
    if (!run) return Response.json({ message: "no previous container" }, { status: 400 });
    const since = query.get("sinceTime")?.slice(0, 19) ?? "";
    const tail = query.get("tailLines");
    let next = tail ? Math.max(0, run.length - Number(tail)) : 0;
    const left = { bytes: this.cutAfter?.() ?? Infinity };
    const logs = this;
    return new Response(
      new ReadableStream<Uint8Array>({
        async pull(controller) {
          for (;;) {
            while (next < run.length) {
              const [time, text] = run[next++]!;
              if (time.slice(0, 19) < since) continue;
              const bytes = Buffer.from(`${time} ${text}\n`);
              if (bytes.length > left.bytes) {
                controller.enqueue(bytes.subarray(0, left.bytes));
                controller.error(new Error("connection lost"));
                return;
              }
              left.bytes -= bytes.length;
              controller.enqueue(bytes);
              return;
            }
            const isOver = query.get("follow") !== "true" || pod.isGone || run !== pod.runs.at(-1) || signal.aborted;
            if (isOver) return controller.close();
            await new Promise<void>((resolve) => {
              logs.#waiting.add(resolve);
              signal.addEventListener("abort", () => resolve(), { once: true });
            });
          }
        },
      }),
    );
  }
}

const ended: AbortController[] = [];
afterEach(() => {
  for (const controller of ended.splice(0)) controller.abort();
});

function clientOf(logs: FakeLogs) {
  const controller = new AbortController();
  ended.push(controller);
  return { api: new ApiClient(service, logs.open, controller.signal, async () => {}), controller };
}

const at = (second: number, nanos: number | string = 0) =>
  `2026-12-01T10:00:${`${second}`.padStart(2, "0")}.${`${nanos}`.padStart(9, "0")}Z`;

test("times with and without trailing zeros are in order", () => {
  const times = [
    "2026-12-01T10:00:01.5Z",
    "2026-12-01T10:00:01.25Z",
    "2026-12-01T10:00:01Z",
    "2026-12-01T10:00:01.500000001Z",
  ];
  expect(times.toSorted(compareTimes)).toEqual([times[2]!, times[1]!, times[0]!, times[3]!]);
});

describe("read", () => {
  const logs = new FakeLogs();
  logs.pods.set("shop-a-1", {
    version: "v1",
    runs: [
      [[at(1), "crash"]],
      [
        [at(3), "one"],
        [at(5), "two"],
      ],
    ],
  });
  logs.pods.set("shop-a-2", {
    version: "v1",
    runs: [
      [
        [at(2), "other"],
        [at(4), "one more"],
      ],
    ],
  });
  const read = async (options: Partial<LogOptions>) => {
    const { api, controller } = clientOf(logs);
    return (await readServiceLogs(api, { ...all, ...options }, controller.signal)).map(({ line }) => line);
  };

  test("merges the pods by time, with the lines of a container before its restart", async () => {
    expect(await read({})).toEqual(["crash", "other", "one", "one more", "two"]);
  });

  test("limits the lines of all pods together, also with a text", async () => {
    expect(await read({ lines: 2 })).toEqual(["one more", "two"]);
    expect(await read({ lines: 1, grep: "one" })).toEqual(["one more"]);
    expect(await read({ lines: 0 })).toEqual([]);
  });

  test("reads only the containers before a restart, and only one pod", async () => {
    expect(await read({ previous: true })).toEqual(["crash"]);
    expect(await read({ workload: "shop-a-2" })).toEqual(["other", "one more"]);
    await expect(read({ workload: "mail" })).rejects.toMatchObject({
      ...{ kind: "project", code: "pods-not-found" },
      hint: "The pods are shop-a-1, shop-a-2.",
    });
  });
});

test("the version of an image that is pinned by digest is its ID", async () => {
  const logs = new FakeLogs();
  const image = `registry.example:5000/shop@sha256:${"a".repeat(64)}`;
  logs.pods.set("shop-a-1", { version: "0123456789ab", image, runs: [[[at(1), "one"]]] });
  const { api, controller } = clientOf(logs);
  const [line] = await readServiceLogs(api, all, controller.signal);
  expect(line!.version).toBe("0123456789ab");
});

describe("follow", () => {
  async function follow(logs: FakeLogs, options: Partial<LogOptions> = {}) {
    const { api, controller } = clientOf(logs);
    const shown: LogLine[] = [];
    const announced: string[] = [];
    const done = followServiceLogs(api, { ...all, ...options }, controller.signal, {
      show: async (lines) => void shown.push(...lines),
      announce: async (text) => void announced.push(text),
    });
    const until = async (count: number) => {
      const end = Date.now() + 30_000;
      while (shown.length < count && Date.now() < end) await Bun.sleep(20);
      controller.abort();
      logs.wake();
      await done;
      return shown;
    };
    return { until, announced };
  }

  test("prints each line of three versions once and in order, although the line is cut again and again", async () => {
    const logs = new FakeLogs();
    let seed = 7;
    const random = () => (seed = (seed * 16_807) % 2_147_483_647) / 2_147_483_647;
    logs.cutAfter = () => Math.floor(random() * 900);
    const written = new Map<string, string[]>();
    let count = 0;
    const write = (pod: string, second: number) => {
      const text = `${pod} line ${count}`;
      count += 1;
      written.set(pod, [...(written.get(pod) ?? []), text]);
      // Several lines have the same time.
      logs.write(pod, at(second, Math.floor(random() * 3)), text);
    };
    logs.pods.set("shop-v1-x", { version: "v1", runs: [[]] });
    write("shop-v1-x", 1);
    const { until, announced } = await follow(logs);
    let second = 2;
    for (const version of ["v1", "v2", "v3"]) {
      const pod = `shop-${version}-x`;
      if (!logs.pods.has(pod)) logs.pods.set(pod, { version, runs: [[]] });
      for (let i = 0; i < 40; i += 1) {
        // Times of a container never go back.
        if (i % 4 === 0) second += 1;
        write(pod, second);
        await Bun.sleep(5);
      }
    }
    const shown = await until(count);
    for (const [pod, lines] of written) {
      expect(shown.filter((line) => line.pod === pod).map(({ line }) => line)).toEqual(lines);
    }
    expect(announced).toEqual(["v2 starts", "v3 starts"]);
  }, 60_000);

  test("prints the last lines of a container that restarts", async () => {
    const logs = new FakeLogs();
    logs.pods.set("shop-a-1", { version: "v1", runs: [[[at(1), "start"]]] });
    const { until } = await follow(logs);
    await Bun.sleep(100);
    const pod = logs.pods.get("shop-a-1")!;
    pod.runs[0]!.push([at(2), "last words"]);
    pod.runs.push([[at(3), "again"]]);
    logs.wake();
    expect((await until(3)).map(({ line }) => line)).toEqual(["start", "last words", "again"]);
  }, 60_000);
});
