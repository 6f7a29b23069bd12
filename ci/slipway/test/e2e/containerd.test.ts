/** Imports images with the k3s target into a real, temporary containerd. `k3s ctr` runs its ctr. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, mkdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ApiClient } from "../../kubernetes/api.ts";
import { containerdName } from "../../targets/containerd-images.ts";
import { connectK3sTarget } from "../../targets/k3s.ts";
import { builtProject, describeWith, eventually, must, service, sh, temporaryDirectory } from "./setup.ts";

setDefaultTimeout(120_000);

describeWith(
  "import into containerd",
  ["containerd", "ctr"],
  () => {
    const directory = temporaryDirectory();
    const socket = join(directory, "containerd.sock");
    const archive = join(directory, "helloapp.tar");
    const path = process.env.PATH;
    const { signal } = new AbortController();
    let daemon: Bun.Subprocess;

    const bootID = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    const node = { metadata: { name: "me" }, status: { nodeInfo: { bootID } } };
    const connect = () =>
      connectK3sTarget({
        service,
        kubeconfig: join(directory, "k3s.yaml"),
        connect: async () => new ApiClient(service, async () => Response.json({ items: [node] }), signal),
        signal,
      });
    const listed = () => must(["ctr", "-a", socket, "-n", "k8s.io", "images", "ls", "-q"]).split("\n");

    beforeAll(async () => {
      const config = join(directory, "config.toml");
      writeFileSync(
        config,
        `version = 2
root = "${directory}/root"
state = "${directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "${socket}"
`,
      );
      const stderr = Bun.file(join(directory, "containerd.log"));
      daemon = Bun.spawn(["containerd", "--config", config], { stdout: "ignore", stderr });
      const bin = join(directory, "bin");
      mkdirSync(bin);
      writeFileSync(join(directory, "k3s.yaml"), "");
      const script = `#!/bin/sh
command=$1; shift
case $command in
  ctr) exec ctr --address ${socket} "$@" ;;
esac
`;
      writeFileSync(join(bin, "k3s"), script);
      chmodSync(join(bin, "k3s"), 0o755);
      process.env.PATH = `${bin}:${path}`;
      await eventually(async () => sh(["ctr", "--address", socket, "version"]).code === 0 || undefined);
      must([process.execPath, "ci/pipeline.ts", "image", "--engine", "host", "--output", archive]);
    });

    afterAll(async () => {
      process.env.PATH = path;
      daemon.kill();
      await daemon.exited;
    });

    test("creates an image with the expected name", async () => {
      const { id } = await builtProject();
      const k3s = await connect();
      expect(await k3s.find(id)).toBeUndefined();
      expect(await k3s.deliver(archive, id)).toBe(`helloapp:${id}`);
      expect(await k3s.find(id)).toBe(`helloapp:${id}`);
      expect(listed()).toContain(containerdName(`helloapp:${id}`));
    });

    test("is complete: containerd has every layer for this platform", async () => {
      const { id, platform } = await builtProject();
      const checked = must([
        "ctr",
        "-a",
        socket,
        "-n",
        "k8s.io",
        "images",
        "check",
        `name==${containerdName(`helloapp:${id}`)}`,
      ]);
      expect(checked).toMatch(/complete \(3\/3\)/);
      expect(must(["ctr", "-a", socket, "-n", "k8s.io", "images", "ls"])).toContain(
        `${platform.os}/${platform.architecture}`,
      );
    });

    test("a truncated archive is rejected and creates no image", async () => {
      const { id } = await builtProject();
      const truncated = join(directory, "truncated.tar");
      must(["cp", archive, truncated]);
      truncateSync(truncated, 5_000_000);
      const before = listed();
      const message = await (await connect()).deliver(truncated, id).catch((error: Error) => error.message);
      expect(message).toContain("is not a docker-archive");
      expect(listed()).toEqual(before);
    });

    test("an unreferenced image is removed with its content", async () => {
      const { id } = await builtProject();
      const k3s = await connect();
      expect(await k3s.clean(async () => new Set([`helloapp:${id}`]))).toEqual([]);
      expect(await k3s.clean(async () => new Set())).toEqual([containerdName(`helloapp:${id}`)]);
      expect(listed().filter(Boolean)).toEqual([]);
      await eventually(async () => {
        const content = must(["ctr", "-a", socket, "-n", "k8s.io", "content", "ls", "-q"]).trim();
        return content === "" || undefined;
      });
    });
  },
  { name: "root", isMet: process.getuid?.() === 0 },
);
