/** Bundles a local script with its imports into one module, which a pod's Bun reads from standard input. */
import { resolve } from "node:path";
import { PipelineError } from "../core/errors.ts";
import type { Service } from "../core/resolve-service.ts";
import { explainBundleError, publicEnvDefines } from "../image/bundle-options.ts";

/** Whether an argument names a script, as opposed to an entry. */
export function isScript(argument: string): boolean {
  return /\.[cm]?[jt]sx?$/.test(argument);
}

/** @throws {PipelineError} "project" if the script does not compile, or imports a file that is not a module */
export async function bundleScript(service: Service, file: string): Promise<string> {
  const { outputs } = await explainBundleError(() =>
    Bun.build({
      entrypoints: [resolve(file)],
      root: service.root,
      target: "bun",
      sourcemap: "inline",
      external: service.external,
      plugins: service.plugins as Bun.BunPlugin[],
      define: { "process.env.NODE_ENV": '"production"', ...publicEnvDefines(service), ...service.define },
    }),
  );
  const [script, ...others] = outputs;
  const asset = others.find(({ kind }) => kind !== "sourcemap");
  if (!script || asset)
    throw new PipelineError("project", `${file} imports ${asset?.path ?? "nothing"}, which is not a module`, {
      code: "source-does-not-compile",
      hint: 'Embed the file instead: `import text from "./file" with { type: "text" }`.',
    });
  return script.text();
}

/** A program that starts the service's binary with arguments, and passes on signals and the exit code. */
export function launchProgram(args: string[]): string {
  return `const { BUN_BE_BUN, BUN_ENABLE_EXPERIMENTAL_SHELL_BUILTINS, ...env } = process.env;
const child = Bun.spawn([process.execPath, ...${JSON.stringify(args)}], { env, stdio: ["ignore", "inherit", "inherit"] });
for (const name of ["SIGTERM", "SIGINT"]) process.on(name, () => child.kill(name));
const code = await child.exited;
process.exit(child.signalCode ? 128 + require("node:os").constants.signals[child.signalCode] : code);
`;
}
