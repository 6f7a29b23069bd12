/** Tests redirects of uploads with TLS. A local registry with a self-signed certificate redirects to other servers. */
import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { download } from "../core/http-download.ts";
import type { PipelineError } from "../core/errors.ts";
import { isOnPath } from "../core/process.ts";
import { serve, sha256, stopServers } from "./fake-servers.ts";

// The tests start programs, and the machine can be busy.
setDefaultTimeout(60_000);

const directory = mkdtempSync(join(tmpdir(), "helloapp-redirect-"));
const [key, cert] = [join(directory, "key.pem"), join(directory, "cert.pem")];
let secure: Bun.Server<undefined>[] = [];

beforeAll(() => {
  if (!isOnPath("openssl")) return;
  const request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=registry";
  // A name of this machine for which plain HTTP is not allowed.
  const names = "-addext subjectAltName=IP:0.0.0.0";
  const command = `openssl ${request} ${names} -keyout ${key} -out ${cert}`.split(" ");
  expect(Bun.spawnSync(command).exitCode).toBe(0);
});
afterEach(async () => {
  await Promise.all([stopServers(), ...secure.splice(0).map((server) => server.stop(true))]);
});
afterAll(() => rmSync(directory, { recursive: true }));

const content = "what is uploaded";

/** Starts a registry with TLS that redirects each PUT. */
function startSecure(target: (own: string) => string, status = 307) {
  const requests: string[] = [];
  const server: Bun.Server<undefined> = Bun.serve({
    port: 0,
    tls: { key: readFileSync(key), cert: readFileSync(cert) },
    async fetch(request): Promise<Response> {
      const { pathname } = new URL(request.url);
      requests.push(`${request.method} ${pathname} ${await request.text()}`);
      if (request.method === "HEAD") return new Response(null, { status: 404 });
      const headers = { Location: request.method === "POST" ? "/put" : target(own) };
      if (request.method === "POST") return new Response(null, { status: 202, headers });
      return new Response(null, pathname === "/put" ? { status, headers } : { status: 201 });
    },
  });
  const own: string = `https://0.0.0.0:${server.port}`;
  secure.push(server);
  return { own, host: `0.0.0.0:${server.port}`, requests };
}

/** Uploads a blob in another process, because a process reads certificates only when it starts. */
async function upload(host: string): Promise<string> {
  const module = (path: string) => JSON.stringify(join(import.meta.dir, "../registry", path));
  const script = `import { Repository } from ${module("repository.ts")};
import { parseReference } from ${module("reference.ts")};
const options = { signal: new AbortController().signal, pauseSeconds: 0 };
const repository = new Repository(parseReference("${host}/team/app:1"), "pull,push", options);
const sent = repository.sendBlob("${sha256(content)}", new TextEncoder().encode("${content}"));
console.log(await sent.then(() => "sent", (error) => error.message));`;
  const child = Bun.spawn([process.execPath, "-e", script], {
    env: { ...process.env, NODE_EXTRA_CA_CERTS: cert, HTTPS_PROXY: undefined, https_proxy: undefined },
    stdout: "pipe",
    stderr: "inherit",
  });
  return (await new Response(child.stdout).text()).trim();
}

describe.skipIf(!isOnPath("openssl"))("an upload to a registry with TLS", () => {
  test.each([301, 302, 307, 308])("is not redirected to plain HTTP (%d), not even on this machine", async (status) => {
    const plain = serve(() => new Response(null, { status: 201 }));
    const { host } = startSecure(() => `${plain.url}/stolen`, status);
    expect(await upload(host)).toBe(
      `${host} redirects to ${plain.url}, which is not encrypted; nothing was sent there`,
    );
    expect(plain.requests).toEqual([]);
  });

  test("is redirected to another TLS URL unchanged", async () => {
    const { host, requests } = startSecure((own) => `${own}/elsewhere`);
    expect(await upload(host)).toBe("sent");
    expect(requests.at(-1)).toBe(`PUT /elsewhere ${content}`);
  });

  test("is not started at a plain HTTP URL", async () => {
    const plain = serve(() => new Response(null, { status: 201 }));
    const { host } = startSecure(() => "");
    const server = secure[0]!;
    server.reload({
      fetch: ({ method }: Request) =>
        new Response(null, {
          status: method === "POST" ? 202 : 404,
          headers: { Location: `${plain.url}/put` },
        }),
    });
    expect(await upload(host)).toContain("which is not encrypted; nothing was sent there");
    expect(plain.requests).toEqual([]);
  });
});

test.each([
  ["http://me:secret@HOST/x", "http://me:…@HOST/x"],
  ["http://me:sec:ret@secret@HOST/x", "http://me:…@HOST/x"],
  ["http://secret@HOST/x", "http://…@HOST/x"],
  ["http://:secret@HOST/x", "http://:…@HOST/x"],
  ["http://HOST/x@y:z@1", "http://HOST/x@y:z@1"],
])("a password in a URL is not printed: %s", async (url, shown) => {
  const { host } = serve(() => new Response(null, { status: 403 }));
  // A server that refuses, a closed port, and an invalid port.
  for (const place of [host, "127.0.0.1:1", "127.0.0.1:99999"]) {
    const error = await download(url.replace("HOST", place)).then(
      () => expect.unreachable(),
      (error: PipelineError) => error,
    );
    expect(error.message).toStartWith(`cannot fetch ${shown.replace("HOST", place)}: `);
    expect(Bun.inspect({ ...error, message: error.message, cause: error.cause })).not.toMatch(/sec(ret|:)/);
  }
});
