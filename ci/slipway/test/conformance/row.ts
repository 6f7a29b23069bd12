/** The form of a row: a small service, and how its behaviour is observed. */
import type { Settings } from "../../index.d.ts";

export interface Row {
  /** Framework or feature, unique. */
  name: string;
  /** npm packages that the service imports. The suite's package.json pins their versions. */
  packages?: string[];
  /** Path -> content, or the content of src/index.ts. */
  files: string | Record<string, string | Uint8Array>;
  /** Settings of ci/pipeline.ts. */
  settings?: Settings;
  /** More fields of package.json. */
  manifest?: object;
  /** More environment variables. */
  env?: Record<string, string>;
  /** Requests to port 3000, in order. Without requests, the process is observed until it exits. */
  requests?: Step[];
  /** Arguments of the process. */
  args?: string[];
  /** Arguments if they differ: of `bun` from source, and of the image's binary. */
  command?: { source: string[]; image: string[] };
  /**
   * Text on standard output after which the process is stopped. It is needed for a service without a port, and for a
   * log that is written after the reply.
   */
  until?: string;
  /** Signal that stops the service. Default: SIGTERM. */
  signal?: "SIGTERM" | "SIGINT";
  /** Exit code from source. Default: 0, or the signal that stops the service. */
  exit?: number;
  /** A server that the machine has to have. */
  needs?: "postgresql";
  /** The documented difference. A row without it has to be equal. */
  differs?: { because: string; at: Place[] };
}

/** A part of the behaviour: the name of a step such as `GET /`, or one of these. */
export type Place = "build" | "stdout" | "stderr" | "exit" | "start" | (string & {});

/** The path of a GET request, or another request, or any other exchange with the service. */
export type Step = string | HttpStep | CustomStep;

export interface HttpStep {
  path: string;
  method?: string;
  headers?: Record<string, string>;
  body?: () => BodyInit;
  json?: unknown;
  /** Status from source. Default: below 400. */
  status?: number;
}

export interface CustomStep {
  name: string;
  /** @returns a value for JSON */
  run(origin: string): Promise<unknown>;
}

/** Behaviour of one run: place -> value. */
export type Behaviour = Partial<Record<Place, unknown>>;

export interface Reply {
  status: number;
  headers: Record<string, string>;
  body: string;
}

export const nameOf = (step: Step): string =>
  typeof step === "string" ? `GET ${step}` : "run" in step ? step.name : `${methodOf(step)} ${step.path}`;

export const methodOf = ({ method, body, json }: HttpStep): string =>
  method ?? (body === undefined && json === undefined ? "GET" : "POST");

export const post = (path: string, json: unknown, more: Partial<HttpStep> = {}): HttpStep => ({ path, json, ...more });

/** Uploads files as multipart/form-data. */
export const upload = (path: string, files: Record<string, string>): HttpStep => ({
  path,
  body: () => {
    const form = new FormData();
    for (const [name, content] of Object.entries(files)) form.append(name, new File([content], `${name}.txt`));
    return form;
  },
});

/** Sends messages over a websocket and collects as many replies. */
export const websocket = (path: string, messages: string[], count = messages.length): CustomStep => ({
  name: `websocket ${path}`,
  run: (origin) =>
    new Promise((resolve, reject) => {
      const socket = new WebSocket(origin.replace("http", "ws") + path);
      const replies: string[] = [];
      socket.onopen = () => messages.forEach((message) => socket.send(message));
      socket.onerror = () => reject(new Error("the websocket failed"));
      socket.onclose = ({ code }) => resolve({ replies, code });
      socket.onmessage = ({ data }) => {
        replies.push(String(data));
        if (replies.length === count) socket.close(1000);
      };
    }),
});

/** Reads a number of server-sent events, then disconnects. */
export const serverSentEvents = (path: string, count: number): CustomStep => ({
  name: `events ${path}`,
  async run(origin) {
    const reply = await fetch(origin + path, { headers: { accept: "text/event-stream" } });
    let text = "";
    for await (const chunk of reply.body!.pipeThrough(new TextDecoderStream())) {
      text += chunk;
      if (text.split("\n\n").length > count) break;
    }
    return { type: reply.headers.get("content-type"), text };
  },
});
