/** Databases, ORMs and packages with native addons. */
import { post, type Row } from "../row.ts";

const todos = `
  const all = async () => JSON.stringify(await list());
  Bun.serve({
    port: process.env.PORT,
    routes: {
      "/todos": { GET: async () => new Response(await all()), POST: async (request) => { await add((await request.json()).title); return new Response(await all(), { status: 201 }); } },
    },
  });
`;
const requests = ["/todos", post("/todos", { title: "write" }), "/todos?again"];

export const dataRows: Row[] = [
  {
    name: "bun:sqlite: statements and transactions",
    files: `
import { Database } from "bun:sqlite";
const database = new Database(":memory:");
database.run("create table todo (id integer primary key, title text not null)");
const insert = database.query("insert into todo (title) values (?)");
const add = database.transaction((title: string) => insert.run(title));
const list = () => database.query("select * from todo").all();
${todos}`,
    requests,
  },
  {
    name: "bun:sqlite: migrations from files",
    files: {
      "src/index.ts": `
import { Database } from "bun:sqlite";
import { readdirSync, readFileSync } from "node:fs";
const database = new Database(":memory:");
for (const file of readdirSync("migrations").sort()) database.run(readFileSync("migrations/" + file, "utf8"));
console.log(database.query("select * from t").all());
`,
      "migrations/001.sql": "create table t (a integer);",
      "migrations/002.sql": "insert into t values (1), (2);",
    },
    settings: { files: ["migrations"] },
  },
  {
    name: "drizzle with bun:sqlite and a migrations folder",
    packages: ["drizzle-orm"],
    files: {
      "src/index.ts": `
import { Database } from "bun:sqlite";
import { drizzle } from "drizzle-orm/bun-sqlite";
import { migrate } from "drizzle-orm/bun-sqlite/migrator";
import { integer, sqliteTable, text } from "drizzle-orm/sqlite-core";
const todo = sqliteTable("todo", { id: integer().primaryKey(), title: text().notNull() });
const db = drizzle(new Database(":memory:"));
migrate(db, { migrationsFolder: "./drizzle" });
const add = (title: string) => db.insert(todo).values({ title });
const list = () => db.select().from(todo);
${todos}`,
      "drizzle/meta/_journal.json": `{"version":"7","dialect":"sqlite","entries":[{"idx":0,"version":"6","when":1700000000000,"tag":"0000_start","breakpoints":true}]}`,
      "drizzle/0000_start.sql": "CREATE TABLE `todo` (`id` integer PRIMARY KEY NOT NULL, `title` text NOT NULL);\n",
    },
    settings: { files: ["drizzle"] },
    requests,
  },
  {
    name: "kysely with an own SQLite driver",
    packages: ["kysely"],
    files: `
import { Database } from "bun:sqlite";
import { Kysely, SqliteDialect } from "kysely";
const sqlite = new Database(":memory:");
const database = { close: () => sqlite.close(), prepare: (text: string) => { const q = sqlite.query(text); return { reader: /^select/i.test(text), all: (values: any) => q.all(...values), run: (values: any) => q.run(...values), iterate: (values: any) => q.iterate(...values) }; } };
interface Tables { todo: { id?: number; title: string } }
const db = new Kysely<Tables>({ dialect: new SqliteDialect({ database: database as any }) });
await db.schema.createTable("todo").addColumn("id", "integer", (column) => column.primaryKey()).addColumn("title", "text").execute();
const add = (title: string) => db.insertInto("todo").values({ title }).execute();
const list = () => db.selectFrom("todo").selectAll().execute();
${todos}`,
    requests,
  },
  {
    name: "TypeORM: entities by class name with sql.js",
    packages: ["typeorm", "reflect-metadata", "sql.js"],
    files: {
      "tsconfig.json": `{"compilerOptions":{"experimentalDecorators":true,"emitDecoratorMetadata":true}}`,
      "src/index.ts": `
import "reflect-metadata";
import initSqlJs from "sql.js";
import { Column, DataSource, Entity, PrimaryGeneratedColumn } from "typeorm";
@Entity() class ShoppingItem { @PrimaryGeneratedColumn() id!: number; @Column({ type: "text" }) title!: string; }
const source = await new DataSource({ type: "sqljs", driver: await initSqlJs(), entities: [ShoppingItem], synchronize: true }).initialize();
const items = source.getRepository(ShoppingItem);
const add = (title: string) => items.save({ title });
const list = async () => [items.metadata.tableName, await source.query("select name from sqlite_master where type = 'table' and name not like 'sqlite%'"), await items.find()];
${todos}`,
    },
    requests,
  },
  {
    name: "libsql client with a file",
    packages: ["@libsql/client"],
    files: `
import { createClient } from "@libsql/client";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
const client = createClient({ url: "file:" + mkdtempSync(tmpdir() + "/libsql-") + "/a.db" });
await client.batch(["create table t (a)", { sql: "insert into t values (?)", args: [7] }]);
console.log((await client.execute("select a from t")).rows[0]!.a);
process.exit(0);
`,
  },
  {
    name: "PGlite: PostgreSQL in WebAssembly",
    packages: ["@electric-sql/pglite"],
    files: `
import { PGlite } from "@electric-sql/pglite";
const db = new PGlite();
await db.exec("create table t (a int, b jsonb); insert into t values (1, '{\\"x\\":2}')");
console.log((await db.query("select a, b->>'x' as x from t")).rows);
process.exit(0);
`,
  },
  {
    name: "PostgreSQL: Bun.sql",
    needs: "postgresql",
    files: `
import { SQL } from "bun";
const sql = new SQL({ path: "/run/postgresql/.s.PGSQL.5432", username: "postgres", database: "postgres", max: 2 });
await sql.begin(async (tx) => { await tx\`create temporary table t (a int, b text[])\`; await tx\`insert into t values (1, '{x,y}')\`; console.log(JSON.stringify(await tx\`select * from t\`)); });
const add = (title: string) => sql\`select \${title}\`;
const list = () => sql\`select 40 + 2 as answer, \${"text"}::text as value\`;
${todos}`,
    requests,
  },
  {
    name: "PostgreSQL: postgres.js",
    needs: "postgresql",
    packages: ["postgres"],
    files: `
import postgres from "postgres";
const sql = postgres({ host: "/run/postgresql", username: "postgres", database: "postgres", max: 1, onnotice: () => {} });
await sql\`create temporary table todo (id serial, title text)\`;
const add = (title: string) => sql\`insert into todo (title) values (\${title})\`;
const list = () => sql\`select * from todo order by id\`;
${todos}`,
    requests,
  },
  {
    name: "PostgreSQL: pg with drizzle",
    needs: "postgresql",
    packages: ["pg", "drizzle-orm"],
    files: `
import pg from "pg";
import { drizzle } from "drizzle-orm/node-postgres";
import { integer, pgTable, text } from "drizzle-orm/pg-core";
const pool = new pg.Pool({ host: "/run/postgresql", user: "postgres", database: "postgres", max: 1 });
await pool.query("create temporary table todo (id int generated always as identity, title text)");
const todo = pgTable("todo", { id: integer().primaryKey().generatedAlwaysAsIdentity(), title: text() });
const db = drizzle(pool);
const add = (title: string) => db.insert(todo).values({ title });
const list = () => db.select().from(todo);
${todos}`,
    requests,
  },
  {
    name: "PostgreSQL: knex",
    needs: "postgresql",
    packages: ["knex", "pg"],
    files: `
import knex from "knex";
const db = knex({ client: "pg", connection: { host: "/run/postgresql", user: "postgres", database: "postgres" }, pool: { min: 1, max: 1 } });
await db.raw("create temporary table todo (id serial, title text)");
const add = (title: string) => db("todo").insert({ title });
const list = () => db("todo").select().orderBy("id");
${todos}`,
    requests,
  },
  {
    name: "PostgreSQL: TypeORM",
    needs: "postgresql",
    packages: ["typeorm", "reflect-metadata", "pg"],
    files: {
      "tsconfig.json": `{"compilerOptions":{"experimentalDecorators":true,"emitDecoratorMetadata":true}}`,
      "src/index.ts": `
import "reflect-metadata";
import { Column, DataSource, Entity, PrimaryColumn } from "typeorm";
@Entity() class CustomerOrder { @PrimaryColumn({ type: "int" }) id!: number; @Column({ type: "text" }) title!: string; }
const source = await new DataSource({ type: "postgres", host: "/run/postgresql", username: "postgres", database: "postgres", entities: [CustomerOrder] }).initialize();
console.log(source.getMetadata(CustomerOrder).tableName, await source.query("select 1 as one"));
await source.destroy();
`,
    },
  },
  {
    name: "sharp: resize and formats",
    packages: ["sharp"],
    files: `
import sharp from "sharp";
const image = sharp({ create: { width: 64, height: 32, channels: 3, background: "red" } });
Bun.serve({ port: process.env.PORT, fetch: async () => new Response(await image.clone().resize(8).png().toBuffer(), { headers: { "content-type": "image/png" } }) });
`,
    requests: ["/"],
  },
  {
    name: "argon2, bcrypt and bcryptjs",
    packages: ["argon2", "bcrypt", "bcryptjs"],
    files: `
import argon2 from "argon2";
import bcrypt from "bcrypt";
import bcryptjs from "bcryptjs";
const hash = await argon2.hash("secret", { memoryCost: 1024, timeCost: 2, parallelism: 1 });
console.log(await argon2.verify(hash, "secret"), await argon2.verify(hash, "wrong"));
console.log(await bcrypt.compare("secret", await bcrypt.hash("secret", 4)), bcryptjs.compareSync("secret", bcryptjs.hashSync("secret", 4)));
`,
  },
  {
    name: "@node-rs/argon2: an embedded addon",
    packages: ["@node-rs/argon2"],
    files: `
import { hash, verify } from "@node-rs/argon2";
console.log(await verify(await hash("secret", { memoryCost: 1024, timeCost: 2 }), "secret"));
`,
  },
];
