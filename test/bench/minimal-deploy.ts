/**
 * Baseline of a deploy: only the steps that an edit requires. bench:deploy runs it in a copy of the project, in turn with the
 * pipeline.
 *
 *     bun test/bench/minimal-deploy.ts host|dagger NAMESPACE
 *
 * host: compile, write the archive, import it, set the image.
 * dagger: pull the base image, install with a cache, then check, test and build in three parallel containers, export, and
 * continue like host.
 *
 * The program ends after it has set the image, and prints the version as its last line. The caller measures when the version
 * serves.
 */
import { cpSync, existsSync, mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { loadSdk } from "../../ci/slipway/engines/load-dagger-sdk.ts";
import { writeDockerArchive } from "../../ci/slipway/image/docker-archive-writer.ts";
import { bundleOptions } from "../../ci/slipway/image/bundle-options.ts";
import { compileOptions, findSharedLibraries } from "../../ci/slipway/image/image-spec.ts";
import { pins } from "../../ci/slipway/core/pins.ts";
import { resolveService } from "../../ci/slipway/core/resolve-service.ts";
import { must } from "../../ci/slipway/test/e2e/setup.ts";

const [engine, namespace = ""] = process.argv.slice(2);
const service = resolveService(process.cwd(), { attach: false });
const runtime = findSharedLibraries();
const dist = join(service.project, "baseline");
const archive = join(service.project, "baseline.tar");
const { autoloadBunfig, autoloadDotenv } = compileOptions;

let id = crypto.randomUUID().replaceAll("-", "").slice(0, 12);
if (engine === "host") {
  // Copied once, because the C library does not change with an edit.
  if (!existsSync(dist)) {
    for (const [path, file] of runtime.files) {
      cpSync(file, join(dist, "runtime", path), { recursive: true, dereference: true });
    }
  }
  rmSync(join(dist, "app"), { recursive: true, force: true });
  mkdirSync(join(dist, "app"), { recursive: true });
  const outfile = join(dist, "app", service.name);
  const options = await bundleOptions(service, { id });
  await Bun.build({ ...options, metafile: false, compile: { outfile, autoloadBunfig, autoloadDotenv } });
  rmSync(`${outfile}.map`, { force: true });
} else {
  const { connection, dag } = await loadSdk();
  await connection(async () => {
    const host = (include: string[]) => dag.host().directory(".", { include, noCache: true });
    const installed = dag
      .container()
      .from(pins.baseImage)
      .withWorkdir("/src")
      .withDirectory(".", host(["package.json", "bun.lock", "bunfig.toml", "ci/slipway/package.json"]));
    const bundle = process.env.NODE_EXTRA_CA_CERTS;
    const withCa = bundle
      ? installed.withMountedFile("/ca.crt", dag.host().file(bundle)).withEnvVariable("NODE_EXTRA_CA_CERTS", "/ca.crt")
      : installed;
    const source = dag
      .host()
      .directory(".", { exclude: ["**/node_modules", "**/*.tar", "baseline", ".git"], noCache: true });
    const builder = withCa.withExec(["bun", "install", "--frozen-lockfile"]).withDirectory(".", source);
    rmSync(dist, { recursive: true, force: true });
    await Promise.all([
      builder.withExec(["bun", "run", "--silent", "check"]).sync(),
      builder.withExec(["bun", "run", "--silent", service.scripts.test!]).sync(),
      builder.withExec(["bun", "ci/pipeline.ts", "build", "dist"]).directory("dist").export(dist),
    ]);
  });
  id = ((await Bun.file(join(dist, "image.json")).json()) as { id: string }).id;
}
const name = `${service.name}:${id}`;
await writeDockerArchive(archive, { service, dist, names: [name], platform: runtime.platform });
must(["k3s", "ctr", "-n", "k8s.io", "images", "import", "--local", archive]);
const container = `${service.name}=${name}`;
must(["k3s", "kubectl", "-n", namespace, "set", "image", `deployment/${service.name}`, container]);
console.log(name);
