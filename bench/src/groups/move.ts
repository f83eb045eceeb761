/** A device moves to another domain that shares nine tenths of its pages, and back. */

import assert from "node:assert/strict";
import type { Group, Size } from "../group.js";
import { timeRow } from "../group.js";
import { BenchGuest, DEVICE, scatteredTarget } from "../guest.js";
import { CountingNotifier } from "../notifier.js";
import { compare, inProcess } from "../ratio.js";
import { atMost, type Row } from "../row.js";

/** See the file's header. */
export const moveGroup: Group = {
  name: "move",
  async measure(size, report) {
    await move("the last tenth differs", (pfn) => pfn >= size.pages * 0.9, size, report);
    await move("every tenth page differs", (pfn) => pfn % 10 === 0, size, report);
  },
};

async function move(
  what: string,
  differs: (pfn: number) => boolean,
  size: Size,
  report: (row: Row) => void,
): Promise<void> {
  const frames = 2 ** 13;
  const guest = new BenchGuest({
    pages: size.pages,
    domains: 2,
    target: (pfn, domain) => scatteredTarget(pfn, frames) + (domain === 1 && differs(pfn) ? frames : 0),
  });
  const notifier = new CountingNotifier();
  guest.unit.addressSpace(DEVICE).attach(notifier);
  guest.start();
  assert.equal(notifier.mapped, size.pages);
  let changes = 0;
  for (let pfn = 0; pfn < size.pages; pfn++) if (differs(pfn)) changes += 1;
  let domain = 0;
  const subject = inProcess(() => {
    const before = notifier.replaced;
    const left = domain;
    domain = 1 - domain;
    guest.setContext(DEVICE, domain);
    guest.flushContext(DEVICE, left);
    return notifier.replaced - before - changes;
  });
  const baseline = inProcess(() => {
    const before = notifier.told;
    guest.flushDomain(domain);
    return notifier.told - before;
  });
  report(
    timeRow(
      {
        what: `a device moves to another domain: ${what}`,
        against: "domain flush, nothing changed",
        per: "page",
        goal: atMost(2),
      },
      await compare(subject, baseline, { units: size.pages, pairs: Math.min(size.pairs, 7), check: 0 }),
    ),
  );
  assert.equal(notifier.unmapped, 0, "a page vanished");
}
