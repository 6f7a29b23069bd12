import { Elysia } from "elysia";
import { serve } from "../../service/service.ts";
import { listening, slow } from "./test-service-helper.ts";

const app = new Elysia().get("/", () => "hello\n").get("/slow", () => slow());
listening(serve({ port: 0, fetch: app.fetch }));
