/** A service with `attach: false`. */
import { afterAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { resolveService } from "../core/resolve-service.ts";
import { buildImage } from "../image/build-image-files.ts";

/** Milliseconds. Generous, because the machine may be busy. */
const LONG = 60_000;
const work = mkdtempSync(join(tmpdir(), "detached-"));
afterAll(() => rmSync(work, { recursive: true }));

test(
  "with `attach: false`, nothing of this package is in the process",
  async () => {
    mkdirSync(join(work, "src"));
    writeFileSync(join(work, "package.json"), JSON.stringify({ name: "plain" }));
    const source = `process.once("SIGTERM", () => {});
      const server = Bun.serve({ port: 0, fetch: () => new Response(null, { status: 404 }) });
      const isNative = (method: unknown) => Function.prototype.toString.call(method).includes("[native code]");
      const methods = [Bun.serve, process.on, process.off, process.once, process.kill, process.listeners, process.emit];
      const { status, headers } = await fetch(new URL("/version", server.url));
      console.log(JSON.stringify([methods.every(isNative), process.listenerCount("SIGTERM"),
        process.listenerCount("SIGINT"), status, headers.get("slipway-build"), process.execArgv.length]));
      await server.stop(true);`;
    writeFileSync(join(work, "src/main.ts"), source);
    const run = async (attach: boolean) => {
      await buildImage(resolveService(work, { attach }), join(work, "dist"));
      const { stdout } = Bun.spawnSync([join(work, "dist/app/plain")], { env: {} });
      const maps = [...new Bun.Glob("*.map").scanSync(join(work, "dist"))];
      const sources = await Promise.all(maps.map((name) => Bun.file(join(work, "dist", name)).text()));
      return {
        output: JSON.parse(stdout.toString()) as unknown,
        isBundled: sources.some((text) => text.includes("service/attach.ts")),
      };
    };
    expect(await run(false)).toEqual({ output: [true, 1, 0, 404, null, 0], isBundled: false });
    expect(await run(true)).toMatchObject({ output: [false, 1, 0, 200, expect.any(String), 0], isBundled: true });
  },
  LONG,
);
