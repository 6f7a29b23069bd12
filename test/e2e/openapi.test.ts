/**
 * Compares the OpenAPI description with the binary: schemathesis generates valid and invalid requests from the description
 * and validates the replies. Set SCHEMATHESIS_SEED for another run.
 */
import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { builtProject, describeWith, temporaryDirectory, untilReady } from "../../ci/slipway/test/e2e/setup.ts";

setDefaultTimeout(1_200_000);

/** Expected statuses of valid requests. 406 is included, because the description allows any text in Accept. */
const config = `[checks.positive_data_acceptance]\nexpected-statuses = ["2xx", "3xx", "406"]\n`;

describeWith(
  "schemathesis",
  [],
  () => {
    const directory = temporaryDirectory();

    test("finds no problem in at least 1,000 requests", async () => {
      const { dist } = await builtProject();
      const env = { HOST: "127.0.0.1", PORT: "0", ADMIN_PORT: "0", DRAIN_DELAY_SECONDS: "0" };
      const child = Bun.spawn([join(dist, "app/helloapp")], { env, stdout: "pipe", stderr: "inherit" });
      try {
        const { url } = await untilReady(child.stdout);
        await Bun.write(join(directory, "schemathesis.toml"), config);
        const options = {
          seed: process.env.SCHEMATHESIS_SEED ?? "20260101",
          "max-examples": "100",
          "generation-database": "none",
          // A slow machine is not a problem of the service.
          "suppress-health-check": "all",
          "request-timeout": "60",
        };
        const flags = Object.entries(options).map(([name, value]) => `--${name}=${value}`);
        const run = Bun.spawn(["schemathesis", "--no-color", "run", new URL("/openapi.json", url).href, ...flags], {
          cwd: directory,
          stdout: "pipe",
          stderr: "pipe",
        });
        const output = await new Response(run.stdout).text();
        expect(await run.exited, output.slice(-4000)).toBe(0);
        // The summary line. Failures would appear on the same line.
        const [, count] = /^ +([\d,]+) generated, .*passed/m.exec(output) ?? [];
        expect(Number(count?.replaceAll(",", "")), output.slice(-4000)).toBeGreaterThanOrEqual(1000);
      } finally {
        child.kill("SIGKILL");
      }
    });
  },
  { name: "schemathesis", isMet: Boolean(Bun.which("schemathesis")) },
);
