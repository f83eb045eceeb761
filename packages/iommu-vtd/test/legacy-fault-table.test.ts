/**
 * Table 30 of legacy mode, row by row: what an untranslated request is refused for, and what is recorded (§7.1.3).
 */

import { FaultReason, faultName } from "@iommu-kit/iommu-vtd";
import { GuestDriver, type GuestOptions } from "@iommu-kit/iommu-vtd/testing";
import { describe, expect, it } from "vitest";

// In the upper half of a bus that is not the first.
const NIC = "07:1d.3";
const PFN = 0x10;
const TARGET = 0x800;
const NO_MEMORY = 2 ** 30;

/** A device whose tables lead PFN to TARGET, and one defect. */
interface Row {
  readonly options?: GuestOptions;
  readonly spoil: (guest: GuestDriver) => void;
  readonly pfn?: number;
  readonly access?: 1 | 2;
}

function flip(guest: GuestDriver, gpa: number, bit: number): void {
  const at = gpa + (bit >> 5) * 4;
  guest.memory.poke(at, guest.memory.peek(at) ^ (1 << (bit & 31)));
}

const ROWS: readonly (readonly [reason: keyof typeof FaultReason, what: string, row: Row])[] = [
  ["LRT_1", "a root table in no memory", { spoil: (guest) => poison(guest, guest.contexts.rootEntryGpa(NIC)) }],
  ["LRT_2", "a root-entry that is not present", { spoil: (guest) => flip(guest, guest.contexts.rootEntryGpa(NIC), 0) }],
  ["LRT_3", "a reserved bit of the root-entry", { spoil: (guest) => flip(guest, guest.contexts.rootEntryGpa(NIC), 5) }],
  ["LRT_3", "its upper half", { spoil: (guest) => flip(guest, guest.contexts.rootEntryGpa(NIC), 127) }],
  ["LCT_1", "a context table in no memory", { spoil: (guest) => poison(guest, guest.contexts.contextEntryGpa(NIC)) }],
  ["LCT_2", "no context-entry", { spoil: (guest) => flip(guest, guest.contexts.contextEntryGpa(NIC), 0) }],
  ["LCT_3", "a reserved bit of it", { spoil: (guest) => flip(guest, guest.contexts.contextEntryGpa(NIC), 127) }],
  ["LCT_4_1", "a width that the unit lacks", { spoil: (guest) => context(guest, { AW: 3 }) }],
  ["LCT_4_2", "a reserved translation type", { spoil: (guest) => context(guest, { TT: 3 }) }],
  [
    "LCT_4_2",
    "pass-through on a unit without it",
    { options: { passThrough: false }, spoil: (guest) => context(guest, { TT: 2 }) },
  ],
  ["LCT_4_2", "a device TLB on a unit without them", { spoil: (guest) => context(guest, { TT: 1 }) }],
  ["LCT_4_3", "a top table in no memory", { spoil: (guest) => guest.context(NIC, { did: 2, rootPfn: NO_MEMORY }) }],
  [
    "LGN_1_1",
    "an address beyond the tables",
    { spoil: (guest) => guest.context(NIC, { did: 2, levels: 3 }), pfn: 2 ** 27 },
  ],
  ["LGN_1_3", "a passed address beyond the host's", { spoil: (guest) => context(guest, { TT: 2 }), pfn: 2 ** 34 }],
  ["LGN_2", "a write without the right", { spoil: (guest) => guest.map(2, page(1)), access: 2 }],
  ["LGN_3", "a read without the right", { spoil: (guest) => guest.map(2, page(2)) }],
  ["LGN_3", "a page that is not mapped", { spoil: () => undefined, pfn: PFN + 1 }],
  ["LSS_1", "a table in no memory", { spoil: (guest) => poison(guest, guest.tables(2).entryGpa(PFN, 1)) }],
  ["LSS_2", "a reserved bit of a leaf", { spoil: (guest) => flip(guest, guest.tables(2).entryGpa(PFN, 1), 51) }],
  ["LSS_2", "and of a table", { spoil: (guest) => flip(guest, guest.tables(2).entryGpa(PFN, 3), 51) }],
];

function page(access: 1 | 2) {
  return { iovaPfn: PFN, gpaPfn: TARGET, access };
}

function context(guest: GuestDriver, fields: Record<string, number>): void {
  guest.context(NIC, { did: 2, fields });
}

function poison(guest: GuestDriver, gpa: number): void {
  guest.memory.poison(Math.floor(gpa / 4096));
}

function guestWith(options: GuestOptions = {}): GuestDriver {
  const guest = new GuestDriver({ iotlbEntries: 0, contextEntries: 0, hostAddressWidth: 46, ...options });
  guest.map(2, { iovaPfn: PFN, gpaPfn: TARGET });
  guest.context(NIC, { did: 2 });
  return guest;
}

describe("a request in legacy mode", () => {
  it("goes where the tables say", () => {
    const guest = guestWith();
    guest.start();
    expect(guest.device(NIC).dma.read(PFN * 4096, new Uint8Array(8))).toBe(true);
    expect(guest.takeFaults()).toEqual([]);
  });

  it.each(ROWS)("is refused as %s for %s", (name, _what, { options, spoil, pfn = PFN, access = 1 }) => {
    const guest = guestWith(options);
    spoil(guest);
    guest.start();
    const space = guest.device(NIC);
    const bytes = new Uint8Array(8);
    expect(access === 1 ? space.dma.read(pfn * 4096, bytes) : space.dma.write(pfn * 4096, bytes)).toBe(false);
    expect(space.dma.failure).toMatchObject({ iovaPfn: pfn, cause: faultName(FaultReason[name]) });
    expect(guest.takeFaults()).toMatchObject([{ reason: FaultReason[name] & 0xff, page: pfn }]);
  });
});
