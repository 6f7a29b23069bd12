/** `proxy` and `open`: a local port that leads to a real TCP server, with a program in place of kubectl. */
import { afterEach, expect, test } from "bun:test";
import { createServer, type AddressInfo } from "node:net";
import { addressOfManifests } from "../commands/open.ts";
import type { PipelineError } from "../core/errors.ts";
import type { Service } from "../core/resolve-service.ts";
import { ApiClient } from "../kubernetes/api.ts";
import { proxyPort } from "../operations/port-proxy.ts";

const service = { name: "shop", namespace: "shop" } as Service;
const cleanUps: (() => void)[] = [];
afterEach(() => {
  for (const cleanUp of cleanUps.splice(0)) cleanUp();
});

/** @param script of sh in place of kubectl @param forward of an SSH connection */
function clientOf(script: string, forward?: (address: string) => Promise<string>) {
  const controller = new AbortController();
  cleanUps.push(() => controller.abort());
  const commands: string[][] = [];
  const api = new ApiClient(
    service,
    async () => Response.json({}),
    controller.signal,
    async () => {},
    {
      kubectl: ["kubectl"],
      kubectlCommand: async (args) => {
        commands.push(args);
        return ["sh", "-c", script];
      },
      ...(forward && { forward }),
      stderrTail: () => "",
    },
  );
  return { api, controller, commands };
}

async function echoServer(path?: string): Promise<number> {
  const server = createServer((socket) => void socket.pipe(socket));
  await new Promise<void>((resolve) => (path ? server.listen(path, resolve) : server.listen(0, "127.0.0.1", resolve)));
  cleanUps.push(() => server.close());
  return path ? 0 : (server.address() as AddressInfo).port;
}

async function exchange(port: number, text: string): Promise<string> {
  const received = Promise.withResolvers<string>();
  let all = "";
  const socket = await Bun.connect({
    ...{ hostname: "127.0.0.1", port },
    socket: {
      data: (_, chunk) => void ((all += chunk.toString()).length >= text.length && received.resolve(all)),
      close: () => received.resolve(all),
    },
  });
  socket.write(text);
  socket.flush();
  const result = await received.promise;
  socket.end();
  return result;
}

const options = { localPort: 0, port: 80, object: "service/shop" };
const opened = (api: ApiClient, signal: AbortSignal) => {
  const ready = Promise.withResolvers<number>();
  const done = proxyPort(api, { ...options, onReady: ready.resolve }, signal);
  done.catch(ready.reject);
  return { ready: ready.promise, done };
};

test("leads to the port that kubectl opens, until it is interrupted", async () => {
  const { api, controller, commands } = clientOf(
    `echo "Forwarding from 127.0.0.1:${await echoServer()} -> 80"; sleep 60`,
  );
  const { ready, done } = opened(api, controller.signal);
  expect(await exchange(await ready, "x".repeat(100_000))).toBe("x".repeat(100_000));
  expect(commands).toEqual([["--namespace=shop", "port-forward", "service/shop", ":80"]]);
  controller.abort();
  await done;
});

test("goes on with another pod after one is gone", async () => {
  const { api, controller, commands } = clientOf(
    `echo "Forwarding from 127.0.0.1:${await echoServer()} -> 80"; sleep 0.3`,
  );
  const { ready, done } = opened(api, controller.signal);
  const port = await ready;
  await Bun.sleep(1500);
  expect(commands.length).toBeGreaterThan(1);
  expect(await exchange(port, "again")).toBe("again");
  controller.abort();
  await done;
});

test("over SSH, leads through the connection to the port on the host", async () => {
  const socket = `/tmp/slipway-proxy-test-${process.pid}`;
  await echoServer(socket);
  const asked: string[] = [];
  const { api, controller } = clientOf(
    'printf "Forwarding from 127.0.0.1:4242 -> 80\\r\\n"; sleep 60',
    async (address) => {
      asked.push(address);
      return socket;
    },
  );
  const { ready, done } = opened(api, controller.signal);
  expect(await exchange(await ready, "hello")).toBe("hello");
  expect(asked).toEqual(["127.0.0.1:4242"]);
  controller.abort();
  await done;
});

test.each([
  ["echo 'Error from server (NotFound): services \"x\" not found' >&2; exit 1", 'services "x" not found'],
  ["exit 1", "kubectl ended without output"],
])("kubectl's error is an environment error: %s", async (script, reason) => {
  const { api, controller } = clientOf(script);
  const error = (await opened(api, controller.signal).ready.catch((failure: unknown) => failure)) as PipelineError;
  expect(error).toMatchObject({ kind: "environment", code: "forwarding-failed" });
  expect(error.message).toContain(reason);
});

test("a local port in use is named, and kubectl ends", async () => {
  const port = await echoServer();
  const { api, controller } = clientOf(`echo "Forwarding from 127.0.0.1:${port} -> 80"; sleep 60`);
  const failing = proxyPort(api, { ...options, localPort: port, onReady: () => {} }, controller.signal);
  const error = (await failing.catch((failure: unknown) => failure)) as PipelineError;
  expect(error).toMatchObject({ kind: "environment", code: "port-unusable" });
  expect(error.message).toContain(`port ${port}`);
});

test("`open` prefers --url, then the host of an Ingress", () => {
  const ingress = (host: string | undefined, tls?: object[]) => [
    { apiVersion: "v1", kind: "Ingress", metadata: { name: "x" }, spec: { rules: [{ host }], tls } },
  ];
  expect(addressOfManifests("https://a.example/x", ingress("shop.example"))).toBe("https://a.example/x");
  expect(addressOfManifests(undefined, ingress("shop.example"))).toBe("http://shop.example/");
  expect(addressOfManifests(undefined, ingress("shop.example", [{}]))).toBe("https://shop.example/");
  for (const host of [undefined, "*.example"]) expect(addressOfManifests(undefined, ingress(host))).toBeUndefined();
});
