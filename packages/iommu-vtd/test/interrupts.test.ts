/**
 * Interrupt remapping from the view of devices and the driver (§5, §9.9 to §9.11). The recorded messages of the conformance run cover the ordinary cases.
 */

import { type MsiMessage, parseSourceId } from "@iommu-kit/iommu-core";
import { GuestDriver, type GuestOptions, remappableMessage } from "@iommu-kit/iommu-vtd/testing";
import { restore, save } from "@iommu-kit/iommu-vtd/snapshot";
import { describe, expect, it } from "vitest";
import { ask } from "./support/watched-guest.js";

const NIC = "00:03.0";
const SID = parseSourceId(NIC);
const IRE = 0x0200_0000;
const CFI = 0x0080_0000;

function remapping(options: GuestOptions = {}, table: { sizeOrder?: number; extended?: boolean } = {}): GuestDriver {
  const guest = new GuestDriver({ extendedInterruptMode: true, postedInterrupts: true, ...options });
  guest.enableQueue();
  guest.enableInterruptRemapping(table);
  return guest;
}

/** Sends a message as the NIC; answers the fault code with its index, or the messages that left. */
function send(guest: GuestDriver, message: MsiMessage, requester = SID): string | MsiMessage[] {
  guest.messages.length = 0;
  const accepted = guest.unit.interrupt(requester, message);
  const [fault] = guest.takeFaults();
  if (accepted) return [...guest.messages];
  return fault === undefined
    ? "refused"
    : `fault ${fault.reason.toString(16)} index ${Math.floor(fault.page / 2 ** 36)}`;
}

const FIXED = { V: 0x41, DST: 0x0700 };
const TO_CPU_7: MsiMessage = { address: 0xfee0_7000, addressHigh: 0, data: 0x4041 };

describe("a remappable message", () => {
  it("becomes what its entry says; nothing of the message survives", () => {
    const guest = remapping();
    guest.interrupts.remapped(3, { V: 0x62, DST: 0x1200, DLM: 1, TM: 1, DM: 1, RH: 1 });
    expect(send(guest, { ...remappableMessage(3), data: 0xffff_ffff })).toEqual([
      { address: 0xfee1_200c, addressHigh: 0, data: 0xc162 },
    ]);
  });

  it("of a device's own DMA write carries its source-id", () => {
    const guest = remapping();
    guest.interrupts.remapped(3, { ...FIXED, SVT: 1, SID });
    const { address } = remappableMessage(3);
    expect(guest.device(NIC).dma.write(address, new Uint8Array(4))).toBe(true);
    expect(guest.messages).toEqual([TO_CPU_7]);
    expect(guest.device("00:04.0").dma.write(address, new Uint8Array(4))).toBe(false);
    expect(guest.takeFaults()).toMatchObject([{ reason: 0x26, sourceId: 0x20 }]);
  });

  it("with a subhandle adds it to the handle", () => {
    const guest = remapping();
    guest.interrupts.remapped(0x85, FIXED);
    expect(send(guest, remappableMessage(0x80, 5))).toEqual([TO_CPU_7]);
  });

  it("without one ignores its data", () => {
    const guest = remapping();
    guest.interrupts.remapped(4, FIXED);
    expect(send(guest, { ...remappableMessage(4), data: 0xdead_beef })).toEqual([TO_CPU_7]);
  });

  it("uses handle bit 15", () => {
    const guest = remapping({}, { sizeOrder: 15 });
    guest.interrupts.remapped(0x8001, FIXED);
    expect(send(guest, remappableMessage(0x8001))).toEqual([TO_CPU_7]);
  });

  it("in extended mode reaches destinations of 32 bits", () => {
    const guest = remapping({}, { extended: true });
    guest.interrupts.remapped(3, { V: 0x41, DST: 0x1234_5678 });
    expect(send(guest, remappableMessage(3))).toEqual([
      { address: 0xfee7_8000, addressHigh: 0x1234_5600, data: 0x4041 },
    ]);
  });

  for (const [mode, name] of [
    [0, "fixed"],
    [1, "lowest priority"],
    [2, "SMI"],
    [4, "NMI"],
    [5, "INIT"],
    [7, "ExtINT"],
  ] as const) {
    it(`keeps delivery mode ${mode} (${name})`, () => {
      const guest = remapping();
      guest.interrupts.remapped(3, { ...FIXED, DLM: mode });
      expect(send(guest, remappableMessage(3))).toMatchObject([{ data: 0x4041 | (mode << 8) }]);
    });
  }
});

describe("every reason for which a message is refused", () => {
  it("20: reserved data of a message with subhandle", () => {
    const guest = remapping();
    guest.interrupts.remapped(5, FIXED);
    expect(send(guest, { ...remappableMessage(5, 0), data: 0x1_0000 })).toBe("fault 20 index 0");
  });

  it("20: an upper address", () => {
    expect(send(remapping(), { ...remappableMessage(5), addressHigh: 1 })).toBe("fault 20 index 0");
  });

  it("21: an index behind the table", () => {
    const guest = remapping({}, { sizeOrder: 2 });
    expect(send(guest, remappableMessage(7))).toBe("fault 22 index 7");
    expect(send(guest, remappableMessage(8))).toBe("fault 21 index 8");
  });

  it("21: handle and subhandle that add up to more than 16 bits do not wrap to entry 0", () => {
    const guest = remapping({}, { sizeOrder: 15 });
    guest.interrupts.remapped(0, FIXED);
    expect(send(guest, remappableMessage(0xffff, 1))).toBe("fault 21 index 0");
  });

  it("21: a table above the host address width", () => {
    const guest = new GuestDriver({ hostAddressWidth: 40 });
    guest.unit.mmio.write64(0xb8, (1n << 41n) | 7n);
    guest.command(0x0100_0000);
    guest.command(IRE);
    expect(send(guest, remappableMessage(0))).toBe("fault 21 index 0");
  });

  it("22: an entry that is not present, unless its FPD says not to record", () => {
    const guest = remapping();
    expect(send(guest, remappableMessage(5))).toBe("fault 22 index 5");
    guest.interrupts.remapped(5, { P: 0, FPD: 1 });
    expect(send(guest, remappableMessage(5))).toBe("refused");
  });

  it("23: a table without memory", () => {
    const guest = remapping();
    guest.memory.poison(guest.interrupts.tablePfn);
    expect(send(guest, remappableMessage(5))).toBe("fault 23 index 5");
  });

  const reserved: readonly (readonly [string, (guest: GuestDriver) => void])[] = [
    [
      "bit 12",
      (guest) =>
        guest.memory.poke(guest.interrupts.entryGpa(5), guest.memory.peek(guest.interrupts.entryGpa(5)) | 0x1000),
    ],
    [
      "bit 24",
      (guest) =>
        guest.memory.poke(guest.interrupts.entryGpa(5), guest.memory.peek(guest.interrupts.entryGpa(5)) | 0x0100_0000),
    ],
    ["bit 84", (guest) => guest.memory.poke(guest.interrupts.entryGpa(5) + 8, 0x10_0000)],
    ["a wide destination without extended mode", (guest) => guest.interrupts.remapped(5, { V: 0x41, DST: 0x1_0000 })],
    ["source validation 3", (guest) => guest.interrupts.remapped(5, { ...FIXED, SVT: 3 })],
    ["delivery mode 3", (guest) => guest.interrupts.remapped(5, { ...FIXED, DLM: 3 })],
    ["delivery mode 6", (guest) => guest.interrupts.remapped(5, { ...FIXED, DLM: 6 })],
  ];
  for (const [name, spoil] of reserved) {
    it(`24: ${name}; FPD keeps it out of the records`, () => {
      const guest = remapping();
      guest.interrupts.remapped(5, FIXED);
      spoil(guest);
      expect(send(guest, remappableMessage(5))).toBe("fault 24 index 5");
      guest.memory.poke(guest.interrupts.entryGpa(5), guest.memory.peek(guest.interrupts.entryGpa(5)) | 2);
      expect(send(guest, remappableMessage(5))).toBe("refused");
    });
  }

  it("24: a posted entry on a unit without posted interrupts", () => {
    const guest = remapping({ postedInterrupts: false });
    guest.interrupts.posted(5, 0x10_0000, { V: 0x41 });
    expect(send(guest, remappableMessage(5))).toBe("fault 24 index 5");
  });

  it("25: a message in compatibility format always, on a unit that is told to let none pass", () => {
    const guest = new GuestDriver({ compatibilityInterrupts: false });
    guest.enableInterruptRemapping();
    guest.command(CFI);
    expect(guest.status & CFI).toBe(0);
    expect(guest.unit.interrupt(0x18, { address: 0xfee0_0000, addressHigh: 0, data: 0x31 })).toBe(false);
    expect(guest.takeFaults().map(({ reason }) => reason)).toEqual([0x25]);
  });

  it("25: a message in compatibility format, unless CFI lets it pass; in extended mode never", () => {
    const message = { address: 0xfee0_3000, addressHigh: 0, data: 0x51 };
    const guest = remapping();
    expect(send(guest, message)).toBe("fault 25 index 0");
    guest.command(CFI);
    expect(send(guest, message)).toEqual([message]);
    guest.command(CFI, false);
    expect(send(guest, message)).toBe("fault 25 index 0");
    const extended = remapping({}, { extended: true });
    extended.command(CFI);
    expect(send(extended, message)).toBe("fault 25 index 0");
  });

  it("26: a requester that the entry does not name; FPD keeps it out of the records", () => {
    const guest = remapping();
    guest.interrupts.remapped(5, { ...FIXED, SVT: 1, SID: 0x1234 });
    expect(send(guest, remappableMessage(5))).toBe("fault 26 index 5");
    guest.interrupts.remapped(5, { ...FIXED, SVT: 1, SID: 0x1234, FPD: 1 });
    guest.invalidate.interrupts();
    expect(send(guest, remappableMessage(5))).toBe("refused");
  });

  it("27: a posted-interrupt descriptor without memory", () => {
    const guest = remapping();
    guest.interrupts.posted(5, 0x7000_0000, { V: 0x41 });
    expect(send(guest, remappableMessage(5))).toBe("fault 27 index 5");
  });

  it("27: a posted-interrupt descriptor that can be read but not written, or that goes away meanwhile", () => {
    for (const stops of ["compareExchange", "fetch"] as const) {
      for (let calls = 0; calls < 2; calls++) {
        const guest = remapping();
        const gpa = guest.interrupts.postedDescriptor({ NV: 0x30, NDST: 0x500 });
        guest.interrupts.posted(5, gpa, { V: 0x41 });
        const original = guest.memory[stops].bind(guest.memory) as (...values: unknown[]) => boolean;
        // The whole descriptor is read once; what follows goes word by word.
        let left = calls;
        const words = (into: unknown): boolean => !(into instanceof Int32Array) || into.length === 1;
        Object.assign(guest.memory, {
          [stops]: (at: number, value: unknown, ...rest: unknown[]) =>
            at >= gpa && at < gpa + 64 && words(value) && left-- <= 0 ? false : original(at, value, ...rest),
        });
        expect(send(guest, remappableMessage(5))).toBe("fault 27 index 5");
      }
    }
  });

  it("28: reserved bits in a posted-interrupt descriptor, and nothing is posted", () => {
    const guest = remapping();
    const gpa = guest.interrupts.postedDescriptor({ NV: 0x30, NDST: 0x100 });
    guest.memory.poke(gpa + 60, 1);
    guest.interrupts.posted(5, gpa, { V: 0x41 });
    expect(send(guest, remappableMessage(5))).toBe("fault 28 index 5");
    expect(guest.memory.peek(gpa + 8)).toBe(0);
  });

  it("29: what is not an aligned write of 4 bytes", () => {
    const guest = remapping();
    const { dma } = guest.device(NIC);
    for (const attempt of [
      () => dma.read(0xfee0_0000, new Uint8Array(4)),
      () => dma.write(0xfee0_0000, new Uint8Array(8)),
      () => dma.write(0xfee0_0000, new Uint8Array(2)),
      () => dma.write(0xfee0_0002, new Uint8Array(4)),
      () => dma.compareExchange(0xfee0_0000, 0, 0) ?? false,
    ]) {
      expect(attempt()).toBe(false);
      expect(guest.takeFaults()).toMatchObject([{ reason: 0x29, page: 0 }]);
    }
  });
});

describe("the table pointer", () => {
  it("takes effect at SIRTP only: base, size and mode", () => {
    const guest = remapping();
    guest.interrupts.remapped(3, FIXED);
    guest.unit.mmio.write64(0xb8, (BigInt(guest.newFrame()) << 12n) | 0x800n);
    expect(send(guest, remappableMessage(3))).toEqual([TO_CPU_7]);
    guest.command(0x0100_0000);
    expect(send(guest, remappableMessage(3))).toBe("fault 21 index 3");
    expect(send(guest, remappableMessage(1))).toBe("fault 22 index 1");
  });

  it("keeps no extended mode on a unit without it", () => {
    const guest = remapping({ extendedInterruptMode: false, postedInterrupts: false }, { extended: true });
    expect(guest.unit.mmio.read32(0xb8) & 0x800).toBe(0);
    guest.interrupts.remapped(3, FIXED);
    expect(send(guest, remappableMessage(3))).toEqual([TO_CPU_7]);
  });
});

describe("source validation", () => {
  it("compares all bits, or all but some of the function", () => {
    const guest = remapping();
    const allowed = (SQ: number): number[] => {
      guest.interrupts.remapped(5, { ...FIXED, SVT: 1, SQ, SID: 0x18 });
      guest.invalidate.interrupts();
      return [0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f, 0x20, 0x118].filter((sid) =>
        Array.isArray(send(guest, remappableMessage(5), sid)),
      );
    };
    expect(allowed(0)).toEqual([0x18]);
    expect(allowed(1)).toEqual([0x18, 0x1c]);
    expect(allowed(2)).toEqual([0x18, 0x1a, 0x1c, 0x1e]);
    expect(allowed(3)).toEqual([0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f]);
  });

  it("of buses takes the high byte for the first and the low byte for the last", () => {
    const guest = remapping();
    guest.interrupts.remapped(5, { ...FIXED, SVT: 2, SID: 0x0507 });
    const buses = [4, 5, 6, 7, 8].filter((bus) => Array.isArray(send(guest, remappableMessage(5), bus * 256 + 8)));
    expect(buses).toEqual([5, 6, 7]);
  });

  it("is not asked of a message without requester", () => {
    const guest = remapping();
    guest.interrupts.remapped(5, { ...FIXED, SVT: 1, SID: 0x1234 });
    expect(guest.unit.interrupt(undefined, remappableMessage(5))).toBe(true);
  });
});

describe("posted interrupts", () => {
  const bits = { NV: 0x30, NDST: 0x0500 };
  const NOTIFICATION = { address: 0xfee0_5000, addressHigh: 0, data: 0x4030 };

  it("set a request bit, and notify once until software has taken the notification", () => {
    const guest = remapping();
    const gpa = guest.interrupts.postedDescriptor(bits);
    guest.interrupts.posted(5, gpa, { V: 0x41 });
    guest.interrupts.posted(6, gpa, { V: 0xff });
    expect(send(guest, remappableMessage(5))).toEqual([NOTIFICATION]);
    expect(guest.memory.peek(gpa + 8)).toBe(2);
    expect(guest.memory.peek(gpa + 32) & 1).toBe(1);
    expect(send(guest, remappableMessage(6))).toEqual([]);
    expect(guest.memory.peek(gpa + 28) >>> 0).toBe(0x8000_0000);
    guest.memory.poke(gpa + 32, guest.memory.peek(gpa + 32) & ~1);
    expect(send(guest, remappableMessage(5))).toEqual([NOTIFICATION]);
  });

  it("in extended mode notify destinations of 32 bits; without it the rest of the destination is reserved", () => {
    const wide = { NV: 0x30, NDST: 0x1234_5678 };
    const extended = remapping({}, { extended: true });
    extended.interrupts.posted(5, extended.interrupts.postedDescriptor(wide), { V: 0x41 });
    expect(send(extended, remappableMessage(5))).toEqual([
      { address: 0xfee7_8000, addressHigh: 0x1234_5600, data: 0x4030 },
    ]);
    const plain = remapping();
    plain.interrupts.posted(5, plain.interrupts.postedDescriptor(wide), { V: 0x41 });
    expect(send(plain, remappableMessage(5))).toBe("fault 28 index 5");
  });

  it("are checked for their source, and recorded or not, as others", () => {
    const guest = remapping();
    const gpa = guest.interrupts.postedDescriptor(bits);
    guest.interrupts.posted(5, gpa, { V: 0x41, SVT: 1, SID: 0x99 });
    expect(send(guest, remappableMessage(5))).toBe("fault 26 index 5");
    expect(guest.memory.peek(gpa + 8)).toBe(0);
    guest.interrupts.posted(6, 0x7000_0000, { V: 0x41, FPD: 1 });
    expect(send(guest, remappableMessage(6))).toBe("refused");
  });

  it("lose no request that the guest sets meanwhile", () => {
    const guest = remapping();
    const gpa = guest.interrupts.postedDescriptor(bits);
    guest.interrupts.posted(5, gpa, { V: 0x41 });
    const { memory } = guest;
    const compareExchange = memory.compareExchange.bind(memory);
    let raced = false;
    memory.compareExchange = (at, expected, replacement) => {
      // Another processor sets vector 0x42 between our read and our write.
      if (!raced && at === gpa + 8) memory.poke(at, memory.peek(at) | 4);
      raced = true;
      return compareExchange(at, expected, replacement);
    };
    send(guest, remappableMessage(5));
    expect(memory.peek(gpa + 8)).toBe(6);
  });

  it("that are suppressed do not notify unless they are urgent", () => {
    const guest = remapping();
    const gpa = guest.interrupts.postedDescriptor({ ...bits, SN: 1 });
    guest.interrupts.posted(5, gpa, { V: 0x41 });
    guest.interrupts.posted(6, gpa, { V: 0x42, URG: 1 });
    expect(send(guest, remappableMessage(5))).toEqual([]);
    expect(guest.memory.peek(gpa + 8)).toBe(2);
    expect(send(guest, remappableMessage(6))).toEqual([NOTIFICATION]);
  });
});

describe("the interrupt entry cache", () => {
  it("keeps an entry until its index is invalidated; masks drop a range of indexes", () => {
    const guest = remapping();
    for (const index of [4, 5, 6, 7, 8]) guest.interrupts.remapped(index, FIXED);
    for (const index of [4, 5, 6, 7, 8]) send(guest, remappableMessage(index));
    for (const index of [4, 5, 6, 7, 8]) guest.interrupts.remapped(index, { ...FIXED, V: 0x99 });
    const fresh = (): number[] =>
      [4, 5, 6, 7, 8].filter((index) => JSON.stringify(send(guest, remappableMessage(index))).includes(String(0x4099)));
    expect(fresh()).toEqual([]);
    guest.invalidate.interrupt(5);
    expect(fresh()).toEqual([5]);
    guest.invalidate.interrupt(7, 1);
    expect(fresh()).toEqual([5, 6, 7]);
    guest.invalidate.interrupts();
    expect(fresh()).toEqual([4, 5, 6, 7, 8]);
  });

  it("holds no entry that is not present: one that appears works without an invalidation", () => {
    const guest = remapping();
    expect(send(guest, remappableMessage(5))).toBe("fault 22 index 5");
    guest.interrupts.remapped(5, FIXED);
    expect(send(guest, remappableMessage(5))).toEqual([TO_CPU_7]);
  });

  it("is emptied when the table pointer is set and when remapping is turned off", () => {
    for (const empty of [
      (guest: GuestDriver) => guest.command(0x0100_0000),
      (guest: GuestDriver) => [guest.command(IRE, false), guest.command(IRE)],
    ]) {
      const guest = remapping();
      guest.interrupts.remapped(5, FIXED);
      send(guest, remappableMessage(5));
      guest.interrupts.remapped(5, { ...FIXED, V: 0x77 });
      empty(guest);
      expect(send(guest, remappableMessage(5))).toMatchObject([{ data: 0x4077 }]);
    }
  });

  it("tells a host that caches routes what a message becomes, without delivering or recording", () => {
    const guest = remapping();
    guest.interrupts.remapped(5, FIXED);
    expect(guest.unit.translateInterrupt(SID, remappableMessage(5))).toEqual({ reason: 0, message: TO_CPU_7 });
    expect(guest.unit.translateInterrupt(SID, remappableMessage(6))).toMatchObject({ reason: 0x22 });
    expect(guest.messages).toEqual([]);
    expect(guest.faults()).toEqual([]);
  });

  it("tells a host that caches routes which to ask for again, before the guest's wait is done", () => {
    const guest = remapping();
    guest.interrupts.remapped(5, FIXED);
    const heard: unknown[] = [];
    let route = guest.unit.translateInterrupt(SID, remappableMessage(5)).message;
    guest.unit.onRoutesChanged = (changed) => {
      heard.push(changed);
      route = guest.unit.translateInterrupt(SID, remappableMessage(5)).message;
    };
    guest.interrupts.remapped(5, { ...FIXED, V: 0x77 });
    expect(guest.invalidate.interrupt(5, 1)).toBe(true);
    expect([heard.splice(0), route?.data]).toEqual([[{ first: 4, count: 2 }], 0x4077]);
    guest.interrupts.remapped(5, FIXED);
    guest.invalidate.interrupts();
    expect([heard.splice(0), route]).toEqual([[undefined], TO_CPU_7]);
    guest.command(IRE, false);
    expect([heard.splice(0), route]).toEqual([[undefined], remappableMessage(5)]);
    guest.command(IRE);
    expect([heard.splice(0), route]).toEqual([[undefined], TO_CPU_7]);
    const saved = save(guest.unit);
    void guest.unit.reset();
    expect(heard.splice(0)).toEqual([undefined]);
    expect(route).toEqual(remappableMessage(5));
    void restore(guest.unit, saved);
    expect([heard.splice(0).at(-1), route]).toEqual([undefined, TO_CPU_7]);
    guest.unit.onRoutesChanged = undefined;
    guest.invalidate.interrupts();
    expect(heard).toEqual([]);
  });
});

describe("a host that is told of its routes", () => {
  it.each(["reset", "restored"])("finds a unit that has been %s, and is told once", (what) => {
    const guest = remapping();
    guest.context(NIC, { did: 5 });
    guest.map(5, { iovaPfn: 0x10, gpaPfn: 0x900 });
    guest.start();
    const saved = save(guest.unit);
    const device = guest.device(NIC);
    expect(ask(device, 0x10)).toBe(0x900);
    guest.map(5, { iovaPfn: 0x10, gpaPfn: 0xa00 });
    const reached: unknown[] = [];
    guest.unit.onRoutesChanged = () => reached.push(ask(device, 0x10));
    if (what === "reset") void guest.unit.reset();
    else void restore(guest.unit, saved);
    // Translation is off after a reset; after a restore the tables are read anew.
    expect(reached).toEqual([what === "reset" ? 0x10 : 0xa00]);
  });
});

describe("with remapping off", () => {
  it("every message passes as it is, whatever its format; also after a reset", () => {
    const guest = remapping();
    guest.command(IRE, false);
    expect(send(guest, remappableMessage(5))).toEqual([remappableMessage(5)]);
    guest.command(IRE);
    expect(send(guest, remappableMessage(5))).toBe("fault 22 index 5");
    void guest.unit.reset();
    expect(send(guest, remappableMessage(5))).toEqual([remappableMessage(5)]);
  });
});

describe("a small interrupt entry cache", () => {
  it("forgets all when it is full, and holds nothing where it has no room: interrupts arrive all the same", () => {
    for (const interruptEntries of [0, 1]) {
      const guest = remapping({ interruptEntries });
      guest.interrupts.remapped(5, { V: 0x41, DST: 0x100 });
      guest.interrupts.remapped(6, { V: 0x42, DST: 0x100 });
      for (const [index, vector] of [
        [5, 0x41],
        [6, 0x42],
        [5, 0x41],
      ] as const)
        expect(send(guest, remappableMessage(index))).toMatchObject([{ data: 0x4000 | vector }]);
    }
  });
});
