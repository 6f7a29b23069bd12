/** What an image is for. */

export type Architecture = "amd64" | "arm64";

export interface Platform {
  os: "linux";
  architecture: Architecture;
}

/** This machine's. */
export const ownArchitecture: Architecture = process.arch === "arm64" ? "arm64" : "amd64";
