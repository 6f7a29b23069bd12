// @ts-expect-error Express has no types.
import express from "express";
import { serve } from "../../service/service.ts";
import { listening, slow } from "./test-service-helper.ts";

interface Reply {
  type(name: string): Reply;
  send(text: string): void;
}
const app = express();
app.get("/", (_: unknown, reply: Reply) => reply.type("text").send("hello\n"));
app.get("/slow", (_: unknown, reply: Reply) => void slow().then((text) => reply.type("text").send(text)));
listening(serve(app.listen(0)));
