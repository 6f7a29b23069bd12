/**
 * What a service tells slipway of itself, and the one call that does it. A declaration file, because the package's own
 * source is checked under its own tsconfig and never under a service's.
 *
 * @example ci/pipeline.ts
 * import { pipeline } from "slipway";
 *
 * await pipeline(import.meta, { namespace: "shop" });
 */

/** Everything has a default that is found out; a service states what differs. */
export interface Settings {
  /**
   * Name of the image, the binary, the Deployment and the Service; also the value of the label app.kubernetes.io/name. A
   * DNS label. Default: package.json's name, without its scope.
   */
  name?: string;
  /** Where it is deployed to. Default: the name. */
  namespace?: string;
  /**
   * The module that starts the service, relative to package.json. Default: the file that package.json's scripts `start`
   * or `dev` run, its `module` or `main`, or one of src/main, src/index, src/server, index, main, server.
   */
  entry?: string;
  /**
   * Further modules of the same image, by the word that starts them: `{ migrate: "src/migrate.ts" }` is run by
   * `command: ["/NAME", "migrate"]`. Default: none.
   */
  entries?: Record<string, string>;
  /** Scripts of package.json that make what the source imports, like a front end: run in order before the build. Default: none. */
  prebuild?: string[];
  /**
   * Files and directories, as globs, that lie in the image: by their paths in the project, in its working directory `/srv`.
   * Default: none.
   */
  files?: string[];
  /** Packages that lie in the image beside the binary, with what they ask for. Default: those with an addon that is looked for at run time. */
  nativePackages?: string[];
  /** Packages that are not there: an optional dependency that the source imports and can do without. Default: none. */
  external?: string[];
  /** The bundler's definitions: an expression by what stands for it in the source. Default: none. */
  define?: Record<string, string>;
  /** The beginning of names of environment variables that become part of the build, like `PUBLIC_`. Default: none do. */
  publicEnv?: string;
  /** The bundler's plugins. Default: those that bunfig.toml has in `[serve.static]`. */
  plugins?: unknown[];
  /** The version of Bun. Default: .bun-version's or package.json's packageManager; where there is none, the one that runs. */
  bun?: string;
  /** The port that it listens on when $PORT says nothing else. Default: 8080. */
  port?: number;
  /** SPDX identifier or expression, for the image's label and the SBOM. Default: package.json's license. */
  license?: string;
  /**
   * Whether the build puts a module in front of the entry, which answers /version, /readyz and /healthz where the service
   * does not and drains its servers on SIGTERM. Default: true; a service that does all of that itself says false.
   */
  attach?: boolean;
  /** Scripts of package.json. Default: `check` or `typecheck`; `test:unit` or `test`. One that is not there is left out. */
  scripts?: { check?: string; test?: string };
  /** The kustomize overlay for each target. Default: k8s/overlays/k3s and k8s/overlays/registry. */
  overlays?: { k3s?: string; registry?: string };
  /** Path on the Service that answers with JSON whose `id` is the build's. Default: /version. */
  versionPath?: string;
  /**
   * Variables of the smoke test alone: values for those that only the cluster has, from a Secret for example; and where this
   * machine has no namespaces for it, so that the service shares its network, what keeps addresses and ports apart.
   * Default: none.
   */
  smokeEnv?: Record<string, string>;
  /**
   * Where its k3s is, `[USER@]HOST` as ssh takes it: one for each node that may run the pods. What the command line says of where it
   * goes (--host, --target, --context) wins. Default: this machine.
   */
  hosts?: string[];
  /** Versions that the cluster keeps, the one that serves included: what `rollback` can go back to. Default: 5. */
  keepVersions?: number;
  /** Seconds that a container may run without passing its readiness probe before its version counts as failed. Default: 6. */
  readyTimeoutSeconds?: number;
  /**
   * Seconds that a pod may find no place while no other starts or leaves. Default: 4; more where a cluster adds nodes on
   * demand.
   */
  scheduleTimeoutSeconds?: number;
  /** Seconds that a whole rollout may take. Default: 120. */
  rolloutTimeoutSeconds?: number;
}

/**
 * Runs the command of the command line (`bun ci/pipeline.ts deploy`, `slipway deploy`) for a service, and ends the process
 * with its exit code.
 *
 * @param meta `import.meta` of the service's ci/pipeline.ts: the service is the directory above
 */
export declare function pipeline(meta: ImportMeta, settings?: Settings): Promise<never>;
