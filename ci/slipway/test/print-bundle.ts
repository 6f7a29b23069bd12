/** Prints the image ID and the files of the bundle in order. Runs in a service's directory, like a build. */
import { resolveService } from "../core/resolve-service.ts";
import { sha256 } from "../core/hash.ts";
import { bundleOptions } from "../image/bundle-options.ts";
import { findSharedLibraries } from "../image/image-spec.ts";
import { computeImageId, collectInputs } from "../image/inputs.ts";
import type { Settings } from "../index.d.ts";

const service = resolveService(process.cwd(), JSON.parse(process.argv[2]!) as Settings);
const runtime = findSharedLibraries();
const inputs = await collectInputs(service, runtime);
const options = await bundleOptions(service, inputs);
const { outputs } = await Bun.build({ ...options, bytecode: false, sourcemap: "none" });
console.log(await computeImageId(service, runtime, inputs));
for (const output of outputs) console.log(output.path, sha256(Buffer.from(await output.arrayBuffer())));
