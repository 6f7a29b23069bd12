/** Opens the address of the service in a browser. */
import type { Command } from "../cli/context.ts";
import { withTarget } from "../cli/connect-target.ts";
import { clusterOptions } from "../cli/options.ts";
import { PipelineError } from "../core/errors.ts";
import { isOnPath } from "../core/process.ts";
import { endpointOf } from "../deploy/status.ts";
import type { KubeObject } from "../kubernetes/objects.ts";
import { renderManifests } from "../kubernetes/render.ts";

interface Ingress extends KubeObject {
  spec?: { rules?: { host?: string }[]; tls?: unknown[] };
}

export default {
  about: "Open the address of the service in a browser, or print it",
  options: clusterOptions,
  execute: (context) =>
    withTarget(context, async (deployContext) => {
      const { target, service, signal } = deployContext;
      const [endpoint, manifests] = await Promise.all([
        endpointOf(deployContext),
        renderManifests(target, service, signal),
      ]);
      const url = addressOfManifests(context.options.url, manifests) ?? baseOf(endpoint.url, service.versionPath);
      if (url === undefined) {
        throw new PipelineError("environment", `${service.name} has no address outside of the cluster`, {
          code: "address-not-found",
          hint: `Run \`bun ci/pipeline.ts proxy ${service.port}\`, or give its address with --url.`,
        });
      }
      const browser = process.platform === "darwin" ? "open" : "xdg-open";
      const hasDisplay = process.platform === "darwin" || process.env.DISPLAY || process.env.WAYLAND_DISPLAY;
      if (hasDisplay && isOnPath(browser))
        Bun.spawn([browser, url], { stdin: "ignore", stdout: "ignore", stderr: "ignore", detached: true }).unref();
      console.log(url);
      return "";
    }),
} satisfies Command;

/** Prefers the host of an Ingress. --url is more exact. */
export function addressOfManifests(url: string | undefined, manifests: KubeObject[]): string | undefined {
  if (url !== undefined) return url;
  const ingresses = manifests.filter(({ kind }) => kind === "Ingress") as Ingress[];
  const [found] = ingresses.flatMap(({ spec }) =>
    (spec?.rules ?? []).flatMap(({ host }) => (host && !host.includes("*") ? [{ host, isSecure: spec?.tls }] : [])),
  );
  return found && `${found.isSecure ? "https" : "http"}://${found.host}/`;
}

/** @returns undefined if the API server's proxy is the only way */
function baseOf(versionUrl: string, versionPath: string): string | undefined {
  if (!/^https?:/.test(versionUrl)) return undefined;
  return versionUrl.endsWith(versionPath) ? `${versionUrl.slice(0, -versionPath.length)}/` : versionUrl;
}
