/**
 * The workflows: linted, held to the project's rules, and run in a clean clone.
 *
 * Real in these runs: the shell, git, jq, Bun, every command of the project with its build, the registry that is pushed to.
 * Stand-ins: gh, podman's login, sudo, journalctl, k3s and its install script. `dagger run` takes the host engine and no
 * cluster, so that nothing here shows what the Dagger engine or a cluster would do; other tests do. Stand-ins take
 * whatever options they are given: that gh knows them is not shown either.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, cpSync, existsSync, mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { readArchiveIndex } from "../../image/docker-archive-reader.ts";
import { resolveDigest } from "../../registry/push.ts";
import { ownArchitecture } from "../../image/architecture.ts";
import { pins } from "../../core/pins.ts";
import packageJson from "../../../../package.json";
import slipway from "../../package.json";
import { describeWith, must, root, sh, startRegistry, stopRegistries, temporaryDirectory } from "./setup.ts";
import { readWorkflow, runJob, type Surrounding } from "./workflow.ts";

setDefaultTimeout(600_000);

const names = ["ci.yml", "deploy.yml", "release.yml", "scheduled.yml"];
const tag = `v${packageJson.version}`;
/** A linter that .ci/run cannot install everywhere: without it the test says so and is skipped. */
const linter = (name: string) => ({ name, isMet: Boolean(Bun.which(name)) });
const tracked = () =>
  must(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
    .split("\0")
    .filter((path) => path !== "" && existsSync(join(root, path)));

describeWith(
  "actionlint",
  ["git"],
  () => {
    test("finds nothing, in the scripts of the steps neither", () => {
      const { code, output } = sh(["actionlint"]);
      expect(output).toBe("");
      expect(code).toBe(0);
    });
  },
  linter("actionlint"),
);

describeWith(
  "zizmor",
  [],
  () => {
    test("finds nothing, also when it is pedantic", () => {
      const { code, output } = sh(["zizmor", "--offline", "--pedantic", "--no-progress", ".github"]);
      expect(output).toContain("No findings to report");
      expect(code).toBe(0);
    });
  },
  linter("zizmor"),
);

describeWith(
  "shellcheck",
  ["git"],
  () => {
    test("finds nothing in any script", () => {
      const scripts = tracked().filter((path) =>
        /^#!.*\b(sh|bash)\b/.test(readFileSync(join(root, path)).toString("latin1", 0, 80)),
      );
      expect(scripts).toContain(".ci/run");
      const { code, output } = sh(["shellcheck", ...scripts]);
      expect(output).toBe("");
      expect(code).toBe(0);
    });
  },
  linter("shellcheck"),
);

describe.each(names)("%s", (name) => {
  const workflow = readWorkflow(name);
  const jobs = Object.values(workflow.jobs);

  test("has no rights but those of each job, a limit of time, and none beside itself", () => {
    expect(workflow.permissions).toEqual({});
    expect(workflow.concurrency).toBeDefined();
    for (const job of jobs) {
      expect(job.permissions).toBeDefined();
      expect(job["timeout-minutes"]).toBeNumber();
    }
  });

  test("names actions by commit with their version beside, keeps no credentials, shares no cache", () => {
    const uses = readFileSync(join(root, ".github/workflows", name), "utf8").match(/^.*\buses:.*$/gm) ?? [];
    for (const line of uses) expect(line).toMatch(/uses: [\w/-]+@[0-9a-f]{40} # v\d+(\.\d+\.\d+)?$/);
    for (const { uses = "", with: inputs = {} } of jobs.flatMap(({ steps }) => steps)) {
      if (uses.startsWith("actions/checkout@")) expect(inputs["persist-credentials"]).toBe(false);
      if (uses.startsWith("oven-sh/setup-bun@")) expect(inputs["no-cache"]).toBe(true);
      expect(uses).not.toStartWith("actions/cache");
    }
  });
});

test("a job that takes in a pull request's code can only read", () => {
  for (const { permissions } of Object.values(readWorkflow("ci.yml").jobs))
    expect(permissions).toEqual({ contents: "read" });
});

test("what Renovate's configuration looks for is there, and is the pin", () => {
  interface Manager {
    managerFilePatterns: string[];
    matchStrings: string[];
    depNameTemplate?: string;
    datasourceTemplate: string;
  }
  const { customManagers } = JSON.parse(readFileSync(join(root, ".github/renovate.json"), "utf8")) as {
    customManagers: Manager[];
  };
  const expected: Record<string, string> = {
    bun: pins.bun,
    "dagger/dagger": pins.dagger,
    "k3s-io/k3s": pins.k3s.version,
    docker: pins.baseImage.replace(/@.*/, "").replace(/.*:/, ""),
  };
  const held = new Set<string>();
  for (const { managerFilePatterns, matchStrings, depNameTemplate, datasourceTemplate } of customManagers) {
    const what = depNameTemplate ?? datasourceTemplate;
    for (const pattern of managerFilePatterns) {
      const file = new RegExp(pattern.slice(1, -1));
      const texts = tracked()
        .filter((path) => file.test(path))
        .map((path) => readFileSync(join(root, path), "utf8"));
      const versions = texts.flatMap((text) =>
        matchStrings.flatMap((match) =>
          [...text.matchAll(new RegExp(match, "g"))].map(({ groups }) => groups!.currentValue!),
        ),
      );
      expect(versions, `${what} in ${pattern}`).not.toBeEmpty();
      if (what in expected) expect(new Set(versions), pattern).toEqual(new Set([expected[what]!]));
    }
    held.add(what);
  }
  expect([...held]).toEqual(expect.arrayContaining(Object.keys(expected)));
});

const other = ownArchitecture === "amd64" ? "aarch64" : "x86_64";

describeWith(
  "workflows, in a clean clone",
  ["git", "jq", "docker-registry"],
  () => {
    const directory = temporaryDirectory();
    const [bin, repository, artifacts] = ["bin", "repository", "artifacts"].map((name) => join(directory, name)) as [
      string,
      string,
      string,
    ];
    const calls = join(directory, "calls");
    /** What gh is asked to publish, and what it gives back. */
    const release = join(directory, "release");
    let registry: string;

    /** Programs that keep what they were asked, in place of GitHub's. */
    const standIns: Record<string, string> = {
      sudo: 'exec "$@"',
      // Later options win. A command that needs no cluster takes no target.
      dagger: `[ "$1" = run ] || exit 64; shift
        case "$*" in *" verify-archive "* | *" --host "*) exec "$@" --engine host ;; *) exec "$@" --engine host --target none ;; esac`,
      ssh: `case "$*" in *" -G "*|"-G "*) exit 0 ;; esac
        echo "ssh: connect to host shop.example port 22: Connection refused" >&2; exit 255`,
      journalctl: "echo a line of the log",
      k3s: `case "$*" in
        *"get nodes"*) echo True ;;
        *"get serviceaccount"*) echo serviceaccount/default ;;
        *"cluster-info dump"*--output-directory*) mkdir -p "\${@: -1}/kube-system"; echo '{}' > "\${@: -1}/kube-system/pods.json" ;;
        *) exit 64 ;;
      esac`,
      podman: `case "$1" in
        login) [ "$3 $5" = "--username --password-stdin" ] || exit 64
          printf '{"auths":{"%s":{"auth":"%s"}}}' "$2" "$(printf %s "$4:$(cat)" | base64 -w 0)" > "$REGISTRY_AUTH_FILE" ;;
        logout) rm "$REGISTRY_AUTH_FILE" ;;
        *) exit 64 ;;
      esac`,
      npm: `[ "$1" = view ] || exit 64; case "$2" in slipway@*) exit 1 ;; esac`,
      npx: `case "$*" in "--yes npm@"*" publish "*.tgz" --provenance --access public") ;; *) exit 64 ;; esac`,
      gh: `[ "$GH_TOKEN" = token ] || { echo "gh: no GH_TOKEN" >&2; exit 4; }
      option() { local name=$1; shift; while [ $# -gt 1 ]; do [ "$1" = "$name" ] && echo "$2" && return; shift; done; return 1; }
      case "$1 $2" in
        "run download") cp "$ARTIFACTS/$(option --name "$@")"/* . ;;
        "release list") echo "$LAST_RELEASE" ;;
        "release create") mkdir "$RELEASE"; cp "$(option --notes-file "$@")" "$RELEASE.notes"
          for file in "\${@:11}"; do cp "$file" "$RELEASE"; done ;;
        "release download") cp "$RELEASE"/* . ;;
        "issue list") echo "$OPEN_ISSUE" ;;
        "issue edit" | "issue create") cat "$(option --body-file "$@")" >> "$CALLS" ;;
        "label create") ;;
        *) exit 64 ;;
      esac`,
    };

    beforeAll(async () => {
      mkdirSync(bin);
      for (const [name, script] of Object.entries(standIns)) {
        const file = join(bin, name);
        writeFileSync(file, `#!/bin/bash\necho "\${0##*/} $*" >> "$CALLS"\n${script}\n`);
        chmodSync(file, 0o755);
      }
      symlinkSync(process.execPath, join(bin, "bun"));
      mkdirSync(repository);
      const git = (...args: string[]) =>
        must(["git", "-c", "user.name=me", "-c", "user.email=me@example.com", ...args], { cwd: repository });
      git("init", "--quiet", "--initial-branch=main");
      git("commit", "--quiet", "--allow-empty", "-m", "The version before");
      git("tag", "v0.0.0");
      // The files as they are here, committed or not.
      for (const path of tracked()) {
        mkdirSync(dirname(join(repository, path)), { recursive: true });
        cpSync(join(root, path), join(repository, path));
      }
      git("add", "--all");
      git("commit", "--quiet", "-m", "What is released");
      git("tag", tag);
      const hash = await Bun.password.hash("token", { algorithm: "bcrypt", cost: 4 });
      writeFileSync(join(directory, "htpasswd"), `me:${hash}\n`);
      registry = await startRegistry(
        join(directory, "registry"),
        `auth: { htpasswd: { realm: test, path: "${directory}/htpasswd" } }`,
      );
    });

    afterAll(stopRegistries);

    let jobs = 0;
    const run = (workflow: string, job: string, more: Partial<Surrounding> = {}) => {
      writeFileSync(calls, "");
      const { env, values, ...others } = more;
      return runJob(readWorkflow(workflow), job, {
        repository,
        artifacts,
        directory: join(directory, `clone-${(jobs += 1)}`),
        env: {
          PATH: `${bin}:${process.env.PATH}`,
          CALLS: calls,
          ARTIFACTS: artifacts,
          RELEASE: release,
          GITHUB_REF_NAME: tag,
          GITHUB_REPOSITORY: "Me/HelloApp",
          GITHUB_ACTOR: "me",
          GITHUB_RUN_ID: "42",
          GITHUB_SERVER_URL: "https://github.com",
          DAGGER_SESSION_PORT: undefined,
          DAGGER_SESSION_TOKEN: undefined,
          E2E: undefined,
          ...env,
        },
        values: {
          "github.token": "token",
          "github.repository": "Me/HelloApp",
          "runner.temp": directory,
          ...values,
        },
        ...others,
      });
    };
    const called = () => readFileSync(calls, "utf8").trimEnd().split("\n");

    test("ci.yml, deploy: installs k3s, makes the archive, and has the cluster's state when something failed", async () => {
      const script = 'echo "installs $INSTALL_K3S_VERSION $INSTALL_K3S_EXEC" >> "$CALLS"\n';
      using server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response(script) });
      const { output, summary } = await run("ci.yml", "deploy", {
        env: { NO_PROXY: "127.0.0.1", no_proxy: "127.0.0.1" },
        conditions: { "failure()": true },
        prepare(clone) {
          // Another script at another place, with its checksum: all else of the installation is real.
          const file = join(clone, "ci/slipway/core/pins.ts");
          const sha256 = new Bun.CryptoHasher("sha256").update(script).digest("hex");
          const before = readFileSync(file, "utf8");
          const { installScript, installScriptSha256 } = pins.k3s;
          const after = before.replace(installScript, server.url.href).replace(installScriptSha256, sha256);
          expect(after).not.toBe(before);
          writeFileSync(file, after);
        },
        // A rollout takes a cluster. The script and its file have to be there, to say that this is no number of rollouts.
        instead: {
          // For this step alone: the tests of the pipeline hold the pins to their form.
          "bun run k3s:install": "bun run k3s:install && git checkout --quiet ci/slipway/core/pins.ts",
          "bun run rollouts 2": "bun run rollouts 2 nonsense || [ $? -eq 2 ]",
        },
      });
      expect(called()).toContainEqual(expect.stringContaining(`installs ${pins.k3s.version} server --disable=`));
      expect(called()).toContain("k3s kubectl get serviceaccount default -o name");
      expect(output.get("Test rolling updates under load")).toContain("usage: bun test/bench/rollout-faults.ts");
      const { names } = (await readArchiveIndex(join(artifacts, "helloapp/helloapp.tar")))!;
      expect(summary).toMatch(/^\| \S*image\S* \| ok \|/m);
      expect(summary).toContain(`helloapp.tar holds ${names[0]}`);
      expect(readFileSync(join(artifacts, "cluster/cluster/k3s.log"), "utf8")).toBe("a line of the log\n");
      expect(existsSync(join(artifacts, "cluster/cluster/kube-system/pods.json"))).toBe(true);
    });

    test("ci.yml, test: the script is there", async () => {
      // Not run: it would run this test.
      await run("ci.yml", "test", { instead: { "sudo .ci/run": "sudo test -x .ci/run && bash -n .ci/run" } });
    });

    test("deploy.yml, deploy: off without a host, and says how to switch it on; else ssh gets each host, the key and known_hosts", async () => {
      const home = join(directory, "home");
      mkdirSync(home);
      const values = {
        "vars.DEPLOY_HOSTS": "",
        "inputs.ref": tag,
        "secrets.DEPLOY_KEY": "the key",
        "secrets.DEPLOY_KNOWN_HOSTS": "shop.example ssh-ed25519 AAAA",
      };
      const off = await run("deploy.yml", "deploy", { values, env: { HOME: home } });
      expect(off.summary).toContain("Nothing was deployed");
      expect(off.summary).toContain("DEPLOY_HOSTS");
      expect([...off.output.keys()]).toEqual(["Skip without a host"]);
      expect(existsSync(join(home, ".ssh"))).toBe(false);
      const hosts = { ...values, "vars.DEPLOY_HOSTS": "deploy@shop.example n2.example" };
      const failure = await run("deploy.yml", "deploy", { values: hosts, env: { HOME: home } }).catch(
        (error: Error) => error.message,
      );
      // Nobody is there: the pipeline's own words, with its exit code.
      expect(failure).toContain("ended with 3");
      expect(failure).toContain("cannot connect to deploy@shop.example over SSH: ssh: connect to host");
      for (const host of ["deploy@shop.example", "n2.example"])
        expect(called()).toContainEqual(expect.stringMatching(new RegExp(`^ssh .*-oBatchMode=yes .*-- ${host} exec`)));
      const file = (name: string) => join(home, ".ssh", name);
      expect(readFileSync(file("slipway"), "utf8")).toBe("the key\n");
      expect(statSync(file("slipway")).mode & 0o777).toBe(0o600);
      expect(readFileSync(file("known_hosts"), "utf8")).toBe("shop.example ssh-ed25519 AAAA\n");
      expect(readFileSync(file("config"), "utf8")).toContain("IdentityFile ~/.ssh/slipway");
    });

    test("release.yml, then the weekly rebuild of what it made", async () => {
      await run("release.yml", "build");
      const { output } = await run("release.yml", "publish", {
        env: { REGISTRY: registry },
        conditions: { "vars.NPM_PUBLISH != ''": true },
      });
      expect(called().find((call) => call.startsWith("npx "))).toMatch(/publish \.\/slipway-\d+\.\d+\.\d+\.tgz /);
      const image = `${registry}/me/helloapp`;
      const notes = readFileSync(`${release}.notes`, "utf8");
      const [, digest] = new RegExp(`^Image: ${image}@(sha256:[0-9a-f]{64})$`, "m").exec(notes) ?? [];
      expect(notes).toMatch(/^- What is released \([0-9a-f]+\)$/m);
      expect(notes).not.toContain("The version before");
      expect(output.get("Push the multi-platform image")).toContain("for linux/amd64 and linux/arm64");
      const files = [
        "SHA256SUMS",
        ...["amd64", "arm64"].flatMap((one) => [`helloapp-${one}.cdx.json`, `helloapp-${one}.tar`]),
        `slipway-${slipway.version}.tgz`,
      ];
      expect([...new Bun.Glob("*").scanSync(release)].sort()).toEqual(files);

      const before = process.env.REGISTRY_AUTH_FILE;
      try {
        process.env.REGISTRY_AUTH_FILE = join(directory, "asks.json");
        const auth = Buffer.from("me:token").toString("base64");
        writeFileSync(process.env.REGISTRY_AUTH_FILE, JSON.stringify({ auths: { [registry]: { auth } } }));
        expect(await resolveDigest(`${image}:${tag}`, { signal: AbortSignal.timeout(10_000) })).toBe(digest!);
      } finally {
        if (before === undefined) delete process.env.REGISTRY_AUTH_FILE;
        else process.env.REGISTRY_AUTH_FILE = before;
      }
      expect(existsSync(join(directory, "auth.json"))).toBe(false);

      const weekly = await run("scheduled.yml", "reproduce", { env: { LAST_RELEASE: tag } });
      const compared = weekly.output.get("Download, rebuild, compare");
      for (const architecture of ["amd64", "arm64"])
        expect(compared).toMatch(
          new RegExp(
            `helloapp-${architecture}\\.tar is helloapp:[0-9a-f]{12} and matches the working tree bit for bit`,
          ),
        );
      expect(await run("scheduled.yml", "reproduce", { env: { LAST_RELEASE: "" } })).toMatchObject({
        summary: "There is no release yet.\n",
      });
    });

    test("release.yml: a tag that is not the version of package.json is none", async () => {
      const failure = await run("release.yml", "build", { env: { GITHUB_REF_NAME: "v9.9.9" } }).catch(
        (error: Error) => error.message,
      );
      expect(failure).toStartWith("Compare the tag with package.json ended with 1");
    });

    test("scheduled.yml, pins: the command is there, and the pins agree", async () => {
      // Whether what they name is there is asked over the network, which is the weekly run's to do.
      await run("scheduled.yml", "pins", { instead: { "bun run pins --remote": "bun run pins" } });
    });

    test.each([
      ["none is open: one is opened", "", "gh issue create --title", "gh issue edit"],
      ["one is open: it is brought up to date", "7", "gh issue edit 7 --body-file", "gh issue create"],
    ])("scheduled.yml, issue: %s", async (_, open, does, doesNot) => {
      const values = { "needs.pins.result": "success", "needs.reproduce.result": "failure" };
      await run("scheduled.yml", "issue", { env: { OPEN_ISSUE: open }, values });
      expect(called().join("\n")).toContain(does);
      expect(called().join("\n")).not.toContain(doesNot);
      expect(called()).toContain("- The last release, built again, is the same: failure");
      expect(called()).toContainEqual(expect.stringContaining("https://github.com/Me/HelloApp/actions/runs/42"));
    });

    test("no job is left out here", () => {
      const all = names.flatMap((name) => Object.keys(readWorkflow(name).jobs).map((job) => `${name} ${job}`));
      const source = readFileSync(import.meta.path, "utf8");
      for (const job of all) expect(source).toContain(`run("${job.replace(" ", '", "')}"`);
      expect([...new Bun.Glob("*").scanSync(join(root, ".github/workflows"))].sort()).toEqual(names);
    });
  },
  {
    name: `the C library for ${other}, and npm's registry`,
    isMet:
      existsSync(`/usr/${other}-linux-gnu/lib`) && sh([process.execPath, "pm", "view", "bun", "version"]).code === 0,
  },
);
