/** Node's http server with the same reply. */
import { createServer } from "node:http";

createServer((_, response) => {
  response.setHeader("Content-Type", "application/json");
  response.end(
    JSON.stringify({ message: "Hello from helloapp", version: "0.1.0", build: "0123456789ab", pod: "bench" }),
  );
}).listen(Number(process.env.PORT), "127.0.0.1");
process.on("SIGTERM", () => process.exit(0));
