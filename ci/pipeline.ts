/**
 * The pipeline: from an edited line to a verified version.
 *
 *     dagger run bun ci/pipeline.ts      steps run in containers
 *     bun ci/pipeline.ts                 steps run on this machine
 *
 * Arguments become steps, steps become a report: this file reads as the list of what happens.
 */
import { rm, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { app } from "./app.ts";
import { readArchive, writeArchive } from "./archive.ts";
import { deploy, endpoint, plan, prove, rollback, upToDate, type Target } from "./deploy/deploy.ts";
import { connectK3s, hasK3s, type K3s } from "./deploy/k3s.ts";
import type { Engine } from "./engine/engine.ts";
import { hostEngine } from "./engine/host.ts";
import { exitCodes, PipelineError } from "./errors.ts";
import { gitCommit } from "./git.ts";
import { Report } from "./report.ts";
import { smoke } from "./smoke.ts";

const usage = `Takes ${app.name} from the source to a verified version on k3s.

usage: bun ci/pipeline.ts [command] [options]              on this machine
       dagger run bun ci/pipeline.ts [command] [options]   in containers

commands:
  deploy     check, test, image, then import, roll out, verify (the default)
  up         the same where there is a k3s; elsewhere a smoke test of the image
  check      types and format
  test       unit tests
  image      the docker-archive alone
  verify     ask the NodePort whether it serves what is here
  rollback   go back to the version before, and verify that

options:
  --engine dagger|host   where steps run (default: dagger under \`dagger run\`, else host)
  --target k3s|none      where the image goes (default: k3s; none: the archive alone)
  --output FILE          the docker-archive (default: ${app.name}.tar)
  --tag NAME             a further name in the archive, ${app.name}:NAME; may be repeated
  --kubeconfig FILE      another kubeconfig than k3s's own, for a k3s of this machine
  --context NAME         another context of that file than its current one
  --verbose              stack traces and the whole output of what failed
  --help                 this text

exit codes: 0 what was asked for holds; 1 the change is at fault; 2 the command line is wrong;
            3 the surroundings are at fault, nothing was changed; 130 interrupted
`;

const commands = ["deploy", "up", "check", "test", "image", "verify", "rollback"] as const;
type Command = (typeof commands)[number];

export interface Options {
  command: Command;
  engine: "dagger" | "host";
  target: "k3s" | "none";
  output: string;
  tags: string[];
  kubeconfig: string | undefined;
  context: string | undefined;
  verbose: boolean;
  help: boolean;
}

/** @throws {PipelineError} "usage" when the command line is wrong */
export function parseCommandLine(args: string[], env: Record<string, string | undefined>): Options {
  const wrong = (message: string) => new PipelineError("usage", message);
  const parsed = (() => {
    try {
      return parseArgs({
        args,
        allowPositionals: true,
        options: {
          engine: { type: "string" },
          target: { type: "string" },
          output: { type: "string" },
          tag: { type: "string", multiple: true },
          kubeconfig: { type: "string" },
          context: { type: "string" },
          verbose: { type: "boolean" },
          help: { type: "boolean", short: "h" },
        },
      });
    } catch (error) {
      throw wrong((error as Error).message);
    }
  })();
  const { values, positionals } = parsed;
  const oneOf = <const T extends string>(what: string, given: string, known: readonly T[]): T => {
    const found = known.find((value) => value === given);
    if (!found) throw wrong(`unknown ${what} "${given}": expected one of ${known.join(", ")}`);
    return found;
  };
  if (positionals.length > 1) throw wrong(`one command at a time, not ${positionals.join(" ")}`);
  for (const tag of values.tag ?? []) {
    if (!/^[\w][\w.-]{0,127}$/.test(tag)) throw wrong(`--tag "${tag}" is no image tag`);
  }
  return {
    command: oneOf("command", positionals[0] ?? "deploy", commands),
    engine: oneOf("engine", values.engine ?? (env.DAGGER_SESSION_PORT ? "dagger" : "host"), [
      "dagger",
      "host",
    ]),
    target: oneOf("target", values.target ?? "k3s", ["k3s", "none"]),
    output: resolve(values.output ?? `${app.name}.tar`),
    tags: values.tag ?? [],
    kubeconfig: values.kubeconfig,
    context: values.context,
    verbose: values.verbose ?? false,
    help: values.help ?? false,
  };
}

const project = dirname(import.meta.dir);

/** One run: everything that its steps share. */
class Run {
  readonly report = new Report();
  /** What an interruption at this moment would leave behind. */
  left = "Nothing was changed.";

  constructor(
    readonly options: Options,
    readonly engine: Engine,
    readonly signal: AbortSignal,
  ) {}

  /** @returns what holds now, as a sentence */
  async execute(): Promise<string> {
    const { command, output } = this.options;
    switch (command) {
      case "check":
      case "test":
        await this[command]();
        return `${command} passed`;
      case "image":
        return `${basename(output)} holds ${app.name}:${await this.image(await this.engine.id())}`;
      case "verify": {
        const [k3s, id] = await Promise.all([this.k3s(), this.engine.id()]);
        const target = this.to(k3s);
        const url = await endpoint(target, id);
        await prove(target, url, id);
        return `${url} serves ${app.name}:${id}`;
      }
      case "rollback": {
        const id = await rollback(this.to(await this.k3s()));
        return `${app.name}:${id} serves again, verified`;
      }
      case "up":
        return this.options.target === "k3s" && hasK3s() ? this.deploy() : this.upWithoutCluster();
      case "deploy":
        return this.options.target === "none" ? this.archiveOnly() : this.deploy();
    }
  }

  private async deploy(): Promise<string> {
    const k3s = await this.k3s();
    const target = this.to(k3s);
    const id = await this.engine.id();
    const change = await this.report.step("plan", async () => {
      const value = await plan(target, id);
      const detail = upToDate(value) ? "nothing would change" : `${value.image}: ${value.changes.join(", ")}`;
      return { value, detail };
    });
    // An id is its inputs: an image of that name in the node is this one.
    await this.sideBySide([this.check(), this.test(), change.inContainerd || this.image(id)]);
    if (upToDate(change)) {
      await this.report.step("verify", async () => {
        const value = await prove(target, change.url, id);
        return { value, detail: `every reply carries ${id}` };
      });
      return `nothing to deploy: ${change.image} runs already and answers at ${change.url}`;
    }
    await this.report.step("deploy", async () => {
      await deploy(target, change, this.options.output);
      return { value: undefined, detail: `20 replies in a row from ${change.url} carry ${id}` };
    });
    return `${change.image} serves at ${change.url}`;
  }

  private async archiveOnly(): Promise<string> {
    const id = await this.engine.id();
    await this.sideBySide([this.check(), this.test(), this.image(id)]);
    return `${basename(this.options.output)} holds ${app.name}:${id}`;
  }

  private async upWithoutCluster(): Promise<string> {
    const say = (line: string) => this.report.say(line);
    const made = await this.archiveOnly();
    const id = await this.engine.id();
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

  private k3s(): Promise<K3s> {
    const { kubeconfig, context } = this.options;
    return connectK3s({ kubeconfig, context, signal: this.signal });
  }

  private to(k3s: K3s): Target {
    const leaves = (state: string) => (this.left = state);
    return { k3s, project, signal: this.signal, leaves, say: (line) => this.report.say(line) };
  }

  private check(): Promise<void> {
    return this.report.step("check", async () => ({ value: await this.engine.script("check"), detail: "" }));
  }

  private test(): Promise<void> {
    return this.report.step("test", async () => ({
      value: await this.engine.script("test:unit"),
      detail: "",
    }));
  }

  private image(id: string): Promise<string> {
    return this.report.step("image", async () => {
      const { output, tags } = this.options;
      const names = [id, ...tags].map((tag) => `${app.name}:${tag}`);
      const detail = (how: string) => ({
        value: id,
        detail: `${basename(output)} ${how}: ${names.join(", ")}`,
      });
      const there = await readArchive(output).catch(() => undefined);
      if (there && there.names.join() === names.join()) return detail("is there already");

      const dist = join(project, `dist.${this.engine.name}-${process.pid}`);
      try {
        const built = await this.engine.build(dist);
        if (built.id !== id) {
          const message = `the source changed while it was built (${id} became ${built.id})`;
          throw new PipelineError("change", message, { hint: "Run the command again." });
        }
        const revision = await gitCommit(project, this.signal);
        writeArchive(output, { dist, names, revision, platform: built.platform });
      } finally {
        await rm(dist, { recursive: true, force: true });
      }
      const { size } = await stat(output);
      return detail(`(${(size / 1e6).toFixed(1)} MB)`);
    });
  }

  /** Waits for all, then reports every failure: a person wants to hear of the type error and of the red test. */
  private async sideBySide(steps: unknown[]): Promise<void> {
    const results = await Promise.allSettled(steps);
    this.signal.throwIfAborted();
    const failures = results.flatMap((result) => (result.status === "rejected" ? [result.reason] : []));
    // The one that is thrown decides the exit code: the change's fault, where it is at fault too.
    const atFault = failures.find((error) => error instanceof PipelineError && error.fault === "change");
    const decisive = atFault ?? failures[0];
    for (const other of failures) if (other !== decisive) printError(other, this.options.verbose);
    if (decisive) throw decisive;
  }
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

async function main(args: string[]): Promise<number> {
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
      await current.report.publish(conclusion);
      console.log(`${conclusion} (${current.report.seconds.toFixed(1)} s)`);
    };
    if (options.engine === "host") await execute(hostEngine(project, interrupted.signal));
    // Imported only here: the SDK takes a third of a second to load.
    else await (await import("./engine/dagger.ts")).withDagger(project, execute);
    return 0;
  } catch (error) {
    if (interrupted.signal.aborted) {
      console.error(`\ninterrupted. ${current?.left ?? "Nothing was changed."}`);
      return exitCodes.interrupted;
    }
    printError(error, verbose);
    if (!(error instanceof PipelineError)) return exitCodes.change;
    if (error.fault === "usage") console.error(`\n${usage}`);
    await current?.report.publish(`**failed:** ${error.message}`);
    return exitCodes[error.fault];
  }
}

if (import.meta.main) process.exit(await main(process.argv.slice(2)));
