/**
 * The order of a service's pages (HTML imports) in its binary.
 *
 * Bun 1.4.5 has the files of several pages in the order in which it comes upon them: by a hash of the place where the
 * project lies, and by which of its threads is quicker. Their stylesheets it sorts by a hash of the numbers that it gives
 * to files, one after the other. Neither can be set, so it is made to come upon them in one order: each page is imported by
 * a module of its own, which imports the next (bundle.ts); what asks for a stylesheet waits until all else that the pages
 * take has its number, and the service itself until the stylesheets have theirs.
 */
import { basename, relative, resolve } from "node:path";

/** What is imported: by which file, and as what. */
interface Call {
  importer: string;
  path: string;
}

export interface HtmlImports {
  /** The pages, sorted by their path from the root. */
  files: string[];
  /** The last parts of what they are imported as. Bun takes no page for one whose path a plugin was asked for. */
  names: Set<string>;
  /** undefined where there are not several: then their order is that of the pages. */
  styles: Styles | undefined;
}

interface Styles {
  /** How many imports of the pages' files are of no stylesheet, and by none. */
  others: number;
  /** Stylesheets, and what some of them take before others are known, in the order in which they get their numbers. */
  order: string[];
  /** Whether a file is a stylesheet. */
  isStyle(file: string | undefined): boolean;
  targetOf(call: Call): string | undefined;
  /** Filled by a build that could not keep the order. */
  warnings: Set<string>;
}

/** After how long without an import the order is given up: a plugin may hold back some stylesheets for others. */
const STALL_MS = 10_000;
const UNORDERED =
  "a plugin holds back some stylesheets of several pages and not others, so their order is the bundler's: builds of one id may differ in it";

/**
 * @param bundle what the bundler made, in whatever order
 * @param record bundles the pages alone, with this plugin
 * @returns undefined where there are no two pages
 */
export async function findHtmlImports(
  bundle: Bun.BuildOutput,
  root: string,
  record: (pages: HtmlImports, plugin: Bun.BunPlugin) => Promise<unknown>,
): Promise<HtmlImports | undefined> {
  const inputs = Object.entries(bundle.metafile!.inputs);
  const imported = inputs.flatMap(([, { imports }]) => imports);
  // Of the imports of a page, one at least is called so; one that is taken as text never is.
  const found = imported.filter(({ kind }) => (kind as string) === "html_manifest").map(({ path }) => path);
  const byPath = (paths: Iterable<string>) =>
    [...new Set(paths)].sort((a, b) => (relative(root, a) < relative(root, b) ? -1 : 1));
  const files = byPath(found.map((path) => resolve(path)));
  if (files.length < 2) return undefined;
  const names = imported.flatMap(({ path, original }) =>
    found.includes(path) ? [basename(path), basename(original ?? path)] : [],
  );
  const pages: HtmlImports = { files, names: new Set(names), styles: undefined };
  if (bundle.outputs.filter(({ path }) => path.endsWith(".css")).length < 2) return pages;

  const calls: Call[] = [];
  const recorder = asked(pages, (call) => void calls.push(call));
  await record(pages, recorder);
  const targets = new Map<string, string>();
  /** What stylesheets take. */
  const taken = new Map<string, string[]>();
  const key = (importer: string, path: string) => `${importer}\0${path}`;
  for (const [path, { imports, format }] of inputs) {
    const file = resolve(path);
    for (const { path, original } of imports) targets.set(key(file, original ?? path), resolve(path));
    if ((format as string) === "css")
      taken.set(
        file,
        imports.map(({ path }) => resolve(path)),
      );
  }
  const targetOf = ({ importer, path }: Call) => targets.get(key(importer, path));
  const isStyle = (file: string | undefined) => file !== undefined && taken.has(file);
  const targetsOf = (some: Call[]) => some.flatMap((call) => targetOf(call) ?? []);
  const [within, outside] = [true, false].map((is) =>
    calls.filter(({ importer }) => isStyle(importer) === is),
  );
  const known = new Set(targetsOf(within!));
  const order = new Set(byPath(targetsOf(outside!).filter(isStyle)));
  // The loop goes on over what is added here.
  for (const file of order) for (const one of taken.get(file) ?? []) if (known.has(one)) order.add(one);
  const styles: Styles = {
    others: outside!.filter((call) => !isStyle(targetOf(call))).length,
    order: [...order].slice(0, [...order].findLastIndex(isStyle) + 1),
    isStyle,
    targetOf,
    warnings: new Set(),
  };
  return { ...pages, styles };
}

const MADE = /\.slipway\.ts$/;

/** A plugin that is asked for each import but of pages and of what is made for the entry, and changes none. */
function asked(
  { names }: Pick<HtmlImports, "names">,
  ask: (call: Call) => void | Promise<void>,
): Bun.BunPlugin {
  const escaped = [...names].map((name) => name.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"));
  const filter = new RegExp(`^(?!(?:.*/)?(?:${escaped.join("|")})$|.*${MADE.source})`);
  return {
    name: "order of pages",
    setup(build) {
      build.onResolve({ filter }, ({ importer, path }) => ask({ importer, path }) as undefined);
    },
  };
}

/** Has the bundler number the pages' files, then their stylesheets in one order, then the service's own. */
export function stylesInOrder({ styles, ...pages }: HtmlImports): Bun.BunPlugin | undefined {
  if (!styles) return undefined;
  const { order, isStyle, targetOf } = styles;
  let { others } = styles;
  let next = 0;
  const waiting = new Map<string, (() => void)[]>();
  const wait = (what: string) =>
    new Promise<void>((go) => void waiting.set(what, [...(waiting.get(what) ?? []), go]));
  const answer = (what: string) => {
    for (const go of waiting.get(what) ?? []) go();
    waiting.delete(what);
  };
  /** Stands for the service's own modules. The made ones import these when they have all pages. */
  const SERVICE = "";
  let hasPages = false;
  const goOn = () => {
    if (others > 0 || !hasPages) return;
    for (; waiting.has(order[next]!); next += 1) answer(order[next]!);
    if (next === order.length) answer(SERVICE);
  };
  const giveUp = () => {
    if (waiting.size === 0) return;
    styles.warnings.add(UNORDERED);
    next = order.length;
    for (const what of [...waiting.keys()]) answer(what);
  };
  let stall: Timer | undefined;
  return asked(pages, (call) => {
    clearTimeout(stall);
    stall = setTimeout(giveUp, STALL_MS);
    stall.unref();
    const target = targetOf(call);
    const at = target === undefined ? -1 : order.indexOf(target);
    const inOrder = isStyle(target) || isStyle(call.importer);
    if (MADE.test(call.importer) && next < order.length) {
      hasPages = true;
      setImmediate(goOn);
      return wait(SERVICE);
    }
    if (inOrder && at >= next) {
      setImmediate(goOn);
      return wait(target!);
    }
    if (!inOrder) others -= 1;
    // When this one has its answer.
    if (others === 0) setImmediate(goOn);
  });
}
