/**
 * The documented differences between a service from source and its image, one sentence each.
 *
 * Remove a sentence, and its marks, when the difference has disappeared.
 */
export const differences = {
  address: "A server without `hostname` listens on 0.0.0.0, and Bun's first line of output shows this address.",
  ownPaths: "An own version path gets the header slipway-build, and a static response at an injected path has no ETag.",
  fileNames: "`import.meta.file` is the binary's name, and `__filename` of an ES module is /srv/index.js.",
  computedImport: "A module with a computed path is not in the binary.",
  readOnly: "The image's file system is read-only, except for volumes.",
  dotenv: "The binary does not read .env, so that only the cluster sets variables.",
} as const;
