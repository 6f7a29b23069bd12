import { serve } from "../../service/service.ts";
import { listening } from "./test-service-helper.ts";

/** The first server listens on the port of its options, the second on PORT. */
listening(serve({ port: 0, fetch: () => new Response("one\n") }));
listening(serve({ fetch: () => new Response("two\n") }));
