/** Comparison of the images that two engines build from the same source. */
import { expect, test } from "bun:test";
import { service } from "../../slipway/test/helloapp-service.ts";
import { compareEngines } from "../reproduce/compare-engines.ts";
import { smallImage } from "./small-image.ts";

const good = await smallImage();
const rebuilt = { library: "another C library", binary: "THE bINary", name: "helloapp:def" };

test("images with the same ID are compared bit for bit", async () => {
  expect(compareEngines(service, good, good)).toEqual({ differences: [], summary: "equal, bit for bit" });
  const sameId = { ...(await smallImage(rebuilt)), names: good.names };
  const { differences } = compareEngines(service, good, sameId);
  expect(differences).toContain("app: /helloapp: bytes differ, the first at offset 0");
});

test("names the C library if the engines use different ones", async () => {
  const { differences, summary } = compareEngines(service, good, await smallImage(rebuilt));
  expect(differences).toEqual([]);
  expect(summary).toContain("C library of the base image differs from this machine's (/lib/libc)");
  expect(summary).toContain("differs in 5 of 10 bytes");
});

test("reports a different mode even if the C libraries differ", async () => {
  const other = await smallImage({ ...rebuilt, mode: "0644" });
  expect(compareEngines(service, good, other).differences).toEqual(["runtime: /lib/libc: mode 0644, not 0755"]);
});

test("names Bun if the IDs differ and the C library does not", async () => {
  const { summary } = compareEngines(service, good, { ...good, names: ["helloapp:def"] });
  expect(summary).toContain("the Bun of the base image is a different build");
});
