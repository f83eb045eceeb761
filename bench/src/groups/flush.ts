/** Re-synchronisation of one domain behind one MAP notifier: nothing changed, little changed, everything asked for again. */

import assert from "node:assert/strict";
import type { Group, Size } from "../group.js";
import { speedRow, timeRow } from "../group.js";
import { GTree } from "../gtree.js";
import { BenchGuest, DEVICE, shuffled, somePages } from "../guest.js";
import { CountingNotifier } from "../notifier.js";
import { compare, inProcess } from "../ratio.js";
import { atLeast, atMost, type Row } from "../row.js";
import { NativeCompare, TableCopies } from "./table-compare.js";

const COMPARE = "compare of the same table pages with a copy";

/** See the file's header. */
export const flushGroup: Group = {
  name: "flush",
  async measure(size, report) {
    const guest = new BenchGuest({ pages: size.pages });
    const notifier = new CountingNotifier();
    guest.unit.addressSpace(DEVICE).attach(notifier);
    guest.start();
    assert.equal(notifier.mapped, size.pages);
    const scene = { guest, notifier, copies: new TableCopies(guest) };
    await againstCompare(scene, size, report);
    await againstGTree(scene, size, report);
    await otherWays(scene, size, report);
    await onePercent(scene, size, report);
  },
};

interface Scene {
  readonly guest: BenchGuest;
  readonly notifier: CountingNotifier;
  readonly copies: TableCopies;
}

/** A flush after which nothing was told: answers 0. */
function quietFlush({ guest, notifier }: Scene): () => number {
  return () => {
    const before = notifier.told;
    guest.flushDomain();
    return notifier.told - before;
  };
}

async function againstCompare(scene: Scene, size: Size, report: (row: Row) => void): Promise<void> {
  const { guest, copies } = scene;
  const repeats = { units: size.pages, pairs: size.pairs, check: 0 };
  const flush = inProcess(quietFlush(scene));
  const plain = inProcess(() => copies.compare());
  // The baseline sees what it has to see.
  const place = shuffled(size.pages)[0] ?? 0;
  const before = guest.setLeaf(place, 0);
  assert.equal(copies.compare(), 1);
  guest.setLeaf(place, before);
  const title = { what: "domain flush, nothing changed", against: COMPARE, per: "page" };
  report(timeRow({ ...title, goal: atMost(1.5) }, await compare(flush, plain, repeats)));
  const native = new NativeCompare(guest);
  report(
    timeRow(
      { ...title, against: "memcmp of the same table pages (Buffer.compare)" },
      await compare(
        flush,
        inProcess(() => native.compare()),
        repeats,
      ),
    ),
  );
  report(
    timeRow(
      { ...title, against: "copy of the same table pages" },
      await compare(
        flush,
        inProcess(() => copies.copy()),
        repeats,
      ),
    ),
  );
}

async function againstGTree(scene: Scene, size: Size, report: (row: Row) => void): Promise<void> {
  const { guest, notifier } = scene;
  const title = {
    what: "domain flush, nothing changed",
    against: "sequential look-ups of the same pages in a GLib GTree, times faster",
    per: "page",
    goal: atLeast(80),
  };
  const tree = GTree.start(size.pages, guest.frames);
  if (typeof tree === "string") {
    report({ ...title, notMeasured: tree });
    return;
  }
  let sum = 0;
  for (let pfn = 0; pfn < size.pages; pfn++) sum += guest.targetOf(pfn);
  // Both answer the sum of the targets: ours as it was, as long as nothing is told.
  const flush = inProcess(() => {
    const before = notifier.told;
    guest.flushDomain();
    return sum + notifier.told - before;
  });
  const repeats = { units: size.pages, pairs: Math.min(size.pairs, 7), check: sum };
  report(speedRow(title, await compare(flush, tree.candidate("find sequential"), repeats)));
  tree.stop();
}

/** Other commands that may concern every page, over tables that stay as they are. */
async function otherWays(scene: Scene, size: Size, report: (row: Row) => void): Promise<void> {
  const { guest, notifier } = scene;
  const baseline = inProcess(quietFlush(scene));
  const repeats = { units: size.pages, pairs: size.pairs, check: 0 };
  const row = { against: "domain flush, nothing changed", per: "page", goal: atMost(1.5) };
  const contexts = inProcess(() => {
    const before = notifier.told;
    guest.flushContexts();
    return notifier.told - before;
  });
  report(timeRow({ what: "global context flush", ...row }, await compare(contexts, baseline, repeats)));
  const root = inProcess(() => {
    const before = notifier.told;
    guest.changeRoot();
    return notifier.told - before;
  });
  report(timeRow({ what: "root-pointer change, same tables", ...row }, await compare(root, baseline, repeats)));
  const enable = inProcess(() => {
    const before = notifier.told;
    guest.changeRoot();
    guest.enable();
    return notifier.told - before;
  });
  report(timeRow({ what: "the same, and enabled again", ...row }, await compare(enable, baseline, repeats)));
  assert.equal(notifier.unmapped + notifier.replaced, 0, "a page vanished");
}

async function onePercent(scene: Scene, size: Size, report: (row: Row) => void): Promise<void> {
  const { guest, notifier } = scene;
  const places = somePages(size.pages, Math.floor(size.pages / 100));
  const write = (): void => {
    for (const pfn of places) guest.setLeaf(pfn, guest.setLeaf(pfn, 0) ^ (1 << 13));
  };
  const changed = inProcess(() => {
    const before = notifier.replaced;
    guest.flushDomain();
    return notifier.replaced - before - places.length;
  }, write);
  report(
    timeRow(
      {
        what: "domain flush, 1 % of the pages changed",
        against: "domain flush, nothing changed",
        per: "page",
        goal: atMost(3),
      },
      await compare(changed, inProcess(quietFlush(scene)), { units: size.pages, pairs: size.pairs, check: 0 }),
    ),
  );
}
