/**
 * Invalidations of a plan as words of descriptors, and as register commands.
 */

import { descriptor } from "@iommu-kit/iommu-vtd/testing";
import { Frames } from "./layout.js";
import type { Invalidation } from "./step.js";

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
      return descriptor.wait({ status: { gpa: Frames.status * 4096 + 8 * (order % 64), value: did }, fence: true });
  }
}

function rawWords(words: readonly string[]): Int32Array {
  const halves = words.flatMap((word) => [BigInt(word), BigInt(word) >> 32n]);
  return Int32Array.from(halves.map((half) => Number(BigInt.asIntN(32, half))));
}
