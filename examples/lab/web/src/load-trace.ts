/** Fetches a recording: the very files of the trace player, which the build puts beside the page. */

import { Trace } from "@iommu-kit/linux-trace/trace/trace";

/** A trace by its name. */
export async function loadTrace(name: string): Promise<Trace> {
  const response = await fetch(`./traces/${name}.bin`);
  if (!response.ok || response.body === null) throw new Error(`the recording ${name} could not be fetched`);
  const unpacked = response.body.pipeThrough(new DecompressionStream("gzip"));
  return new Trace(name, await new Response(unpacked).text());
}
