/**
 * Settings of a service and the `pipeline()` entry point.
 *
 * This is a declaration file, because the package's source is checked under its own tsconfig and never under
 * a service's.
 *
 * @example ci/pipeline.ts
 * import { pipeline } from "slipway";
 *
 * await pipeline(import.meta, { namespace: "shop" });
 */

/**
 * Settings of a service. All are optional: set only the values that differ from the detected defaults.
 *
 * The settings reference is generated from the comments: the first sentence and the tags.
 */
export interface Settings {
  // Identity

  /**
   * Name of the image, the binary, the Deployment and the Service, as a DNS label.
   * The label `app.kubernetes.io/name` has the same value.
   *
   * @default the name in package.json without its scope, converted to a DNS label
   * @example "shop"
   */
  name?: string;
  /**
   * Kubernetes namespace of the deployment, as a DNS label.
   *
   * @default the value of `name`
   * @example "shop-production"
   */
  namespace?: string;
  /**
   * SPDX license identifier or expression, written to the image's label and to the SBOM.
   *
   * @default the license in package.json
   * @example "MIT OR Apache-2.0"
   */
  license?: string;

  // Build

  /**
   * Module that starts the service, relative to package.json.
   *
   * @default the file that the package.json scripts `start` or `dev` run, else `module` or `main` in
   *   package.json, else the first that exists of src/main, src/index, src/server, index, main, server,
   *   src/app and app. A module that starts a server comes first
   * @example "src/server.ts"
   */
  entry?: string;
  /**
   * Additional entry points in the same image, keyed by the argument that starts them.
   * In the example, `command: ["/NAME", "migrate"]` runs src/migrate.ts.
   *
   * @default {}
   * @example { migrate: "src/migrate.ts" }
   */
  entries?: Record<string, string>;
  /**
   * Scripts of package.json to run in order before the build, for generated code or a front end.
   *
   * @default []
   * @example ["build:css", "build:client"]
   */
  prebuild?: string[];
  /**
   * Scripts of package.json that check and test the service.
   * If package.json has no such script, slipway skips the step.
   *
   * @default { check: "check" or "typecheck", test: "test:unit" or "test" }, the first that package.json has
   * @example { check: "lint", test: "test:fast" }
   */
  scripts?: { check?: string; test?: string };
  /**
   * Expressions that replace identifiers in the source, as in Bun's `define` option.
   *
   * @default {}
   * @example { EDITION: '"community"' }
   */
  define?: Record<string, string>;
  /**
   * Prefix of environment variables whose values are compiled into the binary at build time.
   *
   * @default "", which compiles none in
   * @example "PUBLIC_"
   */
  publicEnv?: string;
  /**
   * Plugins for Bun's bundler, in addition to the plugins in `[serve.static]` of bunfig.toml.
   *
   * @default []
   */
  plugins?: unknown[];
  /**
   * Optional packages that the source imports and that are missing on purpose.
   *
   * @default []
   * @example ["pg-native"]
   */
  external?: string[];
  /**
   * Version of Bun that must run the build.
   *
   * @default the version in .bun-version or in `packageManager` of package.json, else the running version
   * @example "1.4.5"
   */
  bun?: string;

  // Files

  /**
   * Files and directories to copy into the image, as globs relative to package.json.
   * They keep their paths below the image's working directory, `/srv`.
   *
   * @default []
   * @example ["public", "drizzle/*.sql"]
   */
  files?: string[];
  /**
   * Installed npm packages to copy into the image unbundled, with their dependencies. The service need not import them.
   *
   * slipway finds most by itself. These are packages that look up a native addon, open their own files, or run their own
   * code by path. Dependencies that a string of the source names, and drivers that a package loads, are found too.
   *
   * @default the packages that slipway finds
   * @example ["sharp", "pino-pretty"]
   */
  nativePackages?: string[];

  // Service contract

  /**
   * TCP port that the service listens on if the variable `PORT` is not set. If the manifests name no port either, a
   * service without this setting is a worker.
   *
   * @default 8080
   * @example 3000
   */
  port?: number;
  /**
   * Whether the build injects /version, /readyz, /healthz and graceful shutdown on SIGTERM.
   * The service replies first. The build's reply replaces a 404 of the service.
   * Set `false` if the service implements all of them.
   *
   * @default true
   * @example false
   */
  attach?: boolean;
  /**
   * Path on the Service that returns JSON with the build ID in `id`.
   *
   * @default "/version"
   * @example "/api/version"
   */
  versionPath?: string;

  // Environment

  /**
   * Environment variables with plain values, for each container that runs the service's image.
   * Their values are visible in plans and in the cluster.
   *
   * @default {}
   * @example { LOG_LEVEL: "info" }
   */
  env?: Record<string, string>;
  /**
   * Environment variables whose values are secret. `slipway secrets set NAME` stores a value in the cluster.
   * With a command, each deploy runs it on your machine, and its output is the value.
   *
   * @default []
   * @example ["DATABASE_URL", { STRIPE_KEY: ["op", "read", "op://shop/stripe/key"] }]
   */
  secrets?: (string | Record<string, string[]>)[] | Record<string, string[]>;

  // Deploy

  /**
   * Kustomize overlay for each target, relative to package.json.
   *
   * @default { k3s: "k8s/overlays/k3s", registry: "k8s/overlays/registry" }
   * @example { k3s: "k8s/overlays/staging" }
   */
  overlays?: { k3s?: string; registry?: string };
  /**
   * SSH destinations (`[USER@]HOST`) of the k3s nodes that may run the pods.
   * The options `--host`, `--target` and `--context` override this setting.
   *
   * @default [], which means this machine
   * @example ["deploy@shop.example"]
   */
  hosts?: string[];
  /**
   * Identity of the project in the cluster. A deploy refuses to change objects of another project with the same name.
   * `slipway init` writes one if the repository has no origin.
   *
   * @default the URL of the repository's origin, the path in it and the package's name
   * @example "shop-api-7d3f2a"
   */
  identity?: string;
  /**
   * Number of versions in the release history, including the running version.
   * `rollback` can return to any of them.
   *
   * @default 5
   * @example 10
   */
  keepVersions?: number;
  /**
   * Seconds that a container may run without passing its readiness probe before the rollout fails.
   *
   * @default 6
   * @example 30
   */
  readyTimeoutSeconds?: number;
  /**
   * Seconds that a pod may stay unschedulable, while no other pod starts or stops, before the rollout fails.
   * Increase the value if the cluster adds nodes on demand.
   *
   * @default 4
   * @example 180
   */
  scheduleTimeoutSeconds?: number;
  /**
   * Seconds that a rollout may take in total.
   *
   * @default 120
   * @example 300
   */
  rolloutTimeoutSeconds?: number;

  // Smoke test

  /**
   * Values, in the smoke test only, for environment variables that are known only in the cluster.
   * A variable from a Secret is an example.
   *
   * @default {}
   * @example { DATABASE_URL: "sqlite::memory:" }
   */
  smokeEnv?: Record<string, string>;
}

/**
 * Runs the command on the command line for a service and exits the process with its exit code.
 *
 * `bun ci/pipeline.ts deploy` and `slipway deploy` are equivalent.
 *
 * @param meta `import.meta` of the service's ci/pipeline.ts. The parent of that file's directory is the
 *   service.
 * @param settings values that differ from the defaults
 * @example
 * await pipeline(import.meta, { port: 3000, files: ["public"] });
 */
export declare function pipeline(meta: ImportMeta, settings?: Settings): Promise<never>;
