/** Tests the page in Chromium during a simulated rolling update. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { describeWith, must, sh, temporaryDirectory } from "../../ci/slipway/test/e2e/setup.ts";
import { loadConfig } from "../../src/config.ts";
import { Lifecycle } from "slipway/service";
import { startServer, type RunningServer } from "../../src/server.ts";
import { createLogger } from "../../src/telemetry/log.ts";

setDefaultTimeout(120_000);

/** Minimum contrast of text, also required of marks here. https://www.w3.org/TR/WCAG22/#contrast-minimum */
const CONTRAST = 4.5;
const before = { build: "dev", version: "0.1.0", pod: "helloapp-old", message: "Hello from helloapp" };
const after = { build: "0a1b2c3d4e5f", version: "0.2.0", pod: "helloapp-new", message: "Hello again" };
type Answer = typeof before;

/** Size and user preferences of a screen. */
interface Screen {
  width?: number;
  height?: number;
  scheme?: "light" | "dark";
  forced?: boolean;
}
const phone = { width: 360, height: 740 };

/**
 * Replaces the page's clock before its script runs, so that the test controls time on a machine of any speed.
 *
 * `pass(rounds)` advances the clock by half a second a round, calls the page's timers and waits for the replies. Each reply
 * takes 2 ms longer than the previous reply of the same round.
 */
function installFakeClock() {
  const page = globalThis as any;
  let now = Date.UTC(2026, 0, 1, 12, 0, 1);
  let ms = 0;
  let pending = 0;
  const timers: (() => void)[] = [];
  const { fetch, setTimeout } = page;
  Date.now = () => now;
  performance.now = () => now + ms;
  AbortSignal.timeout = () => new AbortController().signal;
  page.setInterval = (timer: () => void) => timers.push(timer);
  page.requestCount = 0;
  page.fetch = async (...request: unknown[]) => {
    pending += 1;
    page.requestCount += 1;
    try {
      const { ok, status, ...reply } = await fetch(...request).then(async (reply: Response) => ({
        ok: reply.ok,
        status: reply.status,
        text: await reply.text(),
      }));
      ms += 2;
      return { ok, status, json: async () => JSON.parse(reply.text) };
    } finally {
      // Runs after the page has processed the reply.
      setTimeout(() => (pending -= 1));
    }
  };
  page.pass = async (rounds: number) => {
    const waitForReplies = async () => {
      while (pending > 0) await new Promise((done) => setTimeout(done));
    };
    await waitForReplies();
    for (; rounds > 0; rounds -= 1) {
      now += 500;
      ms = 0;
      for (const timer of timers) timer();
      await waitForReplies();
    }
  };
}

const registry = {
  name: "npm's registry",
  isMet: sh([process.execPath, "pm", "view", "axe-core", "version"]).code === 0,
};

describeWith("page in Chromium", ["chromium"], () => {
  const directory = temporaryDirectory();
  let service: RunningServer;
  let proxy: Bun.Server<undefined>;
  let view: Bun.WebView;
  let installed = "";
  /** Replies to the page's requests, in turn. A number is the status of a failure. */
  let answers: (Answer | number)[] = [];
  let turn = 0;
  /** If this is an array, requests wait in it until there are four. */
  let waiting: { port: number; go: () => void }[] | undefined;

  beforeAll(async () => {
    const config = loadConfig({ HOST: "127.0.0.1", PORT: "0", ADMIN_PORT: "0", POD_NAME: before.pod });
    const lifecycle = new Lifecycle();
    service = startServer(config, { lifecycle, log: createLogger("error", () => {}) });
    lifecycle.ready();
    // The page itself comes from the service. Replies to its script are simulated, so that versions can change.
    proxy = Bun.serve({
      hostname: "127.0.0.1",
      port: 0,
      async fetch(request, server) {
        if (request.headers.get("accept") === "application/json") {
          const { promise, resolve: go } = Promise.withResolvers<void>();
          if (waiting && waiting.push({ port: server.requestIP(request)!.port, go }) === 4) {
            for (const one of waiting) one.go();
          }
          if (waiting) await promise;
          const answer = answers[turn++ % answers.length]!;
          if (typeof answer === "number") return new Response("", { status: answer });
          return Response.json(answer);
        }
        return fetch(new URL(new URL(request.url).pathname, service.url), { headers: request.headers });
      },
    });
    view = new Bun.WebView({
      backend: {
        type: "chrome",
        path: Bun.which("chromium")!,
        argv: [
          "--headless",
          "--no-sandbox",
          "--disable-gpu",
          "--disable-quic",
          "--no-first-run",
          "--disable-background-networking",
          "--disable-component-update",
          "--disable-sync",
          `--user-data-dir=${join(directory, "profile")}`,
        ],
      },
    });
    await view.navigate("about:blank");
    await view.cdp("Page.enable");
    await view.cdp("Page.addScriptToEvaluateOnNewDocument", { source: `(${installFakeClock})()` });
  });
  afterAll(async () => {
    view.close();
    await Promise.all([proxy.stop(true), ...service.servers.map((one) => one.stop(true))]);
  });

  const show = <T = string>(script: string) => view.evaluate<T>(script);
  const text = (selector: string) => show(`document.querySelector(${JSON.stringify(selector)}).innerText`);
  const texts = (selector: string) =>
    show<string[]>(
      `[...document.querySelectorAll(${JSON.stringify(selector)})].map((one) => one.innerText ?? one.textContent)`,
    );
  const paths = (selector: string) =>
    show<string[]>(`[...document.querySelectorAll(${JSON.stringify(selector)})].map((one) => one.getAttribute("d"))`);
  /** Runs rounds of requests, half a second each, with these replies in turn. */
  async function pass(rounds: number, ...next: (Answer | number)[]): Promise<void> {
    answers = next;
    turn = 0;
    await show(`pass(${rounds})`);
  }
  /** Runs two rounds: the second draws the replies of the first. */
  const passAndDraw = (...next: (Answer | number)[]) => pass(2, ...next);

  const resize = ({ width, height }: { width: number; height: number }) =>
    view.cdp("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: false });

  async function open({ width = 1440, height = 900, scheme = "light", forced = false }: Screen = {}) {
    await resize({ width, height });
    await view.cdp("Emulation.setEmulatedMedia", {
      features: [
        { name: "prefers-color-scheme", value: scheme },
        { name: "forced-colors", value: forced ? "active" : "none" },
      ],
    });
    answers = [before];
    turn = 0;
    await view.navigate(proxy.url.href);
    await show("pass(0)");
  }

  /** Returns the positions of the marks in a path. */
  const marks = (path: string) =>
    [...path.matchAll(/M([\d.-]+) ([\d.-]+)/g)].map(([, x, y]) => [Number(x), Number(y)] as const);

  describe("a rollout", () => {
    beforeAll(() => open());

    test("shows the greeting, the build and its version", async () => {
      await passAndDraw(before);
      expect(await text("h1")).toBe("Hello from helloapp");
      expect(await show("document.title")).toBe("Hello from helloapp");
      expect(await show("document.documentElement.lang")).toBe("en");
      expect(await text("#status")).toBe("Build dev answers");
      expect(await text("#who")).toStartWith("Version 0.1.0, since ");
    });

    test("draws a lane for each pod, a mark for each reply, and times on the axis", async () => {
      const other = { ...before, pod: "helloapp-other" };
      await pass(20, before, other);
      expect(await texts("h2")).toEqual(["dev 0.1.0"]);
      expect(await texts(".lane b")).toEqual(["Failed", "helloapp-old", "helloapp-other"]);
      const [, old, another] = (await paths(".lane .cap")).map(marks);
      // 4 at the start, 2 rounds of 4, then 19 rounds of 2 each. The last round is not drawn yet.
      expect(old).toHaveLength(12 + 38);
      expect(another).toHaveLength(38);
      expect(await texts("#times text")).toContain(":10");
    });

    test("shows the median and maximum latency, and draws marks by latency", async () => {
      expect(await text("#median")).toBe("6.0 ms");
      expect(await text("#slowest")).toBe("8.0 ms");
      const ys = marks((await paths(".lane .cap"))[1]!)
        .slice(0, 4)
        .map(([, y]) => y);
      expect(ys).toEqual(ys.toSorted((a, b) => b - a));
      expect(new Set(ys).size).toBe(4);
    });

    test("shows two builds and the time of the change", async () => {
      expect(await paths("#changes")).toEqual([""]);
      await passAndDraw(before, after);
      expect(await text("#status")).toBe("2 builds answer");
      expect(await texts("h2")).toEqual(["dev 0.1.0", "0a1b2c3d4e5f 0.2.0"]);
      const colours = await show<string[]>(
        "[...document.querySelectorAll('.lane .cap')].slice(1, 4).map((mark) => getComputedStyle(mark).stroke)",
      );
      expect(colours[0]).toBe(colours[1]!);
      expect(colours[2]).not.toBe(colours[0]!);
      const [change] = marks((await paths("#changes"))[0]!);
      const [first] = marks((await paths(".lane .cap"))[3]!);
      expect(change![0]).toBe(first![0]);
      expect(await texts("#times .change")).toHaveLength(1);
    });

    test("shows the new build, its version and greeting after the old build is gone", async () => {
      await pass(9, after);
      expect(await text("#status")).toBe("Build 0a1b2c3d4e5f answers");
      expect(await text("#who")).toStartWith("Version 0.2.0, since ");
      expect(await text("header")).not.toMatch(/dev|0\.1\.0/);
      expect(await text("h1")).toBe("Hello again");
      expect(await show("document.title")).toBe("Hello again");
      const log = await texts("#log li");
      expect(log.map((line) => line.replace(/^[\d:]+\s+/, ""))).toEqual([
        "dev no longer answers",
        "0a1b2c3d4e5f answers",
        "dev answers",
      ]);
    });

    test("draws a failed request as a red cross and lists its cause", async () => {
      expect(await text("#failed")).toContain("none");
      await passAndDraw(500, after, after, after);
      expect(await text("#status")).toBe("Build 0a1b2c3d4e5f answers, some requests fail");
      expect(await text("#failures")).toBe("1");
      expect(marks((await paths("#failed .cap"))[0]!)).toHaveLength(1);
      const [red, green, blue] = (await show("getComputedStyle(document.querySelector('#failed .cap')).stroke"))
        .match(/\d+/g)!
        .map(Number);
      expect(red!).toBeGreaterThan(green! + 80);
      expect(red!).toBeGreaterThan(blue! + 80);
      await passAndDraw(503, after, after, after);
      expect((await texts("#log li"))[0]).toMatch(/3 requests failed: 2 × status 500, 1 × status 503$/);
      await pass(22, after);
      expect(await text("#status")).toBe("Build 0a1b2c3d4e5f answers");
    });

    test("removes the lanes of the old build with their last mark", async () => {
      await resize(phone);
      await pass(70, after);
      expect(await texts("h2")).toEqual(["0a1b2c3d4e5f 0.2.0"]);
      expect(await texts(".lane b")).toEqual(["Failed", "helloapp-new"]);
    });

    test("reports that all requests fail", async () => {
      await pass(9, 502);
      expect(await text("#status")).toBe("No replies");
    });

    test("shows a rollback as a change", async () => {
      await passAndDraw(after);
      expect((await texts("#log li"))[0]).toEndWith("0a1b2c3d4e5f answers again");
      expect(await texts("#times .change")).toHaveLength(1);
    });
  });

  test("uses singular and plural: 1 reply, 1 request", async () => {
    await open();
    await pass(1, ...["a", "b", "c"].map((pod) => ({ ...before, pod })), 500);
    await pass(1, before);
    const page = await text("main");
    expect(page).toMatch(/\b1 reply at/);
    expect(page).toMatch(/\b1 request\b/);
    expect(page).not.toMatch(/\b1 (replies|requests)\b/);
  });

  test.each([
    ["a desktop", { width: 1440 }],
    ["a phone", phone],
  ])("scrolls a full chart on %s only every 10 s", async (_, screen) => {
    await open(screen);
    await pass(screen === phone ? 70 : 190, before);
    const seen: string[] = [];
    const axes: string[] = [];
    for (let round = 0; round < 40; round += 1) {
      await pass(1, before);
      seen.push((await paths(".lane .cap"))[1]!);
      axes.push((await paths("#seconds"))[0]!);
      expect(await show<number>("document.getAnimations().length")).toBe(0);
    }
    const turns = seen.flatMap((path, at) => (at === 0 || path.startsWith(seen[at - 1]!) ? [] : [at]));
    expect(turns).toHaveLength(2);
    expect(turns[1]! - turns[0]!).toBe(20);
    // The lines of the axis stay in place, and the marks move by the distance between two lines.
    expect(new Set(axes).size).toBe(1);
    const [one, two] = marks(axes[0]!);
    const [from, to] = [seen[turns[0]! - 1]!, seen[turns[0]!]!].map(marks);
    const kept = from!.slice(from!.length - to!.length + 4);
    kept.forEach(([x, y], at) => {
      expect(Math.abs(x - to![at]![0] - (two![0] - one![0]))).toBeLessThan(0.3);
      expect(y).toBe(to![at]![1]);
    });
    expect(kept.length).toBeGreaterThan(50);
  });

  test("draws marks and crosses in the text colour with forced colours", async () => {
    await open({ forced: true });
    await passAndDraw(before, 500);
    const colours = await show<string[]>(
      `[...document.querySelectorAll(".lane .cap")].map((mark) => getComputedStyle(mark).stroke)`,
    );
    const ink = await show("getComputedStyle(document.body).color");
    expect(ink).not.toBe(await show("getComputedStyle(document.body).backgroundColor"));
    expect(colours).toEqual([ink, ink]);
  });

  test.each(["light", "dark"] as const)(
    "has sufficient contrast in every build's colour and in failures, %s",
    async (scheme) => {
      await open({ scheme });
      const builds = Array.from({ length: 7 }, (_, at) => ({ ...before, build: `b${at}` }));
      await pass(3, ...builds, 500);
      const [ground, ...inks] = await show<string[]>(
        `[getComputedStyle(document.body).backgroundColor,
        ...[...document.querySelectorAll(".lane .cap")].map((mark) => getComputedStyle(mark).stroke),
        ...[...document.querySelectorAll("h2 b, time, dt, #log .bad")].map((text) => getComputedStyle(text).color)]`,
      );
      expect(inks.length).toBeGreaterThan(20);
      expect(new Set(inks.slice(1, 7)).size).toBe(6);
      for (const ink of inks)
        expect({ ink, contrast: contrast(ink, ground!) >= CONTRAST }).toEqual({ ink, contrast: true });
    },
  );

  test("updates the status only if it changes, not with every reply", async () => {
    await open();
    await show(
      `new MutationObserver((changes) => globalThis.statusChanges = (globalThis.statusChanges ?? 0) + changes.length)
        .observe(document.querySelector("[role=status]"), { childList: true, characterData: true, subtree: true })`,
    );
    await passAndDraw(before);
    await pass(20, before, after, 500, after, before);
    await pass(30, after);
    // Two builds, then failures, then no recent failures, then one build.
    expect(await show<number>("statusChanges")).toBeLessThanOrEqual(5);
    expect(await show<number>("document.querySelectorAll('[aria-live], [role=log], [role=alert]').length")).toBe(0);
  });

  test("can be paused and resumed by keyboard", async () => {
    await open();
    await passAndDraw(before);
    await view.press("Tab");
    expect(await show("document.activeElement.id")).toBe("pause");
    expect(await show("getComputedStyle(document.activeElement).outlineStyle")).toBe("solid");
    await view.press("Enter");
    expect(await text("#pause")).toBe("Resume");
    expect(await text("#status")).toBe("Paused. Last build: dev");
    const count = await show<number>("requestCount");
    await pass(4, after);
    expect(await show<number>("requestCount")).toBe(count);
    expect(await text("#status")).not.toContain("answers");
    answers = [before];
    await view.press("Enter");
    expect(await text("#pause")).toBe("Pause");
    await pass(1, before);
    expect(await text("#status")).toBe("Build dev answers");
    expect(await show<number>("requestCount")).toBeGreaterThan(count);
  });

  test("sends four concurrent requests over separate connections, to reach several pods", async () => {
    await open();
    expect(await show<number>("requestCount")).toBe(4);
    waiting = [];
    await pass(1, before);
    expect(new Set(waiting.map(({ port }) => port)).size).toBe(4);
    waiting = undefined;
  });

  test("loads no resources", async () => {
    await open();
    await passAndDraw(before);
    const loaded = await show<string[]>("performance.getEntriesByType('resource').map(({ name }) => name)");
    expect(new Set(loaded)).toEqual(new Set([proxy.url.href]));
    const { headers } = await fetch(service.url, { headers: { Accept: "text/html" } });
    expect(headers.get("content-security-policy")).toMatch(
      /^default-src 'none'; style-src 'sha256-[^ ]+'; script-src 'sha256-[^ ]+'; connect-src 'self'; img-src data:; /,
    );
  });

  test("fills the height of a desktop screen", async () => {
    await open();
    await passAndDraw(before, after);
    const { top, bottom } = await show<DOMRect>("document.querySelector('#live').getBoundingClientRect().toJSON()");
    expect(top).toBeLessThan(900 * 0.2);
    expect(bottom).toBeGreaterThan(900 * 0.7);
    expect(await show<number>("document.documentElement.scrollHeight")).toBe(900);
  });

  test("fits a phone without horizontal scrolling and overlapping text", async () => {
    await open(phone);
    await pass(6, before, after, 500);
    expect(await show<number>("document.documentElement.scrollWidth")).toBe(360);
    const overlaps = await show<string[]>(`(() => {
      const boxes = [...document.querySelectorAll("h1, #status, #who, button, dt, dd, h2, .lane p, .plot, li")]
        .map((one) => [one.tagName + " " + one.innerText, one.getBoundingClientRect()]);
      return boxes.flatMap(([name, a], at) => boxes.slice(at + 1)
        .filter(([, b]) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
          && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1)
        .map(([other]) => name + " / " + other));
    })()`);
    expect(overlaps).toEqual([]);
  });

  describeWith(
    "axe",
    [],
    () => {
      beforeAll(async () => {
        await Bun.write(join(directory, "axe/package.json"), "{}");
        must([process.execPath, "add", "--exact", "axe-core@4.14.1"], { cwd: join(directory, "axe") });
        installed = await Bun.file(join(directory, "axe/node_modules/axe-core/axe.min.js")).text();
      });

      test.each<[string, Screen]>([
        ["light", { scheme: "light" }],
        ["dark", { scheme: "dark" }],
        ["a phone", phone],
      ])("finds no accessibility violations: %s", async (_, screen) => {
        await open(screen);
        await pass(12, before, after, 500);
        await view.cdp("Runtime.evaluate", { expression: installed });
        const { violations, passes } = await show<{ violations: unknown[]; passes: unknown[] }>(
          "axe.run({ resultTypes: ['violations'] }).then(({ violations, passes }) => ({ passes, violations: violations.map(({ id, nodes }) => [id, nodes.map(({ html }) => html)]) }))",
        );
        expect(violations).toEqual([]);
        expect(passes.length).toBeGreaterThan(15);
      });
    },
    registry,
  );
});

/** Calculates the contrast ratio of two `rgb(…)` colours. https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio */
function contrast(one: string, other: string): number {
  const [light, dark] = [one, other].map(luminance).sort((a, b) => b - a) as [number, number];
  return (light + 0.05) / (dark + 0.05);
}

function luminance(colour: string): number {
  const [red, green, blue] = colour
    .match(/[\d.]+/g)!
    .slice(0, 3)
    .map((part) => Number(part) / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)) as [number, number, number];
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}
