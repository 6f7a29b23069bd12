/**
 * The documented differences between a service from source and its image, one sentence each.
 *
 * Remove a sentence, and its marks, when the difference has disappeared.
 */
export const differences = {
  address: "A server without `hostname` listens on 0.0.0.0, and Bun's first line of output shows this address.",
  ownPaths: "An own version path gets the header slipway-build, and a static response at an injected path has no ETag.",
  main: "`import.meta.main` and `require.main === module` are false, because the entry is a generated module.",
  fileNames: "`import.meta.file` is the binary's name, and `__filename` of an ES module is /srv/index.js.",
  names: "Classes and functions have short names, because the bundler renames them.",
  workers: "A file that is started as a worker is not in the binary.",
  fork: "The image has no Bun that runs a script, so a module cannot be started as another process.",
  preload: "The options of the script `start`, such as `--preload`, have no effect.",
  declarations: "A module that imports the name `__dirname` does not compile.",
  computedImport: "A module with a computed path is not in the binary.",
  computedName: "A package that is loaded by a computed name, or by `createRequire`, is not in the binary.",
  packageData: "A bundled package does not find its data files, because they are not in the image.",
  resolved: "`require.resolve` returns the path on the build machine, which is not in the image.",
  parentOfModule: "A path through the module's own directory fails if the image does not have this directory.",
  readOnly: "The image's file system is read-only, except for volumes.",
  dotenv: "The binary does not read .env, so that only the cluster sets variables.",
} as const;
