/**
 * The worker's code for tests. The sources are TypeScript: the worker's are bundled into one module, which a data: URL carries.
 */
import { fileURLToPath } from "node:url";
import { build } from "vite";

/** The device of worker-device.ts as one module. */
export async function bundleDevice(): Promise<string> {
  const entry = fileURLToPath(new URL("worker-device.ts", import.meta.url));
  const result = await build({
    configFile: false,
    logLevel: "error",
    ssr: { noExternal: true, resolve: { conditions: ["@iommu-kit/source", "node", "import"] } },
    build: { ssr: entry, write: false, target: "node20", rolldownOptions: { output: { format: "es" } } },
  });
  const [output] = [result].flat();
  if (output === undefined || !("output" in output)) throw new Error("the worker was not bundled");
  return output.output[0].code;
}
