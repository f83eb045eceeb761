/**
 * 57-bit input and sign-extended first-stage input, exact from the DMA port to the notifier.
 */

import type { IommuEventEmitter } from "@iommu-kit/iommu-core";
import { RecordingFlushNotifier, RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { describe, expect, it } from "vitest";
import { GuestDriver } from "../../src/testing/index.js";

const DEVICE = "00:03.0";
/** Neighbouring frames near the top of 57 bits: a double of bytes could not tell them apart. */
const TOP = 2 ** 45 - 3;
const TOP_BYTES = BigInt(TOP) * 4096n;

function wide(): GuestDriver {
  const guest = new GuestDriver({
    addressWidths: [39, 48, 57],
    scalableMode: true,
    firstStage: "5-level",
    pasidWidth: 20,
    cachingMode: true,
    iotlbEntries: 64,
  });
  guest.tables(1, 5);
  return guest;
}

function bytes(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

describe("57-bit second-stage input", () => {
  it("reaches exactly the frame it names, through walk, IOTLB and DMA", () => {
    const guest = wide();
    guest.map(1, { iovaPfn: TOP, gpaPfn: 0x111 });
    guest.map(1, { iovaPfn: TOP + 1, gpaPfn: 0x222 });
    guest.context(DEVICE, { did: 1 });
    guest.start();
    const { dma } = guest.device(DEVICE);
    for (let round = 0; round < 2; round++) {
      expect(dma.write(TOP_BYTES + 4090n, bytes("0123456789ab"))).toBe(true);
    }
    expect(dma.write(TOP_BYTES + 0x2000n, bytes("x"))).toBe(false);
    const into = new Uint8Array(6);
    guest.memory.read(0x111 * 4096 + 4090, into);
    expect(new TextDecoder().decode(into)).toBe("012345");
    guest.memory.read(0x222 * 4096, into);
    expect(new TextDecoder().decode(into)).toBe("6789ab");
    expect(guest.takeFaults().map(({ page }) => page)).toEqual([TOP + 2]);
  });

  it("is announced at exactly those frames, and a page-selective invalidation finds them", () => {
    const guest = wide();
    guest.map(1, { iovaPfn: TOP, gpaPfn: 0x111 });
    guest.context(DEVICE, { did: 1 });
    guest.start();
    const notifier = new RecordingNotifier({ granularity: "page" });
    guest.device(DEVICE).attach(notifier);
    guest.map(1, { iovaPfn: TOP + 1, gpaPfn: 0x222 });
    guest.invalidate.page(1, TOP + 1);
    guest.unmap(1, TOP);
    guest.invalidate.page(1, TOP);
    expect(notifier.held().map((run) => ({ ...run }))).toMatchObject([
      { iovaPfn: TOP + 1, pageCount: 1, gpaPfn: 0x222, access: 3 },
    ]);
    notifier.check();
  });
});

/** What an emitter says of frames, in order. */
function eventsOf(events: IommuEventEmitter): unknown[] {
  const seen: unknown[] = [];
  for (const name of ["map", "unmap", "change"] as const)
    events.on(name, ({ iovaPfn, pageCount, gpaPfn }) => seen.push([name, iovaPfn, pageCount, gpaPfn]));
  events.on("invalidate", ({ iovaPfn, pageCount }) => seen.push(["invalidate", iovaPfn, pageCount]));
  events.on("fault", ({ address }) => seen.push(["fault", address]));
  return seen;
}

describe("57-bit addresses in nested translation", () => {
  it("are exact at every place that names one: events, both kinds of notifier, superpages, translation and page requests", () => {
    const guest = new GuestDriver({
      addressWidths: [57],
      hostAddressWidth: 52,
      scalableMode: true,
      firstStage: "5-level",
      nested: true,
      pasidWidth: 20,
      cachingMode: true,
      deviceTlb: true,
      pageRequests: true,
    });
    // Input and intermediate addresses near the top of 57 bits, the latter where 52 bits of a first-stage entry end.
    const input = 2 ** 44 - 3;
    const between = 2 ** 40 - 7;
    const large = 2 ** 44 - 1024;
    const second = guest.tables(2, 5);
    second.map(0x20000, 512, 0x20000);
    second.map(between, 2, 0x111);
    second.map(2 ** 40 - 1024, 512, 0x200, 3, 512);
    const first = guest.newFirstStageTables(5);
    first.map(input, 2, between);
    first.map(large, 512, 2 ** 40 - 1024, { leafPages: 512 });
    guest.scalableContext(DEVICE, { pasids: true, fields: { DTE: 1, PRE: 1 } });
    const entry = { did: 2, type: "nested", levels: 5, firstRootPfn: first.rootPfn } as const;
    guest.pasid(DEVICE, 9, { ...entry, fields: { FSPM: 1 } });
    guest.start("scalable");
    const space = guest.device(DEVICE, { pasid: 9 });
    const [mirror, cache] = [new RecordingNotifier({ granularity: "page" }), new RecordingFlushNotifier()];
    space.attach(mirror);
    space.attach(cache);
    cache.take();
    expect(
      [large - 1, large, large + 511, input - 1, input, input + 1, input + 2].map((pfn) => mirror.lookup(pfn)?.gpaPfn),
    ).toEqual([undefined, 0x200, 0x3ff, undefined, 0x111, 0x112, undefined]);
    const seen = eventsOf(space.events);
    first.map(input + 1, 1, between);
    expect(guest.invalidate.pasidPages(2, 9, input + 1)).toBe(true);
    expect(cache.take()).toEqual([{ firstPfn: input + 1, pageCount: 1 }]);
    expect(mirror.lookup(input + 1)?.gpaPfn).toBe(0x111);
    expect(space.dma.read(BigInt(input + 2) * 4096n + 5n, new Uint8Array(1))).toBe(false);
    expect(seen).toEqual([
      ["invalidate", input + 1, 1],
      ["change", input + 1, 1, 0x111],
      ["fault", BigInt(input + 2) * 4096n + 5n],
    ]);
    expect(guest.takeFaults()).toMatchObject([{ page: input + 2 }]);
    const ats = guest.unit.ats(space);
    expect(ats.translate(input + 1)).toMatchObject([{ iovaPfn: input + 1, pageCount: 1, gpaPfn: 0x111 }]);
    expect(ats.translate(large + 3)).toMatchObject([{ iovaPfn: large, pageCount: 512, gpaPfn: 0x200 }]);
    const queuePfn = guest.newFrame();
    guest.unit.mmio.write64(0xd0, BigInt(queuePfn) * 4096n);
    void ats.requestPage({ iovaPfn: input + 2 });
    const high = BigInt(guest.memory.peek(queuePfn * 4096 + 12) >>> 0);
    const low = BigInt(guest.memory.peek(queuePfn * 4096 + 8) >>> 0);
    expect(((high << 32n) | low) >> 12n).toBe(BigInt(input + 2));
    mirror.check();
  });
});

describe("first-stage input of the upper half", () => {
  for (const levels of [4, 5] as const) {
    it(`is sign-extended over 64 bits with ${levels} levels, in DMA and in announcements`, () => {
      const guest = wide();
      guest.scalableContext(DEVICE, { pasids: true });
      const tables = guest.newFirstStageTables(levels);
      const iovaPfn = 2 ** 52 - 2;
      tables.map(iovaPfn, 1, 0x333, { writable: true, user: true });
      tables.map(4, 1, 0x444, { writable: true, user: true });
      guest.pasid(DEVICE, 9, {
        did: 2,
        type: "first-stage",
        firstRootPfn: tables.rootPfn,
        fields: { PWSNP: 1, FSPM: levels === 5 ? 1 : 0 },
      });
      guest.start("scalable");
      const space = guest.device(DEVICE, { pasid: 9 });
      const notifier = new RecordingNotifier({ granularity: "page" });
      space.attach(notifier);
      expect(notifier.held()).toMatchObject([
        { iovaPfn: 4, gpaPfn: 0x444 },
        { iovaPfn, gpaPfn: 0x333 },
      ]);
      expect(space.dma.write(BigInt(iovaPfn) * 4096n, bytes("up"))).toBe(true);
      const into = new Uint8Array(2);
      guest.memory.read(0x333 * 4096, into);
      expect(new TextDecoder().decode(into)).toBe("up");
      expect(space.dma.write(2n ** 60n, bytes("no"))).toBe(false);
      expect(space.dma.failure).toMatchObject({ reason: 0x80 });
      notifier.check();
    });
  }
});
