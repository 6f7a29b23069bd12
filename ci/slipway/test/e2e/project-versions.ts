/** Creates copies of the project. Each is a different version, and all deploy to the same namespace and port. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { copyProject, must } from "./setup.ts";

const overlay = "k8s/overlays/k3s/kustomization.yaml";

export class Copy {
  readonly directory: string;
  /** Original content of changed files. */
  readonly #originals = new Map<string, string>();
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

  /** Turns the copy into a new version. */
  edit(): void {
    this.state(`if (process.env.BENCH === "${crypto.randomUUID()}") console.log("${this.name}");`);
    this.keepChanges();
  }

  /** Makes the current state the one that restore() returns to. */
  keepChanges(): void {
    this.#originals.clear();
  }

  /** Inserts `statement` before the service's main part. Replaces the previous statement. */
  state(statement: string): void {
    this.rewrite(
      "src/main.ts",
      /(?:\/\/ edit\n.*\n)?const \[argument, \.\.\.more\]/,
      `// edit\n${statement}\nconst [argument, ...more]`,
    );
  }

  /** Adds a JSON patch for the Deployment to the overlay. */
  patch(patch: object[]): void {
    const target = "  - target: { kind: Deployment, name: helloapp }";
    this.rewrite(overlay, /$/, `${target}\n    patch: |\n      ${JSON.stringify(patch)}\n`);
  }

  /** Reverts all changes since the last edit() or keepChanges(). */
  restore(): void {
    for (const [path, text] of this.#originals) writeFileSync(join(this.directory, path), text);
    this.#originals.clear();
    this.#id = undefined;
  }

  /** Returns the image ID of the current version. */
  id(): string {
    return (this.#id ??= must([process.execPath, "ci/pipeline.ts", "build", "--id"], {
      cwd: this.directory,
    }).trim());
  }

  /** Changes a file until restore(). */
  rewrite(path: string, part: string | RegExp, replacement: string): void {
    const file = join(this.directory, path);
    const before = readFileSync(file, "utf8");
    const after = before.replace(part, () => replacement);
    if (after === before) throw new Error(`${path} has no ${part} to replace`);
    if (!this.#originals.has(path)) this.#originals.set(path, before);
    writeFileSync(file, after);
    this.#id = undefined;
  }
}
