/**
 * Where each pin stands in the project, whether all its places agree, and how another value is written to all of them.
 *
 * ci/slipway/core/pins.ts is what code reads; Dockerfile, workflows and commands in the README have to repeat it. A pin is found by
 * its text, so that one table is enough to show, compare and rewrite it.
 */
import { join } from "node:path";
import { PipelineError } from "../../slipway/core/errors.ts";

/** The files that hold pins: path -> text. */
export type Project = Map<string, string>;

interface Place {
  /** One file, which has to have the pin if it is there, or a pattern of paths that may have it. */
  file: string | RegExp;
  /** Its one group captures the pin; where that takes no part in a match, the pin is missing there. */
  pattern: RegExp;
}

export interface Pin {
  name: string;
  form: RegExp;
  /** The form in words. */
  like: string;
  /** The first is where the others are copied from. */
  places: Place[];
}

/** The commit of a GitHub action. */
export interface ActionPin extends Pin {
  /** OWNER/NAME */
  repository: string;
}

/** A pin at one place. */
export interface PinLocation {
  /** `file:line`, or the file alone when the pin is missing in it. */
  place: string;
  file: string;
  value: string | undefined;
  /** Where the value begins in the file; undefined when it is missing. */
  start: number | undefined;
}

/** Of slipway's own repository; a service has them from the package. */
const PINS = "ci/slipway/core/pins.ts";
const TEMPLATES = "ci/slipway/init/templates/";
const manifests = ["package.json", "ci/slipway/package.json"];
const paths = [
  "Dockerfile",
  "README.md",
  "ci/slipway/README.md",
  ...manifests,
  "bun.lock",
  "bunfig.toml",
  ".ci/run",
  PINS,
];
/** Those that run, and those that `init` writes. */
const workflows = /^(ci\/slipway\/init\/templates\/)?\.github\//;
const commands = /^((ci\/slipway\/)?README\.md|\.ci\/run|\.github\/.*)$/;

const version = { form: /^\d+\.\d+\.\d+(-[\w.]+)?$/, like: "a version, 1.2.3" };
const sha512 = { form: /^sha512-[A-Za-z\d+/]{86}==$/, like: "a SHA-512 in base64" };

const escaped = (text: string) => text.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&");
/** `uses:` however YAML lets it be written, but not in a comment. */
const uses = "^[^#\\n]*\\buses[\"']?: *[\"']?";
/** An input of an action, up to the next step. Without that input an action takes the newest of what it installs. */
const inputOf = (action: string, input: string) =>
  new RegExp(
    `${uses}${escaped(action)}@.*(?:\\n(?! *- ).*)*?` +
      `(?:\\n +${input}: *["']?(\\$\\{\\{.*?\\}\\}|[^\\s"'#]+)|(?=\\n *- |\\s*(?![^])))`,
  );

const bunOfNpm = (architecture: string): Pin => ({
  name: `Bun from npm for ${architecture}`,
  ...sha512,
  places: [{ file: PINS, pattern: new RegExp(`\\b${architecture}: \\{[^}]*integrity:\\s*"([^"]*)"`) }],
});

export const pin = {
  bun: {
    name: "Bun",
    ...version,
    places: [
      { file: PINS, pattern: /\bbun: "([^"]*)"/ },
      { file: PINS, pattern: /\bbaseImage: ".*\/bun:([\w.]*)/ },
      { file: "Dockerfile", pattern: /^FROM .*\/bun:([\w.]*)/ },
      { file: "package.json", pattern: /"bun-types": "([^"]*)"/ },
      { file: commands, pattern: /(?<![\w/-])bun@([\w.-]*\w)/ },
      { file: workflows, pattern: inputOf("oven-sh/setup-bun", "bun-version") },
    ],
  },
  baseImage: {
    name: "base image",
    form: /^[\w.-]+(:\d+)?\/[\w./-]+:\w[\w.-]*(@sha256:[\da-f]{64})?$/,
    like: "an image with its registry and a tag",
    places: [
      { file: PINS, pattern: /\bbaseImage: "([^"]*)"/ },
      { file: "Dockerfile", pattern: /^FROM (\S+) AS builder$/ },
    ],
  },
  bunForAmd64: bunOfNpm("amd64"),
  bunForArm64: bunOfNpm("arm64"),
  dagger: {
    name: "Dagger CLI",
    ...version,
    places: [
      { file: PINS, pattern: /\bdagger: "([^"]*)"/ },
      { file: workflows, pattern: inputOf("dagger/dagger-for-github", "version") },
    ],
  },
  k3s: {
    name: "k3s",
    form: /^v\d+\.\d+\.\d+(-rc\d+)?\+k3s\d+$/,
    like: "a release tag of k3s, v1.2.3+k3s1",
    places: [{ file: PINS, pattern: /\bk3s: \{\s*version: "([^"]*)"/ }],
  },
  k3sScript: {
    name: "k3s's install script",
    form: /^https:\/\/.*\/[\da-f]{40}\/install\.sh$/,
    like: "install.sh at a commit, which cannot move",
    places: [{ file: PINS, pattern: /\binstallScript:\s*"([^"]*)"/ }],
  },
  k3sScriptSha256: {
    name: "SHA-256 of k3s's install script",
    form: /^[\da-f]{64}$/,
    like: "a SHA-256",
    places: [{ file: PINS, pattern: /\binstallScriptSha256:\s*"([^"]*)"/ }],
  },
} satisfies Record<string, Pin>;

/** Reads what is there of the files: an image build has neither README nor workflows, and then they are not checked. */
export async function readProject(root: string): Promise<Project> {
  const globs = [".github/**/*.{yml,yaml}", `${TEMPLATES}.github/**`].map((glob) => new Bun.Glob(glob));
  const found = globs.flatMap((glob) => [...glob.scanSync({ cwd: root, dot: true })]);
  const project: Project = new Map();
  for (const path of [...paths, ...found.sort()]) {
    const file = Bun.file(join(root, path));
    if (await file.exists()) project.set(path, await file.text());
  }
  return project;
}

/** All pins of the project: those of the table, the npm packages of package.json, the actions of the workflows. */
export function pinsOf(project: Project): Pin[] {
  return [...Object.values<Pin>(pin), ...npmPins(project), ...actionPins(project)];
}

/** None where the project does not say that it wants exact versions. */
function npmPins(project: Project): Pin[] {
  if (!/^exact = true/m.test(project.get("bunfig.toml") ?? "")) return [];
  return manifests.flatMap((manifest) => npmPinsOf(manifest, project));
}

function npmPinsOf(manifest: string, project: Project): Pin[] {
  const { dependencies, devDependencies } = JSON.parse(project.get(manifest) ?? "{}") as {
    [list: string]: Record<string, string> | undefined;
  };
  // A member of the workspace has no version here.
  const wanted = Object.entries({ ...dependencies, ...devDependencies }).filter(
    ([, value]) => !value.startsWith("workspace:"),
  );
  return wanted.map(([name]) => ({
    name: `npm ${name}`,
    ...version,
    places: [
      { file: manifest, pattern: new RegExp(`^ +"${escaped(name)}": "([^"]*)"`) },
      // What was asked for, and what that became.
      // A peer's is a range.
      { file: "bun.lock", pattern: new RegExp(`^ +"${escaped(name)}": "(?!\\^)([^"]*)"`) },
      { file: "bun.lock", pattern: new RegExp(`^ +"${escaped(name)}": \\["${escaped(name)}@([^"]*)"`) },
    ],
  }));
}

/** Of all actions that a workflow uses. */
export function actionPins(project: Project): ActionPin[] {
  // An action of this repository, ./…, comes with the commit. Several actions may stand in one repository.
  const action = new RegExp(`${uses}(?!\\.)([\\w.-]+/[\\w.-]+|docker:[^\\s"']+)`, "gm");
  const texts = [...project].filter(([path]) => workflows.test(path)).map(([, text]) => text);
  const names = texts.flatMap((text) => [...text.matchAll(action)].map(([, name]) => name!));
  return [...new Set(names)].sort().map(actionPin);
}

/** An action's pin is all that stands behind the @: commit and version belong together. */
export function actionPin(name: string): ActionPin {
  return {
    name: `action ${name}`,
    repository: name,
    form: /^[\da-f]{40} # v?\d[\w.-]*$/,
    like: "a commit with its version as a comment, SHA # v1.2.3",
    places: [{ file: workflows, pattern: new RegExp(`${uses}${escaped(name)}(?![\\w.-])[^@\\n]*@?(.*)$`) }],
  };
}

/** Where a pin stands, and as what; the places that should have it and do not are among them. */
export function locationsOf({ places }: Pin, project: Project): PinLocation[] {
  return places.flatMap(({ file, pattern }) =>
    [...project].flatMap(([path, text]): PinLocation[] => {
      if (typeof file === "string" ? path !== file : !file.test(path)) return [];
      const matches = [...text.matchAll(new RegExp(pattern, "dgm"))];
      // What a workflow computes, ${{ … }}, is no pin; nor is what `init` will fill in.
      const found = matches.flatMap((match): PinLocation[] => {
        if (/^(\$\{\{|__)/.test(match[1] ?? "")) return [];
        const start = match.indices![1]?.[0];
        const line = text.slice(0, start ?? match.index).split("\n").length;
        return [{ place: `${path}:${line}`, file: path, value: match[1], start }];
      });
      const missing = { place: path, file: path, value: undefined, start: undefined };
      return found.length === 0 && typeof file === "string" ? [missing] : found;
    }),
  );
}

/** The value that a pin has where it is copied from. @throws {PipelineError} "project" when it is not there */
export function valueOf(wanted: Pin, project: Project): string {
  const [first] = locationsOf(wanted, project);
  if (first?.value !== undefined) return first.value;
  throw new PipelineError("project", `${wanted.name} is not pinned${first ? ` in ${first.place}` : ""}`);
}

/** What is wrong with the project's pins, a sentence for each; an empty list: all places agree. */
export function pinErrors(project: Project): string[] {
  return pinsOf(project).flatMap((one) => {
    const uses = locationsOf(one, project);
    // A service has not all that slipway's own repository has.
    if (uses.length === 0) return [];
    const places = Map.groupBy(uses, ({ value }) => value?.replace(/\s+/g, " "));
    const said = [...places].map(([value, at]) => {
      const where = at.map(({ place }) => place).join(", ");
      return { value, where, text: `${value === undefined ? "missing" : `"${value}"`} in ${where}` };
    });
    const apart = said.length > 1 || said[0]?.value === undefined;
    return [
      ...(apart ? [`${one.name} does not agree: ${said.map(({ text }) => text).join(", but ")}`] : []),
      ...said.flatMap(({ value, text }) =>
        value === undefined || one.form.test(value) ? [] : [`${one.name} is ${text}, not ${one.like}`],
      ),
    ];
  });
}

/** Writes a value to all places of a pin. @throws {PipelineError} "project" when one of them is not there */
export function setPin(project: Project, wanted: Pin, value: string): void {
  // From the last to the first: what is written does not move what is still to come.
  const found = locationsOf(wanted, project).sort((a, b) => (b.start ?? 0) - (a.start ?? 0));
  for (const use of found) {
    if (use.start === undefined)
      throw new PipelineError("project", `${wanted.name} is missing in ${use.place}`);
    const text = project.get(use.file)!;
    const after = text.slice(use.start + use.value!.length);
    project.set(use.file, text.slice(0, use.start) + value + after);
  }
}
