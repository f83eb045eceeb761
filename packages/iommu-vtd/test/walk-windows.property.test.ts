/**
 * Walks through direct views of RAM against walks through `fetch`: whatever the tables are, the same answers, the same fault records and the same flags in memory.
 *
 * Tables lie in two windows, in one above 4 GiB, across the end of RAM and in a frame that the host has lost; windows end and begin between requests.
 */

import { type Access, Translation } from "@iommu-kit/iommu-core";
import { GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import fc from "fast-check";
import { describe, expect, it } from "vitest";

const NIC = "00:03.0";
const HIGH = 2 ** 20;
/** Frames that tables may be in; the first is a root. Those above 4 GiB have the low words of those below. The last three: RAM without a whole window, no RAM, RAM that comes and goes. */
const TABLES = [0x100, 0x101, 0x110, HIGH + 0x103, HIGH + 0x113, 0x50001, 0x60000, 0x120] as const;
/** Frames that the host loses and finds again: a table, and a neighbour of the root, which ends the window around it. */
const LOST = [0x120, 0x10f] as const;
const RAM = [
  { firstPfn: 0, pageCount: 0x40000 },
  { firstPfn: 0x50000, pageCount: 4 },
  { firstPfn: HIGH, pageCount: 0x140 },
];
/** Index of an entry at every level: pages are named by four of them. Entries that are written are others for the most part, or no path would last. */
const index = fc.constantFrom(1, 1, 1, 1, 0, 511);
const writtenIndex = fc.constantFrom(0, 0, 0, 511, 511, 1);
const entry = fc.record({
  table: fc.constantFrom(...TABLES),
  index: writtenIndex,
  next: fc.oneof(
    { weight: 5, arbitrary: fc.constantFrom(...TABLES) },
    { weight: 1, arbitrary: fc.constantFrom(0x200, 0xfee01, HIGH) },
  ),
  // Rights mostly present; page size; accessed, dirty and reserved bits.
  low: fc.tuple(
    fc.constantFrom(7, 7, 7, 7, 3, 5, 6, 1, 0),
    fc.constantFrom(0, 0, 0, 0x80),
    fc.constantFrom(0, 0, 0, 0x20, 0x60, 0x800),
  ),
  high: fc.constantFrom(0, 0, 0, 0, 0, 0, -0x8000_0000, 0x0008_0000),
});
const step = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant("request" as const),
      page: fc.tuple(index, index, index, index),
      access: fc.constantFrom<Access>(0, 1, 2, 3),
    }),
  },
  { weight: 3, arbitrary: fc.record({ do: fc.constant("write" as const), entry }) },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant("lose" as const), frame: fc.constantFrom(...LOST), lost: fc.boolean() }),
  },
);

type Kind = "legacy" | "second-stage" | "first-stage";

function guestWith(windows: boolean, kind: Kind): GuestDriver {
  const scalable = kind !== "legacy";
  const guest = new GuestDriver({
    ram: RAM,
    windows,
    iotlbEntries: 0,
    contextEntries: 0,
    faultRecords: 1,
    ...(scalable && { scalableMode: true, secondStageFlags: true }),
    ...(kind === "first-stage" && { firstStage: "4-level" as const }),
  });
  if (scalable) {
    guest.scalableContext(NIC);
    guest.pasid(NIC, 0, {
      did: 5,
      type: kind,
      ...(kind === "second-stage" ? { rootPfn: TABLES[0] } : { firstRootPfn: TABLES[0] }),
    });
    guest.start("scalable");
  } else {
    guest.context(NIC, { did: 5, rootPfn: TABLES[0], levels: 4 });
    guest.start();
  }
  return guest;
}

describe("a walk through direct views of RAM", () => {
  it.each<Kind>(["legacy", "second-stage", "first-stage"])("answers as a walk through fetch, %s", (kind) => {
    let allowed = 0;
    fc.assert(
      fc.property(
        fc.array(entry, { minLength: 12, maxLength: 40 }),
        fc.array(step, { minLength: 10, maxLength: 40 }),
        (entries, steps) => {
          const viewed = guestWith(true, kind);
          const fetched = guestWith(false, kind);
          const both = [viewed, fetched];
          for (const guest of both) {
            chain(guest);
            for (const written of entries) write(guest, written);
          }
          for (const now of steps) {
            if (now.do === "write") for (const guest of both) write(guest, now.entry);
            else if (now.do === "lose") {
              for (const { memory } of both) {
                if (now.lost) memory.poison(now.frame);
                else memory.heal(now.frame);
              }
            } else {
              const answers = both.map((guest) => ask(guest, now.page, now.access));
              expect(answers[0]).toEqual(answers[1]);
              if (answers[0]?.reason === 0) allowed += 1;
            }
          }
          for (const table of TABLES)
            for (const at of [0, 1, 511])
              expect(viewed.memory.peek(table * 4096 + at * 8)).toBe(fetched.memory.peek(table * 4096 + at * 8));
        },
      ),
      { numRuns: 40 },
    );
    expect(allowed).toBeGreaterThan(5);
  });
});

/** A path of four levels through every kind of frame, so that some page is mapped however the rest falls out. */
function chain({ memory }: GuestDriver): void {
  for (const [table, next] of [
    [0x100, HIGH + 0x103],
    [HIGH + 0x103, 0x110],
    [0x110, HIGH + 0x113],
    [HIGH + 0x113, 0x200],
  ] as const)
    memory.pokeEntry(table * 4096 + 8, (next << 12) | 7, Math.floor(next / 2 ** 20));
}

interface Written {
  readonly table: number;
  readonly index: number;
  readonly next: number;
  readonly low: readonly [rights: number, size: number, bits: number];
  readonly high: number;
}

function write({ memory }: GuestDriver, { table, index: at, next, low, high }: Written): void {
  const [rights, size, bits] = low;
  memory.pokeEntry(table * 4096 + at * 8, (next << 12) | rights | size | bits, Math.floor(next / 2 ** 20) | high);
}

function ask(
  guest: GuestDriver,
  page: readonly [number, number, number, number],
  access: Access,
): { readonly reason: number; readonly [rest: string]: unknown } {
  const [fourth, third, second, first] = page;
  // Upper halves of the first stage are sign-extended; index 511 at the top is one.
  const canonical = fourth === 511 ? 2 ** 52 - 2 ** 36 : 0;
  const second36 = fourth * 2 ** 27 + third * 2 ** 18 + second * 2 ** 9 + first;
  const out = new Translation();
  guest.device(NIC).translate(guest.unit.config.firstStage === false ? second36 : canonical + second36, access, out);
  const { gpaPfn, access: rights, pageCount, reason, cause } = out;
  return { gpaPfn, rights, pageCount, reason, cause, faults: guest.takeFaults() };
}
