/** Platforms of images. */

export type Architecture = "amd64" | "arm64";

export interface Platform {
  os: "linux";
  architecture: Architecture;
}

/** Architecture of this machine. */
export const ownArchitecture: Architecture = process.arch === "arm64" ? "arm64" : "amd64";
