import { serve } from "../../service/service.ts";
import { listening } from "./lifecycle-helper.ts";

/** Two of the three paths are the service's own. */
listening(
  serve({
    port: 0,
    routes: { "/version": new Response("own\n"), "/readyz": false },
    fetch: ({ url }) => new Response(`fetch ${new URL(url).pathname}\n`),
  }),
);
