/** Facts that stand in two places because one of them cannot read the other. */
import { expect, mock, test } from "bun:test";
import { join } from "node:path";
import type { Settings } from "../index.d.ts";
import { pins } from "../core/pins.ts";
import { root, settings } from "./helloapp-service.ts";
import { BUILD_ID_HEADER } from "../deploy/verify-from-outside.ts";
import { BUILD_HEADER } from "../service/version.ts";

test("this runs under the pinned Bun", () => expect(Bun.version).toBe(pins.bun));

test("the tests' service has the settings of ci/pipeline.ts", async () => {
  let given: Settings | undefined;
  mock.module("slipway", () => ({
    pipeline: (_: ImportMeta, settings: Settings) => void (given = settings),
  }));
  await import(join(root, "ci/pipeline.ts"));
  expect(given).toEqual(settings);
});

test("the verification reads the header that the service sends", () => expect(BUILD_ID_HEADER).toBe(BUILD_HEADER));
