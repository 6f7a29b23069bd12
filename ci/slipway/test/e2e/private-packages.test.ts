/** Installs a private package in a Dagger container: the token is a secret of the installation alone. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { networkInterfaces } from "node:os";
import { join } from "node:path";
import { integrityOf } from "../../core/npm-registry.ts";
import { daggerEngine, describeWith, root, temporaryDirectory } from "./setup.ts";

setDefaultTimeout(300_000);

const TOKEN = "sesame-of-the-registry";

describeWith(
  "private packages under dagger run",
  [],
  () => {
    const directory = temporaryDirectory();
    const project = join(directory, "project");
    const host = Object.values(networkInterfaces())
      .flat()
      .find((address) => address?.family === "IPv4" && !address.internal)!.address;
    let registry: Bun.Server<undefined>;

    beforeAll(async () => {
      const manifest = { name: "tiny", version: "1.0.0" };
      const files = { "package/package.json": JSON.stringify(manifest), "package/index.js": "" };
      const tarball = await new Bun.Archive(files, { compress: "gzip" }).bytes();
      registry = Bun.serve({
        port: 0,
        hostname: "0.0.0.0",
        fetch({ url, headers }) {
          if (headers.get("authorization") !== `Bearer ${TOKEN}`) return new Response("no", { status: 401 });
          if (url.endsWith(".tgz")) return new Response(tarball);
          const dist = { integrity: integrityOf(tarball), tarball: new URL("/tiny/-/tiny-1.0.0.tgz", url).href };
          const versions = { "1.0.0": { ...manifest, dist } };
          return Response.json({ name: "tiny", "dist-tags": { latest: "1.0.0" }, versions });
        },
      });
      const place = `${host}:${registry.port}/`;
      const local = { name: "local", version: "1.0.0" };
      const scripts = {
        // Fails if the token is visible after the installation, in a variable or in a file.
        test: `test -f node_modules/tiny/index.js && test -f node_modules/local/index.js && test -z "$NPM_TOKEN" && ! grep -rq "sesame[-]of" /src /root`,
      };
      const dependencies = { tiny: "1.0.0", local: "file:vendor/local" };
      for (const [path, content] of Object.entries({
        "package.json": JSON.stringify({ name: "small", version: "1.0.0", type: "module", scripts, dependencies }),
        ".npmrc": `registry=http://${place}\n//${place}:_authToken=\${NPM_TOKEN}\n`,
        ".gitignore": "node_modules/\n",
        "vendor/local/package.json": JSON.stringify(local),
        "vendor/local/index.js": "",
        "src/main.ts": 'import "tiny";\nimport "local";\n',
        "ci/pipeline.ts": 'import { pipeline } from "slipway";\nawait pipeline(import.meta);\n',
      })) {
        mkdirSync(join(project, path, ".."), { recursive: true });
        writeFileSync(join(project, path), content);
      }
      // The registry is in this process, so no command may block it.
      const install = Bun.spawn([process.execPath, "install"], {
        cwd: project,
        env: { ...process.env, NPM_TOKEN: TOKEN, BUN_INSTALL_CACHE_DIR: join(directory, "cache") },
        stdio: ["ignore", "ignore", "inherit"],
      });
      expect(await install.exited).toBe(0);
      symlinkSync(join(root, "ci/slipway"), join(project, "node_modules/slipway"));
    });
    afterAll(() => registry.stop(true));

    async function dagger(token: string | undefined) {
      const child = Bun.spawn(["dagger", "--progress=plain", "run", process.execPath, "ci/pipeline.ts", "test"], {
        cwd: project,
        env: { ...process.env, NPM_TOKEN: token },
        stdout: "pipe",
        stderr: "pipe",
      });
      const output = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
      return { code: await child.exited, output: output.join("") };
    }

    test("without the token: exit 3, and the error names the variable", async () => {
      const { code, output } = await dagger(undefined);
      expect(output).toMatch(/the registry refused http:\S+tiny\S* \(status 401\)\. Nothing was changed/);
      expect(output).toContain("Set NPM_TOKEN, which bunfig.toml or .npmrc names");
      expect(code).toBe(3);
    });

    test("with a wrong token: exit 3, and the error asks for another token", async () => {
      const { code, output } = await dagger("wrong-token");
      expect(output).toContain("Check that the token in NPM_TOKEN is valid");
      expect(output).not.toContain("wrong-token");
      expect(code).toBe(3);
    });

    test("with the token: the packages are installed, and neither output nor later steps have the token", async () => {
      const { code, output } = await dagger(TOKEN);
      expect(output).not.toContain(TOKEN);
      expect(code, output).toBe(0);
    });
  },
  daggerEngine(),
);
