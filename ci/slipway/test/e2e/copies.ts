/** Copies of the project, to deploy beside each other: each another version, all to one namespace and port. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { copyProject, must } from "./setup.ts";

const overlay = "k8s/overlays/k3s/kustomization.yaml";

export class Copy {
  readonly directory: string;
  /** What changed files were. */
  readonly #before = new Map<string, string>();
  #id: string | undefined;

  constructor(
    directory: string,
    readonly name: string,
    { namespace, port }: { namespace: string; port: number },
  ) {
    this.directory = copyProject(join(directory, name));
    const call = "await pipeline(import.meta, {\n";
    this.rewrite("ci/pipeline.ts", call, `${call}  namespace: "${namespace}",\n`);
    this.rewrite("k8s/base/kustomization.yaml", "namespace: helloapp", `namespace: ${namespace}`);
    this.rewrite("k8s/base/namespace.yaml", "name: helloapp", `name: ${namespace}`);
    this.rewrite(overlay, "30080", String(port));
    this.edit();
  }

  /** Makes it a version that nobody has seen. */
  edit(): void {
    this.state(`if (process.env.BENCH === "${crypto.randomUUID()}") console.log("${this.name}");`);
    this.keepChanges();
  }

  /** restore() comes back to what it is now. */
  keepChanges(): void {
    this.#before.clear();
  }

  /** Puts `statement` before the service's main part, in place of the one before. */
  state(statement: string): void {
    this.rewrite(
      "src/main.ts",
      /(?:\/\/ edit\n.*\n)?const \[argument, \.\.\.more\]/,
      `// edit\n${statement}\nconst [argument, ...more]`,
    );
  }

  /** Applies a JSON patch to the Deployment, after those of the overlay. */
  patch(patch: object[]): void {
    const target = "  - target: { kind: Deployment, name: helloapp }";
    this.rewrite(overlay, /$/, `${target}\n    patch: |\n      ${JSON.stringify(patch)}\n`);
  }

  /** Takes back all since the last edit(). */
  restore(): void {
    for (const [path, text] of this.#before) writeFileSync(join(this.directory, path), text);
    this.#before.clear();
    this.#id = undefined;
  }

  /** The id of the version that it is now. */
  id(): string {
    return (this.#id ??= must([process.execPath, "ci/pipeline.ts", "build", "--id"], {
      cwd: this.directory,
    }).trim());
  }

  /** Changes a file, until restore(). */
  rewrite(path: string, part: string | RegExp, replacement: string): void {
    const file = join(this.directory, path);
    const before = readFileSync(file, "utf8");
    const after = before.replace(part, () => replacement);
    if (after === before) throw new Error(`${path} has no ${part} to replace`);
    if (!this.#before.has(path)) this.#before.set(path, before);
    writeFileSync(file, after);
    this.#id = undefined;
  }
}
