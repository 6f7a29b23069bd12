/** The suite fails for a difference that is not documented, for one that has disappeared, and for a broken row. */
import { expect, test } from "bun:test";
import { join } from "node:path";
import { assertConformance, differencesOf } from "./compare.ts";
import { differences } from "./differences.ts";
import type { Behaviour, Row } from "./row.ts";
import { rows } from "./rows/index.ts";

const row: Row = { name: "x", files: "", requests: ["/"] };
const reply = (body: string, status = 200) => ({ status, headers: {}, body });
const source: Behaviour = { "GET /": reply("a"), stdout: "", stderr: "", exit: "SIGTERM" };
const differs = (...at: string[]): Row => ({ ...row, differs: { because: "Sentence.", at } });

test("accepts equal behaviour and documented differences", () => {
  assertConformance(row, source, source);
  assertConformance(differs("GET /"), source, { ...source, "GET /": reply("b") });
});

test.each<[string, Behaviour]>([
  ["GET /", { ...source, "GET /": reply("b") }],
  ["stdout", { ...source, stdout: "line\n" }],
  ["exit", { ...source, exit: "exit code 1" }],
  ["start", { ...source, start: "the process exits" }],
  ["build", { build: "the source does not compile" }],
])("refuses a difference at %s that is not documented", (place, image) => {
  expect(() => assertConformance(row, source, image)).toThrow(`different: ${place}`);
  expect(() => assertConformance(differs("stderr"), source, image)).toThrow(`different: ${place}`);
});

test("refuses a documented difference that has disappeared", () => {
  expect(() => assertConformance(differs("GET /"), source, source)).toThrow("equal now, so remove it");
});

test.each<[string, Behaviour]>([
  ["does not start", { ...source, start: "the process exits" }],
  ["fails", { ...source, "GET /": reply("error", 500) }],
  ["has no response", { ...source, "GET /": { failure: "connection refused" } }],
  ["ends with an error", { ...source, exit: "exit code 1" }],
])("refuses a row whose service %s from source", (_, broken) => {
  expect(() => assertConformance(row, broken, broken)).toThrow("from source, ");
});

test("ignores values that differ between any two runs", () => {
  const log = (time: string, pid: number) => `{"time":${Date.parse(time)},"pid":${pid}} at ${time}\n`;
  const [one, other] = [log("2026-01-01T00:00:00.000Z", 7), log("2026-01-02T12:00:00.500Z", 1)];
  expect(differencesOf(row, { ...source, stdout: one }, { ...source, stdout: other })).toEqual([]);
});

test("accepts the drain instead of the end by a signal", () => {
  for (const exit of ["exit code 0", "exit code 143"])
    expect(differencesOf(row, source, { ...source, exit })).toEqual([]);
  expect(differencesOf(row, { ...source, exit: "exit code 7" }, { ...source, exit: "exit code 0" })).toEqual(["exit"]);
});

test("has at least 80 rows with distinct names", () => {
  expect(rows.length).toBeGreaterThanOrEqual(80);
  expect(new Set(rows.map(({ name }) => name)).size).toBe(rows.length);
});

test("each documented difference is a sentence of the documentation", async () => {
  const page = await Bun.file(join(import.meta.dir, "../../docs/explanation/image-differences.md")).text();
  expect(Object.values(differences).filter((sentence) => !page.includes(sentence))).toEqual([]);
});
