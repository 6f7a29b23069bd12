/**
 * The Secret with the values of a service's `secrets`, one for each service. A value never leaves these objects as text: messages
 * and objects other than the Secret have digests.
 *
 * A digest is an HMAC, and its key is in the Secret itself. A bare hash would reveal a short or common value, because everyone who
 * reads the Deployment or a log could hash guesses. Only readers of the Secret have the key, and they have the value anyway.
 *
 * Each key of the Secret has a field manager of its own. Two people who set different keys keep both, and the manager's time is the
 * age of the value. https://kubernetes.io/docs/reference/using-api/server-side-apply/
 */
import { PipelineError } from "../core/errors.ts";
import type { Service } from "../core/resolve-service.ts";
import type { ApiClient } from "./api.ts";
import { explainRejection } from "./diff.ts";
import type { KubeObject } from "./objects.ts";
import { CREATED_BY, PROJECT } from "./prepare-for-apply.ts";
import { secretName } from "./settings-env.ts";

interface SecretObject extends KubeObject {
  type?: string;
  data?: Record<string, string>;
}

/** Key of the Secret with the digests' key. No variable has this name. */
const DIGEST_KEY = "slipway.digest-key";
const DIGEST_DIGITS = 12;
/** Bytes of all values in a Secret. https://kubernetes.io/docs/concepts/configuration/secret/#restriction-data-size */
const MAX_BYTES = 1024 * 1024;

/** Values to store and names to remove. The values are private, so that no report or log prints them. */
export class SecretChange {
  readonly #values: ReadonlyMap<string, Uint8Array>;

  constructor(
    values: Iterable<readonly [string, Uint8Array]>,
    readonly removed: readonly string[] = [],
  ) {
    this.#values = new Map(values);
  }

  /** Names of the values to store. */
  get names(): string[] {
    return [...this.#values.keys()];
  }

  /** Returns a value as a Secret has it. */
  encode(name: string): string {
    return Buffer.from(this.#values.get(name)!).toString("base64");
  }
}

/** The stored values. */
export class SecretStore {
  readonly #data: Readonly<Record<string, string | undefined>>;
  readonly #key: string;
  readonly #live: SecretObject | undefined;

  /** @param live the object in the cluster. Undefined if nothing is stored */
  constructor(
    readonly service: Pick<Service, "name" | "namespace" | "identity">,
    live: SecretObject | undefined,
    data: Record<string, string> = live?.data ?? {},
  ) {
    const { [DIGEST_KEY]: key = randomKey(), ...values }: Record<string, string> = data;
    [this.#key, this.#data, this.#live] = [key, values, live];
  }

  get exists(): boolean {
    return this.#live !== undefined;
  }

  get names(): string[] {
    return Object.keys(this.#data).sort();
  }

  /** Returns the digest of some values together. It changes if one of them does, or is missing. */
  digestOf(names: readonly string[]): string {
    const hmac = new Bun.CryptoHasher("sha256", Buffer.from(this.#key, "base64"));
    for (const name of names) hmac.update(`${name}\0${this.#data[name] ?? ""}\0`);
    return hmac.digest("hex").slice(0, DIGEST_DIGITS);
  }

  /** Returns when a value was set, as RFC 3339. Undefined if another program has set it. */
  timeOf(name: string): string | undefined {
    const entries = (this.#live?.metadata.managedFields ?? []) as { manager?: string; time?: string }[];
    return entries.find(({ manager }) => manager === managerOf(name))?.time;
  }

  /** Returns the part of a change that differs from the stored values. */
  differenceTo(change: SecretChange): { set: string[]; unset: string[] } {
    return {
      set: change.names.filter((name) => this.#data[name] !== change.encode(name)),
      unset: change.removed.filter((name) => Object.hasOwn(this.#data, name)),
    };
  }

  /** Returns the values after a change. @throws {PipelineError} "project" if a Secret cannot hold them */
  after(change: SecretChange): SecretStore {
    const data = { ...this.#data, [DIGEST_KEY]: this.#key } as Record<string, string>;
    for (const name of change.names) data[name] = change.encode(name);
    for (const name of change.removed) delete data[name];
    const bytes = Object.values(data).reduce((sum, value) => sum + Buffer.byteLength(value, "base64"), 0);
    if (bytes <= MAX_BYTES) return new SecretStore(this.service, this.#live, data);
    const size = `${Math.ceil(bytes / 1024)} KiB`;
    throw new PipelineError(
      "project",
      `the secrets have ${size} in total, the limit is 1024 KiB. Nothing was changed`,
      {
        code: "secret-invalid",
        hint: "Store large files elsewhere, for example in a Secret of their own, which the pods mount.",
      },
    );
  }

  /**
   * Writes a change, with one request for each value. It is not interruptible.
   *
   * @throws {PipelineError} if a request fails: restore() then undoes those before it
   */
  async write(api: ApiClient, change: SecretChange): Promise<void> {
    const { set, unset } = this.differenceTo(change);
    if (set.length > 0 && !(DIGEST_KEY in (this.#live?.data ?? {})))
      await this.#apply(api, api.fieldManager, { [DIGEST_KEY]: this.#key }, this.#labels);
    for (const name of set) await this.#apply(api, managerOf(name), { [name]: change.encode(name) });
    for (const name of unset) {
      await this.#apply(api, managerOf(name), {});
      // Another program may own the key too.
      const { data = {} } = (await findSecret(api)) ?? {};
      if (Object.hasOwn(data, name)) await this.#patch(api, [{ op: "remove", path: `/data/${name}` }]);
    }
  }

  /** Restores the values that a change has replaced. Keys of others stay as they are now. */
  async restore(api: ApiClient, change: SecretChange): Promise<void> {
    const { set, unset } = this.differenceTo(change);
    const current = await findSecret(api);
    if (!current) return;
    if (!this.#live) return api.delete(this.#object);
    const { data = {} } = current;
    const operations = [...set, ...unset].flatMap((name) => {
      const [value, path] = [this.#data[name], `/data/${name}`];
      if (value === data[name]) return [];
      return [value === undefined ? { op: "remove", path } : { op: "add", path, value }];
    });
    const { managedFields } = this.#live.metadata;
    if (operations.length === 0) return;
    // With the owners, the values have the age that they had.
    const owners = managedFields && [{ op: "replace", path: "/metadata/managedFields", value: managedFields }];
    await this.#patch(api, operations);
    if (owners) await this.#patch(api, owners);
  }

  get #labels() {
    const { name, identity } = this.service;
    return {
      labels: { "app.kubernetes.io/name": name, "app.kubernetes.io/component": "secrets" },
      annotations: { [CREATED_BY]: name, ...(identity !== undefined && { [PROJECT]: identity }) },
    };
  }

  get #object(): SecretObject {
    const { namespace } = this.service;
    return { apiVersion: "v1", kind: "Secret", metadata: { name: secretName(this.service), namespace } };
  }

  /** Applies keys as one owner. Keys that it has owned and that are no longer there are removed. */
  #apply(api: ApiClient, manager: string, data: Record<string, string>, labels: object = {}): Promise<void> {
    const body = { ...this.#object, metadata: { ...this.#object.metadata, ...labels }, data };
    return this.#send(api, "application/apply-patch+yaml", { fieldManager: manager, force: "true" }, body);
  }

  #patch(api: ApiClient, body: object[]): Promise<void> {
    return this.#send(api, "application/json-patch+json", { fieldManager: api.fieldManager }, body);
  }

  async #send(api: ApiClient, contentType: string, query: Record<string, string>, body: object): Promise<void> {
    const request = { method: "PATCH", contentType, query, body, signal: undefined } as const;
    await api.json(await api.pathOf(this.#object), request).catch((error: unknown) => {
      throw explainRefusal(this.#object, error);
    });
  }
}

/** Explains a rejected Secret. The server's answer may quote a value, so it is not shown. */
function explainRefusal(object: SecretObject, error: unknown): unknown {
  const explained = explainRejection("change", object, error);
  if (explained === error || !(explained instanceof PipelineError)) return error;
  return new PipelineError(explained.kind, explained.message, {
    code: explained.code,
    hint: "A policy, a webhook or a quota of the cluster rejects the Secret. Ask its administrator.",
  });
}

const managerOf = (name: string) => `slipway-secret-${name}`;

const randomKey = () => Buffer.from(crypto.getRandomValues(new Uint8Array(32))).toString("base64");

/** Reads the Secret by listing: a deployer has no right to get Secrets. */
async function findSecret(api: ApiClient): Promise<SecretObject | undefined> {
  const fieldSelector = `metadata.name=${secretName(api.service)}`;
  const [found] = await api.list<SecretObject>(api.collection("/api/v1", "secrets"), { fieldSelector });
  return found;
}

/**
 * Reads the stored values.
 *
 * @throws {PipelineError} "project" if a Secret of this name belongs to another project, or was created by hand
 */
export async function readSecrets(api: ApiClient): Promise<SecretStore> {
  const { service } = api;
  const found = await findSecret(api);
  const { [CREATED_BY]: creator, [PROJECT]: project } = found?.metadata.annotations ?? {};
  const isForeign = creator !== service.name || (project !== undefined && project !== service.identity);
  if (!found || !isForeign) return new SecretStore(service, found);
  const owner = project ?? creator;
  throw new PipelineError(
    "project",
    `Secret/${secretName(service)} in ${service.namespace} ${owner === undefined ? "was not created by slipway" : `belongs to "${owner}"`}. Nothing was changed`,
    { code: "project-differs", hint: "Set another `namespace` in ci/pipeline.ts and k8s/, or delete the Secret." },
  );
}
