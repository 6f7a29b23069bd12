import { serve } from "../../service/service.ts";
import { listening } from "./test-service-helper.ts";

/** Handles two of the three paths itself. */
listening(
  serve({
    port: 0,
    routes: { "/version": new Response("own\n"), "/readyz": false },
    fetch: ({ url }) => new Response(`fetch ${new URL(url).pathname}\n`),
  }),
);
