/** The attachment comes before every module of the service, whatever way the service gets `serve`. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import type { Settings } from "../index.d.ts";
import { build, createProject, removeProjects, run, type Files } from "./built-service.ts";
import { Service } from "./service/harness.ts";

setDefaultTimeout(60_000);
afterAll(removeProjects);

const started: Service[] = [];
afterAll(() => started.forEach((service) => service.kill("SIGKILL")));

// The service replies first, so it must not reply at every path.
const serve = '({ port: process.env.PORT, routes: { "/": new Response("own") } });\n';
const dynamic = { "src/main.ts": 'await import("./server.ts");\n' };

test.each<[string, Files, Settings?]>([
  [
    "import { serve } in a dynamic import",
    { ...dynamic, "src/server.ts": `import { serve } from "bun";\nserve${serve}` },
  ],
  ["import { serve } in the main module", { "src/main.ts": `import { serve } from "bun";\nserve${serve}` }],
  [
    "import { serve } in one of the `entries`",
    { "src/main.ts": "", "src/web.ts": `import { serve } from "bun";\nserve${serve}` },
    { entries: { web: "src/web.ts" } },
  ],
  ["require in CommonJS", { ...dynamic, "src/server.ts": `const { serve: s } = require("bun");\ns${serve}` }],
  [
    "a constant of an imported module",
    { "src/main.ts": 'import "./a.ts";', "src/a.ts": `const s = Bun.serve;\ns${serve}` },
  ],
  [
    "node:http in a dynamic import",
    {
      ...dynamic,
      "src/server.ts": `import { createServer } from "node:http";
createServer(({ url }, reply) => void reply.writeHead(url === "/" ? 200 : 404).end("own")).listen(process.env.PORT);`,
    },
  ],
  ["serve of slipway/service", { "src/main.ts": `import { serve } from "slipway/service";\nserve${serve}` }],
])("%s", async (_, files, settings = {}) => {
  const { binary, id } = await build(createProject(files), settings);
  const args = settings.entries ? Object.keys(settings.entries) : [];
  const service = await Service.onPort([binary, ...args], { DRAIN_DELAY_SECONDS: "0" });
  started.push(service);
  await service.until(200);
  const connection = await service.connect();
  expect((await connection.ask("/")).body).toBe("own");
  expect(JSON.parse((await connection.ask("/version")).body).id).toBe(id);
  service.kill("SIGTERM");
  expect(await service.process.exited).toBe(0);
});

test("slipway/service and the attachment share the state of the servers", async () => {
  const { binary } = await build(
    createProject({
      "src/main.ts": `import { afterDrain, serve } from "slipway/service";
Bun.serve({ port: 0, fetch: () => new Response("own") });
serve({ port: 0, fetch: () => new Response("own") });
afterDrain(() => console.log("drained"));
process.kill(process.pid, "SIGTERM");`,
    }),
  );
  // With two states, two drains would run, and one would end the process before the callback.
  expect(run([binary], { env: { DRAIN_DELAY_SECONDS: "0" } })).toBe("drained\n");
});
