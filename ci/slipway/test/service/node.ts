import { createServer } from "node:http";
import { serve } from "../../service/service.ts";
import { listening, slow } from "./test-service-helper.ts";

const server = createServer((request, reply) => {
  if (request.url === "/") reply.end("hello\n");
  else if (request.url === "/slow") void slow().then((text) => reply.end(text));
  else reply.writeHead(404).end(`handler ${request.url}\n`);
});
listening(serve(server.listen(0), process.env.OWN ? { customPaths: ["/version"] } : {}));
