import { serve, version } from "../../service/service.ts";
import { listening, slow } from "./test-service-helper.ts";
import page from "./page.html";

let ready = () => {};
const server: Bun.Server<undefined> = serve(
  {
    port: 0,
    routes: {
      "/": () => new Response("hello\n"),
      "/slow": async () => new Response(await slow()),
      "/static": new Response("static\n", { headers: { "X-Kept": "yes" } }),
      "/file": new Response(Bun.file(new URL("page.ts", import.meta.url))),
      "/blob": Bun.file(import.meta.path),
      "/methods": {
        GET: (request) => new Response(`got ${request.method}\n`),
        POST: new Response("posted\n"),
      },
      "/params/:id": ({ params }) => new Response(params.id),
      "/page": page,
      "/throw": () => {
        throw new Error("thrown");
      },
      "/reject": () => Promise.reject(new Error("rejected")),
      "/stream": () =>
        new Response(async function* () {
          yield "one ";
          await Bun.sleep(1);
          yield "two\n";
        } as unknown as BodyInit),
      "/redirect": () => Response.redirect("/"),
      "/ready": () => {
        ready();
        return new Response("as said\n");
      },
      "/reload": () => {
        server.reload({ fetch: () => new Response("reloaded\n") });
        return new Response("done\n");
      },
      "/socket": (request, server) => (server.upgrade(request) ? undefined : new Response(null, { status: 400 })),
      "/about": () => version(),
    },
    async fetch(request, given) {
      if (request.method === "PUT") return new Response(await request.text());
      const same = this === given && given === server;
      return new Response(`fetch ${new URL(request.url).pathname} ${same}\n`, { status: 404 });
    },
    websocket: { message: (socket, message) => void socket.send(`echo ${String(message)}`) },
    ...(process.env.ON_ERROR && {
      error: ({ message }: Error) => new Response(`caught ${message}\n`, { status: 500 }),
    }),
  },
  process.env.NOT_READY ? { ready: new Promise<void>((resolve) => (ready = resolve)) } : {},
);
listening(server);
