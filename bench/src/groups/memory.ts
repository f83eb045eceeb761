/** Memory that the whole unit retains for a domain, beyond what it has before a notifier is attached: heap and array buffers, after collection. */

import assert from "node:assert/strict";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import type { Group } from "../group.js";
import { BenchGuest, DEVICE } from "../guest.js";
import { CountingNotifier } from "../notifier.js";
import { atMost } from "../row.js";

/** Top-level entries with 512 pages of 1 GiB each. */
const GIGABYTE_TABLES = 256;

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;

/** See the file's header. */
export const memoryGroup: Group = {
  name: "memory",
  measure(size, report) {
    // Once over, so that compiled code does not count.
    retained(new BenchGuest({ pages: 512 }), 1);
    retained(guestOfGigabytes(1), 1);
    const dense = retained(new BenchGuest({ pages: size.pages }), 1);
    assert.equal(dense.mapped, size.pages);
    const title = { against: "for each mapping, the whole unit", unit: "B" as const };
    report({
      what: "memory retained, dense 4 KiB mappings",
      ...title,
      result: dense.bytes / size.pages,
      goal: atMost(9),
    });
    const half = retained(new BenchGuest({ pages: size.pages, mapped: (pfn) => pfn % 2 === 0 }), 1);
    assert.equal(half.mapped, size.pages / 2);
    report({
      what: "memory retained, every second page mapped",
      ...title,
      result: half.bytes / half.mapped,
      goal: atMost(18),
    });
    const shared = retained(new BenchGuest({ pages: size.pages, devices: 8 }), 8);
    assert.equal(shared.mapped, size.pages * 8);
    report({
      what: "memory retained, 8 devices in the domain",
      against: "the same domain with one device",
      unit: "x",
      result: shared.bytes / dense.bytes,
      goal: atMost(1.1),
    });
    const gigabytes = GIGABYTE_TABLES * 512;
    const superpages = retained(guestOfGigabytes(GIGABYTE_TABLES), 1);
    assert.equal(superpages.mapped, 512 + gigabytes * 2 ** 18);
    report({ what: "memory retained, 1 GiB pages", ...title, result: superpages.bytes / gigabytes, goal: atMost(9) });
  },
};

function guestOfGigabytes(tables: number): BenchGuest {
  const guest = new BenchGuest({ pages: 512 });
  guest.mapGigabytes(tables);
  return guest;
}

interface Retained {
  readonly bytes: number;
  /** Pages told, to all devices together. */
  readonly mapped: number;
}

function retained(guest: BenchGuest, devices: number): Retained {
  guest.start();
  const spaces = Array.from({ length: devices }, (_, index) => guest.unit.addressSpace(DEVICE + index));
  const notifiers = spaces.map(() => new CountingNotifier());
  const before = memory();
  for (const [index, space] of spaces.entries()) space.attach(notifiers[index] as CountingNotifier);
  guest.flushDomain();
  const bytes = memory() - before;
  // The guest, and with it the unit, lives up to here.
  assert.ok(guest.bytes.length > 0);
  return { bytes, mapped: notifiers.reduce((sum, notifier) => sum + notifier.mapped, 0) };
}

function memory(): number {
  collect();
  collect();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}
