/**
 * 57-bit input and sign-extended first-stage input, exact from the DMA port to the notifier.
 */

import { RecordingNotifier } from "@iommu-kit/iommu-core/testing";
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
