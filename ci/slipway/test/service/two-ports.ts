import { serve } from "../../service/service.ts";
import { listening } from "./test-service-helper.ts";

/** The first server listens on PORT, the second on the port of its options. */
listening(serve({ port: 1, fetch: () => new Response("one\n") }));
listening(serve({ port: 0, fetch: () => new Response("two\n") }));
