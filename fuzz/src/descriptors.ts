/**
 * Invalidations of a plan as words of descriptors, and as register commands.
 */

import { descriptor } from "@iommu-kit/iommu-vtd/testing";
import { Frames } from "./layout.js";
import type { Invalidation } from "./step.js";

/** As `source` of a wait: the one that ends a flush. */
export const FLUSH = -1;

/** The words of a descriptor; `slotWords` are 4 or 8. */
export function descriptorWords(it: Invalidation, slotWords: number): Int32Array {
  const words = new Int32Array(slotWords);
  const source = it.what === "raw" ? rawWords(it.words ?? []) : made(it);
  words.set(source.subarray(0, slotWords));
  return words;
}

function made(it: Invalidation): Int32Array {
  const { did = 0, source = 0, pasid = 0, pfn = 0, order = 0 } = it;
  switch (it.what) {
    case "contexts":
      return descriptor.contexts();
    case "contextsOfDomain":
      return descriptor.contextsOfDomain(did);
    case "contextsOfDevice":
      return descriptor.contextsOfDevice(source, did, order % 4);
    case "all":
      return descriptor.all();
    case "domain":
      return descriptor.domain(did);
    case "pages":
      return descriptor.page(did, pfn, order);
    case "pasids":
      return descriptor.pasidEntries();
    case "pasidsOfDomain":
      return descriptor.pasidEntriesOfDomain(did);
    case "pasid":
      return descriptor.pasidEntry(did, pasid);
    case "pasidAll":
      return descriptor.pasidAll(did, pasid);
    case "pasidPages":
      return descriptor.pasidPages(did, pasid, pfn, order);
    case "interrupts":
      return descriptor.interrupts();
    default:
      return descriptor.wait({ status: { gpa: statusGpa(it), value: did }, fence: true });
  }
}

/** Waits of random guests write where tables may lie as well; the one of a flush does not. */
function statusGpa({ source = 0, order = 0 }: Invalidation): number {
  return source === FLUSH ? Frames.flushed * 4096 : Frames.status * 4096 + 8 * (order % 64);
}

function rawWords(words: readonly string[]): Int32Array {
  const halves = words.flatMap((word) => [BigInt(word), BigInt(word) >> 32n]);
  return Int32Array.from(halves.map((half) => Number(BigInt.asIntN(32, half))));
}
