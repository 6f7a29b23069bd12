/** The image's size: its report, and the comparison with the expected one. */
import { expect, test } from "bun:test";
import { checkSize, contentSize, sizeReport } from "../size.ts";
import { smallImage } from "./small-image.ts";

const sized = (size: number) => smallImage({ binary: "x".repeat(size) });
const library = "the C library".length;

test("counts the uncompressed bytes of all files", async () => {
  expect(contentSize(await sized(1000))).toBe(1000 + library);
  const compressed = await smallImage({ store: (layer) => Bun.zstdCompressSync(layer) });
  expect(contentSize(compressed)).toBe("the binary".length + library);
});

test.each<[number, string | undefined]>([
  [10_000 - library, undefined],
  [10_100 - library, undefined],
  [9_900 - library, undefined],
  [
    10_101 - library,
    "grew by 1.0 % (101 bytes). If that is intended, change EXPECTED_BYTES.amd64 in ci/maintenance/size.ts from 10000 to 10101",
  ],
  [
    9_899 - library,
    "shrank by 1.0 % (101 bytes). To keep it that small, change EXPECTED_BYTES.amd64 in ci/maintenance/size.ts from 10000 to 9899",
  ],
])("reports a size that differs by more than 1 %%: a binary of %i bytes, %p", async (size, expected) => {
  const finding = checkSize(await sized(size), { amd64: 10_000 });
  if (expected === undefined) expect(finding).toBeUndefined();
  else expect(finding).toContain(expected);
});

test("accepts any size for an architecture without an expected size", async () => {
  expect(checkSize(await smallImage(), { arm64: 1 })).toBeUndefined();
});

test("the report lists layers, files, shares and the archive", async () => {
  const report = sizeReport(await sized(1000)).map((line) => line.trim().replace(/ +/g, " "));
  expect(report).toEqual([
    "13 1.3 % runtime",
    "13 1.3 % /lib/libc",
    "1,000 98.7 % app",
    "1,000 98.7 % /helloapp",
    "1,013 100.0 % all files",
    expect.stringMatching(/^[\d,]+ archive$/),
  ]);
});
