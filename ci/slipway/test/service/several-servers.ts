import { createServer } from "node:http";
import { serve } from "../../service/service.ts";
import { listening } from "./test-service-helper.ts";

/** Two servers in one process that become ready and drain together. */
const hello = () => new Response("hello\n");
let ready = () => {};
const one = serve({ port: 0, fetch: hello });
const two = createServer((_, reply) => {
  ready();
  reply.end("as said\n");
});
listening(one);
listening(serve(two.listen(0), { ready: new Promise<void>((resolve) => (ready = resolve)) }));
