/** The generated references are equal to the code. */
import { expect, test } from "bun:test";
import { join } from "node:path";
import { formatPage, generatedPages, readSettings } from "../generate-docs.ts";

const reference = join(import.meta.dir, "../../slipway/docs/reference");

test.each(Object.entries(generatedPages))(
  "%s is up to date (bun ci/maintenance/generate-docs.ts writes it)",
  async (name, generate) => {
    expect(await Bun.file(join(reference, name)).text()).toBe(await formatPage(name, await generate()));
  },
  30_000,
);

test("a setting without a default or a description is found", () => {
  const declare = (comment: string) => `export interface Settings {\n  /** ${comment} */\n  x?: string;\n}\n`;
  expect(readSettings(declare("Text. @default 1 @example 2"))).toMatchObject([
    { name: "x", text: "Text.", fallback: "1", example: "2" },
  ]);
  expect(() => readSettings(declare("Text."))).toThrow("x lacks");
  expect(() => readSettings(declare("@default 1"))).toThrow("x lacks");
});
