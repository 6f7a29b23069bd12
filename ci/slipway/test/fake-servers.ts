/** HTTP servers that record requests, and an in-memory registry. */

export const sha256 = (bytes: string | Uint8Array): string =>
  `sha256:${new Bun.CryptoHasher("sha256").update(bytes).digest("hex")}`;

let servers: Bun.Server<undefined>[] = [];

/** Stops all started servers. */
export async function stopServers(): Promise<void> {
  await Promise.all(servers.map((server) => server.stop(true)));
  servers = [];
}

export type Handler = (request: Request, url: URL) => Response | undefined | Promise<Response | undefined>;

/** Starts a local server that records requests. It responds with `answer`, or else with `otherwise`. */
export function serve(answer: Handler, otherwise: Handler = () => new Response(null, { status: 404 }), port = 0) {
  const requests: { call: string; url: URL; authorization: string | null; body: string }[] = [];
  const server = Bun.serve({
    port,
    async fetch(request) {
      const url = new URL(request.url);
      const body = await request.clone().text();
      const authorization = request.headers.get("authorization");
      requests.push({ call: `${request.method} ${url.pathname}`, url, authorization, body });
      return (await answer(request, url)) ?? (await otherwise(request, url)) ?? new Response(null, { status: 500 });
    },
  });
  servers.push(server);
  const calls = (pattern: RegExp) => requests.filter(({ call }) => pattern.test(call));
  return { host: `127.0.0.1:${server.port}`, url: `http://127.0.0.1:${server.port}`, requests, calls };
}

/**
 * Starts a registry. `answer` may respond first.
 *
 * @param keepsAccount whether it implements the referrers API of the distribution specification 1.1
 */
export function startRegistry(answer: Handler = () => undefined, { keepsAccount = false } = {}) {
  const blobs = new Map<string, Uint8Array>();
  const manifests = new Map<string, { type: string; body: Uint8Array }>();
  const server = serve(answer, async (request, { pathname, searchParams }) => {
    const [, kind, name = ""] = /^\/v2\/team\/app\/(blobs|manifests|referrers)\/(.+)$/.exec(pathname) ?? [];
    if (kind === "referrers" && keepsAccount) {
      const referrers = [...manifests.values()].filter(
        ({ body }) => JSON.parse(Buffer.from(body).toString()).subject?.digest === name,
      );
      const index = { schemaVersion: 2, manifests: referrers.map(({ body }) => ({ digest: sha256(body) })) };
      return Response.json(index, { headers: { "Content-Type": indexType } });
    }
    const stored = kind === "blobs" ? blobs.get(name) : manifests.get(name)?.body;
    switch (request.method) {
      case "POST":
        return new Response(null, { status: 202, headers: { Location: `${pathname}1?_state=a%20b~c` } });
      case "PUT": {
        const body = await request.bytes();
        const headers = new Headers({ "Docker-Content-Digest": sha256(body) });
        if (kind === "manifests") {
          manifests.set(name, { type: request.headers.get("content-type")!, body });
          const { subject } = JSON.parse(Buffer.from(body).toString());
          if (subject && keepsAccount) headers.set("OCI-Subject", subject.digest);
        } else if (searchParams.get("digest") !== sha256(body)) return new Response(null, { status: 400 });
        else blobs.set(sha256(body), body);
        return new Response(null, { status: 201, headers });
      }
      default:
        if (!stored) return new Response(null, { status: 404 });
        return new Response(stored.slice(), { headers: { "Docker-Content-Digest": sha256(stored) } });
    }
  });
  const manifest = (name: string) => JSON.parse(Buffer.from(manifests.get(name)!.body).toString());
  return { ...server, reference: `${server.host}/team/app:1`, blobs, manifests, manifest };
}

export const indexType = "application/vnd.oci.image.index.v1+json";
