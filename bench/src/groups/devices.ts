/** Several devices in one domain share one scan; a host that says what changed spares the scan. */

import assert from "node:assert/strict";
import type { Group } from "../group.js";
import { timeRow } from "../group.js";
import { BenchGuest, DEVICE, somePages } from "../guest.js";
import { CountingNotifier } from "../notifier.js";
import { compare, inProcess } from "../ratio.js";
import { atMost } from "../row.js";

const DEVICES = 8;

/** See the file's header. */
export const devicesGroup: Group = {
  name: "devices",
  async measure(size, report) {
    const one = new BenchGuest({ pages: size.pages });
    const alone = new CountingNotifier();
    one.unit.addressSpace(DEVICE).attach(alone);
    one.start();

    const eight = new BenchGuest({ pages: size.pages, devices: DEVICES });
    const notifiers = Array.from({ length: DEVICES }, () => new CountingNotifier());
    for (const [index, notifier] of notifiers.entries()) eight.unit.addressSpace(DEVICE + index).attach(notifier);
    eight.start();
    for (const { mapped } of notifiers) assert.equal(mapped, size.pages);
    const told = (): number => notifiers.reduce((sum, notifier) => sum + notifier.told, 0);

    const repeats = { units: size.pages, pairs: size.pairs, check: 0 };
    const baseline = inProcess(() => {
      const before = alone.told;
      one.flushDomain();
      return alone.told - before;
    });
    const subject = inProcess(() => {
      const before = told();
      eight.flushDomain();
      return told() - before;
    });
    report(
      timeRow(
        {
          what: `domain flush, nothing changed, ${DEVICES} devices in the domain`,
          against: "the same with one device",
          per: "page",
          goal: atMost(1.2),
        },
        await compare(subject, baseline, repeats),
      ),
    );

    const tracked = new BenchGuest({ pages: size.pages, tracked: true });
    const follower = new CountingNotifier();
    tracked.unit.addressSpace(DEVICE).attach(follower);
    tracked.start();
    // Dirty information spares no page that did change.
    const changed = somePages(size.pages, 100);
    for (const pfn of changed) tracked.setLeaf(pfn, tracked.setLeaf(pfn, 0) ^ (1 << 13));
    tracked.flushDomain();
    assert.equal(follower.replaced, changed.length);
    const informed = inProcess(() => {
      const before = follower.told;
      tracked.flushDomain();
      return follower.told - before;
    });
    report(
      timeRow(
        {
          what: "domain flush, nothing changed, the host says so (dirty information)",
          against: "the same without dirty information",
          per: "page",
          goal: atMost(0.05),
        },
        await compare(informed, baseline, repeats),
      ),
    );
  },
};
