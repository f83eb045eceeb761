/** RAM that other threads write, whose entries are read whole, against RAM of one thread: what that costs (docs/adr/0013-whole-entries.md). */

import { Translation } from "@iommu-kit/iommu-core";
import type { Group, Size } from "../group.js";
import { timeRow } from "../group.js";
import { BenchGuest, DEVICE, FIRST_INPUT, somePages } from "../guest.js";
import { CountingNotifier } from "../notifier.js";
import { compare, inProcess } from "../ratio.js";

const AGAINST = "the same in RAM of one thread";
/** Few enough that their tables stay in the caches. */
const WALKED_PAGES = 4096;

/** Rows without a goal. */
export const sharedGroup: Group = {
  name: "shared",
  async measure(size, report) {
    const [shared, own] = [machine(size, true), machine(size, false)];
    const walks = { units: WALKED_PAGES, pairs: size.pairs, check: targetsOf(own, size) };
    report(
      timeRow(
        { what: "walk of four levels, shared RAM", against: AGAINST, per: "request" },
        await compare(inProcess(walksOf(shared, size)), inProcess(walksOf(own, size)), walks),
      ),
    );
    const flushes = { units: size.pages, pairs: size.pairs, check: 0 };
    report(
      timeRow(
        { what: "domain flush, nothing changed, shared RAM", against: AGAINST, per: "page" },
        await compare(inProcess(flushOf(shared)), inProcess(flushOf(own)), flushes),
      ),
    );
  },
};

interface Machine {
  readonly guest: BenchGuest;
  readonly notifier: CountingNotifier;
}

function machine({ pages }: Size, shared: boolean): Machine {
  const guest = new BenchGuest({ pages, shared, config: { iotlbEntries: 0 } });
  const notifier = new CountingNotifier();
  guest.unit.addressSpace(DEVICE).attach(notifier);
  guest.start();
  return { guest, notifier };
}

function targetsOf({ guest }: Machine, { pages }: Size): number {
  let targets = 0;
  for (const page of walkedPages(pages)) targets ^= guest.targetOf(page);
  return targets;
}

function walkedPages(pages: number): Uint32Array {
  return somePages(Math.min(pages, WALKED_PAGES), WALKED_PAGES);
}

function walksOf({ guest }: Machine, { pages }: Size): () => number {
  const frames = Float64Array.from(walkedPages(pages), (page) => FIRST_INPUT + page);
  const space = guest.unit.addressSpace(DEVICE);
  const out = new Translation();
  return () => {
    let targets = 0;
    for (const pfn of frames) if (space.translate(pfn, 1, out)) targets ^= out.gpaPfn;
    return targets;
  };
}

function flushOf({ guest, notifier }: Machine): () => number {
  return () => {
    const before = notifier.told;
    guest.flushDomain();
    return notifier.told - before;
  };
}
