/** The page in a real Chromium: what a person sees during a rolling update. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { describeWith, eventually, temporaryDirectory } from "../../ci/slipway/test/e2e/setup.ts";
import { loadConfig } from "../../src/config.ts";
import { Lifecycle } from "slipway/service";
import { startServer, type RunningServer } from "../../src/server.ts";
import { createLogger } from "../../src/telemetry/log.ts";

setDefaultTimeout(120_000);

// `PAGE_SCREENSHOT=docs/page.png bun test test/e2e/page` renews the README's picture.
const screenshot = process.env.PAGE_SCREENSHOT;

describeWith("page in Chromium", ["chromium"], () => {
  const directory = temporaryDirectory();
  let server: RunningServer;
  let view: Bun.WebView;
  let reply: { status: number; build: string; pod: string } | undefined;
  const show = (script: string) => view.evaluate<any>(script);

  beforeAll(async () => {
    const config = loadConfig({ HOST: "127.0.0.1", PORT: "0", ADMIN_PORT: "0", POD_NAME: "helloapp-old" });
    const lifecycle = new Lifecycle();
    server = startServer(config, { lifecycle, log: createLogger("error", () => {}) });
    lifecycle.ready();
    // The page comes from the service; what its script asks next can be made to come from another version.
    const proxy = Bun.serve({
      hostname: "127.0.0.1",
      port: 0,
      async fetch(request) {
        const { pathname } = new URL(request.url);
        if (request.headers.get("accept") === "application/json" && reply) {
          if (reply.status !== 200) return new Response("", { status: reply.status });
          return Response.json({ message: "", version: "", build: reply.build, pod: reply.pod });
        }
        return fetch(new URL(pathname, server.url), { headers: request.headers });
      },
    });
    view = new Bun.WebView({
      width: 900,
      height: 640,
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
    await view.navigate(proxy.url.href);
  });
  afterAll(async () => {
    view.close();
    await Promise.all(server.servers.map((one) => one.stop(true)));
  });

  const ticks = () => show("document.querySelectorAll('#ticks i').length") as Promise<number>;
  const until = (script: string) => eventually(async () => ((await show(script)) as boolean) || undefined);

  test("greets, and names who answered", async () => {
    expect(await show("document.querySelector('h1').textContent")).toBe("Hello from helloapp");
    expect(await show("document.querySelector('.quiet').textContent")).toContain("helloapp-old");
    expect(await show("document.title")).toBe("Hello from helloapp");
    expect(await show("document.documentElement.lang")).toBe("en");
  });

  test("its script runs under its own policy, and ticks", async () => {
    await until("document.querySelectorAll('#ticks i').length >= 2");
    expect(await show("document.querySelector('#status').textContent")).toBe("Build dev answers.");
    const colour = "getComputedStyle(document.querySelector('#ticks i')).backgroundColor";
    expect(await show(colour)).toBe("rgb(26, 156, 134)");
  });

  test("another build has another colour, and is announced", async () => {
    reply = { status: 200, build: "0a1b2c3d4e5f", pod: "helloapp-new" };
    await until("document.querySelectorAll('#builds li').length === 2");
    expect(await show("document.querySelector('#status').textContent")).toBe("Build 0a1b2c3d4e5f answers.");
    const colours = await show(
      "[...document.querySelectorAll('#builds li')].map((item) => item.style.getPropertyValue('--colour')).join()",
    );
    expect(new Set(String(colours).split(",")).size).toBe(2);
  });

  test("a failed request is a red tick with a cross, and is announced", async () => {
    reply = { status: 500, build: "", pod: "" };
    await until("[...document.querySelectorAll('#ticks i')].some((tick) => tick.textContent === '×')");
    expect(await show("document.querySelector('#status').textContent")).toBe("A request failed.");
    const failed = "[...document.querySelectorAll('#ticks i')].find((tick) => tick.textContent === '×')";
    const [red, green, blue] = String(await show(`getComputedStyle(${failed}).backgroundColor`))
      .match(/\d+/g)!
      .map(Number);
    expect(red!).toBeGreaterThan(green! + 80);
    expect(red!).toBeGreaterThan(blue! + 80);
    reply = { status: 200, build: "0a1b2c3d4e5f", pod: "helloapp-new" };
    await until("document.querySelector('#status').textContent.startsWith('Build')");
  });

  test("fits a phone: nothing to scroll sideways", async () => {
    await view.resize(360, 640);
    expect(await show("document.documentElement.scrollWidth <= 360")).toBe(true);
    await view.resize(900, 640);
    if (screenshot) {
      await until("document.querySelectorAll('#ticks i').length >= 40");
      await Bun.write(screenshot, await view.screenshot());
    }
  });

  test("pauses and goes on", async () => {
    await show("document.querySelector('#pause').click()");
    expect(await show("document.querySelector('#pause').textContent")).toBe("Go on");
    await show("document.querySelector('#pause').click()");
    const before = await ticks();
    await until(`document.querySelectorAll('#ticks i').length > ${before}`);
  });
});
