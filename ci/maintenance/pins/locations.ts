/**
 * Finds all locations of each pin in the project, compares them and writes new values.
 *
 * Code reads ci/slipway/core/pins.ts. The Dockerfile, the workflows and the commands in the README have to repeat its
 * values. Pins are found by regular expressions, so a single table is enough to list, compare and update them.
 */
import { join } from "node:path";
import { PipelineError } from "../../slipway/core/errors.ts";

/** Text of each file that contains pins, by path. */
export type Project = Map<string, string>;

interface LocationPattern {
  /** Path of a file that must contain the pin if the file exists, or a pattern of paths that may contain it. */
  file: string | RegExp;
  /** Captures the pin in its only group. If the group does not participate in a match, the pin is missing there. */
  pattern: RegExp;
}

export interface Pin {
  name: string;
  format: RegExp;
  formatDescription: string;
  /** The first location is the source, the others are copies. */
  patterns: LocationPattern[];
}

/** The commit of a GitHub action. */
export interface ActionPin extends Pin {
  /** OWNER/NAME */
  repository: string;
}

/** An occurrence of a pin. */
export interface PinLocation {
  /** `file:line`, or only the file if the pin is missing in it. */
  position: string;
  file: string;
  value: string | undefined;
  /** Offset of the value in the file, or undefined if the pin is missing. */
  start: number | undefined;
}

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
/** Workflows of this repository, and the templates of `init`. */
const workflows = /^(ci\/slipway\/init\/templates\/)?\.github\//;
const commands = /^((ci\/slipway\/)?README\.md|\.ci\/run|\.github\/.*)$/;

const version = { format: /^\d+\.\d+\.\d+(-[\w.]+)?$/, formatDescription: "a version, 1.2.3" };
const sha512 = { format: /^sha512-[A-Za-z\d+/]{86}==$/, formatDescription: "a SHA-512 in base64" };

const escaped = (text: string) => text.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&");
/** Matches `uses:` in any YAML notation, except in comments. */
const uses = "^[^#\\n]*\\buses[\"']?: *[\"']?";
/** Matches an input of an action, up to the next step. Without that input the action installs the newest version. */
const inputOf = (action: string, input: string) =>
  new RegExp(
    `${uses}${escaped(action)}@.*(?:\\n(?! *- ).*)*?` +
      `(?:\\n +${input}: *["']?(\\$\\{\\{.*?\\}\\}|[^\\s"'#]+)|(?=\\n *- |\\s*(?![^])))`,
  );

const bunOfNpm = (architecture: string): Pin => ({
  name: `Bun from npm for ${architecture}`,
  ...sha512,
  patterns: [{ file: PINS, pattern: new RegExp(`\\b${architecture}: \\{[^}]*integrity:\\s*"([^"]*)"`) }],
});

export const pin = {
  bun: {
    name: "Bun",
    ...version,
    patterns: [
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
    format: /^[\w.-]+(:\d+)?\/[\w./-]+:\w[\w.-]*(@sha256:[\da-f]{64})?$/,
    formatDescription: "an image with its registry and a tag",
    patterns: [
      { file: PINS, pattern: /\bbaseImage: "([^"]*)"/ },
      { file: "Dockerfile", pattern: /^FROM (\S+) AS builder$/ },
    ],
  },
  bunForAmd64: bunOfNpm("amd64"),
  bunForArm64: bunOfNpm("arm64"),
  dagger: {
    name: "Dagger CLI",
    ...version,
    patterns: [
      { file: PINS, pattern: /\bdagger: "([^"]*)"/ },
      { file: workflows, pattern: inputOf("dagger/dagger-for-github", "version") },
    ],
  },
  k3s: {
    name: "k3s",
    format: /^v\d+\.\d+\.\d+(-rc\d+)?\+k3s\d+$/,
    formatDescription: "a release tag of k3s, v1.2.3+k3s1",
    patterns: [{ file: PINS, pattern: /\bk3s: \{\s*version: "([^"]*)"/ }],
  },
  k3sScript: {
    name: "k3s's install script",
    format: /^https:\/\/.*\/[\da-f]{40}\/install\.sh$/,
    formatDescription: "install.sh at a commit, which cannot move",
    patterns: [{ file: PINS, pattern: /\binstallScript:\s*"([^"]*)"/ }],
  },
  k3sScriptSha256: {
    name: "SHA-256 of k3s's install script",
    format: /^[\da-f]{64}$/,
    formatDescription: "a SHA-256",
    patterns: [{ file: PINS, pattern: /\binstallScriptSha256:\s*"([^"]*)"/ }],
  },
} satisfies Record<string, Pin>;

/** Reads the files that exist. An image build has neither README nor workflows, so it checks fewer files. */
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

/** Lists all pins: the table above, the npm packages of package.json and the actions of the workflows. */
export function pinsOf(project: Project): Pin[] {
  return [...Object.values<Pin>(pin), ...npmPins(project), ...actionPins(project)];
}

/** Lists npm packages as pins if bunfig.toml requires exact versions. */
function npmPins(project: Project): Pin[] {
  if (!/^exact = true/m.test(project.get("bunfig.toml") ?? "")) return [];
  return manifests.flatMap((manifest) => npmPinsOf(manifest, project));
}

function npmPinsOf(manifest: string, project: Project): Pin[] {
  const { dependencies, devDependencies } = JSON.parse(project.get(manifest) ?? "{}") as {
    [list: string]: Record<string, string> | undefined;
  };
  // Workspace members have no version here.
  const wanted = Object.entries({ ...dependencies, ...devDependencies }).filter(
    ([, value]) => !value.startsWith("workspace:"),
  );
  return wanted.map(([name]) => ({
    name: `npm ${name}`,
    ...version,
    patterns: [
      { file: manifest, pattern: new RegExp(`^ +"${escaped(name)}": "([^"]*)"`) },
      // The requested version, then the resolved version. Peer dependencies are ranges.
      { file: "bun.lock", pattern: new RegExp(`^ +"${escaped(name)}": "(?!\\^)([^"]*)"`) },
      { file: "bun.lock", pattern: new RegExp(`^ +"${escaped(name)}": \\["${escaped(name)}@([^"]*)"`) },
    ],
  }));
}

/** Lists all actions that the workflows use. */
export function actionPins(project: Project): ActionPin[] {
  // Actions of this repository, ./…, are part of the commit. A repository may contain several actions.
  const action = new RegExp(`${uses}(?!\\.)([\\w.-]+/[\\w.-]+|docker:[^\\s"']+)`, "gm");
  const texts = [...project].filter(([path]) => workflows.test(path)).map(([, text]) => text);
  const names = texts.flatMap((text) => [...text.matchAll(action)].map(([, name]) => name!));
  return [...new Set(names)].sort().map(actionPin);
}

/** Builds the pin of an action. Its value is the whole text after the @, because commit and version belong together. */
export function actionPin(name: string): ActionPin {
  return {
    name: `action ${name}`,
    repository: name,
    format: /^[\da-f]{40} # v?\d[\w.-]*$/,
    formatDescription: "a commit with its version as a comment, SHA # v1.2.3",
    patterns: [{ file: workflows, pattern: new RegExp(`${uses}${escaped(name)}(?![\\w.-])[^@\\n]*@?(.*)$`) }],
  };
}

/** Finds all locations of a pin, including the files that should contain the pin but do not. */
export function locationsOf({ patterns }: Pin, project: Project): PinLocation[] {
  return patterns.flatMap(({ file, pattern }) =>
    [...project].flatMap(([path, text]): PinLocation[] => {
      if (typeof file === "string" ? path !== file : !file.test(path)) return [];
      const matches = [...text.matchAll(new RegExp(pattern, "dgm"))];
      // Skips expressions of a workflow, ${{ … }}, and placeholders that `init` replaces.
      const found = matches.flatMap((match): PinLocation[] => {
        if (/^(\$\{\{|__)/.test(match[1] ?? "")) return [];
        const start = match.indices![1]?.[0];
        const line = text.slice(0, start ?? match.index).split("\n").length;
        return [{ position: `${path}:${line}`, file: path, value: match[1], start }];
      });
      const missing = { position: path, file: path, value: undefined, start: undefined };
      return found.length === 0 && typeof file === "string" ? [missing] : found;
    }),
  );
}

/** Reads the value of a pin at its first location. @throws {PipelineError} "project" if the value is missing */
export function valueOf(pin: Pin, project: Project): string {
  const [first] = locationsOf(pin, project);
  if (first?.value !== undefined) return first.value;
  throw new PipelineError("project", `${pin.name} is not pinned${first ? ` in ${first.position}` : ""}`, {
    code: undefined,
  });
}

/** Checks that all locations of each pin agree and are well-formed. @returns a sentence for each error */
export function pinErrors(project: Project): string[] {
  return pinsOf(project).flatMap((pin) => {
    const locations = locationsOf(pin, project);
    // An image build does not have all files.
    if (locations.length === 0) return [];
    const byValue = Map.groupBy(locations, ({ value }) => value?.replace(/\s+/g, " "));
    const values = [...byValue].map(([value, found]) => {
      const positions = found.map(({ position }) => position).join(", ");
      return { value, text: `${value === undefined ? "missing" : `"${value}"`} in ${positions}` };
    });
    const isInconsistent = values.length > 1 || values[0]?.value === undefined;
    return [
      ...(isInconsistent ? [`${pin.name} is inconsistent: ${values.map(({ text }) => text).join(", but ")}`] : []),
      ...values.flatMap(({ value, text }) =>
        value === undefined || pin.format.test(value) ? [] : [`${pin.name} is ${text}, not ${pin.formatDescription}`],
      ),
    ];
  });
}

/** Writes a value to all locations of a pin. @throws {PipelineError} "project" if the pin is missing in a file */
export function setPin(project: Project, pin: Pin, newValue: string): void {
  // From last to first, so that a replacement does not shift the remaining offsets.
  const locations = locationsOf(pin, project).sort((a, b) => (b.start ?? 0) - (a.start ?? 0));
  for (const { file, position, value, start } of locations) {
    if (start === undefined)
      throw new PipelineError("project", `${pin.name} is missing in ${position}`, { code: undefined });
    const text = project.get(file)!;
    project.set(file, text.slice(0, start) + newValue + text.slice(start + value!.length));
  }
}
