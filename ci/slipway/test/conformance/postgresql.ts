/** Starts Debian's PostgreSQL on a unix socket for the rows that need it. */
import { chmodSync, existsSync, mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { eventually, must } from "../e2e/setup.ts";

/** PostgreSQL refuses to run as root. */
const NOBODY = 65534;
/** Ends the server with this process. */
const withParent = ["setpriv", "--pdeathsig=INT"];
const asNobody = ["setpriv", `--reuid=${NOBODY}`, `--regid=${NOBODY}`, "--clear-groups"];

/** Directory of PostgreSQL's programs, if it is installed. */
export const programs = findPrograms();

function findPrograms(): string | undefined {
  const debian = "/usr/lib/postgresql";
  const versions = existsSync(debian) ? readdirSync(debian) : [];
  return versions.map((version) => join(debian, version, "bin")).find((bin) => existsSync(join(bin, "initdb")));
}

/** @returns the directory of the socket, and a function that stops the server */
export async function startPostgresql(directory: string): Promise<{ sockets: string; stop(): Promise<void> }> {
  const user = process.getuid?.() === 0 ? asNobody : [];
  const [data, sockets] = [join(directory, "data"), join(directory, "sockets")];
  for (const path of [directory, data, sockets]) {
    mkdirSync(path, { recursive: true });
    if (user.length > 0) must(["chown", String(NOBODY), path]);
  }
  chmodSync(sockets, 0o777);
  const options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"];
  must([...user, join(programs!, "initdb"), `--pgdata=${data}`, ...options], { cwd: directory });
  const server = Bun.spawn(
    [
      ...withParent,
      ...user.slice(1),
      join(programs!, "postgres"),
      "-D",
      data,
      "-k",
      sockets,
      "-h",
      "",
      "-F",
      "-c",
      "max_connections=40",
    ],
    { cwd: directory, stdio: ["ignore", "ignore", "ignore"] },
  );
  const ready = [join(programs!, "pg_isready"), `--host=${sockets}`, "--quiet"];
  await eventually(async () => Bun.spawnSync(ready).exitCode === 0 || undefined);
  return {
    sockets,
    async stop() {
      server.kill("SIGINT");
      await server.exited;
    },
  };
}
