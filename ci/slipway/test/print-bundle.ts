/** Run in a service's directory, as a build is: prints the image's id and the files of the binary, in their order. */
import { describeService } from "../core/service-config.ts";
import { sha256 } from "../core/hash.ts";
import { bundling } from "../image/bundle.ts";
import { findRuntime } from "../image/image-config.ts";
import { imageId, inputsOf } from "../image/inputs.ts";
import type { Settings } from "../index.d.ts";

const service = describeService(process.cwd(), JSON.parse(process.argv[2]!) as Settings);
const runtime = findRuntime();
const inputs = await inputsOf(service, runtime);
const options = await bundling(service, inputs);
const { outputs } = await Bun.build({ ...options, bytecode: false, sourcemap: "none" });
console.log(await imageId(service, runtime, inputs));
for (const output of outputs) console.log(output.path, sha256(Buffer.from(await output.arrayBuffer())));
