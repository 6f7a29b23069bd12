import { serve } from "../../service/service.ts";
import { listening } from "./lifecycle-helper.ts";

/** The first takes PORT, the second what it asks for. */
listening(serve({ port: 1, fetch: () => new Response("one\n") }));
listening(serve({ port: 0, fetch: () => new Response("two\n") }));
