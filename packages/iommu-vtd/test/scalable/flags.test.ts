/**
 * Accessed and dirty flags under guests that change their tables at the same moment, and hosts whose memory cannot be written (§3.6.2, §3.7.2).
 */

import { RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { type GuestOptions, GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import { describe, expect, it } from "vitest";
import { ask } from "../support/watched-guest.js";

const NIC = "00:03.0";
const PFN = 0x10;

const CONFIG: GuestOptions = {
  scalableMode: true,
  firstStage: "4-level",
  nested: true,
  secondStageFlags: true,
  extendedAccessed: true,
  pasidWidth: 20,
  iotlbEntries: 0,
};

type Stage = "first-stage" | "second-stage" | "nested";

/** Frame 0x10 goes to 0x800 through the given stages, which keep flags. Nested, the second stage maps every table onto itself. */
function behind(type: Stage, fields: Record<string, number> = {}, options: GuestOptions = {}) {
  const guest = new GuestDriver({ ...CONFIG, ...options });
  const first = guest.newFirstStageTables();
  if (type !== "second-stage") first.map(PFN, 1, 0x800);
  const second = guest.tables(6);
  if (type === "second-stage") second.map(PFN, 1, 0x800);
  if (type === "nested") {
    second.map(0x800, 2, 0x800);
    second.map(0x20000, 512, 0x20000);
  }
  guest.scalableContext(NIC);
  const flags = { PWSNP: 1, ...(type === "first-stage" ? {} : { SSADE: 1 }), ...fields };
  guest.pasid(NIC, 0, {
    did: 6,
    type,
    ...(type === "second-stage" ? {} : { firstRootPfn: first.rootPfn }),
    fields: flags,
  });
  guest.start("scalable");
  const leaf = type === "second-stage" ? second.entryGpa(PFN, 1) : first.entryGpa(PFN, 1);
  return { guest, space: guest.device(NIC), leaf, first, second };
}

/** Lets the guest write to `gpa` right before the unit's next compare-and-set there, `times` times. */
function race(guest: GuestDriver, gpa: number, edit: (low: number) => number, times = 1): void {
  const { memory } = guest;
  const compareExchange = memory.compareExchange.bind(memory);
  let left = times;
  memory.compareExchange = (at, expected, replacement) => {
    if (at === gpa && left > 0) {
      left -= 1;
      memory.poke(gpa, edit(memory.peek(gpa)));
    }
    return compareExchange(at, expected, replacement);
  };
}

describe("a guest that changes an entry while its flags are being set", () => {
  for (const type of ["first-stage", "second-stage", "nested"] as const) {
    it(`(${type}) keeps its change, and the request goes where the new entry says`, () => {
      const { guest, space, leaf } = behind(type);
      race(guest, leaf, (low) => (low & 0xfff) | (0x801 << 12));
      expect(ask(space, PFN, 2)).toBe(0x801);
      expect(guest.memory.peek(leaf) >>> 12).toBe(0x801);
      expect(guest.memory.peek(leaf) & (type === "second-stage" ? 0x300 : 0x60)).not.toBe(0);
    });

    it(`(${type}) in its high half alone gets the new target too, and flags there`, () => {
      const { guest, space, leaf, second } = behind(type);
      if (type === "nested") second.map(2 ** 20 + 0x800, 1, 2 ** 20 + 0x800);
      race(guest, leaf, (low) => {
        guest.memory.poke(leaf + 4, 1);
        return low;
      });
      expect(ask(space, PFN, 2)).toBe(2 ** 20 + 0x800);
      expect(guest.memory.peek(leaf + 4)).toBe(1);
      expect(guest.memory.peek(leaf) & (type === "second-stage" ? 0x300 : 0x60)).not.toBe(0);
    });

    it(`(${type}) and takes the page away gets a fault, not a page that comes back`, () => {
      const { guest, space, leaf } = behind(type);
      race(guest, leaf, () => 0);
      expect(ask(space, PFN, 2)).toBe(type === "second-stage" ? "fault 79" : "fault 71");
      expect(guest.memory.peek(leaf)).toBe(0);
    });

    it(`(${type}) for ever is given up with a fault`, () => {
      const { guest, space, leaf } = behind(type);
      race(guest, leaf, (low) => low ^ (1 << 12), Infinity);
      expect(ask(space, PFN)).toBe(type === "second-stage" ? "fault 7d" : "fault 91");
    });
  }
});

describe("flags that cannot be set", () => {
  it("are a fault where memory cannot be written: 91 first stage, 7D second stage", () => {
    for (const [type, code] of [
      ["first-stage", "fault 91"],
      ["second-stage", "fault 7d"],
    ] as const) {
      const { guest, space } = behind(type);
      guest.memory.compareExchange = () => false;
      expect(ask(space, PFN)).toBe(code);
    }
  });

  it("are a fault where table accesses are not snooped: 90 first stage, 7C second stage; flags that are set need no access", () => {
    for (const [type, code, set] of [
      ["first-stage", "fault 90", 0x20],
      ["second-stage", "fault 7c", 0x100],
    ] as const) {
      const { guest, space, first, second } = behind(type, { PWSNP: 0 });
      expect(ask(space, PFN)).toBe(code);
      const tables = type === "first-stage" ? first : second;
      for (const level of [4, 3, 2, 1]) {
        const gpa = tables.entryGpa(PFN, level);
        guest.memory.poke(gpa, guest.memory.peek(gpa) | set);
      }
      expect(ask(space, PFN)).toBe(0x800);
    }
  });

  it("are no reason for a mirror to leave a page out, which sets none: requests to it are refused all the same", () => {
    for (const type of ["first-stage", "second-stage"] as const) {
      const { space } = behind(type, { PWSNP: 0 }, { cachingMode: true });
      const mirror = new RecordingNotifier();
      space.attach(mirror);
      expect([mirror.lookup(PFN)?.gpaPfn, ask(space, PFN)]).toEqual([
        0x800,
        type === "first-stage" ? "fault 90" : "fault 7c",
      ]);
    }
  });

  it("nested, need the second stage's write right on the page of the first-stage table: 77", () => {
    const { guest, space, first, second } = behind("nested", { SSADE: 0 });
    second.map(Math.floor(first.entryGpa(PFN, 1) / 4096), 1, Math.floor(first.entryGpa(PFN, 1) / 4096), 1);
    expect(ask(space, PFN)).toBe("fault 77");
    expect(guest.takeFaults()).toMatchObject([{ reason: 0x77, page: PFN }]);
  });

  it("nested with flags in the second stage, a table that may not be written may not be read: 75 first table, 76 below", () => {
    for (const [level, code] of [
      [4, "fault 75"],
      [1, "fault 76"],
    ] as const) {
      const { space, first, second } = behind("nested");
      const pfn = Math.floor(first.entryGpa(PFN, level) / 4096);
      second.map(pfn, 1, pfn, 1);
      expect(ask(space, PFN)).toBe(code);
    }
  });
});

describe("a write that is refused behind the leaf", () => {
  const FLAGS = { "first-stage": 0x60, nested: 0x60, "second-stage": 0x300 } as const;

  for (const type of ["first-stage", "second-stage", "nested"] as const) {
    it(`(${type}) for its target, the interrupt window, leaves the leaf's flags alone`, () => {
      const { guest, space, leaf, first, second } = behind(type);
      if (type === "second-stage") second.map(PFN, 1, 0xfee01);
      else first.map(PFN, 1, type === "nested" ? 0x800 : 0xfee01);
      if (type === "nested") second.map(0x800, 1, 0xfee01);
      expect(ask(space, PFN, 2)).toBe("fault 87");
      expect(guest.memory.peek(leaf) & FLAGS[type]).toBe(0);
      if (type === "nested") expect(guest.memory.peek(second.entryGpa(0x800, 1)) & 0x300).toBe(0);
    });
  }

  it("nested, for lack of the second stage's write right, leaves no dirty flag in either stage", () => {
    const { guest, space, leaf, second } = behind("nested");
    second.map(0x800, 1, 0x800, 1);
    expect(ask(space, PFN, 2)).toBe("fault 85");
    expect(guest.memory.peek(leaf) & 0x40).toBe(0);
    expect(guest.memory.peek(second.entryGpa(0x800, 1)) & 0x200).toBe(0);
    expect(ask(space, PFN, 1)).toBe(0x800);
    expect(guest.memory.peek(leaf) & 0x60).toBe(0x20);
  });

  it("nested, sets both dirty flags, and those of the pages of its tables, once it may", () => {
    const { guest, space, leaf, second } = behind("nested");
    expect(ask(space, PFN, 1)).toBe(0x800);
    expect(guest.memory.peek(leaf) & 0x60).toBe(0x20);
    expect(guest.memory.peek(second.entryGpa(0x800, 1)) & 0x300).toBe(0x100);
    expect(ask(space, PFN, 2)).toBe(0x800);
    expect(guest.memory.peek(leaf) & 0x60).toBe(0x60);
    expect(guest.memory.peek(second.entryGpa(0x800, 1)) & 0x300).toBe(0x300);
    expect(guest.memory.peek(second.entryGpa(Math.floor(leaf / 4096), 1)) & 0x300).toBe(0x300);
  });
});

describe("a write that hits a translation cached by a read", () => {
  for (const type of ["first-stage", "second-stage", "nested"] as const) {
    it(`(${type}) sets the dirty flag; the next one needs no walk`, () => {
      const { guest, space, leaf } = behind(type, {}, { iotlbEntries: 64, contextEntries: 16 });
      const dirty = type === "second-stage" ? 0x200 : 0x40;
      expect(ask(space, PFN, 1)).toBe(0x800);
      expect(guest.memory.peek(leaf) & dirty).toBe(0);
      expect(ask(space, PFN, 2)).toBe(0x800);
      expect(guest.memory.peek(leaf) & dirty).toBe(dirty);
      guest.memory.resetCounters();
      expect(ask(space, PFN, 2)).toBe(0x800);
      expect(guest.memory.counters.fetches).toBe(0);
    });
  }
});

describe("the extended accessed flag", () => {
  it("is set with the accessed flag at every level where the entry asks for it, and not otherwise", () => {
    for (const EAFE of [0, 1]) {
      const { guest, space, first } = behind("first-stage", { EAFE });
      expect(ask(space, PFN)).toBe(0x800);
      for (const level of [4, 3, 2, 1])
        expect(guest.memory.peek(first.entryGpa(PFN, level)) & 0x420).toBe(EAFE ? 0x420 : 0x20);
    }
  });
});
