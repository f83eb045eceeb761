import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Access } from "@iommu-kit/iommu-core";
import {
  type ContainerProfile,
  iommufd,
  MemoryContainer,
  shadow,
  shadowBlock,
  type1,
  type1v2,
  type UnmapResult,
  usableRangesOf,
  vfioUser,
} from "@iommu-kit/notifier-vfio";

const RW = Access.readWrite;

describe("rules by profile", () => {
  const table: {
    profile: ContainerProfile;
    identical: string;
    overlap: string;
    union: string;
    hole: string;
    cutMiddle: string;
    cutFirst: string;
    allWhenEmpty: string;
    wrap: string;
    interruptWindow: string;
  }[] = [
    {
      profile: type1v2,
      identical: "exists",
      overlap: "exists",
      union: "2",
      hole: "0",
      cutMiddle: "invalid",
      cutFirst: "invalid",
      allWhenEmpty: "0",
      wrap: "invalid",
      interruptWindow: "invalid",
    },
    {
      profile: type1,
      identical: "exists",
      overlap: "exists",
      union: "2",
      hole: "0",
      cutMiddle: "0",
      cutFirst: "4",
      allWhenEmpty: "0",
      wrap: "invalid",
      interruptWindow: "invalid",
    },
    {
      profile: iommufd,
      identical: "exists",
      overlap: "exists",
      union: "2",
      hole: "no-entry",
      cutMiddle: "no-entry",
      cutFirst: "no-entry",
      allWhenEmpty: "0",
      wrap: "overflow",
      interruptWindow: "invalid",
    },
    {
      profile: vfioUser,
      identical: "ok",
      overlap: "invalid",
      union: "no-entry",
      hole: "no-entry",
      cutMiddle: "no-entry",
      cutFirst: "no-entry",
      allWhenEmpty: "0",
      wrap: "invalid",
      interruptWindow: "ok",
    },
    {
      profile: shadow,
      identical: "ok",
      overlap: "exists",
      union: "2",
      hole: "0",
      cutMiddle: "1",
      cutFirst: "1",
      allWhenEmpty: "0",
      wrap: "invalid",
      interruptWindow: "ok",
    },
  ];

  it.each(table)("$profile.name answers as its column of the table says", ({ profile, ...expected }) => {
    const fresh = (): MemoryContainer => {
      const container = new MemoryContainer(profile);
      container.map(0x10, 4, 0x100, RW);
      container.map(0x20, 1, 0x200, RW);
      container.map(0x22, 1, 0x202, RW);
      return container;
    };

    expect({
      identical: said(fresh().map(0x10, 4, 0x100, RW)),
      overlap: said(fresh().map(0x13, 2, 0x103, RW)),
      union: said(fresh().unmap(0x20, 4)),
      hole: said(fresh().unmap(0x30, 4)),
      cutMiddle: said(fresh().unmap(0x11, 1)),
      cutFirst: said(fresh().unmap(0x10, 1)),
      allWhenEmpty: said(new MemoryContainer(profile).unmapAll()),
      wrap: said(fresh().map(2 ** 52 - 1, 2, 0, RW)),
      interruptWindow: said(fresh().map(0xfee00, 1, 0, RW)),
    }).toEqual(expected);
    expect(said(fresh().unmap(0x10, 4))).toBe("4");
    expect(said(fresh().unmapAll())).toBe("6");
    expect(said(fresh().map(0x14, 1, 0x104, RW))).toBe("ok");
    expect(said(fresh().map(0x40, 0, 0, RW))).toBe("invalid");
    expect(said(fresh().map(0x40, 1, 0, Access.none))).toBe("invalid");
    expect(said(fresh().map(-1, 1, 0, RW))).toBe("invalid");
    expect(said(fresh().map(Number.NaN, 1, 0, RW))).toBe("invalid");
  });

  it("has the limits of the table", () => {
    const limits = [type1v2, type1, iommufd, vfioUser].map(({ entryLimit }) => entryLimit);
    expect(limits).toEqual([65535, 65535, 2 ** 32 - 1, 1_000_000]);
  });

  it("takes parts of frames where a kind has no alignment rule, and only there", () => {
    const [half, byte] = [0.5, 1 / 4096];

    for (const profile of [type1v2, type1, iommufd]) {
      const container = new MemoryContainer(profile);
      expect([
        said(container.map(half, 1, 0, RW)),
        said(container.map(0, byte, 0, RW)),
        said(container.map(0, 1, half, RW)),
      ]).toEqual(["invalid", "invalid", "invalid"]);
    }
    const container = new MemoryContainer(vfioUser);
    expect(said(container.map(half, byte, 8, RW))).toBe("ok");
    expect(said(container.map(half + byte, 1, 9, RW))).toBe("ok");
    expect(said(container.map(half, 1 / 8192, 9, RW))).toBe("invalid");
    expect(said(container.unmap(half, byte))).toBe(String(byte));
  });

  it("follows the aperture that the host gives it", () => {
    const container = new MemoryContainer({ ...type1v2, usableRanges: usableRangesOf(48) });

    expect(said(container.map(2 ** 36 - 1, 1, 0, RW))).toBe("ok");
    expect(said(container.map(2 ** 36, 1, 0, RW))).toBe("invalid");
    expect(() => usableRangesOf(12)).toThrow(/expected an aperture of 32 to 64 address bits, got 12/);
  });

  it("answers an overlap before a full container, and a full container before a range that is not usable, as the kernel", () => {
    const container = new MemoryContainer({ ...type1v2, entryLimit: 1 });
    container.map(5, 1, 5, RW);

    expect(said(container.map(5, 1, 5, RW))).toBe("exists");
    expect(said(container.map(0xfee00, 1, 5, RW))).toBe("no-space");
    container.unmap(5, 1);
    expect(said(container.map(0xfee00, 1, 5, RW))).toBe("invalid");
  });
});

it.each([type1v2, type1, iommufd, vfioUser])("$name agrees with a naive list of entries on random calls", (profile) => {
  const call = fc.record({
    kind: fc.constantFrom("map", "map", "unmap", "unmap", "unmapAll"),
    iovaPfn: fc.integer({ min: 0xfedf0, max: 0xfee08 }),
    pageCount: fc.integer({ min: 0, max: 6 }),
    gpaPfn: fc.nat({ max: 3 }),
  });
  const limited = { ...profile, entryLimit: 5 };
  fc.assert(
    fc.property(fc.array(call, { maxLength: 50 }), (calls) => {
      const container = new MemoryContainer(limited);
      const naive = new NaiveContainer(limited);
      for (const { kind, iovaPfn, pageCount, gpaPfn } of calls) {
        const both = [container, naive].map((c) => {
          if (kind === "map") return said(c.map(iovaPfn, pageCount, gpaPfn, RW));
          return said(kind === "unmap" ? c.unmap(iovaPfn, pageCount) : c.unmapAll());
        });
        expect(both[0], `${kind} ${iovaPfn} ${pageCount}`).toBe(both[1]);
        expect(container.entriesHeld).toBe(naive.held.length);
      }
      expect([...container.entries()].map(({ iovaPfn, pageCount }) => ({ iovaPfn, pageCount }))).toEqual(
        naive.held.map(({ iovaPfn, pageCount }) => ({ iovaPfn, pageCount })),
      );
    }),
    { numRuns: 200 },
  );
});

describe("what a device reaches", () => {
  it("is refused without an entry and without the right, and ends where the entry ends", () => {
    const container = new MemoryContainer(type1v2);
    container.map(8, 2, 100, Access.read);
    const out = shadowBlock();

    expect(container.translate(9, Access.read, out)).toBe(true);
    expect(out.gpaPfn).toBe(101);
    expect(container.translate(9, Access.write, out)).toBe(false);
    expect(container.translate(9, RW, out)).toBe(false);
    expect(container.translate(10, Access.read, out)).toBe(false);
  });

  it("does not change while a step is open, and changes at once when it closes", () => {
    const container = new MemoryContainer(type1v2);
    container.map(0, 4, 100, RW);
    container.map(4, 4, 200, RW);

    container.begin();
    container.unmap(0, 4);
    container.map(0, 1, 300, Access.read);
    container.unmap(0, 1);
    container.map(0, 2, 400, RW);
    container.unmapAll();
    container.map(7, 1, 500, RW);

    expect(targets(container, 9)).toEqual([100, 101, 102, 103, 200, 201, 202, 203, undefined]);
    container.commit();
    expect(targets(container, 9)).toEqual([...Array.from({ length: 7 }, () => undefined), 500, undefined]);
    expect(container.entriesHeld).toBe(1);
  });

  it("shows in a step what it showed before, whatever the step does", () => {
    const change = fc.record({
      map: fc.boolean(),
      iovaPfn: fc.nat({ max: 30 }),
      pageCount: fc.integer({ min: 1, max: 8 }),
      gpaPfn: fc.nat({ max: 99 }),
    });
    const apply = (
      container: MemoryContainer,
      changes: { map: boolean; iovaPfn: number; pageCount: number; gpaPfn: number }[],
    ) => {
      for (const { map, iovaPfn, pageCount, gpaPfn } of changes) {
        if (map) container.map(iovaPfn, pageCount, gpaPfn, RW);
        else container.unmap(iovaPfn, pageCount);
      }
    };
    fc.assert(
      fc.property(
        fc.constantFrom(shadow, type1v2, type1),
        fc.array(change),
        fc.array(change),
        (profile, before, within) => {
          const container = new MemoryContainer(profile);
          const plain = new MemoryContainer(profile);
          apply(container, before);
          apply(plain, before);
          const seen = targets(container, 40);

          container.begin();
          apply(container, within);
          expect(targets(container, 40)).toEqual(seen);

          container.commit();
          apply(plain, within);
          expect(targets(container, 40)).toEqual(targets(plain, 40));
        },
      ),
      { numRuns: 300 },
    );
  });

  it("never lets a scatter-gather reader that runs between the calls see half of a step", async () => {
    const container = new MemoryContainer(type1v2);
    const mapAll = (base: number) => {
      for (let pfn = 0; pfn < 16; pfn += 4) container.map(pfn, 4, base + pfn, RW);
    };
    mapAll(0);
    const torn: number[][] = [];
    const writer = { done: false };
    const reader = (async () => {
      let lists = 0;
      for (; !writer.done; lists++) {
        // One scatter-gather list is walked in one go; steps are written with pauses between their calls.
        const bases = [0, 4, 8, 12].map((pfn) => (targets(container, 16)[pfn] ?? -1) - pfn);
        if (new Set(bases).size !== 1) torn.push(bases);
        await Promise.resolve();
      }
      return lists;
    })();

    for (let round = 1; round <= 50; round++) {
      container.begin();
      for (let pfn = 0; pfn < 16; pfn += 4) {
        container.unmap(pfn, 4);
        await Promise.resolve();
        container.map(pfn, 4, round * 1000 + pfn, RW);
        await Promise.resolve();
      }
      container.commit();
      await Promise.resolve();
    }
    writer.done = true;

    expect(await reader).toBeGreaterThan(300);
    expect(torn).toEqual([]);
  });
});

describe("the dirty log", () => {
  const page = (container: MemoryContainer, iovaPfn: number) =>
    container.translate(iovaPfn, Access.write, shadowBlock());

  it("reports what devices wrote, once, where the kind knows it", async () => {
    const container = new MemoryContainer(vfioUser);
    container.map(4090, 20, 0, RW);
    page(container, 4091);
    void container.dirtyLog.start();
    page(container, 4092);
    page(container, 4097);
    container.translate(4093, Access.read, shadowBlock());

    const first = new Uint8Array(3);
    const again = new Uint8Array(3);
    expect(await container.dirtyLog.read(4090, 20, first)).toEqual({ ok: true });
    await container.dirtyLog.read(4090, 20, again);

    expect(first).toEqual(Uint8Array.of(0b1000_0100, 0, 0));
    expect(again).toEqual(new Uint8Array(3));
  });

  it("still knows a write after the frame was unmapped, where unmap and read are two calls", async () => {
    const container = new MemoryContainer(vfioUser);
    container.map(0, 8, 0, RW);
    void container.dirtyLog.start();
    page(container, 3);

    expect(container.dirtyLog.unmapAndRead).toBeUndefined();
    container.unmap(0, 8);
    const bitmap = new Uint8Array(1);
    await container.dirtyLog.read(0, 8, bitmap);

    expect(bitmap[0]).toBe(0b1000);
  });

  it("reports with the unmap what was written up to the end of the step", async () => {
    const container = new MemoryContainer(shadow);
    container.map(0, 8, 0, RW);
    void container.dirtyLog.start();
    page(container, 1);
    const bitmap = new Uint8Array(1);

    container.begin();
    const answer = container.dirtyLog.unmapAndRead?.(0, 8, bitmap);
    expect(page(container, 5)).toBe(true);
    container.commit();

    expect(await answer).toEqual({ ok: true, removedPageCount: 8 });
    expect(bitmap[0]).toBe(0b10_0010);
  });

  it("never reports less than a naive set of written frames", () => {
    const step = fc.record({
      write: fc.boolean(),
      pfn: fc.nat({ max: 12_400 }),
      pageCount: fc.integer({ min: 1, max: 9000 }),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        const container = new MemoryContainer(shadow);
        container.map(0, 2 ** 24, 0, RW);
        void container.dirtyLog.start();
        const naive = new Set<number>();
        for (const { write, pfn, pageCount } of steps) {
          if (write) {
            page(container, pfn);
            naive.add(pfn);
            continue;
          }
          const bitmap = new Uint8Array(Math.ceil(pageCount / 8));
          void container.dirtyLog.read(pfn, pageCount, bitmap);
          const expected = [...naive].filter((p) => p >= pfn && p < pfn + pageCount).sort((a, b) => a - b);
          expect(bitsOf(bitmap).map((bit) => pfn + bit)).toEqual(expected);
          for (const p of expected) naive.delete(p);
        }
      }),
    );
  });

  it("refuses what a kind does not offer, before start, and into too small a buffer", async () => {
    const buffer = new Uint8Array(1);
    expect(await new MemoryContainer(type1).dirtyLog.start()).toEqual({ ok: false, cause: "denied" });
    expect(await new MemoryContainer(iommufd).dirtyLog.stop()).toEqual({ ok: false, cause: "unsupported" });
    expect(await new MemoryContainer(iommufd).dirtyLog.read(0, 1, buffer)).toEqual({ ok: false, cause: "unsupported" });
    const container = new MemoryContainer(type1v2);
    expect(await container.dirtyLog.read(0, 1, buffer)).toEqual({ ok: false, cause: "invalid" });
    void container.dirtyLog.start();
    expect(container.dirtyLog.active).toBe(true);
    expect(await container.dirtyLog.read(0, 9, buffer)).toEqual({ ok: false, cause: "invalid" });
    for (const [first, count] of [
      [0, 0],
      [-1, 2],
      [0.5, 1],
      [2 ** 52 - 1, 2],
    ] as const)
      expect(await container.dirtyLog.read(first, count, buffer)).toEqual({ ok: false, cause: "invalid" });
    expect(await container.dirtyLog.unmapAndRead?.(0, 9, buffer)).toEqual({ ok: false, cause: "invalid" });
  });
});

it("tells who waits for room that entries were freed, until they no longer want to know", () => {
  const container = new MemoryContainer({ ...type1v2, entryLimit: 1 });
  let told = 0;
  const end = container.onEntriesFreed(() => (told += 1));

  container.map(0, 1, 0, RW);
  expect(said(container.map(1, 1, 1, RW))).toBe("no-space");
  container.unmap(5, 1);
  expect(told).toBe(0);
  container.unmap(0, 1);
  expect(told).toBe(1);
  end();
  container.map(0, 1, 0, RW);
  container.unmapAll();
  expect(told).toBe(1);
});

/** The rules in their plainest form: a sorted list, looked through from end to end. */
class NaiveContainer {
  held: { iovaPfn: number; pageCount: number; gpaPfn: number }[] = [];
  readonly profile: ContainerProfile;

  constructor(profile: ContainerProfile) {
    this.profile = profile;
  }

  map(
    iovaPfn: number,
    pageCount: number,
    gpaPfn: number,
    _access: Access,
  ): { ok: true } | { ok: false; cause: string } {
    const { overlap, entryLimit, usableRanges } = this.profile;
    const end = iovaPfn + pageCount;
    if (pageCount === 0) return { ok: false, cause: "invalid" };
    const hit = this.held.filter((e) => e.iovaPfn < end && e.iovaPfn + e.pageCount > iovaPfn);
    if (hit.length > 0) {
      const same = hit.some((e) => e.iovaPfn === iovaPfn && e.pageCount === pageCount && e.gpaPfn === gpaPfn);
      const answer = same ? overlap.identical : overlap.other;
      return answer === "accept" ? { ok: true } : { ok: false, cause: answer };
    }
    if (this.held.length >= entryLimit) return { ok: false, cause: "no-space" };
    if (!usableRanges.some((r) => iovaPfn >= r.firstPfn && end <= r.firstPfn + r.pageCount))
      return { ok: false, cause: "invalid" };
    this.held = [...this.held, { iovaPfn, pageCount, gpaPfn }].sort((a, b) => a.iovaPfn - b.iovaPfn);
    return { ok: true };
  }

  unmap(iovaPfn: number, pageCount: number): UnmapResult {
    const { cut, unions, hole } = this.profile;
    const end = iovaPfn + pageCount;
    if (pageCount === 0) return { ok: false, cause: "invalid" };
    const hit = this.held.filter((e) => e.iovaPfn < end && e.iovaPfn + e.pageCount > iovaPfn);
    const cuts = hit.some((e) => e.iovaPfn < iovaPfn || e.iovaPfn + e.pageCount > end);
    const covers = hit.length === 1 && hit[0]?.iovaPfn === iovaPfn && hit[0].pageCount === pageCount;
    if (!unions && !covers) return { ok: false, cause: "no-entry" };
    if (cuts && (cut === "invalid" || cut === "no-entry")) return { ok: false, cause: cut };
    if (hit.length === 0 && hole === "no-entry") return { ok: false, cause: "no-entry" };
    // The first version of type 1: nothing at all once an entry begins before the range.
    const gone = cut === "whole-from-first" && hit.some((e) => e.iovaPfn < iovaPfn) ? [] : hit;
    this.held = this.held.filter((e) => !gone.includes(e));
    return { ok: true, removedPageCount: gone.reduce((sum, e) => sum + e.pageCount, 0) };
  }

  unmapAll(): UnmapResult {
    const removedPageCount = this.held.reduce((sum, e) => sum + e.pageCount, 0);
    this.held = [];
    return { ok: true, removedPageCount };
  }
}

/** An answer in one word. */
function said(answer: { ok: true; removedPageCount?: number } | { ok: false; cause: string }): string {
  if (!answer.ok) return answer.cause;
  return answer.removedPageCount === undefined ? "ok" : String(answer.removedPageCount);
}

/** The target frame that a device reads through each of the first frames. */
function targets(container: MemoryContainer, count: number): (number | undefined)[] {
  const out = shadowBlock();
  return Array.from({ length: count }, (_, pfn) =>
    container.translate(pfn, Access.read, out) ? out.gpaPfn : undefined,
  );
}

function bitsOf(bitmap: Uint8Array): number[] {
  return [...bitmap].flatMap((byte, i) =>
    [0, 1, 2, 3, 4, 5, 6, 7].filter((bit) => (byte >> bit) % 2 === 1).map((bit) => i * 8 + bit),
  );
}
