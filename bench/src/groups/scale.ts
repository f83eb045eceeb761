/** Sixteen times as many pages: flushes cost as much for each page, single pages as much as before. */

import assert from "node:assert/strict";
import type { Group, Size } from "../group.js";
import { speedRow, timeRow } from "../group.js";
import { GTree } from "../gtree.js";
import { BenchGuest, DEVICE, somePages } from "../guest.js";
import { CountingNotifier } from "../notifier.js";
import { type Candidate, compare, inProcess, type Sample } from "../ratio.js";
import { atLeast, atMost, type Row } from "../row.js";

/** Pages that come and go in one batch. */
const SINGLE_PAGES = 2000;
/** One page-selective invalidation of QEMU 7.2, measured once through its registers: an anchor, not measured here. */
const QEMU_PSI_NANOSECONDS = 20_000;

/** See the file's header. */
export const scaleGroup: Group = {
  name: "scale",
  async measure(size, report) {
    const few = startGuest(size.pages);
    const many = startGuest(size.manyPages);
    const times = size.manyPages / size.pages;
    const baseline = inProcess(() => {
      const before = few.notifier.told;
      for (let i = 0; i < times; i++) few.guest.flushDomain();
      return few.notifier.told - before;
    });
    const subject = inProcess(() => {
      const before = many.notifier.told;
      many.guest.flushDomain();
      return many.notifier.told - before;
    });
    report(
      timeRow(
        {
          what: `domain flush, nothing changed, ${size.manyPages} pages`,
          against: `as many pages in flushes of ${size.pages}`,
          per: "page",
          goal: atMost(1.3),
        },
        await compare(subject, baseline, { units: size.manyPages, pairs: Math.min(size.pairs, 7), check: 0 }),
      ),
    );
    await singlePages(few, many, size, report);
  },
};

interface Scene {
  readonly guest: BenchGuest;
  readonly notifier: CountingNotifier;
}

function startGuest(pages: number): Scene {
  const guest = new BenchGuest({ pages });
  const notifier = new CountingNotifier();
  guest.unit.addressSpace(DEVICE).attach(notifier);
  guest.start();
  assert.equal(notifier.mapped, pages);
  return { guest, notifier };
}

async function singlePages(few: Scene, many: Scene, size: Size, report: (row: Row) => void): Promise<void> {
  const pair = "one page mapped and unmapped again, each with invalidation and notification";
  const repeats = { units: SINGLE_PAGES, pairs: size.pairs, check: SINGLE_PAGES * 2 };
  const amongFew = comeAndGo(few);
  report(
    timeRow(
      {
        what: `${pair}, among ${size.manyPages} pages`,
        against: `the same among ${size.pages} pages`,
        per: "pair",
        goal: atMost(1.3),
      },
      await compare(comeAndGoAmongMany(many), amongFew, repeats),
    ),
  );
  const title = {
    what: pair,
    against: "insert and remove in a GTree, and two page-selective invalidations of QEMU (20 us each), times faster",
    per: "pair",
    goal: atLeast(10),
  };
  const tree = GTree.start(size.pages, few.guest.frames);
  if (typeof tree === "string") {
    report({ ...title, notMeasured: tree });
    return;
  }
  const baseline: Candidate = {
    async batch(): Promise<Sample> {
      const insert = await tree.candidate("insert sequential").batch();
      const remove = await tree.candidate("remove sequential").batch();
      assert.deepEqual([insert.check, remove.check], [size.pages, 0]);
      const perPair = (insert.nanoseconds + remove.nanoseconds) / size.pages + 2 * QEMU_PSI_NANOSECONDS;
      return { nanoseconds: perPair * SINGLE_PAGES, check: SINGLE_PAGES * 2 };
    },
  };
  report(speedRow(title, await compare(amongFew, baseline, { ...repeats, pairs: Math.min(size.pairs, 5) })));
  tree.stop();
}

/** Pages that are absent, and what they are mapped to when they come. */
function absentPages({ guest }: Scene): { readonly pages: Uint32Array; readonly entries: Int32Array } {
  const pages = somePages(guest.pages, SINGLE_PAGES);
  const entries = Int32Array.from(pages, (pfn) => guest.setLeaf(pfn, 0));
  guest.flushDomain();
  return { pages, entries };
}

function comeAndGo(scene: Scene): Candidate {
  const { guest, notifier } = scene;
  const { pages, entries } = absentPages(scene);
  return inProcess(() => {
    const before = notifier.told;
    for (let i = 0; i < pages.length; i++) {
      const pfn = pages[i] as number;
      guest.setLeaf(pfn, entries[i] as number);
      guest.flushPage(pfn);
      guest.setLeaf(pfn, 0);
      guest.flushPage(pfn);
    }
    return notifier.told - before;
  });
}

function comeAndGoAmongMany(scene: Scene): Candidate {
  const { guest, notifier } = scene;
  const { pages, entries } = absentPages(scene);
  return inProcess(() => {
    const told = notifier.told;
    for (let i = 0; i < SINGLE_PAGES; i++) {
      const at = pages[i] as number;
      guest.setLeaf(at, entries[i] as number);
      guest.flushPage(at);
      guest.setLeaf(at, 0);
      guest.flushPage(at);
    }
    return notifier.told - told;
  });
}
