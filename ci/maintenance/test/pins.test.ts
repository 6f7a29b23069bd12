/** Tests pins: consistency of their locations, updates, and `--remote`. A local server replaces GitHub, npm and the registry. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { cp, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PipelineError } from "../../slipway/core/errors.ts";
import { pinErrors, pin, pinsOf, readProject, setPin, locationsOf, valueOf } from "../pins/locations.ts";
import { checkUpstream, type PinCheck } from "../pins/check-still-published.ts";
import { updatePin } from "../pins/update-pin.ts";
import { pins } from "../../slipway/core/pins.ts";
import { root } from "../../slipway/test/helloapp-service.ts";
import { linkModules } from "../../slipway/test/link-node-modules.ts";

const [one, two] = ["1".repeat(40), "2".repeat(40)];
const workflow = ".github/workflows/a.yml";
const job = `steps:
  - uses: actions/checkout@${one} # v7.0.1
  - name: Bun
    uses: oven-sh/setup-bun@${one} # v2
    with:
      # Equal to core/pins.ts.
      bun-version: ${pins.bun}
  - uses: dagger/dagger-for-github@${one} # v8.4.1
    with:
      version: "${pins.dagger}"

  other:
    steps:
      - run: npx bun@${pins.bun} run check
`;
const real = await readProject(root);
/** The files of this repository, with small substitutes for those that an image build lacks. */
const project = (changes: Record<string, string> = {}) =>
  new Map([
    ...[...real].filter(([path]) => !path.includes(".github/")),
    ["README.md", `npx -y bun@${pins.bun} run up\n`],
    [".ci/run", `npx -y bun@${pins.bun} run test\n`],
    [workflow, job],
    [".github/workflows/b.yaml", `  - uses: "./local"\n  - uses: actions/checkout@${one} # v7.0.1\n`],
    ...Object.entries(changes),
  ]);
const failureOf = (promise: Promise<unknown>): Promise<PipelineError> =>
  promise.then(
    () => expect.unreachable(),
    (error: PipelineError) => error,
  );

describe("locations", () => {
  test("all locations of all pins in this repository agree", () => {
    expect(pinErrors(real)).toEqual([]);
  });

  test("the table of pins finds the values of core/pins.ts", () => {
    expect(Object.values(pin).map((each) => valueOf(each, real))).toEqual([
      pins.bun,
      pins.baseImage,
      pins.bunFor.amd64.integrity,
      pins.bunFor.arm64.integrity,
      pins.dagger,
      pins.k3s.version,
      pins.k3s.installScript,
      pins.k3s.installScriptSha256,
    ]);
    expect(pinErrors(project())).toEqual([]);
  });

  test("a changed character at any location is reported with the pin and the position", () => {
    const undetected = new Set<string>();
    for (const each of pinsOf(project())) {
      for (const { file, value, start, position } of locationsOf(each, project())) {
        const altered = project();
        const at = start! + value!.search(/\d\D*$/);
        const text = altered.get(file)!;
        altered.set(file, text.slice(0, at) + (text[at] === "1" ? "0" : "1") + text.slice(at + 1));
        const about = pinErrors(altered).filter((finding) => finding.startsWith(`${each.name} `));
        if (about.length === 0) undetected.add(each.name);
        else expect(about.join()).toContain(position);
      }
    }
    // These have a single location. They are verified on use: npm's Bun and k3s's script by checksum before they run,
    // the version of k3s by that script. GitHub rejects a commit that an action does not have.
    expect([...undetected]).toEqual([
      "Bun from npm for amd64",
      "Bun from npm for arm64",
      "k3s",
      "k3s's install script",
      "SHA-256 of k3s's install script",
      "action dagger/dagger-for-github",
      "action oven-sh/setup-bun",
    ]);
  });

  const step = (uses: string) => ({ [workflow]: `${job}  - uses: ${uses}\n` });
  const without = (line: RegExp) => ({ [workflow]: job.replace(line, "") });
  test.each<[string, Record<string, string>, string]>([
    [
      "an action with two commits",
      step(`actions/checkout@${two} # v7.0.1`),
      `action actions/checkout is inconsistent: "${one}`,
    ],
    ["one commit with two versions", step(`actions/checkout@${one} # v7.0.2`), "is inconsistent"],
    ["a commit without its version", step(`a/b@${one}`), `action a/b is "${one}" in ${workflow}:15, not a commit with`],
    ["a tag", step("a/b@v4"), 'action a/b is "v4" in'],
    ["a short commit", step("a/b@1111111 # v4.0.0"), "not a commit with"],
    ["an action without a commit", step("a/b"), 'action a/b is "" in'],
    ["an action in a directory", step("a/b/c/d@main"), 'action a/b is "main" in'],
    ["an action in quotes", step('"a/b@main"'), 'action a/b is "main"" in'],
    ["an action on one line", { [workflow]: "steps: [{ uses: a/b@main }]" }, "action a/b is"],
    ["a container as action", step("docker://alpine:3"), 'action docker://alpine:3 is "" in'],
    [
      "an action without a Bun version",
      without(/ +bun-version.*\n/),
      `Bun is inconsistent: "${pins.bun}" in ci/slipway/core/pins.ts`,
    ],
    ["an action without a Dagger version", without(/ +version.*\n/), `missing in ${workflow}:8`],
    ["a different Bun in a command", { "README.md": "npx bun@1.0.0." }, 'but "1.0.0" in README.md:1'],
    ["a tag of Bun", { ".ci/run": "npx bun@latest" }, 'but "latest" in .ci/run:1'],
    [
      "a Dockerfile with a different base image",
      { Dockerfile: "FROM debian AS builder" },
      "base image is inconsistent",
    ],
    [
      "a range in package.json",
      { "package.json": real.get("package.json")!.replace(': "7.', ': "^7.') },
      "npm typescript is",
    ],
    ["a lockfile without a package", { "bun.lock": "" }, "missing in bun.lock"],
    ["a missing pin", { "ci/slipway/core/pins.ts": "" }, "missing in ci/slipway/core/pins.ts"],
  ])("%s is reported", (_, changes, sentence) => {
    expect(pinErrors(project(changes)).join("\n")).toContain(sentence);
  });

  test("ignores comments and expressions of workflows", () => {
    const comment = `  # - uses: a/b@v4\n  - run: true # uses: a/b@v4\n`;
    const computed = job.replace(`bun-version: ${pins.bun}`, "bun-version: ${{ steps.x.outputs.y }}");
    expect(pinErrors(project({ [workflow]: computed + comment }))).toEqual([]);
  });

  test("ignores files that do not exist, as in an image build", () => {
    const files = ["ci/slipway/core/pins.ts", "Dockerfile", "package.json", "bun.lock"];
    expect(pinErrors(new Map(files.map((path) => [path, real.get(path)!])))).toEqual([]);
  });

  test("writes a value to all locations of the pin and nowhere else", () => {
    const changed = project();
    setPin(changed, pin.bun, "10.20.30");
    expect(new Set(locationsOf(pin.bun, changed).map(({ value }) => value))).toEqual(new Set(["10.20.30"]));
    setPin(changed, pin.bun, pins.bun);
    expect(changed).toEqual(project());
    expect(() => setPin(project({ Dockerfile: "" }), pin.bun, "10.20.30")).toThrow("Bun is missing in Dockerfile");
  });
});

/** Replies of the server, by host and path. */
let replies: Record<string, string | object | number>;
let requests: { path: string; authorization: string | null }[];
const server = Bun.serve({
  port: 0,
  fetch({ url, headers }) {
    const path = decodeURIComponent(new URL(url).pathname.slice(1));
    requests.push({ path, authorization: headers.get("authorization") });
    const reply = replies[path] ?? 404;
    if (typeof reply === "number") return new Response("no", { status: reply });
    return typeof reply === "string" ? new Response(reply) : Response.json(reply);
  },
});
/** Redirects all requests to the local server. */
const options = {
  fetch: (url: string, init: RequestInit) => fetch(url.replace("https://", server.url.href), init),
};

const sha256 = (text: string) => new Bun.CryptoHasher("sha256").update(text).digest("hex");
const integrity = (letter: string) => `sha512-${letter.repeat(86)}==`;
const github = "api.github.com/repos";
const script = "#!/bin/sh\n";
const scriptAt = (commit: string) => `raw.githubusercontent.com/k3s-io/k3s/${commit}/install.sh`;
const { GITHUB_TOKEN, npm_config_registry } = process.env;

beforeEach(() => {
  requests = [];
  delete process.env.GITHUB_TOKEN;
  process.env.npm_config_registry = "https://npm.example/";
  replies = {
    [`${github}/k3s-io/k3s/releases/latest`]: { tag_name: "v9.1.2+k3s1" },
    [`${github}/k3s-io/k3s/commits/tags/v9.1.2+k3s1`]: two,
    [`${scriptAt(two)}`]: script,
    [`${scriptAt(two)}.sha256sum`]: `${sha256(script)}  install.sh\n`,
    "npm.example/bun/latest": { version: "9.1.2" },
    [`npm.example/${pins.bunFor.amd64.package}/9.1.2`]: { dist: { integrity: integrity("a") } },
    [`npm.example/${pins.bunFor.arm64.package}/9.1.2`]: { dist: { integrity: integrity("b") } },
    [`${github}/dagger/dagger/releases/latest`]: { tag_name: "v9.1.2" },
    [`${github}/dagger/dagger/releases/tags/v9.1.2`]: { tag_name: "v9.1.2" },
    [`${github}/actions/checkout/releases/latest`]: { tag_name: "v9.1.2" },
    [`${github}/actions/checkout/commits/tags/v9.1.2`]: two,
  };
});
afterEach(() => {
  for (const [name, value] of Object.entries({ GITHUB_TOKEN, npm_config_registry })) {
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  }
});
afterAll(() => server.stop(true));

describe("updatePin", () => {
  const values = (changed: Map<string, string>, ...of: (typeof pin)[keyof typeof pin][]) =>
    of.map((each) => [...new Set(locationsOf(each, changed).map(({ value }) => value))].join());

  test.each([[[]], [["v9.1.2+k3s1"]]])(
    "k3s %p: updates the version, the script at the tag's commit and its SHA-256",
    async (args) => {
      const changed = project();
      await updatePin(changed, "k3s", args, options);
      const expected = ["v9.1.2+k3s1", `https://${scriptAt(two)}`, sha256(script)];
      expect(values(changed, pin.k3s, pin.k3sScript, pin.k3sScriptSha256)).toEqual(expected);
      expect(pinErrors(changed)).toEqual([]);
    },
  );

  test("k3s: rejects a script that does not match its published checksum", async () => {
    replies[scriptAt(two)] = `${script}#`;
    const changed = project();
    const error = await failureOf(updatePin(changed, "k3s", [], options));
    expect(error.kind).toBe("environment");
    expect(error.message).toContain(sha256(`${script}#`));
    expect(error.message).toContain(sha256(script));
    expect(changed).toEqual(project());
  });

  test.each([[[]], [["9.1.2"]]])(
    "Bun %p: updates all locations, with npm's integrity for both architectures",
    async (args) => {
      const changed = project();
      await updatePin(changed, "bun", args, options);
      const image = pins.baseImage.replace(pins.bun, "9.1.2");
      const expected = ["9.1.2", image, integrity("a"), integrity("b")];
      expect(values(changed, pin.bun, pin.baseImage, pin.bunForAmd64, pin.bunForArm64)).toEqual(expected);
      // `bun install` updates the lockfile.
      expect(pinErrors(changed)).toEqual([expect.stringMatching(/^npm bun-types is inconsistent: .*bun\.lock/)]);
    },
  );

  test.each([[[]], [["9.1.2"]], [["v9.1.2"]]])("Dagger %p: updates the workflows", async (args) => {
    const changed = project();
    await updatePin(changed, "dagger", args, options);
    expect(values(changed, pin.dagger)).toEqual(["9.1.2"]);
    expect(pinErrors(changed)).toEqual([]);
  });

  test.each([[[]], [["v9.1.2"]]])("an action %p: updates commit and comment in all workflows", async (args) => {
    const changed = project();
    await updatePin(changed, "action", ["actions/checkout", ...args], options);
    for (const path of [workflow, ".github/workflows/b.yaml"])
      expect(changed.get(path)).toContain(`- uses: actions/checkout@${two} # v9.1.2\n`);
    expect(changed.get(workflow)).toContain(`setup-bun@${one} # v2\n`);
  });

  test.each<[string, Parameters<typeof updatePin>[1], string[], string, string]>([
    ["a missing tag", "k3s", ["v9.9.9+k3s1"], "environment", "tag v9.9.9+k3s1 not found"],
    ["a malformed tag", "k3s", ["v9"], "usage", "v1.2.3+k3s1"],
    ["a missing version of Bun", "bun", ["9.9.9"], "environment", "@oven/bun-linux-x64@9.9.9 not found on npm"],
    ["a malformed version of Bun", "bun", ["../x"], "usage", "1.2.3"],
    ["a missing version of Dagger", "dagger", ["9.9.9"], "environment", "Dagger release 9.9.9 not found"],
    [
      "a missing tag of an action",
      "action",
      ["actions/checkout", "v9.9.9"],
      "environment",
      "tag v9.9.9 not found in actions/checkout",
    ],
    ["an unused action", "action", ["a/b"], "usage", "a/b"],
    ["no action", "action", [], "usage", "OWNER/NAME"],
  ])("%s: fails and changes nothing", async (_, name, args, kind, message) => {
    const changed = project();
    const error = await failureOf(updatePin(changed, name, args, options));
    expect(error.kind).toBe(kind as "usage");
    expect(error.message).toContain(message);
    expect(changed).toEqual(project());
  });

  test("a rate limit of GitHub and a refused connection are environment errors with a hint", async () => {
    replies[`${github}/dagger/dagger/releases/latest`] = 403;
    const limited = await failureOf(updatePin(project(), "dagger", [], options));
    expect(limited).toMatchObject({ kind: "environment", hint: expect.stringContaining("GITHUB_TOKEN") });
    const refused = { fetch: () => fetch("http://127.0.0.1:1/") };
    const error = await failureOf(updatePin(project(), "bun", [], refused));
    expect(error).toMatchObject({ kind: "environment", hint: expect.stringContaining("reach") });
  });

  test("sends GITHUB_TOKEN only to GitHub's API", async () => {
    process.env.GITHUB_TOKEN = "secret";
    await updatePin(project(), "k3s", [], options);
    await updatePin(project(), "bun", [], options);
    for (const { path, authorization } of requests)
      expect(authorization).toBe(path.startsWith("api.github.com/") ? "Bearer secret" : null);
  });
});

describe("--remote", () => {
  const base = () =>
    project({
      "ci/slipway/core/pins.ts": real.get("ci/slipway/core/pins.ts")!.replace("docker.io/", `${server.url.host}/`),
      Dockerfile: real.get("Dockerfile")!.replace("docker.io/", `${server.url.host}/`),
    });
  beforeEach(() => {
    const commit = /[\da-f]{40}/.exec(pins.k3s.installScript)![0];
    const changed = { ...pins.bunFor };
    replies = {
      [`v2/oven/bun/manifests/${pins.bun}`]: { schemaVersion: 2 },
      [`npm.example/${changed.amd64.package}/${pins.bun}`]: { dist: { integrity: changed.amd64.integrity } },
      [`npm.example/${changed.arm64.package}/${pins.bun}`]: { dist: { integrity: changed.arm64.integrity } },
      [`${github}/dagger/dagger/releases/tags/v${pins.dagger}`]: {},
      [`${github}/k3s-io/k3s/commits/tags/${pins.k3s.version}`]: commit,
      [scriptAt(commit)]: script,
      [`${github}/actions/checkout/commits/tags/v7.0.1`]: one,
      [`${github}/dagger/dagger-for-github/commits/tags/v8.4.1`]: one,
      [`${github}/oven-sh/setup-bun/commits/${one}`]: one,
    };
  });
  /** The project with the checksum of the server's script. */
  const pinned = () => {
    const changed = base();
    setPin(changed, pin.k3sScriptSha256, sha256(script));
    return changed;
  };
  const pinsWith = async (wanted: PinCheck["status"]) =>
    (await checkUpstream(pinned(), options)).flatMap(({ name, status }) => (status === wanted ? [name] : []));

  test("all pins are checked and valid", async () => {
    const checks = await checkUpstream(pinned(), options);
    expect(checks.map(({ name, status }) => `${name}: ${status}`)).toEqual([
      "base image: valid",
      "Bun from npm for amd64: valid",
      "Bun from npm for arm64: valid",
      "Dagger CLI: valid",
      "k3s: valid",
      "SHA-256 of k3s's install script: valid",
      "action actions/checkout: valid",
      "action dagger/dagger-for-github: valid",
      "action oven-sh/setup-bun: valid",
    ]);
  });

  test("reports exactly the pin that is missing or changed upstream", async () => {
    for (const path of Object.keys(replies)) {
      const reply = replies[path]!;
      replies[path] = path.startsWith("api.github.com") ? 422 : 404;
      expect([path, (await pinsWith("invalid")).length]).toEqual([path, 1]);
      const other = path.startsWith("npm.") ? { dist: { integrity: integrity("c") } } : two;
      replies[path] = other;
      // A release and a manifest only have to exist.
      const acceptsAny = /releases|manifests/.test(path);
      expect([path, (await pinsWith("invalid")).length]).toEqual([path, acceptsAny ? 0 : 1]);
      replies[path] = reply;
    }
    expect(await pinsWith("invalid")).toEqual([]);
  });

  test("a failed request does not make a pin invalid", async () => {
    replies[`${github}/dagger/dagger/releases/tags/v${pins.dagger}`] = 403;
    expect(await pinsWith("invalid")).toEqual([]);
    expect(await pinsWith("unknown")).toEqual(["Dagger CLI"]);
  });
});

describe("command line", () => {
  let directory: string;
  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), "helloapp-pins-"));
    await cp(join(root, "ci"), join(directory, "ci"), { recursive: true });
    await rm(join(directory, "ci/slipway/init/templates/.github"), { recursive: true, force: true });
    linkModules(directory);
    // A service has an entry point.
    await Bun.write(join(directory, "src/main.ts"), "");
    for (const [path, text] of project()) await Bun.write(join(directory, path), text);
  });
  afterAll(() => rm(directory, { recursive: true }));

  async function run(...args: string[]) {
    const child = Bun.spawn([process.execPath, join(directory, "ci/maintenance/pins.ts"), ...args], {
      env: { ...process.env, npm_config_registry: "http://127.0.0.1:1" },
      stdout: "pipe",
      stderr: "pipe",
    });
    const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
    return { code: await child.exited, stdout, stderr };
  }

  test("lists each pin with its locations: exit 0", async () => {
    const { code, stdout, stderr } = await run();
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toContain(`Bun  ${pins.bun}\n    ci/slipway/core/pins.ts:`);
    expect(stdout).toContain(
      `action actions/checkout  ${one} # v7.0.1\n    ${workflow}:2  .github/workflows/b.yaml:2\n`,
    );
  });

  test("inconsistent locations: exit 1, with the pin and the position", async () => {
    const readme = join(directory, "README.md");
    await writeFile(readme, "npx bun@1.0.0 run up");
    const { code, stderr } = await run();
    await writeFile(readme, project().get("README.md")!);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^error: Bun is inconsistent: .* but "1\.0\.0" in README\.md:1/m);
  });

  test.each([[["nope"]], [["bun", "1", "2"]], [["toString"]], [["--remote", "x"]]])("%p: exit 2", async (args) => {
    const { code, stderr } = await run(...args);
    expect(code).toBe(2);
    expect(stderr).toMatch(/^error: pins takes --remote, or the name of a pin/m);
    expect(stderr).toContain("usage: bun run pins");
  });

  test("an unreachable registry: exit 3, and no file is changed", async () => {
    const { code, stderr } = await run("bun", "9.9.9");
    expect(code).toBe(3);
    expect(stderr).toContain("cannot fetch http://127.0.0.1:1/");
    expect(await readProject(directory)).toEqual(project());
  });
});
