/**
 * Compares small services from source (`bun src/index.ts`) with their image: replies, logs, exit codes and signals.
 *
 * A row is equal, or it has a documented difference. A documented difference that has disappeared fails too.
 */
import { afterAll, beforeAll, describe, setDefaultTimeout, test } from "bun:test";
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { hasNamespaces } from "../e2e/setup.ts";
import { assertConformance } from "./compare.ts";
import { installPackages, type Installed } from "./install.ts";
import { programs, startPostgresql } from "./postgresql.ts";
import { rows } from "./rows/index.ts";
import type { Row } from "./row.ts";
import { runRow } from "./run.ts";

/** Rows at the same time. A build uses more than one core. */
const CONCURRENCY = 2;
// The time of a row includes the time of the rows before it.
setDefaultTimeout(1_800_000);

const isRequired = process.env.E2E === "required";
const installed = hasNamespaces ? installPackages() : "user namespaces";
const unavailable = typeof installed === "string" ? installed : undefined;
if (unavailable && isRequired) throw new Error(`the conformance suite needs ${unavailable}`);

const work = mkdtempSync(join(tmpdir(), "conformance-"));
// PostgreSQL is another user.
chmodSync(work, 0o755);
let database: Awaited<ReturnType<typeof startPostgresql>> | undefined;
beforeAll(async () => {
  if (programs && !unavailable) database = await startPostgresql(join(work, "postgresql"));
});
afterAll(async () => {
  await database?.stop();
  rmSync(work, { recursive: true, force: true });
});

let running = 0;
const waiting: (() => void)[] = [];

async function inTurn<T>(work: () => Promise<T>): Promise<T> {
  if (running >= CONCURRENCY) await new Promise<void>((resolve) => waiting.push(resolve));
  else running += 1;
  try {
    return await work();
  } finally {
    const next = waiting.shift();
    if (next) next();
    else running -= 1;
  }
}

async function check(row: Row): Promise<void> {
  const places = { work, installed: installed as Installed, sockets: database?.sockets };
  const [source, image] = await inTurn(() => runRow(row, places));
  assertConformance(row, source, image);
}

describe.skipIf(unavailable !== undefined)(`conformance${unavailable ? ` (needs ${unavailable})` : ""}`, () => {
  for (const row of rows) {
    const title = row.differs ? `${row.name} (differs: ${row.differs.because})` : row.name;
    const isMissing = row.needs === "postgresql" && !programs;
    if (isMissing && !isRequired) test.skip(`${title} (needs PostgreSQL)`, () => {});
    else test.concurrent(title, () => check(row));
  }
});
