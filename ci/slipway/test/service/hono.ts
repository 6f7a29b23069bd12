import { Hono } from "hono";
import { serve } from "../../service/service.ts";
import { listening, slow } from "./test-service-helper.ts";

const app = new Hono();
app.get("/", (c) => c.text("hello\n"));
app.get("/slow", async (c) => c.text(await slow()));
listening(serve({ port: 0, fetch: app.fetch }));
