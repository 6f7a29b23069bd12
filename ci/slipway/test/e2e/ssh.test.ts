/** SSH sessions and image transfers, with a real sshd and a real containerd. ssh-deploy.test.ts tests a full deploy. */
import { afterAll, afterEach, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { writeDockerArchive } from "../../image/docker-archive-writer.ts";
import { findSharedLibraries } from "../../image/image-spec.ts";
import { RemoteContainerd, type DeliveryResult } from "../../ssh/containerd.ts";
import { SshSession } from "../../ssh/shared-session.ts";
import { ImageUpload } from "../../ssh/image-upload.ts";
import { containerdName } from "../../targets/containerd-images.ts";
import { PipelineError } from "../../core/errors.ts";
import { describeWith, eventually, must, root, service, sh, temporaryDirectory } from "./setup.ts";
import { Sshd, SSHD } from "./sshd.ts";

setDefaultTimeout(300_000);

const hasSshd = { name: "openssh-server", isMet: existsSync(SSHD) };
const canMount =
  process.getuid?.() === 0 && sh(["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).code === 0;
const path = process.env.PATH;
const { signal } = new AbortController();
/** Stands in for `k3s kubectl proxy`. */
const proxyScript = `[ "$1" = ctr ] || { echo "Starting to serve on nothing"; exec sleep 600; }\n`;

/** Turns bytes into an ELF file with one segment, from `lastSegment` on. System V ABI, chapters 4 and 5. */
function writeElfHeader(bytes: Buffer, { lastSegment }: { lastSegment: number }): void {
  bytes.fill(0, 0, 128);
  bytes.set([0x7f, 0x45, 0x4c, 0x46, 2, 1]);
  bytes.writeBigUInt64LE(64n, 32);
  bytes.writeUInt16LE(56, 54);
  bytes.writeUInt16LE(1, 56);
  bytes.writeUInt32LE(1, 64);
  bytes.writeBigUInt64LE(BigInt(lastSegment), 72);
}

function writeProgram(file: string, text: string): void {
  writeFileSync(file, text);
  chmodSync(file, 0o755);
}

describeWith(
  "an SSH session",
  ["ssh", "ssh-keygen", "ssh-keyscan"],
  () => {
    const directory = temporaryDirectory();
    const bin = join(directory, "remote-bin");
    let sshd: Sshd;
    let sessions: SshSession[] = [];
    beforeAll(async () => {
      mkdirSync(bin);
      writeProgram(join(bin, "k3s"), `#!/bin/sh\n${proxyScript}`);
      sshd = await Sshd.start(join(directory, "sshd"), bin);
      process.env.PATH = `${sshd.directory}/bin:${path}`;
    });
    afterEach(async () => {
      await Promise.all(sessions.map((session) => session.close()));
      sessions = [];
      sshd.setKnownHost("host");
    });
    afterAll(async () => {
      process.env.PATH = path;
      await sshd.stop();
    });

    const open = async (host = sshd.host) => {
      const session = await SshSession.open(host, signal);
      sessions.push(session);
      return session;
    };
    const connectionError = (host?: string) =>
      open(host).then(
        () => expect.unreachable(),
        (error: PipelineError) => error,
      );
    const hello = async (session: SshSession) => (await session.run("echo hello; cat", { input: " world" })).stdout;

    test("uses one connection for all scripts and forwards, and removes its directory", async () => {
      const before = sshd.logins();
      const session = await open();
      const { directory } = await session.hostInfo();
      expect(existsSync(directory)).toBe(true);
      const all = await Promise.all(Array.from({ length: 5 }, () => hello(session)));
      expect(all).toEqual(Array(5).fill("hello\n world"));
      const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response("forwarded") });
      const unix = await session.forward(`127.0.0.1:${server.port}`);
      expect(await (await fetch("http://localhost/", { unix })).text()).toBe("forwarded");
      await server.stop(true);
      expect(sshd.logins() - before).toBe(1);
      await session.close();
      await eventually(async () => !existsSync(directory) || undefined);
    });

    test("runs scripts one after the other if sshd allows no more sessions", async () => {
      await sshd.restart("host", bin, ["MaxSessions 2"]);
      const before = sshd.logins();
      const session = await open();
      async function* world() {
        yield Buffer.from(" world");
      }
      const scripts = Array.from({ length: 6 }, () => session.run("sleep 0.1; echo hello; cat", { input: world }));
      expect((await Promise.all(scripts)).map(({ stdout }) => stdout)).toEqual(Array(6).fill("hello\n world"));
      expect(sshd.logins() - before).toBe(1);
      await session.close();
      await sshd.restart("host", bin, ["MaxSessions 1"]);
      await expect((await open()).run("true")).rejects.toMatchObject({
        ...{ kind: "environment", code: "ssh-sessions-limited" },
        hint: expect.stringContaining("MaxSessions 2"),
      });
      await sshd.restart("host", bin);
    });

    test.each(["AllowTcpForwarding no", "AllowStreamLocalForwarding no", "DisableForwarding yes"])(
      "names the setting if sshd has %s",
      async (setting) => {
        await sshd.restart("host", bin, [setting]);
        const session = await open();
        const unix = await session.forward((await session.hostInfo()).directory + "/api");
        const error: unknown = await fetch("http://localhost/", { unix }).then(
          () => expect.unreachable(),
          (error: unknown) => error,
        );
        expect(await session.explainForwardError(error)).toMatchObject({
          ...{ kind: "environment", code: "ssh-forwarding-refused" },
          hint: expect.stringContaining("AllowStreamLocalForwarding local"),
        });
        await sshd.restart("host", bin);
      },
    );

    test("returns a script's exit code and output", async () => {
      const session = await open();
      const script = "echo 'it'\"'\"'s'; echo no >&2; exit 3";
      expect(await session.run(script)).toEqual({ code: 3, stdout: "it's\n", stderr: "no\n" });
    });

    for (const [shell, name, command] of [
      ["sh", "a shell with a greeting", `sh -c 'echo Welcome to the shop!; eval "$SSH_ORIGINAL_COMMAND"'`],
      ["fish", "fish", `fish -c "$SSH_ORIGINAL_COMMAND"`],
      ["csh", "csh", `csh -c "$SSH_ORIGINAL_COMMAND"`],
    ] as const)
      test.skipIf(!Bun.which(shell))(`works with ${name} as the login shell (needs ${shell})`, async () => {
        await sshd.restart("host", bin, [`ForceCommand ${command}`]);
        expect(await hello(await open())).toBe("hello\n world");
        await sshd.restart("host", bin);
      });

    /** Runs a command of a hint, with this test's known_hosts instead of the user's. */
    const runHint = (command: string) => must(["sh", "-c", command.replaceAll("~/.ssh/known_hosts", sshd.knownHosts)]);
    const commandsIn = (error: PipelineError) => [...error.hint!.matchAll(/`([^`]+)`/g)].map(([, command]) => command!);
    const fingerprint = (key: string) => must(["ssh-keygen", "-lf", join(sshd.directory, `${key}.pub`)]).split(" ")[1]!;

    test("an unknown host key is refused, with commands to show and add it", async () => {
      sshd.setKnownHost();
      const error = await connectionError();
      expect(error.kind).toBe("environment");
      expect(error.message).toContain("not in known_hosts");
      expect(error.message).toContain("Nothing was changed");
      const [show, add, ...more] = commandsIn(error) as [string, string];
      expect(more).toEqual([]);
      expect(runHint(show)).toContain(fingerprint("host"));
      runHint(add);
      expect(await hello(await open())).toBe("hello\n world");
    });

    test("a changed host key is refused, with commands to show and replace it", async () => {
      sshd.setKnownHost("other");
      const error = await connectionError();
      expect(error.kind).toBe("environment");
      expect(error.message).toContain("differs from known_hosts");
      const [show, replace] = commandsIn(error) as [string, string];
      expect(runHint(show)).toContain(fingerprint("host"));
      // By default, ssh-keygen -R edits the user's own file.
      runHint(replace.replace("ssh-keygen ", `ssh-keygen -f ${sshd.knownHosts} `));
      expect(await hello(await open())).toBe("hello\n world");
    });

    test("a refused login or an unreachable host is exit 3 with ssh's output", async () => {
      writeFileSync(join(directory, "nobody.pub"), "");
      await sshd.restart("host", bin, []);
      rmSync(join(sshd.directory, "user.pub"));
      const denied = await connectionError();
      expect(denied.kind).toBe("environment");
      expect(denied.message).toContain("SSH login refused");
      expect(denied.message).toContain("Permission denied (publickey");
      must(["sh", "-c", `ssh-keygen -y -f ${sshd.directory}/user > ${sshd.directory}/user.pub`]);
      await sshd.stop();
      const unreachable = await connectionError();
      expect(unreachable.kind).toBe("environment");
      expect(unreachable.message).toContain("cannot connect to shop over SSH");
      expect(unreachable.message).toContain("Connection refused");
      await sshd.restart("host", bin);
      expect((await connectionError("no-such-host.invalid")).message).toContain("Could not resolve hostname");
    });

    test("a host without k3s is reported", async () => {
      rmSync(join(bin, "k3s"));
      // An installed k3s would be found through the default PATH.
      if (!Bun.which("k3s", { PATH: "/usr/bin:/bin:/usr/local/bin" }))
        expect((await connectionError()).message).toContain("k3s not found");
      writeProgram(join(bin, "k3s"), `#!/bin/sh\n${proxyScript}`);
    });

    test("reconnects after the connection was lost", async () => {
      const session = await open();
      const { directory } = await session.hostInfo();
      sshd.killConnections();
      await eventually(async () => (await session.hostInfo()).directory !== directory || undefined);
      expect(await hello(session)).toBe("hello\n world");
      expect((await session.hostInfo()).directory).not.toBe(directory);
    });

    test("a killed process leaves no files behind", async () => {
      const code = `const { SshSession } = await import(${JSON.stringify(join(root, "ci/slipway/ssh/shared-session.ts"))});
        const session = await SshSession.open("${sshd.host}", new AbortController().signal);
        console.log((await session.hostInfo()).directory);
        await Bun.sleep(60_000);`;
      const holder = Bun.spawn([process.execPath, "-e", code], { stdout: "pipe", env: { ...process.env } });
      const { value } = await holder.stdout.getReader().read();
      const held = new TextDecoder().decode(value).trim();
      expect(existsSync(held)).toBe(true);
      holder.kill("SIGKILL");
      await eventually(async () => !existsSync(held) || undefined);
      const socketsOf = (pid: number) => readdirSync(tmpdir()).filter((name) => name.startsWith(`slipway-${pid}-`));
      expect(socketsOf(holder.pid)).toHaveLength(1);
      await open();
      expect(socketsOf(holder.pid)).toEqual([]);
      expect(socketsOf(process.pid)).not.toEqual([]);
    });

    test("removes abandoned remote directories, and keeps those in use", async () => {
      const gone = Bun.spawn(["true"]);
      await gone.exited;
      const abandoned = `/tmp/slipway-${gone.pid}.01234567`;
      mkdirSync(join(abandoned, "x"), { recursive: true });
      const [one, other] = [await open(), await open()];
      expect(existsSync(abandoned)).toBe(false);
      for (const session of [one, other]) expect(existsSync((await session.hostInfo()).directory)).toBe(true);
    });
  },
  hasSshd,
);

describeWith(
  "an image transfer over SSH",
  ["ssh", "ssh-keygen", "ssh-keyscan", "containerd", "ctr"],
  () => {
    const directory = temporaryDirectory();
    const bin = join(directory, "remote-bin");
    // Not in the directory, which is removed before the disk is unmounted.
    let disk: string;
    const socket = join(directory, "containerd.sock");
    const ctr = ["ctr", "-a", socket, "-n", "k8s.io"];
    const archives: Record<string, string> = {};
    let daemon: Bun.Subprocess;
    let sshd: Sshd;
    let session: SshSession;

    /** Returns the digest of the image's manifest. */
    const digest = (tag: string) =>
      must([...ctr, "images", "ls", `name==${containerdName(`helloapp:${tag}`)}`])
        .split("\n")[1]
        ?.split(/\s+/)[2];
    const removeImages = (...tags: string[]) => {
      for (const tag of tags) sh([...ctr, "images", "rm", "--sync", containerdName(`helloapp:${tag}`)]);
    };
    const deliver = async (
      tag: string,
      base?: string,
      sent: (bytes: number) => void = () => {},
    ): Promise<DeliveryResult> =>
      new RemoteContainerd(session).deliver(await ImageUpload.open(archives[tag]!), base, sent);
    /** Returns the digest after an import of the full archive with ctr. */
    const digestOfFullImport = (tag: string) => {
      removeImages(tag);
      must([...ctr, "images", "import", archives[tag]!]);
      const found = digest(tag)!;
      removeImages(tag);
      return found;
    };
    const blob = (hex: string) => join(disk, "io.containerd.content.v1.content/blobs/sha256", hex);
    /** Returns the digest of the layer with the binary. */
    const appLayer = (manifest: string) =>
      (
        JSON.parse(must([...ctr, "content", "get", manifest])) as { layers: { digest: string }[] }
      ).layers[1]!.digest.slice("sha256:".length);

    beforeAll(async () => {
      mkdirSync(bin);
      // A disk whose size a test can change.
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
      writeProgram(join(bin, "k3s"), `#!/bin/sh\n${proxyScript}shift\nexec ctr -a ${socket} "$@"\n`);
      sshd = await Sshd.start(join(directory, "sshd"), bin);
      process.env.PATH = `${sshd.directory}/bin:${path}`;
      await eventually(async () => sh([...ctr, "version"]).code === 0 || undefined);
      // Like a real build: one layer with libraries, and one with a binary of some megabytes whose last segment changes.
      const dist = join(directory, "dist");
      for (const tree of ["runtime/lib", "app"]) mkdirSync(join(dist, tree), { recursive: true });
      writeFileSync(join(dist, "runtime/lib/libc.so"), crypto.getRandomValues(new Uint8Array(65_536)));
      const chunk = () => crypto.getRandomValues(new Uint8Array(65_536));
      const binaryOf = (chunks: number) => {
        const bytes = Buffer.concat(Array.from({ length: chunks }, chunk));
        writeElfHeader(bytes, { lastSegment: bytes.length - 1_000_000 });
        return bytes;
      };
      writeFileSync(join(dist, "app/helloapp"), binaryOf(100));
      const platform = findSharedLibraries().platform;
      const make = async (tag: string, tree: string, compression?: "none") => {
        archives[tag] = join(directory, `${tag}.tar`);
        const names = [`helloapp:${tag}`];
        await writeDockerArchive(archives[tag], {
          service,
          platform,
          dist: tree,
          names,
          ...(compression && { compression }),
        });
      };
      await make("a", dist);
      // An edit that inserts bytes near the end of the binary.
      const edited = join(directory, "edited");
      cpSync(dist, edited, { recursive: true });
      const binary = join(edited, "app/helloapp");
      const bytes = Buffer.from(await Bun.file(binary).bytes());
      const at = bytes.length - 500_000;
      const next = Buffer.concat([bytes.subarray(0, at), Buffer.from("edited".repeat(50)), bytes.subarray(at)]);
      writeFileSync(binary, next);
      await make("b", edited);
      next[next.length - 1000]! ^= 1;
      writeFileSync(binary, next);
      await make("c", edited);
      // Another C library, and the same binary.
      writeFileSync(join(edited, "runtime/lib/more.so"), "another");
      await make("d", edited);
      await make("plain", dist, "none");
      // More than the buffers of ssh, its socket and pipes hold.
      writeFileSync(binary, binaryOf(640));
      await make("long", edited);
      session = await SshSession.open(sshd.host, signal);
    });

    afterAll(async () => {
      process.env.PATH = path;
      await session?.close();
      await sshd.stop();
      daemon.kill();
      await daemon.exited;
      if (canMount) must(["umount", disk]);
      rmSync(disk, { recursive: true });
    });

    test("sends the full image first, then the changed frames, and imports identical images", async () => {
      const wanted = {
        a: digestOfFullImport("a"),
        b: digestOfFullImport("b"),
        c: digestOfFullImport("c"),
        d: digestOfFullImport("d"),
      };
      const first = await deliver("a");
      expect(first.result.code).toBe(0);
      expect(first.bytes).toBe(Bun.file(archives.a!).size);
      expect(digest("a")).toBe(wanted.a);
      const second = await deliver("b", wanted.a);
      expect(second).toMatchObject({ result: { code: 0 } });
      expect(second.fallbackReason).toBeUndefined();
      expect(second.bytes).toBeLessThan(30_000);
      expect(digest("b")).toBe(wanted.b);
      const third = await deliver("c", wanted.b);
      expect(third.fallbackReason).toBeUndefined();
      expect(third.bytes).toBeLessThan(30_000);
      expect(digest("c")).toBe(wanted.c);
      // The changed C library is in a separate layer.
      const fourth = await deliver("d", wanted.b);
      expect(fourth.fallbackReason).toBeUndefined();
      expect(fourth.bytes).toBeLessThan(30_000);
      expect(digest("d")).toBe(wanted.d);
      expect(must([...ctr, "images", "check", `name==${containerdName("helloapp:d")}`])).toContain("complete");
    });

    test("sends the full image and reports the reason if the base is damaged or missing", async () => {
      const base = digest("b")!;
      const wanted = digestOfFullImport("c");
      const file = blob(appLayer(base));
      const bytes = Buffer.from(await Bun.file(file).bytes());
      const kept = Buffer.from(bytes);
      bytes[3_000_000]! ^= 1;
      writeFileSync(file, bytes);
      const altered = await deliver("c", base);
      expect(altered.result.code).toBe(0);
      expect(altered.fallbackReason).toContain("damaged");
      expect(altered.bytes).toBe(Bun.file(archives.c!).size);
      expect(digest("c")).toBe(wanted);
      removeImages("c");
      rmSync(file);
      const gone = await deliver("c", base);
      expect(gone.fallbackReason).toBeDefined();
      expect(digest("c")).toBe(wanted);
      writeFileSync(file, kept);
      const none = await deliver("c", `sha256:${"0".repeat(64)}`);
      expect(none.fallbackReason).toContain("cannot read the manifest");
    });

    test("sends the full image if the layers on the host have no frames", async () => {
      removeImages("a", "b", "c", "d");
      must([...ctr, "images", "import", archives.plain!]);
      const found = await deliver("a", digest("plain"));
      expect(found.fallbackReason).toContain("no earlier version with frames");
      expect(found.result.code).toBe(0);
    });

    // Regression test: the script waited forever for an import that had already ended.
    test.skipIf(!canMount)("creates no image if the disk fills up, and succeeds once there is space", async () => {
      removeImages("a", "b", "c", "d", "plain");
      expect((await deliver("a")).result.code).toBe(0);
      const used = Number(must(["df", "--output=used", "-B1", disk]).split("\n")[1]);
      must(["mount", "-o", `remount,size=${used + 3_000_000}`, disk]);
      const full = await deliver("b", digest("a"));
      must(["mount", "-o", "remount,size=1g", disk]);
      expect(full.result.code).not.toBe(0);
      expect(full.fallbackReason).toContain("no space left");
      expect(full.result.stderr).toContain("no space left");
      expect(digest("b")).toBeUndefined();
      const again = await deliver("b", digest("a"));
      expect(again.result.code).toBe(0);
      expect(again.fallbackReason).toBeUndefined();
      expect(digest("b")).toBeDefined();
    });

    test("a lost connection during the transfer creates no image", async () => {
      removeImages("a", "b", "c", "d", "plain");
      let sent = 0;
      const error = await deliver("long", undefined, (bytes) => {
        if (sent <= 4_000_000 && bytes > 4_000_000) sshd.killConnections();
        sent = bytes;
      }).then(
        () => expect.unreachable(),
        (error: PipelineError) => error,
      );
      expect(error.kind).toBe("environment");
      expect(error.message).toContain("SSH connection to shop lost");
      expect(digest("long")).toBeUndefined();
      expect((await deliver("long")).result.code).toBe(0);
      expect(digest("long")).toBeDefined();
    });
  },
  { name: "root", isMet: process.getuid?.() === 0 },
  hasSshd,
);
