/** Baseline of the service's benchmark: Bun.serve with a handler that returns the same JSON. */
Bun.serve({
  hostname: "127.0.0.1",
  port: Number(process.env.PORT),
  development: false,
  routes: {
    "/": () =>
      Response.json({
        message: "Hello from helloapp",
        version: "0.1.0",
        build: "0123456789ab",
        pod: "bench",
      }),
    "/version": () => Response.json({ name: "bare", version: "0.1.0", id: "0123456789ab", bun: Bun.version }),
  },
});
process.on("SIGTERM", () => process.exit(0));
