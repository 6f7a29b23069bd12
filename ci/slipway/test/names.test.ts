/** Names of classes and functions are the same in the binary as from source, because services use them as data. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { build, createProject, removeProjects, run, runSource } from "./built-service.ts";

setDefaultTimeout(60_000);
afterAll(removeProjects);

test.each<[string, string]>([
  [
    "an error's class name selects the status",
    `class NotFound extends Error { constructor() { super("x"); this.name = this.constructor.name; } }
const status: Record<string, number> = { NotFound: 404 };
try { throw new NotFound(); } catch (error) { console.log(status[(error as Error).name] ?? 500, String(error)); }`,
  ],
  [
    "classes in a registry by name",
    `class UserService {}
class Database {}
const registry = new Map([UserService, Database].map((one) => [one.name, one]));
console.log([...registry.keys()].join(), new (registry.get("Database")!)().constructor.name);`,
  ],
  [
    "tables of an ORM",
    `abstract class Model { static get table() { return this.name.toLowerCase() + "s"; } }
class Invoice extends Model {}
const Draft = class extends Invoice {};
console.log(Invoice.table, Draft.table);`,
  ],
  [
    "functions, also in expressions",
    `function createUser() {}
const removeUser = function drop() {};
const listUsers = async () => {};
console.log([createUser, removeUser, listUsers].map(({ name }) => name).join());`,
  ],
])("%s", async (_, source) => {
  const at = createProject({ "src/main.ts": `${source}\nexport {};\n` });
  const { binary } = await build(at, { attach: false });
  expect(run([binary])).toBe(runSource(at, "src/main.ts"));
});
