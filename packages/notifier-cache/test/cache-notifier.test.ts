import { Access, byteAddress, IommuError, PAGE_BYTES, Translation } from "@iommu-kit/iommu-core";
import { describe, expect, it } from "vitest";
import { ALWAYS_INVALIDATED, CacheNotifier, type CacheNotifierOptions, DeviceTlb } from "../src/index.js";
import { FakeMachine, NO_RIGHT, NOT_MAPPED } from "./fake-machine.js";

const PAGES_2M = 512;
const PAGES_1G = 262_144;

function cachedMachine(options: CacheNotifierOptions = {}): {
  readonly machine: FakeMachine;
  readonly cache: CacheNotifier;
  readonly out: Translation;
} {
  const machine = new FakeMachine();
  const cache = new CacheNotifier(machine.space, options);
  machine.space.attach(cache);
  return { machine, cache, out: new Translation() };
}

describe("CacheNotifier, filling", () => {
  it("asks the address space once for a page, however often the device uses it", () => {
    const { machine, cache, out } = cachedMachine();
    machine.map(5, 100);
    for (let i = 0; i < 10; i++) expect(cache.translate(5, Access.read, out)).toBe(true);
    expect(out).toMatchObject({ gpaPfn: 100, access: Access.readWrite, reason: 0 });
    expect(machine.translations).toBe(1);
    expect(cache.statistics).toMatchObject({ hits: 9, misses: 1, fills: 1, refused: 0 });
  });

  it("answers every page of a 2 MiB and of a 1 GiB block after one walk, each with its own target", () => {
    const { machine, cache, out } = cachedMachine();
    machine.map(PAGES_2M, 4096, Access.readWrite, PAGES_2M);
    machine.map(PAGES_1G, 2 * PAGES_1G, Access.readWrite, PAGES_1G);
    for (const [iovaPfn, gpaPfn] of [
      [PAGES_2M + 7, 4096 + 7],
      [PAGES_2M + 511, 4096 + 511],
      [PAGES_1G + 1, 2 * PAGES_1G + 1],
      [2 * PAGES_1G - 1, 3 * PAGES_1G - 1],
    ] as const) {
      expect(cache.translate(iovaPfn, Access.write, out)).toBe(true);
      expect(out.gpaPfn).toBe(gpaPfn);
    }
    expect(machine.translations).toBe(2);
    expect(cache.entryCount).toBe(2);
  });

  it("lists what it holds, block by block, and looking changes nothing", () => {
    const { machine, cache, out } = cachedMachine({ entries: 2, ways: 2 });
    machine.map(5, 100, Access.read);
    machine.map(PAGES_2M, 4096, Access.readWrite, PAGES_2M);
    cache.translate(5, Access.read, out);
    cache.translate(PAGES_2M + 7, Access.write, out);
    const { hits, misses } = cache.statistics;
    expect([...cache.entries()].toSorted((a, b) => a.iovaPfn - b.iovaPfn)).toEqual([
      { iovaPfn: 5, pageCount: 1, gpaPfn: 100, access: Access.read },
      { iovaPfn: PAGES_2M, pageCount: PAGES_2M, gpaPfn: 4096, access: Access.readWrite },
    ]);
    expect(cache.statistics).toMatchObject({ hits, misses });
    // The older one still gives way first, though both were looked at.
    machine.map(9, 7);
    cache.translate(9, Access.read, out);
    expect([...cache.entries()].map(({ iovaPfn }) => iovaPfn).toSorted((a, b) => a - b)).toEqual([9, PAGES_2M]);
  });

  it("keeps the mapping's real rights and asks again for a right that it does not hold", () => {
    const { machine, cache, out } = cachedMachine();
    machine.map(5, 100, Access.read);
    expect(cache.translate(5, Access.read, out)).toBe(true);
    expect(out.access).toBe(Access.read);
    expect(cache.translate(5, Access.write, out)).toBe(false);
    expect(out.reason).toBe(NO_RIGHT);
    machine.map(5, 100, Access.readWrite);
    expect(cache.translate(5, Access.write, out)).toBe(true);
  });

  it("treats a zero-length read as a read", () => {
    const { machine, cache, out } = cachedMachine();
    machine.map(5, 100, Access.write);
    expect(cache.translate(5, Access.write, out)).toBe(true);
    expect(cache.lookup(5, Access.none, out)).toBe(false);
  });

  it("remembers no refusal", () => {
    const { machine, cache, out } = cachedMachine();
    expect(cache.translate(5, Access.read, out)).toBe(false);
    expect(out.reason).toBe(NOT_MAPPED);
    machine.map(5, 100);
    expect(cache.translate(5, Access.read, out)).toBe(true);
    expect(cache.statistics.refused).toBe(1);
  });

  it("neither translates nor fills in a lookup, and leaves the answer alone", () => {
    const { machine, cache, out } = cachedMachine();
    machine.map(5, 100);
    out.allow(77, 1, Access.read);
    expect(cache.lookup(5, Access.read, out)).toBe(false);
    expect(out.gpaPfn).toBe(77);
    expect(machine.translations).toBe(0);
    expect(cache.statistics).toMatchObject({ misses: 1, fills: 0 });
  });

  it("holds no more rights than were asked for when the guest's tables have dirty flags", () => {
    const { machine, cache, out } = cachedMachine({ rights: "requested" });
    machine.map(5, 100);
    expect(cache.translate(5, Access.read, out)).toBe(true);
    expect(cache.lookup(5, Access.write, out)).toBe(false);
    expect(cache.translate(5, Access.write, out)).toBe(true);
    expect(cache.lookup(5, Access.readWrite, out)).toBe(true);
    expect(machine.translations).toBe(2);
  });

  it("answers a miss with the rights that it will answer a hit with", () => {
    for (const rights of ["mapping", "requested"] as const) {
      for (const access of [Access.none, Access.read, Access.write, Access.readWrite] as const) {
        const { machine, cache, out } = cachedMachine({ rights });
        machine.map(5, 100);
        expect(cache.translate(5, access, out)).toBe(true);
        const miss = [out.gpaPfn, out.access, out.pageCount];
        expect(cache.lookup(5, access, out)).toBe(true);
        expect([out.gpaPfn, out.access, out.pageCount], `${rights}, asked for ${access}`).toEqual(miss);
      }
    }
  });

  it("stays within its size: the block used longest ago makes room", () => {
    const { machine, cache, out } = cachedMachine({ entries: 4, ways: 4 });
    for (let pfn = 0; pfn < 5; pfn++) machine.map(pfn, 100 + pfn);
    for (const pfn of [0, 1, 2, 3, 0, 4]) cache.translate(pfn, Access.read, out);
    expect(cache.entryCount).toBe(4);
    expect(cache.capacity).toBe(4);
    expect(cache.statistics.evictions).toBe(1);
    expect(cache.lookup(1, Access.read, out)).toBe(false);
    for (const pfn of [0, 2, 3, 4]) expect(cache.lookup(pfn, Access.read, out)).toBe(true);
  });

  it("takes frames near the top of the 64-bit space", () => {
    const { machine, cache, out } = cachedMachine();
    const top = 2 ** 52 - 1;
    machine.map(top, 2 ** 40 - 1);
    cache.translate(top, Access.read, out);
    expect(cache.lookup(top, Access.read, out)).toBe(true);
    expect(out.gpaPfn).toBe(2 ** 40 - 1);
    void machine.invalidate(top, 1);
    expect(cache.lookup(top, Access.read, out)).toBe(false);
  });
});

describe("CacheNotifier, being flushed", () => {
  it("drops exactly the pages of a page-selective invalidation", () => {
    const { machine, cache, out } = cachedMachine();
    for (let pfn = 0; pfn < 8; pfn++) {
      machine.map(pfn, 100 + pfn);
      cache.translate(pfn, Access.read, out);
    }
    void machine.invalidate(2, 3);
    const held = [0, 1, 2, 3, 4, 5, 6, 7].filter((pfn) => cache.lookup(pfn, Access.read, out));
    expect(held).toEqual([0, 1, 5, 6, 7]);
    expect(cache.statistics).toMatchObject({ flushes: 2, flushedEntries: 3 });
  });

  it("drops a superpage whole when any page of it is invalidated", () => {
    const { machine, cache, out } = cachedMachine();
    machine.map(PAGES_2M, 4096, Access.readWrite, PAGES_2M);
    cache.translate(PAGES_2M + 9, Access.read, out);
    void machine.invalidate(PAGES_2M + 400, 1);
    expect(cache.lookup(PAGES_2M + 9, Access.read, out)).toBe(false);
  });

  it("copes with a range far larger than anything that it holds, in one call", () => {
    const { machine, cache, out } = cachedMachine();
    for (let pfn = 0; pfn < 100; pfn++) {
      machine.map(pfn * 1000, pfn);
      cache.translate(pfn * 1000, Access.read, out);
    }
    const before = cache.statistics.flushes;
    void machine.invalidate();
    expect(cache.entryCount).toBe(0);
    expect(cache.statistics.flushes).toBe(before + 1);
  });

  it("neither holds nor uses an answer that an invalidation overtook", () => {
    const { machine, cache, out } = cachedMachine();
    machine.map(5, 100);
    machine.duringNextTranslation(() => {
      machine.map(5, 200);
      void machine.invalidate(5, 1);
    });
    expect(cache.translate(5, Access.read, out)).toBe(true);
    expect(out.gpaPfn).toBe(200);
    expect(cache.statistics).toMatchObject({ discarded: 1, fills: 1 });
  });

  it("refuses a request for a page that is invalidated whenever it is being translated, with a reason of its own", () => {
    const { machine, cache, out } = cachedMachine({
      fill: (iovaPfn, access, answer) => {
        const done = machine.space.translate(iovaPfn, access, answer);
        void machine.invalidate(iovaPfn, 1);
        return done;
      },
    });
    machine.map(5, 100);
    expect(cache.translate(5, Access.read, out)).toBe(false);
    expect(out.reason).toBe(ALWAYS_INVALIDATED);
    expect(cache.statistics).toMatchObject({ misses: 1, fills: 0, discarded: 4, refused: 0 });
    expect(cache.entryCount).toBe(0);
  });

  it("refuses an asynchronous fill whose answer is older than the last invalidation", () => {
    const { machine, cache, out } = cachedMachine();
    machine.map(5, 100);
    const { generation } = cache;
    machine.space.translate(5, Access.read, out);
    void machine.invalidate(5, 1);
    expect(cache.insert(5, out, generation)).toBe(false);
    expect(cache.insert(5, out, cache.generation)).toBe(true);
  });

  it("lets the guest's invalidation wait for the accesses in flight of its device", async () => {
    let arrived = (): void => undefined;
    const { machine } = cachedMachine({ onFlush: () => new Promise<void>((resolve) => (arrived = resolve)) });
    arrived();
    let done = false;
    const completion = machine.invalidate(0, 1);
    expect(completion).toBeInstanceOf(Promise);
    void completion?.then(() => (done = true));
    await Promise.resolve();
    expect(done).toBe(false);
    arrived();
    await completion;
    expect(done).toBe(true);
  });
});

describe("CacheNotifier, attachment", () => {
  it("holds nothing while nobody would flush it: before it is attached, and after", () => {
    const machine = new FakeMachine();
    const cache = new CacheNotifier(machine.space);
    const out = new Translation();
    machine.map(5, 100);
    expect(cache.translate(5, Access.read, out)).toBe(true);
    expect(cache.entryCount).toBe(0);
    const attachment = machine.space.attach(cache);
    cache.translate(5, Access.read, out);
    expect(cache.entryCount).toBe(1);
    void attachment.detach();
    expect(cache.entryCount).toBe(0);
    expect(cache.translate(5, Access.read, out)).toBe(true);
    expect(cache.entryCount).toBe(0);
    expect(cache.statistics.uncached).toBe(2);
  });

  it("works again after it was attached again", () => {
    const { machine, cache, out } = cachedMachine();
    machine.map(5, 100);
    cache.translate(5, Access.read, out);
    void machine.space.attachments[0]?.detach();
    machine.space.attach(cache);
    cache.translate(5, Access.read, out);
    expect(cache.entryCount).toBe(1);
  });

  it("keeps its entries when another cache of the same device is detached", () => {
    const { machine, cache, out } = cachedMachine();
    const tlb = new DeviceTlb(machine.space);
    const attachment = machine.space.attach(tlb);
    machine.map(5, 100);
    for (const each of [cache, tlb]) each.translate(5, Access.read, out);
    void attachment.detach();
    expect([cache.entryCount, tlb.entryCount]).toEqual([1, 0]);
    void machine.invalidate(5, 1);
    expect(cache.entryCount).toBe(0);
  });

  it("caches only inside the attached range, cutting blocks that reach beyond it", () => {
    const machine = new FakeMachine();
    const cache = new CacheNotifier(machine.space);
    machine.space.attach(cache, { range: { firstPfn: PAGES_2M + 8, pageCount: 8 } });
    const out = new Translation();
    machine.map(PAGES_2M, 4096, Access.readWrite, PAGES_2M);
    for (const pfn of [7, 8, 15, 16]) expect(cache.translate(PAGES_2M + pfn, Access.read, out)).toBe(true);
    const held = [7, 8, 15, 16].filter((pfn) => cache.lookup(PAGES_2M + pfn, Access.read, out));
    expect(held).toEqual([8, 15]);
    expect(out.pageCount).toBe(1);
  });

  it("never lets a superpage answer for frames that are not memory", () => {
    const machine = new FakeMachine({ holes: [{ firstPfn: 0xfee00, pageCount: 0x100 }] });
    const cache = new CacheNotifier(machine.space);
    machine.space.attach(cache);
    const out = new Translation();
    machine.map(786_432, 786_432, Access.readWrite, PAGES_1G);
    cache.translate(0xfed00, Access.read, out);
    expect(out.gpaPfn).toBe(0xfed00);
    cache.translate(0xfef00, Access.read, out);
    const pages = [0xfec00, 0xfedff, 0xfee00, 0xfeeff, 0xfef00, 0xfef01];
    expect(pages.filter((pfn) => cache.lookup(pfn, Access.read, out))).toEqual([0xfec00, 0xfedff, 0xfef00]);
  });

  it("drops everything when it is cut off, and asks from then on", () => {
    const { machine, cache, out } = cachedMachine({ onFlush: () => new Promise<void>(() => undefined) });
    machine.map(5, 100);
    machine.map(9, 101);
    cache.translate(5, Access.read, out);
    void machine.invalidate(9, 1);
    expect(cache.entryCount).toBe(1);
    machine.scheduler.advance(10_000);
    expect(machine.space.attachments[0]?.state).toBe("failed");
    expect(cache.entryCount).toBe(0);
    machine.map(5, 300);
    cache.translate(5, Access.read, out);
    expect(out.gpaPfn).toBe(300);
    expect(cache.entryCount).toBe(0);
  });

  it("drops everything when the device is unplugged, and is then refused", () => {
    const { machine, cache, out } = cachedMachine();
    machine.map(5, 100);
    cache.translate(5, Access.read, out);
    void machine.space.unplug();
    expect(cache.entryCount).toBe(0);
    expect(cache.translate(5, Access.read, out)).toBe(false);
  });

  it("says what a shape may be", () => {
    const machine = new FakeMachine();
    for (const options of [
      { entries: 1000 },
      { entries: 0 },
      { entries: 2 ** 21 },
      { ways: 3 },
      { entries: 4, ways: 8 },
    ]) {
      expect(() => new CacheNotifier(machine.space, options)).toThrow(IommuError);
    }
  });

  it("serves a device that copies through it", () => {
    const { machine, cache, out } = cachedMachine();
    machine.map(5, 0);
    machine.memory.write(16, Uint8Array.of(1, 2, 3));
    const iova = 5 * PAGE_BYTES + 16;
    const bytes = new Uint8Array(3);
    expect(cache.translate(Math.floor(iova / PAGE_BYTES), Access.read, out)).toBe(true);
    expect(machine.memory.read(Number(byteAddress(out.gpaPfn, iova % PAGE_BYTES)), bytes)).toBe(true);
    expect([...bytes]).toEqual([1, 2, 3]);
  });
});

describe("DeviceTlb", () => {
  it("keeps its entries over an IOTLB invalidation and drops them on a device-TLB invalidation", () => {
    const machine = new FakeMachine();
    const tlb = new DeviceTlb(machine.space);
    machine.space.attach(tlb);
    const out = new Translation();
    machine.map(5, 100);
    tlb.translate(5, Access.read, out);
    void machine.invalidate();
    expect(tlb.lookup(5, Access.read, out)).toBe(true);
    void machine.invalidateDeviceTlb(5, 1);
    expect(tlb.lookup(5, Access.read, out)).toBe(false);
  });

  it("drops everything when it is detached, although no invalidation comes, and serves as before when attached again", () => {
    const machine = new FakeMachine();
    const tlb = new DeviceTlb(machine.space);
    const attachment = machine.space.attach(tlb);
    const out = new Translation();
    machine.map(5, 100);
    tlb.translate(5, Access.read, out);
    void attachment.detach();
    expect(tlb.entryCount).toBe(0);
    machine.space.attach(tlb);
    tlb.translate(5, Access.read, out);
    expect(tlb.entryCount).toBe(1);
    void machine.invalidateDeviceTlb(5, 1);
    expect(tlb.entryCount).toBe(0);
  });

  it("fills by the translation request that the device gives", () => {
    const machine = new FakeMachine();
    const tlb = new DeviceTlb(machine.space, {
      fill: (iovaPfn, _access, out) => {
        out.allow(iovaPfn + 1000, 1, Access.read);
        return true;
      },
    });
    machine.space.attach(tlb);
    const out = new Translation();
    expect(tlb.translate(5, Access.read, out)).toBe(true);
    expect(out.gpaPfn).toBe(1005);
    expect(machine.translations).toBe(0);
  });
});
