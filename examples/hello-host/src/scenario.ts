/** What happens on every one of the hosts, and what must be true of it. */

import assert from "node:assert/strict";
import { Translation } from "@iommu-kit/iommu-core";
import { CacheNotifier } from "@iommu-kit/notifier-cache";
import { VfioNotifier } from "@iommu-kit/notifier-vfio";
import { Guest } from "./guest.js";
import type { Host } from "./host.js";

/** The guest boots, maps a page, the disk writes to it, the guest takes it away. Answers what the notifier held meanwhile, for people. */
export function runScenario({ ram, memory, unit, disk, notifier }: Host): string {
  const guest = new Guest(memory, unit);
  const greeting = new TextEncoder().encode("hello");
  guest.boot();
  assert.equal(disk.dma.write(0x5010, greeting), false, "nothing is mapped yet");

  guest.map(5, 9);
  assert.equal(disk.dma.write(0x5010, greeting), true);
  assert.equal(new TextDecoder().decode(ram.subarray(0x9010, 0x9015)), "hello");
  const during = held(known(notifier));

  guest.unmap(5);
  assert.equal(disk.dma.write(0x5010, greeting), false, "the guest took the page away");
  assert.equal(held(known(notifier)).pages, 0, "and the notifier let go of it");
  assert.equal(during.pages, 1);
  return during.text;
}

/** The two kinds that this example knows. */
function known(notifier: Host["notifier"]): VfioNotifier | CacheNotifier {
  assert.ok(notifier instanceof VfioNotifier || notifier instanceof CacheNotifier);
  return notifier;
}

/** What a notifier holds. A cache is asked for the page first: it fills on demand. */
function held(notifier: VfioNotifier | CacheNotifier): { readonly pages: number; readonly text: string } {
  if (notifier instanceof VfioNotifier) {
    return { pages: notifier.pagesHeld, text: `mirrors ${JSON.stringify([...notifier.entries()])}` };
  }
  const out = new Translation();
  const answered = notifier.translate(5, 2, out);
  return { pages: notifier.entryCount, text: answered ? `caches page 5 -> page ${out.gpaPfn}` : "caches nothing" };
}
