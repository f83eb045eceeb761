/**
 * The edges of limits, caches and flags, one by one: the first address behind a limit, the first entry of a cache, the one flag that is missing.
 */

import { ALL_FRAMES, BufferMemory, type GuestMemory, parseSourceId, Translation } from "@iommu-kit/iommu-core";
import { ManualScheduler, RecordingFlushNotifier, RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { VtdIommu } from "@iommu-kit/iommu-vtd";
import { descriptor, GuestDriver, type GuestOptions } from "@iommu-kit/iommu-vtd/testing";
import { describe, expect, it } from "vitest";
import { scalableGuest } from "./ats/ats-guest.js";
import { ask } from "./support/watched-guest.js";

const NIC = "00:03.0";
const PFN = 0x10;

/** Frame 0x10 goes to 0x800 in domain 6; nested, the second stage maps every table onto itself. Entries keep flags. */
function staged(type: "first-stage" | "second-stage" | "nested", options: GuestOptions = {}, levels = 4) {
  const guest = new GuestDriver({
    scalableMode: true,
    firstStage: "4-level",
    nested: true,
    secondStageFlags: true,
    pasidWidth: 20,
    ...options,
  });
  const first = guest.newFirstStageTables();
  const second = guest.tables(6, levels);
  if (type === "second-stage") second.map(PFN, 1, 0x800);
  else first.map(PFN, 1, 0x800);
  if (type === "nested") {
    second.map(0x800, 2, 0x800);
    second.map(0x20000, 512, 0x20000);
  }
  const withFirst = type === "second-stage" ? {} : { firstRootPfn: first.rootPfn };
  const fields = { PWSNP: 1, ...(type === "first-stage" ? {} : { SSADE: 1 }) };
  const write = (more: { readonly firstRootPfn?: number } = {}): void =>
    guest.pasid(NIC, 0, { did: 6, type, levels, ...withFirst, fields, ...more });
  guest.scalableContext(NIC);
  write();
  guest.start("scalable");
  return { guest, space: guest.device(NIC), first, second, write };
}

describe("the first frame behind a limit", () => {
  it("of the host's addresses is frame 0 for the invalidation queue", () => {
    const guest = new GuestDriver({ hostAddressWidth: 40 });
    guest.memory.poke(0, descriptor.all()[0] ?? 0);
    guest.unit.mmio.write64(0x90, 2n ** 40n);
    guest.command(0x0400_0000);
    guest.unit.mmio.write32(0x88, 16);
    expect([guest.unit.mmio.read32(0x80), guest.faultStatus]).toEqual([16, 0]);
  });

  it("of the input addresses is frame 0 for a page-selective invalidation", () => {
    const guest = new GuestDriver();
    guest.context(NIC, { did: 5 });
    guest.map(5, { iovaPfn: 0, gpaPfn: 0x100 });
    guest.start();
    expect(ask(guest.device(NIC), 0)).toBe(0x100);
    guest.map(5, { iovaPfn: 0, gpaPfn: 0x101 });
    guest.invalidate.page(5, 2 ** 36);
    expect(ask(guest.device(NIC), 0)).toBe(0x101);
  });

  it("of the canonical half is refused for that, 80", () => {
    const { space } = staged("first-stage");
    expect(ask(space, 2 ** 35 - 1)).toBe("fault 71");
    expect(ask(space, 2 ** 35)).toBe("fault 80");
    expect(ask(space, 2 ** 52 - 2 ** 35 - 1)).toBe("fault 80");
    expect(ask(space, 2 ** 52 - 2 ** 35)).toBe("fault 71");
  });

  it("of the second stage is refused as a first table of the first stage, 5B, and in one of its entries, 74", () => {
    const { guest, space, first, write } = staged("nested", {}, 3);
    first.map(PFN, 1, 2 ** 27);
    expect(ask(space, PFN)).toBe("fault 74");
    first.map(PFN, 1, 2 ** 27 - 1);
    expect(ask(space, PFN)).toBe("fault 79");
    write({ firstRootPfn: 2 ** 27 });
    guest.invalidate.pasidEntries();
    expect(ask(space, PFN)).toBe("fault 5b");
    write({ firstRootPfn: 2 ** 27 - 1 });
    expect(ask(space, PFN)).toBe("fault 79");
  });

  it("of the lower half of a bus is in the upper half of its root entry", () => {
    const guest = new GuestDriver({ scalableMode: true, firstStage: "4-level", pasidWidth: 20 });
    const first = guest.newFirstStageTables();
    first.map(PFN, 1, 0x800);
    guest.scalableContext("00:10.0");
    guest.pasid("00:10.0", 0, { did: 6, type: "first-stage", firstRootPfn: first.rootPfn, fields: { PWSNP: 1 } });
    guest.start("scalable");
    expect(ask(guest.device("00:10.0"), PFN)).toBe(0x800);
    expect(ask(guest.device("00:0f.7"), PFN)).toBe("fault 39");
  });
});

describe("the interrupt window", () => {
  it("is memory like any other to a request with PASID: a page of its own while translation is off, and part of a superpage while it is on", () => {
    const guest = new GuestDriver({ scalableMode: true, firstStage: "4-level", pasidWidth: 20 });
    const space = guest.device(NIC, { pasid: 7 });
    const out = new Translation();
    expect(space.translate(0xfee01, 1, out)).toBe(true);
    expect([out.gpaPfn, out.pageCount]).toEqual([0xfee01, 1]);
    const first = guest.newFirstStageTables();
    first.map(0xfee00, 512, 0x20000, { leafPages: 512 });
    guest.scalableContext(NIC, { pasids: true });
    guest.pasid(NIC, 7, { did: 6, type: "first-stage", firstRootPfn: first.rootPfn, fields: { PWSNP: 1 } });
    guest.start("scalable");
    expect(space.translate(0xfee01, 1, out)).toBe(true);
    expect([out.gpaPfn, out.pageCount]).toEqual([0x20001, 512]);
  });
});

describe("a PASID-table entry of the second stage", () => {
  it("may say anything of first-stage tables", () => {
    const { guest, space, write } = staged("second-stage", {}, 3);
    write({ firstRootPfn: 2 ** 27 });
    guest.invalidate.pasidEntries();
    expect(ask(space, PFN)).toBe(0x800);
  });
});

describe("a queue that is turned off and on", () => {
  it("while it waits for its next slice has one turn of the event loop to come, however often that is done", () => {
    const guest = new GuestDriver({ limits: { entriesPerSlice: 16 } });
    guest.start();
    guest.queue.submit(...Array.from({ length: 40 }, () => descriptor.all()));
    for (let i = 0; i < 5; i++) {
      expect(guest.scheduler.deferredCount).toBe(1);
      guest.command(0x0400_0000, false);
      guest.command(0x0400_0000);
    }
    while (guest.scheduler.deferredCount > 0) guest.scheduler.turn();
    expect(guest.unit.mmio.read32(0x80)).toBe(640);
  });
});

describe("what is cached", () => {
  it("for a write does not answer a zero-length read, which needs the right to read", () => {
    const guest = new GuestDriver();
    guest.context(NIC, { did: 5 });
    guest.map(5, { iovaPfn: 1, gpaPfn: 0x100, access: 2 });
    guest.start();
    const { dma } = guest.device(NIC);
    expect(dma.write(4096, new Uint8Array(8))).toBe(true);
    expect(dma.read(4096, new Uint8Array(0))).toBe(false);
  });

  it("as a superpage goes when one page in the middle of it is invalidated", () => {
    const guest = new GuestDriver();
    guest.context(NIC, { did: 5 });
    guest.map(5, { iovaPfn: 512, gpaPfn: 0x1000, leafPages: 512 });
    guest.start();
    const space = guest.device(NIC);
    expect(ask(space, 512 + 77)).toBe(0x1000 + 77);
    guest.map(5, { iovaPfn: 512, gpaPfn: 0x2000, leafPages: 512 });
    guest.invalidate.page(5, 512 + 78);
    expect(ask(space, 512 + 77)).toBe(0x2000 + 77);
  });

  it("as the only entry of the first stage goes with any page of its domain, and so does the one that comes after it", () => {
    const { guest, space, first } = staged("first-stage");
    for (const target of [0x801, 0x802, 0x803]) {
      first.map(PFN, 1, target);
      guest.invalidate.page(6, 0x4000);
      expect(ask(space, PFN)).toBe(target);
    }
  });

  it("of a nested page by a read lets a write set the dirty flag that the second stage alone is missing", () => {
    const { guest, space, first, second } = staged("nested");
    const leaf = first.entryGpa(PFN, 1);
    guest.memory.poke(leaf, guest.memory.peek(leaf) | 0x60);
    expect(ask(space, PFN, 1)).toBe(0x800);
    expect(guest.memory.peek(second.entryGpa(0x800, 1)) & 0x300).toBe(0x100);
    expect(ask(space, PFN, 2)).toBe(0x800);
    expect(guest.memory.peek(second.entryGpa(0x800, 1)) & 0x300).toBe(0x300);
  });
});

describe("flags", () => {
  it("that are set already need no memory that can be written", () => {
    const { guest, space, first } = staged("first-stage");
    expect(ask(space, PFN, 2)).toBe(0x800);
    expect(guest.memory.peek(first.entryGpa(PFN, 1)) & 0x60).toBe(0x60);
    guest.memory.compareExchange = () => false;
    guest.invalidate.all();
    expect(ask(space, PFN, 2)).toBe(0x800);
  });

  it("of the second stage's leaf are not set where those of the first stage's cannot be", () => {
    const { guest, space, first, second } = staged("nested");
    const leaf = first.entryGpa(PFN, 1);
    const compareExchange = guest.memory.compareExchange.bind(guest.memory);
    guest.memory.compareExchange = (gpa, expected, replacement) =>
      gpa !== leaf && compareExchange(gpa, expected, replacement);
    expect(ask(space, PFN, 2)).toBe("fault 91");
    expect(guest.memory.peek(second.entryGpa(0x800, 1)) & 0x300).toBe(0);
  });

  it("of entries above a leaf that is missing are set: they have been used", () => {
    const { guest, space, second } = staged("nested");
    second.unmap(0x800, 1);
    expect(ask(space, PFN)).toBe("fault 79");
    expect(guest.memory.peek(second.entryGpa(0x800, 2)) & 0x100).toBe(0x100);
  });

  it("of the page of a table are set even where it cannot be read", () => {
    const { guest, space, first, second } = staged("nested");
    const tablePfn = Math.floor(first.entryGpa(PFN, 1) / 4096);
    second.map(tablePfn, 1, 0xfee01);
    expect(ask(space, PFN)).toBe("fault 70");
    expect(guest.memory.peek(second.entryGpa(tablePfn, 1)) & 0x300).toBe(0x300);
  });

  it("of a superpage stay as they are for the sake of a page of it that nobody may reach", () => {
    const { guest, space, second } = staged("second-stage");
    second.map(0x40000, 512, 0xfee00, 3, 512);
    const leaf = second.entryGpa(0x40000, 2);
    expect(ask(space, 0x40005, 2)).toBe("fault 87");
    expect(guest.memory.peek(leaf) & 0x300).toBe(0);
    expect(ask(space, 0x40100, 2)).toBe(0xfef00);
    expect(guest.memory.peek(leaf) & 0x300).toBe(0x300);
  });
});

describe("an invalidation is no concern of", () => {
  /** A notifier for one PASID, or for requests without one, that hears of the invalidations of `send`. */
  function heard(
    options: { readonly pasid?: number },
    send: (guest: GuestDriver) => void,
    prepare: (guest: GuestDriver) => void = () => undefined,
  ): number {
    const guest = new GuestDriver({ scalableMode: true, secondStage: true, pasidWidth: 20, requestPasid: true });
    prepare(guest);
    guest.start("scalable");
    const cache = new RecordingFlushNotifier();
    guest.device(NIC, options).attach(cache);
    cache.take();
    send(guest);
    return cache.take().length;
  }

  it("a PASID of another domain: not even one that names domain 0, which is what refused ones have", () => {
    const prepare = (guest: GuestDriver): void => {
      guest.scalableContext(NIC, { pasids: true });
      guest.pasid(NIC, 7, { did: 5, type: "second-stage" });
    };
    expect(heard({ pasid: 7 }, (guest) => guest.invalidate.pasidEntry(0, 7), prepare)).toBe(0);
    expect(heard({ pasid: 7 }, (guest) => guest.invalidate.pasidEntry(5, 7), prepare)).toBe(1);
  });

  it("a PASID whose entry has become present for another domain", () => {
    const prepare = (guest: GuestDriver): void => guest.scalableContext(NIC, { pasids: true });
    for (const [did, times] of [
      [1, 0],
      [2, 1],
    ] as const) {
      const send = (guest: GuestDriver): void => {
        guest.pasid(NIC, 7, { did: 2, type: "second-stage" });
        guest.invalidate.pasidEntry(did, 7);
      };
      expect(heard({ pasid: 7 }, send, prepare)).toBe(times);
    }
  });

  it("a device without a context, if it is of PASID entries", () => {
    for (const pasid of [0, 1]) expect(heard({}, (guest) => guest.invalidate.pasidEntry(0, pasid))).toBe(0);
  });
});

describe("an invalidation of a domain", () => {
  it("concerns a device that was plugged in where another one has been, whose entries are cached", () => {
    const guest = new GuestDriver();
    guest.context(NIC, { did: 5 });
    guest.start();
    guest.device(NIC).attach(new RecordingFlushNotifier());
    void guest.device(NIC).unplug();
    const flush = new RecordingFlushNotifier();
    guest.device(NIC).attach(flush);
    flush.take();
    guest.invalidate.domain(5);
    expect(flush.take()).toEqual([ALL_FRAMES]);
    guest.invalidate.domain(6);
    expect(flush.take()).toEqual([]);
  });

  it("concerns a device that was last seen in it, whatever its context entry says meanwhile", () => {
    const guest = new GuestDriver({ contextEntries: 0 });
    guest.context(NIC, { did: 5 });
    guest.start();
    const cache = new RecordingFlushNotifier();
    guest.device(NIC).attach(cache);
    cache.take();
    guest.context(NIC, { did: 6 });
    guest.invalidate.domain(5);
    expect(cache.take()).toHaveLength(1);
  });
});

describe.each(["legacy", "scalable"] as const)(
  "a device that was plugged in where another one has been, in %s mode,",
  (mode) => {
    const OTHER = "00:04.0";

    /** `looks`: the host looks at the domain of the one that is gone. */
    function replugged(looks = false) {
      const guest = new GuestDriver(
        mode === "legacy" ? { iotlbEntries: 0 } : { iotlbEntries: 0, scalableMode: true, secondStage: true },
      );
      const enter = (device: string, did: number): void =>
        mode === "legacy" ? guest.context(device, { did }) : guest.pasid(device, 0, { did, type: "second-stage" });
      for (const device of [NIC, OTHER]) {
        if (mode === "scalable") guest.scalableContext(device);
        enter(device, 5);
      }
      for (const [did, gpaPfn] of [
        [5, 0x100],
        [6, 0x200],
      ] as const)
        guest.map(did, { iovaPfn: PFN, gpaPfn });
      guest.start(mode);
      for (const device of [NIC, OTHER]) expect(ask(guest.device(device), PFN)).toBe(0x100);
      guest.unit.events.on("detach", ({ space }) => looks && space.domain.label);
      guest.device(NIC).attach(new RecordingFlushNotifier());
      void guest.device(NIC).unplug();
      return { guest, enter };
    }

    it.each([
      ["once the entry has been invalidated, too", false],
      ["also when the host has looked at what the one before it saw", true],
    ] as const)("is meant by the domain that its entry has left, %s", (_when, looks) => {
      const { guest, enter } = replugged(looks);
      const cache = new RecordingFlushNotifier();
      guest.device(NIC).attach(cache);
      ask(guest.device(NIC), PFN);
      enter(NIC, 6);
      if (mode === "legacy") guest.invalidate.context(NIC, 5);
      else guest.invalidate.pasidEntry(5, 0);
      ask(guest.device(NIC), PFN);
      cache.take();
      guest.invalidate.domain(5);
      expect(cache.take()).toEqual([ALL_FRAMES]);
    });

    it("is served by its entry as it is now, others still by theirs as they were cached", () => {
      const { guest, enter } = replugged();
      enter(NIC, 6);
      enter(OTHER, 6);
      expect([ask(guest.device(NIC), PFN), ask(guest.device(OTHER), PFN)]).toEqual([0x200, 0x100]);
    });
  },
);

describe("translation requests for several blocks", () => {
  it("are answered block by block where requests pass through", () => {
    const guest = scalableGuest();
    guest.pasid(NIC, 0, { did: 1, type: "pass-through" });
    guest.invalidate.pasidEntries();
    const answers = guest.unit.ats(guest.device(NIC)).translate(2 ** 20, { pageCount: 2 ** 19 });
    expect(answers.map(({ status, gpaPfn, pageCount }) => [status, gpaPfn, pageCount])).toEqual([
      ["success", 2 ** 20, 2 ** 18],
      ["success", 2 ** 20 + 2 ** 18, 2 ** 18],
    ]);
  });
});

/** Three levels of tables behind root and context entry, in RAM of two pieces that meet at frame 16; frame 1 goes to 0x50. */
function twoPieces(lastTable: number, change: (memory: BufferMemory) => GuestMemory = (memory) => memory) {
  const memory = new BufferMemory([
    { firstPfn: 0, bytes: new Uint8Array(16 * 4096) },
    { firstPfn: 16, bytes: new Uint8Array(64 * 4096) },
  ]);
  const put = (gpa: number, low: number): void => {
    memory.write(gpa, new Uint8Array(Int32Array.of(low).buffer));
  };
  put(20 * 4096, (21 << 12) | 1);
  put(21 * 4096 + 0x18 * 16, (22 << 12) | 1);
  put(21 * 4096 + 0x18 * 16 + 8, (5 << 8) | 1);
  put(22 * 4096, (23 << 12) | 3);
  put(23 * 4096, (lastTable << 12) | 3);
  put(lastTable * 4096 + 8, (0x50 << 12) | 3);
  const scheduler = new ManualScheduler();
  const unit = new VtdIommu({ memory: change(memory), scheduler, msi: () => undefined, cachingMode: true });
  unit.mmio.write64(0x20, 20n * 4096n);
  unit.mmio.write32(0x18, 0x4000_0000);
  unit.mmio.write32(0x18, 0x8000_0000);
  return unit.addressSpace(parseSourceId(NIC));
}

describe("tables in RAM that begins a few frames above 0", () => {
  it("are found there by requests", () => {
    expect(ask(twoPieces(24), 1)).toBe(0x50);
    expect(ask(twoPieces(5), 1)).toBe(0x50);
  });

  it("are found there, and below, by who announces mappings", () => {
    for (const lastTable of [24, 5]) {
      const notifier = new RecordingNotifier();
      twoPieces(lastTable).attach(notifier);
      expect(notifier.held().map((run) => ({ ...run }))).toMatchObject([
        { iovaPfn: 1, pageCount: 1, gpaPfn: 0x50, access: 3 },
      ]);
    }
  });

  it("are fetched where the host shows a window that is over", () => {
    const space = twoPieces(24, (memory) => ({
      ram: memory.ram,
      writeWord: memory.writeWord.bind(memory),
      fetch: memory.fetch.bind(memory),
      compareExchange: memory.compareExchange.bind(memory),
      read: memory.read.bind(memory),
      write: memory.write.bind(memory),
      window: () => ({ firstPfn: 0, pageCount: 80, words: new Int32Array(0) }),
    }));
    expect(ask(space, 1)).toBe(0x50);
  });
});
