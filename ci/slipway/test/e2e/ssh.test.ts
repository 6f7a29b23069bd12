/** Lines to a host, and images over them: a real sshd, and behind it a real containerd. The whole deploy: cluster.test.ts. */
import { afterAll, afterEach, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { writeArchive } from "../../image/archive-writer.ts";
import { findSharedLibraries } from "../../image/image-spec.ts";
import { RemoteContainerd, type DeliveryResult } from "../../ssh/containerd.ts";
import { SshSession } from "../../ssh/session.ts";
import { ImageUpload } from "../../ssh/image-upload.ts";
import { containerdName } from "../../targets/containerd-images.ts";
import { PipelineError } from "../../core/errors.ts";
import { describeWith, eventually, must, root, service, sh, temporaryDirectory } from "./setup.ts";
import { Sshd, SSHD } from "./sshd.ts";

setDefaultTimeout(300_000);

const hasSshd = { name: "openssh-server", answers: existsSync(SSHD) };
const canMount =
  process.getuid?.() === 0 && sh(["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).code === 0;
const path = process.env.PATH;
const { signal } = new AbortController();
/** What a line needs of k3s, on a machine that has a kubeconfig and on one that has none. */
const proxy = `[ "$1" = ctr ] || { echo "Starting to serve on nothing"; exec sleep 600; }\n`;

function program(file: string, text: string): void {
  writeFileSync(file, text);
  chmodSync(file, 0o755);
}

describeWith(
  "a line to a host",
  ["ssh", "ssh-keygen", "ssh-keyscan"],
  () => {
    const directory = temporaryDirectory();
    const bin = join(directory, "there");
    let sshd: Sshd;
    let lines: SshSession[] = [];
    beforeAll(async () => {
      mkdirSync(bin);
      program(join(bin, "k3s"), `#!/bin/sh\n${proxy}`);
      sshd = await Sshd.start(join(directory, "sshd"), bin);
      process.env.PATH = `${sshd.directory}/bin:${path}`;
    });
    afterEach(async () => {
      await Promise.all(lines.map((line) => line.close()));
      lines = [];
      sshd.know("host");
    });
    afterAll(async () => {
      process.env.PATH = path;
      await sshd.stop();
    });

    const open = async (host = sshd.host) => {
      const line = await SshSession.open(host, signal);
      lines.push(line);
      return line;
    };
    const refused = (host?: string) =>
      open(host).then(
        () => expect.unreachable(),
        (error: PipelineError) => error,
      );
    const hello = async (line: SshSession) => (await line.run("echo hello; cat", { input: " there" })).stdout;

    test("is one connection, whatever goes over it, and leaves nothing there", async () => {
      const before = sshd.logins();
      const line = await open();
      const { directory } = await line.there();
      expect(existsSync(directory)).toBe(true);
      const all = await Promise.all(Array.from({ length: 5 }, () => hello(line)));
      expect(all).toEqual(Array(5).fill("hello\n there"));
      const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response("forwarded") });
      const unix = await line.forward(`127.0.0.1:${server.port}`);
      expect(await (await fetch("http://localhost/", { unix })).text()).toBe("forwarded");
      await server.stop(true);
      expect(sshd.logins() - before).toBe(1);
      await line.close();
      await eventually(async () => !existsSync(directory) || undefined);
    });

    test("gives what a script ends with, and its words", async () => {
      const line = await open();
      const script = "echo 'it'\"'\"'s'; echo no >&2; exit 3";
      expect(await line.run(script)).toEqual({ code: 3, stdout: "it's\n", stderr: "no\n" });
    });

    for (const [shell, what, command] of [
      ["sh", "a shell that greets", `sh -c 'echo Welcome to the shop!; eval "$SSH_ORIGINAL_COMMAND"'`],
      ["fish", "fish", `fish -c "$SSH_ORIGINAL_COMMAND"`],
      ["csh", "csh", `csh -c "$SSH_ORIGINAL_COMMAND"`],
    ] as const)
      test.skipIf(!Bun.which(shell))(`goes through ${what} (needs ${shell})`, async () => {
        await sshd.serve("host", bin, [`ForceCommand ${command}`]);
        expect(await hello(await open())).toBe("hello\n there");
        await sshd.serve("host", bin);
      });

    /** Runs a command of a hint, with this test's known_hosts for the user's. */
    const follow = (command: string) =>
      must(["sh", "-c", command.replaceAll("~/.ssh/known_hosts", sshd.knownHosts)]);
    const commandsIn = (error: PipelineError) =>
      [...error.hint!.matchAll(/`([^`]+)`/g)].map(([, command]) => command!);
    const fingerprint = (key: string) =>
      must(["ssh-keygen", "-lf", join(sshd.directory, `${key}.pub`)]).split(" ")[1]!;

    test("takes no key on trust: says how to see its fingerprint, and to add it", async () => {
      sshd.know();
      const error = await refused();
      expect(error.kind).toBe("environment");
      expect(error.message).toContain("not in known_hosts");
      expect(error.message).toContain("nothing was changed");
      const [show, add, ...more] = commandsIn(error) as [string, string];
      expect(more).toEqual([]);
      expect(follow(show)).toContain(fingerprint("host"));
      follow(add);
      expect(await hello(await open())).toBe("hello\n there");
    });

    test("refuses a key that is another one now", async () => {
      sshd.know("other");
      const error = await refused();
      expect(error.kind).toBe("environment");
      expect(error.message).toContain("another one than known_hosts has");
      const [show, replace] = commandsIn(error) as [string, string];
      expect(follow(show)).toContain(fingerprint("host"));
      // ssh-keygen -R goes to the user's own file.
      follow(replace.replace("ssh-keygen ", `ssh-keygen -f ${sshd.knownHosts} `));
      expect(await hello(await open())).toBe("hello\n there");
    });

    test("that is not let in, or finds nobody, is exit 3 with ssh's own words", async () => {
      writeFileSync(join(directory, "nobody.pub"), "");
      await sshd.serve("host", bin, []);
      rmSync(join(sshd.directory, "user.pub"));
      const denied = await refused();
      expect(denied.kind).toBe("environment");
      expect(denied.message).toContain("does not let this user in");
      expect(denied.message).toContain("Permission denied (publickey");
      must(["sh", "-c", `ssh-keygen -y -f ${sshd.directory}/user > ${sshd.directory}/user.pub`]);
      await sshd.stop();
      const nobody = await refused();
      expect(nobody.kind).toBe("environment");
      expect(nobody.message).toContain("is not reached");
      expect(nobody.message).toContain("Connection refused");
      await sshd.serve("host", bin);
      expect((await refused("no-such-host.invalid")).message).toContain("Could not resolve hostname");
    });

    test("to what is no k3s says so", async () => {
      rmSync(join(bin, "k3s"));
      // A machine that has one has it in a place where every line looks.
      if (!Bun.which("k3s", { PATH: "/usr/bin:/bin:/usr/local/bin" }))
        expect((await refused()).message).toContain("there is no k3s");
      program(join(bin, "k3s"), `#!/bin/sh\n${proxy}`);
    });

    test("that was cut is opened again", async () => {
      const line = await open();
      const { directory } = await line.there();
      sshd.cut();
      await eventually(async () => (await line.there()).directory !== directory || undefined);
      expect(await hello(line)).toBe("hello\n there");
      expect((await line.there()).directory).not.toBe(directory);
    });

    test("of a process that was killed leaves nothing there", async () => {
      const code = `const { SshSession } = await import(${JSON.stringify(join(root, "ci/slipway/ssh/session.ts"))});
        const line = await SshSession.open("${sshd.host}", new AbortController().signal);
        console.log((await line.there()).directory);
        await Bun.sleep(60_000);`;
      const holder = Bun.spawn([process.execPath, "-e", code], { stdout: "pipe", env: { ...process.env } });
      const { value } = await holder.stdout.getReader().read();
      const held = new TextDecoder().decode(value).trim();
      expect(existsSync(held)).toBe(true);
      holder.kill("SIGKILL");
      await eventually(async () => !existsSync(held) || undefined);
      const socketsOf = (pid: number) =>
        readdirSync(tmpdir()).filter((name) => name.startsWith(`slipway-${pid}-`));
      expect(socketsOf(holder.pid)).toHaveLength(1);
      await open();
      expect(socketsOf(holder.pid)).toEqual([]);
      expect(socketsOf(process.pid)).not.toEqual([]);
    });

    test("takes away what another one has left, and not what one still holds", async () => {
      const gone = Bun.spawn(["true"]);
      await gone.exited;
      const abandoned = `/tmp/slipway-${gone.pid}.01234567`;
      mkdirSync(join(abandoned, "x"), { recursive: true });
      const [one, other] = [await open(), await open()];
      expect(existsSync(abandoned)).toBe(false);
      for (const line of [one, other]) expect(existsSync((await line.there()).directory)).toBe(true);
    });
  },
  hasSshd,
);

describeWith(
  "an image over a line",
  ["ssh", "ssh-keygen", "ssh-keyscan", "containerd", "ctr"],
  () => {
    const directory = temporaryDirectory();
    const bin = join(directory, "there");
    // Not below the directory, which is gone before it is unmounted.
    let disk: string;
    const socket = join(directory, "containerd.sock");
    const memory = join(directory, "memory");
    const ctr = ["ctr", "-a", socket, "-n", "k8s.io"];
    const archives: Record<string, string> = {};
    let daemon: Bun.Subprocess;
    let sshd: Sshd;
    let line: SshSession;

    /** The image's manifest, by its tag. */
    const digest = (tag: string) =>
      must([...ctr, "images", "ls", `name==${containerdName(`helloapp:${tag}`)}`])
        .split("\n")[1]
        ?.split(/\s+/)[2];
    const forget = (...tags: string[]) => {
      for (const tag of tags) sh([...ctr, "images", "rm", "--sync", containerdName(`helloapp:${tag}`)]);
    };
    const deliver = async (
      tag: string,
      base?: string,
      keep = memory,
      sent: (bytes: number) => void = () => {},
    ): Promise<DeliveryResult> =>
      new RemoteContainerd(line, keep).deliver(await ImageUpload.open(archives[tag]!), base, sent);
    /** The digest that an import of the whole by hand gives. */
    const byHand = (tag: string) => {
      forget(tag);
      must([...ctr, "images", "import", archives[tag]!]);
      const found = digest(tag)!;
      forget(tag);
      return found;
    };
    const blob = (hex: string) => join(disk, "io.containerd.content.v1.content/blobs/sha256", hex);
    /** The layer with the binary, in an image's manifest. */
    const appLayer = (manifest: string) =>
      (
        JSON.parse(must([...ctr, "content", "get", manifest])) as { layers: { digest: string }[] }
      ).layers[1]!.digest.slice("sha256:".length);

    beforeAll(async () => {
      mkdirSync(bin);
      // A disk that can be as small as a test wants it.
      disk = mkdtempSync(join(tmpdir(), "slipway-disk-"));
      if (canMount) must(["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", disk]);
      const config = join(directory, "config.toml");
      writeFileSync(
        config,
        `version = 2\nroot = "${disk}"\nstate = "${directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\n  address = "${socket}"\n`,
      );
      const stderr = Bun.file(join(directory, "containerd.log"));
      daemon = Bun.spawn(["containerd", "--config", config], { stdout: "ignore", stderr });
      program(join(bin, "k3s"), `#!/bin/sh\n${proxy}shift\nexec ctr -a ${socket} "$@"\n`);
      sshd = await Sshd.start(join(directory, "sshd"), bin);
      process.env.PATH = `${sshd.directory}/bin:${path}`;
      await eventually(async () => sh([...ctr, "version"]).code === 0 || undefined);
      // As a build is: libraries in one layer, in the other a binary of some megabytes whose end is what changes.
      const dist = join(directory, "dist");
      for (const tree of ["runtime/lib", "app"]) mkdirSync(join(dist, tree), { recursive: true });
      writeFileSync(join(dist, "runtime/lib/libc.so"), crypto.getRandomValues(new Uint8Array(60_000)));
      const chunk = () => crypto.getRandomValues(new Uint8Array(65_536));
      writeFileSync(join(dist, "app/helloapp"), Buffer.concat(Array.from({ length: 100 }, chunk)));
      const platform = findSharedLibraries().platform;
      const make = async (tag: string, tree: string, compression?: "fast") => {
        archives[tag] = join(directory, `${tag}.tar`);
        const names = [`helloapp:${tag}`];
        await writeArchive(archives[tag], {
          service,
          platform,
          dist: tree,
          names,
          ...(compression && { compression }),
        });
      };
      await make("a", dist);
      // An edit: some bytes near the end are others, some are more.
      const edited = join(directory, "edited");
      cpSync(dist, edited, { recursive: true });
      const binary = join(edited, "app/helloapp");
      const bytes = Buffer.from(await Bun.file(binary).bytes());
      const at = bytes.length - 500_000;
      const next = Buffer.concat([
        bytes.subarray(0, at),
        Buffer.from("edited".repeat(50)),
        bytes.subarray(at),
      ]);
      writeFileSync(binary, next);
      await make("b", edited);
      next[next.length - 1000]! ^= 1;
      writeFileSync(binary, next);
      await make("c", edited);
      // Another C library, and a binary as it was.
      writeFileSync(join(edited, "runtime/lib/more.so"), "another");
      await make("d", edited);
      await make("packed", dist, "fast");
      // More than ssh, its socket and pipes hold at once.
      writeFileSync(binary, Buffer.concat(Array.from({ length: 640 }, chunk)));
      await make("long", edited);
      line = await SshSession.open(sshd.host, signal);
    });

    afterAll(async () => {
      process.env.PATH = path;
      await line?.close();
      await sshd.stop();
      daemon.kill();
      await daemon.exited;
      if (canMount) must(["umount", disk]);
      rmSync(disk, { recursive: true });
    });

    test("goes whole at first, then as what differs: with and without a memory, the same image as by hand", async () => {
      const wanted = { a: byHand("a"), b: byHand("b"), c: byHand("c"), d: byHand("d") };
      const first = await deliver("a");
      expect(first.result.code).toBe(0);
      expect(first.bytes).toBe(Bun.file(archives.a!).size);
      expect(digest("a")).toBe(wanted.a);
      // By the hashes of blocks: what moved is sent.
      const second = await deliver("b", wanted.a);
      expect(second).toMatchObject({ result: { code: 0 } });
      expect(second.whole).toBeUndefined();
      expect(second.bytes).toBeLessThan(600_000);
      expect(digest("b")).toBe(wanted.b);
      // By what was remembered of the version before.
      const third = await deliver("c", wanted.b);
      expect(third.whole).toBeUndefined();
      expect(third.bytes).toBeLessThan(20_000);
      expect(digest("c")).toBe(wanted.c);
      // A fresh clone remembers nothing, and another C library is a layer of its own.
      const fourth = await deliver("d", wanted.b, join(directory, "no-memory"));
      expect(fourth.whole).toBeUndefined();
      expect(fourth.bytes).toBeLessThan(20_000);
      expect(digest("d")).toBe(wanted.d);
      expect(must([...ctr, "images", "check", `name==${containerdName("helloapp:d")}`])).toContain(
        "complete",
      );
    });

    test("goes whole, and says why, when the base was altered or is gone", async () => {
      const base = digest("b")!;
      const wanted = byHand("c");
      const file = blob(appLayer(base));
      const bytes = Buffer.from(await Bun.file(file).bytes());
      const kept = Buffer.from(bytes);
      bytes[3_000_000]! ^= 1;
      writeFileSync(file, bytes);
      const altered = await deliver("c", base);
      expect(altered.result.code).toBe(0);
      expect(altered.whole).toContain("not what it should be");
      expect(altered.bytes).toBe(Bun.file(archives.c!).size);
      expect(digest("c")).toBe(wanted);
      forget("c");
      rmSync(file);
      const gone = await deliver("c", base, join(directory, "no-memory"));
      expect(gone.whole).toBeDefined();
      expect(digest("c")).toBe(wanted);
      writeFileSync(file, kept);
      const none = await deliver("c", `sha256:${"0".repeat(64)}`);
      expect(none.whole).toContain("manifest cannot be read");
    });

    test("goes whole when what is there is packed", async () => {
      forget("a", "b", "c", "d");
      must([...ctr, "images", "import", archives.packed!]);
      const found = await deliver("a", digest("packed"));
      expect(found.whole).toContain("plain");
      expect(found.result.code).toBe(0);
    });

    // A mistake once: the script waited for ever for an import that had ended.
    test.skipIf(!canMount)(
      "on a disk that fills in the middle leaves no image, and with room again it is taken",
      async () => {
        forget("a", "b", "c", "d", "packed");
        expect((await deliver("a")).result.code).toBe(0);
        const used = Number(must(["df", "--output=used", "-B1", disk]).split("\n")[1]);
        must(["mount", "-o", `remount,size=${used + 3_000_000}`, disk]);
        const full = await deliver("b", digest("a"));
        must(["mount", "-o", "remount,size=1g", disk]);
        expect(full.result.code).not.toBe(0);
        expect(full.whole).toContain("no space left");
        expect(full.result.stderr).toContain("no space left");
        expect(digest("b")).toBeUndefined();
        const again = await deliver("b", digest("a"));
        expect(again.result.code).toBe(0);
        expect(again.whole).toBeUndefined();
        expect(digest("b")).toBeDefined();
      },
    );

    test("that is cut on its way leaves no image, and nothing half", async () => {
      forget("a", "b", "c", "d", "packed");
      let sent = 0;
      const cut = await deliver("long", undefined, memory, (bytes) => {
        if (sent <= 4_000_000 && bytes > 4_000_000) sshd.cut();
        sent = bytes;
      }).then(
        () => expect.unreachable(),
        (error: PipelineError) => error,
      );
      expect(cut.kind).toBe("environment");
      expect(cut.message).toContain("the line has gone");
      expect(digest("long")).toBeUndefined();
      expect((await deliver("long")).result.code).toBe(0);
      expect(digest("long")).toBeDefined();
    });
  },
  { name: "root", answers: process.getuid?.() === 0 },
  hasSshd,
);
