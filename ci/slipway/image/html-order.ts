/**
 * Gives a service's HTML imports (pages) a reproducible order in its binary.
 *
 * Bun 1.4.5 numbers the files of several pages in the order in which it discovers them. That order depends on a hash of
 * the project's path and on thread timing. It sorts the pages' stylesheets by a hash of these numbers. Neither can be
 * configured, so the discovery is serialised:
 *
 * - Each page is imported by a generated module, which imports the next one (entry-points.ts).
 * - Imports of stylesheets wait until all other files of the pages are numbered.
 * - The service's own modules wait until the stylesheets are numbered.
 */
import { basename, relative, resolve } from "node:path";
import { ATTACH, GENERATED } from "./entry-points.ts";

/** An import statement: the importing file and the specifier. */
interface ImportCall {
  importer: string;
  path: string;
}

export interface HtmlImports {
  /** Pages, sorted by their path relative to the root. */
  files: string[];
  /** Base names of the import specifiers. If a plugin resolves a path, Bun does not treat it as a page. */
  names: Set<string>;
  /** Order of the stylesheets. Undefined for fewer than two, which follow the order of the pages. */
  styles: StyleOrder | undefined;
}

interface StyleOrder {
  /** Number of imports in the pages' files that are neither of nor by a stylesheet. */
  otherImports: number;
  /** Stylesheets and the files that they import, in the order of numbering. */
  order: string[];
  isStyle(file: string | undefined): boolean;
  targetOf(call: ImportCall): string | undefined;
  /** Filled by a build that cannot keep the order. */
  warnings: Set<string>;
}

/** Time without an import after which ordering stops. A plugin may defer some stylesheets until others are loaded. */
const STALL_MS = 10_000;
const UNORDERED =
  "a plugin defers some stylesheets of several pages, so the bundler decides their order: builds with the same ID may differ in it";

/**
 * Finds the HTML imports of a bundle and the order for their stylesheets.
 *
 * @param bundle the bundler's result, in any order
 * @param record bundles only the pages, with the given plugin
 * @returns undefined for fewer than two pages
 */
export async function findHtmlImports(
  bundle: Bun.BuildOutput,
  root: string,
  record: (pages: HtmlImports, plugin: Bun.BunPlugin) => Promise<unknown>,
): Promise<HtmlImports | undefined> {
  const inputs = Object.entries(bundle.metafile!.inputs);
  const imported = inputs.flatMap(([, { imports }]) => imports);
  // At least one import of a page has this kind. Imports of HTML as text never have it.
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

  const calls: ImportCall[] = [];
  const recorder = createImportObserver(pages, (call) => void calls.push(call));
  await record(pages, recorder);
  const targets = new Map<string, string>();
  /** Stylesheet -> files that it imports. */
  const styleImports = new Map<string, string[]>();
  const key = (importer: string, path: string) => `${importer}\0${path}`;
  for (const [path, { imports, format }] of inputs) {
    const file = resolve(path);
    for (const { path, original } of imports) targets.set(key(file, original ?? path), resolve(path));
    if ((format as string) === "css")
      styleImports.set(
        file,
        imports.map(({ path }) => resolve(path)),
      );
  }
  const targetOf = ({ importer, path }: ImportCall) => targets.get(key(importer, path));
  const isStyle = (file: string | undefined) => file !== undefined && styleImports.has(file);
  const targetsOf = (some: ImportCall[]) => some.flatMap((call) => targetOf(call) ?? []);
  const [within, outside] = [true, false].map((is) => calls.filter(({ importer }) => isStyle(importer) === is));
  const known = new Set(targetsOf(within!));
  const order = new Set(byPath(targetsOf(outside!).filter(isStyle)));
  // The loop also visits the elements that it adds.
  for (const file of order)
    for (const imported of styleImports.get(file) ?? []) if (known.has(imported)) order.add(imported);
  const styles: StyleOrder = {
    otherImports: outside!.filter((call) => !isStyle(targetOf(call))).length,
    order: [...order].slice(0, [...order].findLastIndex(isStyle) + 1),
    isStyle,
    targetOf,
    warnings: new Set(),
  };
  return { ...pages, styles };
}

/** Creates a plugin that observes and can delay imports, except those of pages and generated modules. */
function createImportObserver(
  { names }: Pick<HtmlImports, "names">,
  observe: (call: ImportCall) => void | Promise<void>,
): Bun.BunPlugin {
  const escaped = [...names].map((name) => name.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"));
  const filter = new RegExp(`^(?!(?:.*/)?(?:${escaped.join("|")})$|.*${GENERATED.source})`);
  return {
    name: "html-order",
    setup(build) {
      build.onResolve({ filter }, ({ importer, path }) => observe({ importer, path }) as undefined);
    },
  };
}

/** Creates a plugin that delays imports, so that the bundler numbers pages, stylesheets and service in this order. */
export function createStyleOrderPlugin({ styles, ...pages }: HtmlImports): Bun.BunPlugin | undefined {
  if (!styles) return undefined;
  const { order, isStyle, targetOf } = styles;
  let { otherImports: pendingImports } = styles;
  let next = 0;
  const waiting = new Map<string, (() => void)[]>();
  const waitFor = (key: string) =>
    new Promise<void>((resolve) => void waiting.set(key, [...(waiting.get(key) ?? []), resolve]));
  const release = (key: string) => {
    for (const resolve of waiting.get(key) ?? []) resolve();
    waiting.delete(key);
  };
  /** Key of the service's own modules. The generated modules import the service after all pages. */
  const SERVICE = "";
  let hasPages = false;
  const releaseNext = () => {
    if (pendingImports > 0 || !hasPages) return;
    for (; waiting.has(order[next]!); next += 1) release(order[next]!);
    if (next === order.length) release(SERVICE);
  };
  const releaseAll = () => {
    if (waiting.size === 0) return;
    styles.warnings.add(UNORDERED);
    next = order.length;
    for (const key of [...waiting.keys()]) release(key);
  };
  let stallTimer: Timer | undefined;
  return createImportObserver(pages, (call) => {
    // Entry points have no importer. The attachment waits for the service (entry-points.ts).
    if (call.importer === "" || call.path === ATTACH) return undefined;
    clearTimeout(stallTimer);
    stallTimer = setTimeout(releaseAll, STALL_MS);
    stallTimer.unref();
    const target = targetOf(call);
    const at = target === undefined ? -1 : order.indexOf(target);
    const isOrdered = isStyle(target) || isStyle(call.importer);
    if (GENERATED.test(call.importer) && next < order.length) {
      hasPages = true;
      setImmediate(releaseNext);
      return waitFor(SERVICE);
    }
    if (isOrdered && at >= next) {
      setImmediate(releaseNext);
      return waitFor(target!);
    }
    if (!isOrdered) pendingImports -= 1;
    // Deferred until this import is resolved.
    if (pendingImports === 0) setImmediate(releaseNext);
  });
}
