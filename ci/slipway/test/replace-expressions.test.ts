import { expect, test } from "bun:test";
import { replaceExpressions } from "../image/replace-expressions.ts";

const values = new Map([
  ["__dirname", '"D"'],
  ["import.meta.dir", '"M"'],
  ["import.meta.main", "(true)"],
  ["require.main === module", "(true)"],
]);

test.each([
  ["an expression", "join(import.meta.dir, 'x')", `join("M", 'x')`],
  ["over two lines", "import\n.meta.dir;\n", '"M";\n'],
  ["a longer name", "import.meta.dirname", "import.meta.dirname"],
  ["a property", "a.__dirname + b?.__dirname", "a.__dirname + b?.__dirname"],
  ["a string and a comment", "'__dirname' // __dirname\n/* import.meta.dir */", undefined],
  ["a template", "`${__dirname}/x __dirname ${`${import.meta.dir}`}`", '`${"D"}/x __dirname ${`${"M"}`}`'],
  ["a test for the main module", "if (require.main === module) run();", "if ((true)) run();"],
  ["a test in a template", "`${import.meta.main ? 1 : 2}`", "`${(true) ? 1 : 2}`"],
  ["a shorthand property", "render({ a, __dirname })", 'render({ a, __dirname:"D" })'],
  ["a key", "({ __dirname: 1 })", undefined],
  ["a value", "({ a: __dirname })", '({ a: "D" })'],
  ["a choice", "{ f(a ? __dirname : b) }", '{ f(a ? "D" : b) }'],
  ["an argument before a block", "if (f(__dirname)) { g(); }", 'if (f("D")) { g(); }'],
  ["a condition", "if (__dirname) { g(); }", 'if ("D") { g(); }'],
  ["a list", "[__dirname, b]", '["D", b]'],
  ["a further argument", "const a = join(b, __dirname);", 'const a = join(b, "D");'],
  ["a value after a declaration", "const a = 1, b = __dirname;", 'const a = 1, b = "D";'],
  ["an own constant", "const __dirname = import.meta.dir;\nf(__dirname);", 'const __dirname = "M";\nf(__dirname);'],
  ["a second own constant", "const f = g(1), __dirname = h(f);\nuse(__dirname);", undefined],
  ["an import", 'import __dirname from "./utils.js";\nuse(__dirname);', undefined],
  ["a named import", 'import { a as __dirname } from "./utils.js";\nuse(__dirname);', undefined],
  ["an import of the name", 'import { __dirname, b } from "./utils.js";\nuse(__dirname);', undefined],
  ["a destructured name", "const { a, __dirname } = paths;\nuse(__dirname);", undefined],
  ["a parameter", "(function (exports, __dirname) { use(__dirname); })", undefined],
  ["a parameter of an arrow function", "(a, __dirname) => use(__dirname)", undefined],
  ["a parameter with a type", "const f = (__dirname: string): string => __dirname;", undefined],
  ["a function", "function __dirname() {}\nuse(__dirname);", undefined],
  [
    "a declaration of a type",
    "declare const __dirname: string;\nuse(__dirname);",
    'declare const __dirname: string;\nuse("D");',
  ],
  ["JSX", "<p title={__dirname}>It's {__dirname}</p>", `<p title={"D"}>It's {"D"}</p>`],
  ["an object in an assignment", "const a = { __dirname };", 'const a = { __dirname:"D" };'],
  ["a returned object", "return { __dirname };", 'return { __dirname:"D" };'],
  ["a regular expression", "/__dirname/.test(__dirname)", '/__dirname/.test("D")'],
])("%s", (_, source, expected = source) => {
  expect(replaceExpressions(source, values)).toBe(expected);
});
