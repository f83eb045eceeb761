import type { Attachment, MapAnswer, MapNotifier } from "../../src/index.js";
import type { Machine } from "./machine.js";

/** Attaches a consumer of pages, without `replace` unless it is given, whose maps are answered by the test. `take` says which calls it got since. */
export function answering(
  machine: Machine,
  answer: (gpaPfn: number) => MapAnswer | Promise<MapAnswer>,
  more: Partial<MapNotifier> = {},
): { readonly attachment: Attachment; readonly take: () => string[] } {
  const calls: string[] = [];
  const attachment = machine.nicSpace.attach({
    kind: "map",
    granularity: "page",
    map: (iovaPfn, pageCount, gpaPfn) => {
      calls.push(`map ${iovaPfn}+${pageCount} -> ${gpaPfn}`);
      return answer(gpaPfn);
    },
    unmap: (iovaPfn, pageCount) => void calls.push(`unmap ${iovaPfn}+${pageCount}`),
    ...more,
  });
  return { attachment, take: () => calls.splice(0) };
}
