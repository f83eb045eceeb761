/** Which devices of a trace are meant. */

import { formatSourceId, IommuError, parseSourceId } from "@iommu-kit/iommu-core";
import type { TraceHeader } from "@iommu-kit/linux-trace/trace/trace";
import { ToolError } from "./tool-error.js";

/**
 * The source-ids of the devices asked for; all of the trace's if none was named.
 * @throws {ToolError} If there is no such device.
 */
export function devicesOf({ devices }: TraceHeader, wanted: string | undefined): readonly number[] {
  const known = devices.map(({ sourceId }) => sourceId);
  if (wanted === undefined) return known;
  const sourceId = parse(wanted);
  if (known.includes(sourceId)) return [sourceId];
  throw new ToolError(
    `the trace has no device ${wanted}`,
    `it has ${known.map((each) => formatSourceId(each)).join(", ")}`,
  );
}

function parse(text: string): number {
  try {
    return parseSourceId(text);
  } catch (cause) {
    if (!(cause instanceof IommuError)) throw cause;
    throw new ToolError(`--device: there is no device ${text}`, "give BUS:DEV.FN, such as 00:03.0", cause);
  }
}
