/**
 * The pipeline: from an edited line to a verified version.
 *
 *     dagger run bun ci/pipeline.ts      steps run in containers
 *     bun ci/pipeline.ts                 steps run on this machine
 *
 * Arguments become steps, steps become a report: this file reads as the list of what happens.
 */
import { readdir, rm, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { app } from "./app.ts";
import { readArchive, writeArchive } from "./image/archive.ts";
import { connectCluster } from "./targets/registry.ts";
import { deploy, describePlan, describeSamples, endpointOf, plan, prove } from "./cluster/deploy.ts";
import { rollback, status, upToDate, type Deploy } from "./cluster/deploy.ts";
import { connectK3s, hasK3s } from "./targets/k3s.ts";
import { pushIndex } from "./registry/push.ts";
import type { Target } from "./cluster/target.ts";
import type { Engine } from "./engines/engine.ts";
import { hostEngine } from "./engines/host.ts";
import { exitCodes, PipelineError } from "./ground/errors.ts";
import { gitCommit } from "./ground/git.ts";
import { parseCommandLine, usage, type Options } from "./options.ts";
import { Report } from "./ground/report.ts";
import { hasSbom, placeSbom, sbomBeside } from "./image/sbom.ts";
import { smoke } from "./image/smoke.ts";
import { verifyArchive } from "./commands/verify-archive.ts";
import { savesIn, watched } from "./ground/saves.ts";

const project = join(import.meta.dir, "../..");
const cache = join(project, "node_modules/.cache/pipeline");
/** Milliseconds after which nobody works on a half-written binary any more. */
const ABANDONED_MS = 600_000;
const UNCHANGED = "Nothing was changed.";

/** One run: everything that its steps share. */
class Run {
  /** What an interruption at this moment would leave behind. */
  left = UNCHANGED;
  /** When the deployed version was served, in milliseconds since 1970; undefined: none was. */
  servedAt: number | undefined;

  constructor(
    readonly options: Options,
    readonly engine: Engine,
    readonly signal: AbortSignal,
    readonly report = new Report(),
  ) {}

  /** @returns what holds now, as a sentence */
  async execute(): Promise<string> {
    const { command, target } = this.options;
    switch (command) {
      case "check":
      case "test":
        await this[command]();
        return `${command} passed`;
      case "image":
        return this.images();
      case "verify-archive":
        return this.report.step("rebuild", async () => {
          const { engine, signal } = this;
          const value = await verifyArchive(this.options.files[0]!, { project, engine, signal });
          return { value, detail: `and compared, by the ${engine.name} engine` };
        });
      case "push":
        return this.push();
      case "up":
        if (target === "k3s" && !hasK3s()) return this.upWithoutCluster();
    }
    if (target === "none") {
      if (command === "deploy" || command === "up") return this.archiveOnly();
      throw new PipelineError("usage", `${command} takes a cluster: not with --target none`);
    }
    const cluster = await this.connect();
    try {
      return await this.withCluster(cluster, command);
    } finally {
      await cluster.api.close();
    }
  }

  private async withCluster(target: Target, command: Options["command"]): Promise<string> {
    const to = this.to(target);
    switch (command) {
      case "plan": {
        const found = await plan(to, await this.id());
        const lines = describePlan(found);
        for (const line of lines) this.report.say(line);
        const image = found.delivered ? "whose image is there" : "whose image is not there yet";
        return `a deploy of ${found.name}, ${image}, would change ${lines.length > 0 ? "this" : "nothing"}`;
      }
      case "status": {
        const [first, ...lines] = await status(to);
        for (const line of lines) this.report.say(line);
        return first!;
      }
      case "verify": {
        const id = await this.id();
        const endpoint = await endpointOf(to);
        await prove(to, endpoint, id);
        return `${endpoint.url} serves ${app.name}:${id}`;
      }
      case "rollback":
        return `${app.name}:${await rollback(to, this.options.id)} serves again, verified`;
      case "watch":
        return this.watch(target);
      default:
        return this.deploy(to);
    }
  }

  /** @param hurry ends the wait for the last pods of the version before */
  private async deploy(to: Deploy, hurry?: AbortSignal): Promise<string> {
    const id = await this.id();
    // They need nothing of the cluster, and a plan takes its time.
    const proofs = [this.check(), this.test()];
    for (const proof of proofs) proof.catch(() => {});
    const change = await this.report.step("plan", async () => {
      const value = await plan(to, id);
      const lines = describePlan(value);
      return { value, detail: lines.length > 0 ? `${value.name} changes this:` : "nothing would change" };
    });
    for (const line of describePlan(change)) this.report.say(line);
    // An id is its inputs: an image of that name is this one.
    await this.sideBySide([...proofs, change.delivered || this.image(id)]);
    const { url } = change.endpoint;
    if (upToDate(change)) {
      await this.report.step("verify", async () => {
        await prove(to, change.endpoint, id);
        return { value: undefined, detail: `20 replies in a row carry ${id}` };
      });
      return `nothing to deploy: ${change.name} runs already and answers at ${url}`;
    }
    const { samples, servedAt } = await deploy(to, change, this.options.output, hurry);
    this.servedAt = servedAt;
    if (samples) this.report.say(describeSamples(samples));
    return `${change.name} serves at ${url}`;
  }

  /** Deploys what is here, then at every save, until it is interrupted. One line for each. */
  private async watch(target: Target): Promise<string> {
    console.log(`deploys at every save in ${watched.join(", ")}; Ctrl-C ends it`);
    let hurry = new AbortController();
    for await (const saved of savesIn(project, this.signal, () => hurry.abort())) {
      hurry = new AbortController();
      const run = new Run(this.options, this.engine, this.signal, new Report(() => {}));
      const conclusion = await run.deploy(run.to(target), hurry.signal).catch((error: unknown) => {
        this.left = run.left;
        this.signal.throwIfAborted();
        printError(error, this.options.verbose);
        return error instanceof PipelineError ? error.message : String(error);
      });
      const seconds = ((run.servedAt ?? Date.now()) - saved) / 1000;
      console.log(
        `${new Date(saved).toTimeString().slice(0, 8)} after ${seconds.toFixed(1)} s: ${conclusion}`,
      );
    }
    return "no longer watched";
  }

  private async archiveOnly(): Promise<string> {
    const [, , made] = await this.sideBySide([this.check(), this.test(), this.images()]);
    return made as string;
  }

  /** An archive for each platform, named after it where there are several. */
  private async images(): Promise<string> {
    const { architectures = [undefined], output } = this.options;
    const made: string[] = [];
    for (const architecture of architectures) {
      const own = architectures.length > 1 ? output.replace(/(\.tar)?$/, `-${architecture}$&`) : output;
      const id = await this.image(await this.engine.id(architecture), architecture, own);
      made.push(`${basename(own)} holds ${app.name}:${id}`);
    }
    return made.join(", ");
  }

  /** @returns the digest and what it is of; the digest is the first word, for a script */
  private push(): Promise<string> {
    return this.report.step("push", async () => {
      const { files, registry, tags } = this.options;
      const say = (line: string) => this.report.say(line);
      const options = { signal: this.signal, say, sbomOf: sbomBeside };
      const { digest, platforms } = await pushIndex(files, registry!, tags, options);
      const names = tags.map((tag) => `${registry}:${tag}`).join(", ") || registry!;
      return { value: `${digest} is ${names}, for ${platforms.join(" and ")}`, detail: `to ${registry}` };
    });
  }

  private async upWithoutCluster(): Promise<string> {
    const say = (line: string) => this.report.say(line);
    const made = await this.archiveOnly();
    const id = await this.id();
    await this.report.step("smoke", async () => {
      await smoke(this.options.output, id);
      return { value: undefined, detail: "the image's files run, answer and drain" };
    });
    const file = basename(this.options.output);
    say(`no k3s here. Next, one of:`);
    say(`  bun run k3s:install && bun run up         k3s on this machine, and the version on it`);
    say(`  podman load -i ${file} && podman run --rm -p 8080:8080 ${app.name}:${id}`);
    say(`  bun run dev                               the service from its source, on port 8080`);
    return made;
  }

  private async connect(): Promise<Target> {
    const { target, registry, context, kubeconfig, url } = this.options;
    const { signal } = this;
    if (target !== "registry") return connectK3s({ kubeconfig, context, url, signal });
    return connectCluster({ kubeconfig, context: context!, repository: registry!, url, signal });
  }

  private to(target: Target): Deploy {
    const leaves = (state: string) => (this.left = state);
    const { report, signal } = this;
    const say = (line: string) => report.say(line);
    return { target, project, signal, leaves, say, step: (name, work) => report.step(name, work) };
  }

  /** The id of what is deployed, asked about, or tried. */
  private id(): Promise<string> {
    return this.engine.id(this.options.architectures?.[0]);
  }

  private check(): Promise<void> {
    return this.script("check", "check");
  }

  private test(): Promise<void> {
    return this.script("test", "test:unit");
  }

  private script(step: string, name: "check" | "test:unit"): Promise<void> {
    return this.report.step(step, async () => {
      const { unchanged } = await this.engine.script(name);
      return {
        value: undefined,
        reused: unchanged,
        detail: unchanged ? "passed before, on these files" : "",
      };
    });
  }

  private image(
    id: string,
    architecture = this.options.architectures?.[0],
    output = this.options.output,
  ): Promise<string> {
    return this.report.step("image", async () => {
      const { tags, compression = "none" } = this.options;
      const names = [id, ...tags].map((tag) => `${app.name}:${tag}`);
      const done = (how: string, reused: boolean) => ({
        value: id,
        detail: `${basename(output)} ${how}: ${names.join(", ")}`,
        reused,
      });
      let reused = false;
      const there = await readArchive(output).catch(() => undefined);
      const same = there?.names.join() === names.join() && there.packed === (compression !== "none");
      if (same && (await hasSbom(output, id))) return done("is there already", true);
      // Where neither `bun check` nor `watch` sees it come and go.
      const dist = join(cache, `dist-${process.pid}`);
      await removeLeftovers();
      try {
        const built = await this.engine.build(dist, architecture);
        reused = built.reused;
        if (built.id !== id) {
          const message = `the source changed while it was built (${id} became ${built.id})`;
          throw new PipelineError("change", message, { hint: "Run the command again." });
        }
        const revision = await gitCommit(project, this.signal);
        await writeArchive(output, { dist, names, revision, platform: built.platform, compression });
        await placeSbom(dist, output);
      } finally {
        await rm(dist, { recursive: true, force: true });
      }
      const { size } = await stat(output);
      return done(`(${(size / 1e6).toFixed(1)} MB)${reused ? " of what the engine had" : ""}`, reused);
    });
  }

  /** Waits for all, then reports every failure: a person wants to hear of the type error and of the red test. */
  private async sideBySide(steps: unknown[]): Promise<unknown[]> {
    const results = await Promise.allSettled(steps);
    this.signal.throwIfAborted();
    const failures = results.flatMap((result) => (result.status === "rejected" ? [result.reason] : []));
    // The one that is thrown decides the exit code: the change's fault, where it is at fault too.
    const atFault = failures.find(isChange);
    const decisive = atFault ?? failures[0];
    for (const other of failures) if (other !== decisive) printError(other, this.options.verbose);
    if (decisive) throw decisive;
    return results.map((result) => (result.status === "fulfilled" ? result.value : undefined));
  }
}

/** Removes what runs that were killed have left half-built: each is over 100 MB. */
async function removeLeftovers(): Promise<void> {
  for (const name of await readdir(cache).catch(() => [])) {
    const [, pid] = /^(?:dist|verify)-(\d+)/.exec(name) ?? [];
    if (pid && !isAlive(Number(pid))) await rm(join(cache, name), { recursive: true, force: true });
  }
  // The compiler's own, in its working directory. That is always the project: the binary depends on where it is.
  for (const name of await readdir(project)) {
    if (!name.endsWith(".bun-build")) continue;
    const { mtimeMs } = await stat(join(project, name)).catch(() => ({ mtimeMs: Infinity }));
    if (Date.now() - mtimeMs > ABANDONED_MS) await rm(join(project, name), { force: true });
  }
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    // Somebody else's.
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

/** Whether the change is at fault; its message says itself what became of it. */
function isChange(error: unknown): boolean {
  return error instanceof PipelineError && error.fault === "change";
}

function printError(error: unknown, verbose: boolean): void {
  if (!(error instanceof PipelineError)) {
    console.error(error);
    return;
  }
  const output = error.output?.trimEnd();
  if (output) console.error(verbose ? output : output.split("\n").slice(-60).join("\n"));
  console.error(
    `\nerror: ${error.message}${/[.!?]$/.test(error.message) ? "" : "."} ${error.hint ?? ""}`.trimEnd(),
  );
  if (verbose) console.error(error.stack);
}

export async function main(args: string[]): Promise<number> {
  const verbose = args.includes("--verbose");
  const interrupted = new AbortController();
  let current: Run | undefined;
  try {
    const options = parseCommandLine(args, process.env);
    if (options.help) {
      console.log(usage);
      return 0;
    }
    const interrupt = () => interrupted.abort(new PipelineError("interrupted", "interrupted"));
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, interrupt);

    const execute = async (engine: Engine) => {
      current = new Run(options, engine, interrupted.signal);
      const conclusion = await current.execute();
      await current.report.publish(conclusion, options.report);
      console.log(`${conclusion} (${current.report.line()})`);
    };
    if (options.engine === "host") await execute(hostEngine(project, interrupted.signal));
    // Imported only here: the SDK takes a third of a second to load.
    else await (await import("./engines/dagger.ts")).withDagger(project, execute);
    return 0;
  } catch (error) {
    if (interrupted.signal.aborted) {
      console.error(`\ninterrupted. ${current?.left ?? UNCHANGED}`);
      return exitCodes.interrupted;
    }
    printError(error, verbose);
    if (current && current.left !== UNCHANGED && !isChange(error)) console.error(current.left);
    if (!(error instanceof PipelineError)) return exitCodes.change;
    if (error.fault === "usage") console.error(`\n${usage}`);
    await current?.report.publish(`**failed:** ${error.message}`, current.options.report);
    return exitCodes[error.fault];
  }
}
