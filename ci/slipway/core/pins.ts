/**
 * Lists every version and checksum that the project trusts.
 *
 * Files that cannot import this module repeat some of them. `bun run pins` in slipway's repository lists the copies,
 * checks that they agree (as the unit tests do), and updates them.
 */
export const pins = {
  bun: "1.4.5",
  /** Base image of the builder, and source of the image's C library. */
  baseImage: "docker.io/oven/bun:1.4.5",
  /** npm packages from which the host engine takes Bun for another architecture. `integrity` is the registry's `dist.integrity`. */
  bunFor: {
    amd64: {
      package: "@oven/bun-linux-x64",
      integrity: "sha512-IWX9BELoGHAUtMonkeSaNaZwXzRk+oDw6Mk+HBFXd3KHYIBNBsIGRupMZPcgNoDbJpLu6gAJjIoIVPZtt1aJ1g==",
    },
    arm64: {
      package: "@oven/bun-linux-aarch64",
      integrity: "sha512-4BXmsSKnjOrlGWqZV4x/oWa7AVoR+B6lCXddMzOAXBIm3t50eslg9wb66gmtW1AamEQ1l1CDvmmruysEhqOWMg==",
    },
  },
  /** Dagger CLI and engine in GitHub Actions. */
  dagger: "0.21.8",
  k3s: {
    version: "v1.36.2+k3s1",
    /** install.sh in k3s's repository, at a commit because a commit cannot change. */
    installScript: "https://raw.githubusercontent.com/k3s-io/k3s/019b0afdd830e36f5e4b7a5b237e6a4339e6a6be/install.sh",
    installScriptSha256: "68ae766b4c4fd2c8032f712cdd346c8f9d1ae60eaeb4736a1155effda44ea23d",
  },
};
