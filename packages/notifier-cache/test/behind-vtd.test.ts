/** Caches behind VT-d: a page that a device has written is never taken for clean, and a device TLB that the guest does not use is not stale. */
import { describe, expect, it } from "vitest";
import { Access, type AddressSpace, Translation } from "@iommu-kit/iommu-core";
import { CacheNotifier, DeviceTlb } from "@iommu-kit/notifier-cache";
import { VhostFrontEnd, VhostIotlb } from "@iommu-kit/notifier-cache/vhost-user";
import { WorkerCacheNotifier } from "@iommu-kit/notifier-cache/worker";
import { GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import { FakeBackEnd } from "./fake-back-end.js";

const NIC = "00:03.0";
const DIRTY_1 = 0x40;
const DIRTY_2 = 0x200;
/** Word of the shared block. */
const ANSWER_ACCESS = 9;

function firstStage() {
  const guest = new GuestDriver({ scalableMode: true, firstStage: "4-level", pasidWidth: 20 });
  guest.scalableContext(NIC, { pasids: true });
  const tables = guest.newFirstStageTables();
  tables.map(5, 1, 0x800);
  guest.pasid(NIC, 1, { did: 6, type: "first-stage", firstRootPfn: tables.rootPfn, fields: { PWSNP: 1 } });
  guest.start("scalable");
  return {
    space: guest.device(NIC, { pasid: 1 }),
    dirty: () => (guest.memory.peek(tables.entryGpa(5, 1)) & DIRTY_1) !== 0,
  };
}

function secondStage(flags: 0 | 1) {
  const guest = new GuestDriver({ scalableMode: true, secondStageFlags: true, pasidWidth: 20 });
  guest.scalableContext(NIC);
  guest.map(6, { iovaPfn: 5, gpaPfn: 0x800 });
  guest.pasid(NIC, 0, { did: 6, type: "second-stage", fields: { PWSNP: 1, SSADE: flags } });
  guest.start("scalable");
  return { space: guest.device(NIC), dirty: () => (guest.memory.peek(guest.tables(6).entryGpa(5, 1)) & DIRTY_2) !== 0 };
}

/** A vhost-user back-end with its IOTLB on this address space. */
async function vhostBackEnd(space: AddressSpace): Promise<FakeBackEnd> {
  const memory = new Uint8Array(0x900 * 4096);
  const backEnd = new FakeBackEnd({ memory });
  const frontEnd = new VhostFrontEnd({
    channel: backEnd.channel,
    backEnd: { channel: backEnd.requestChannel, peerFd: 42 },
  });
  await frontEnd.connect();
  await frontEnd.setMemory([{ gpa: 0, byteLength: memory.length, fd: 7 }]);
  space.attach(new VhostIotlb(space, frontEnd));
  return backEnd;
}

/** Lets the messages that are on their way arrive. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
}

describe.each([
  ["first-stage tables", firstStage],
  ["second-stage tables with SSADE", () => secondStage(1)],
] as const)("behind %s", (_name, make) => {
  it("a write to a page that was read is a miss, and sets the dirty flag", () => {
    const { space, dirty } = make();
    const cache = new CacheNotifier(space);
    space.attach(cache);
    const out = new Translation();
    cache.translate(5, Access.read, out);
    expect([cache.lookup(5, Access.read, out), cache.lookup(5, Access.write, out), dirty()]).toEqual([
      true,
      false,
      false,
    ]);
    expect([cache.translate(5, Access.write, out), dirty()]).toEqual([true, true]);
    expect(cache.lookup(5, Access.readWrite, out)).toBe(true);
  });

  it("a vhost-user back-end is given no right to write for a read: its write is a miss, and sets the dirty flag", async () => {
    const { space, dirty } = make();
    const backEnd = await vhostBackEnd(space);
    const iova = 5n * 4096n;

    expect(backEnd.dmaRead(iova, 4)).toBeUndefined();
    await settle();
    expect(backEnd.entries).toMatchObject([{ iova, perm: Access.read }]);
    expect([backEnd.dmaRead(iova, 4)?.length, dirty()]).toEqual([4, false]);

    expect(backEnd.dmaWrite(iova, Uint8Array.of(1))).toBe(false);
    await settle();
    expect(dirty()).toBe(true);
    expect(backEnd.entries).toMatchObject([{ iova, perm: Access.readWrite }]);
    expect(backEnd.dmaWrite(iova, Uint8Array.of(1))).toBe(true);
    expect(backEnd.broken).toEqual([]);
  });

  it("a worker is given no right to write for a read", () => {
    const { space } = make();
    let ask = (_message: unknown): void => undefined;
    const port = {
      postMessage: () => undefined,
      on: (_event: "message", listener: (message: unknown) => void) => void (ask = listener),
    };
    const asked: Access[] = [];
    const cache = new WorkerCacheNotifier(space, {
      port,
      entries: 16,
      fill: (iovaPfn, access, out) => {
        asked.push(access);
        return space.translate(iovaPfn, access, out);
      },
    });
    space.attach(cache);
    const rights = (access: Access): number => {
      ask({ tag: "@iommu-kit/notifier-cache", kind: "miss", id: 1, iovaPfn: 5, access });
      return new Int32Array(cache.setup.buffer)[ANSWER_ACCESS] ?? -1;
    };
    expect([rights(Access.read), rights(Access.write)]).toEqual([Access.read, Access.readWrite]);
    expect(asked).toEqual([Access.read, Access.write]);
  });
});

it("behind tables without flags one miss of a vhost-user back-end gives all rights of the mapping", async () => {
  const { space, dirty } = secondStage(0);
  const backEnd = await vhostBackEnd(space);
  backEnd.dmaRead(5n * 4096n, 4);
  await settle();
  expect(backEnd.entries).toMatchObject([{ perm: Access.readWrite }]);
  expect([backEnd.dmaWrite(5n * 4096n, Uint8Array.of(1)), dirty()]).toEqual([true, false]);
});

it("behind tables without flags one miss gives all rights of the mapping", () => {
  const { space, dirty } = secondStage(0);
  const cache = new CacheNotifier(space);
  space.attach(cache);
  const out = new Translation();
  cache.translate(5, Access.read, out);
  expect([cache.lookup(5, Access.readWrite, out), dirty()]).toEqual([true, false]);
});

it.each(["DTE in scalable mode", "TT in legacy mode"])(
  "a device TLB answers nothing stale after a completed wait without %s",
  (mode) => {
    const legacy = mode.startsWith("TT");
    const guest = new GuestDriver({ deviceTlb: true, scalableMode: !legacy });
    if (legacy) guest.context(NIC, { did: 1, fields: { TT: 1 } });
    else {
      guest.scalableContext(NIC, { fields: { DTE: 1 } });
      guest.pasid(NIC, 0, { did: 1, type: "second-stage" });
    }
    guest.start(legacy ? "legacy" : "scalable");
    guest.map(1, { iovaPfn: 0x10, gpaPfn: 0x1000 });
    const space = guest.device(NIC);
    const tlb = new DeviceTlb(space);
    space.attach(tlb);
    const out = new Translation();
    const setAts = (on: 0 | 1): void => {
      if (legacy) guest.context(NIC, { did: 1, fields: { TT: on } });
      else guest.scalableContext(NIC, { fields: { DTE: on } });
      guest.invalidate.contexts();
    };
    // With ATS the guest would invalidate the device TLB by name; it switches ATS off instead.
    expect(tlb.translate(0x10, Access.read, out)).toBe(true);
    guest.unmap(1, 0x10);
    guest.invalidate.page(1, 0x10);
    expect(tlb.lookup(0x10, Access.read, out)).toBe(true);
    setAts(0);
    expect(tlb.translate(0x10, Access.read, out)).toBe(false);
    guest.map(1, { iovaPfn: 0x10, gpaPfn: 0x2000 });
    guest.invalidate.page(1, 0x10);
    expect(guest.unit.ats(space).translate(0x10)[0]?.status).toBe("unsupported");
    expect(tlb.translate(0x10, Access.read, out)).toBe(true);
    guest.unmap(1, 0x10);
    expect(guest.invalidate.page(1, 0x10)).toBe(true);
    expect(tlb.translate(0x10, Access.read, out)).toBe(false);
  },
);

describe("behind pass-through", () => {
  const DID = 5;
  const NEAR = 0x10;
  /** In another 1 GiB block, which is how large the answers are. */
  const FAR = 2 ** 18 + NEAR;
  /** Where the entry leads once it has been changed. */
  const MOVED = 0x2000;
  const ALL = [false, false] as const;
  const NONE = [true, true] as const;

  /** What the named PASID, another of its domain, and one of another domain still hold of [NEAR, FAR]. */
  it.each([
    ["a page of the domain", (guest) => guest.invalidate.page(DID, NEAR), [[false, true], [false, true], NONE], false],
    ["the domain", (guest) => guest.invalidate.domain(DID), [ALL, ALL, NONE], false],
    ["a page of the PASID", (guest) => guest.invalidate.pasidPages(DID, 7, NEAR), [NONE, NONE, NONE], false],
    ["the PASID", (guest) => guest.invalidate.pasidAll(DID, 7), [ALL, NONE, NONE], false],
    ["the PASID's entry", (guest) => guest.invalidate.pasidEntry(DID, 7), [ALL, NONE, NONE], true],
    ["the domain's entries", (guest) => guest.invalidate.pasidEntriesOfDomain(DID), [ALL, ALL, NONE], true],
    ["every entry", (guest) => guest.invalidate.pasidEntries(), [ALL, ALL, ALL], true],
    ["every translation", (guest) => guest.invalidate.all(), [ALL, ALL, ALL], false],
  ] as const satisfies readonly (readonly [
    string,
    (guest: GuestDriver) => boolean,
    readonly (readonly [boolean, boolean])[],
    boolean,
  ])[])("a cache forgets, at an invalidation of %s, exactly what that names", (_name, send, holds, entry) => {
    const guest = new GuestDriver({ scalableMode: true, pasidWidth: 20 });
    guest.scalableContext(NIC, { pasids: true });
    const owners = [
      { pasid: 7, did: DID },
      { pasid: 8, did: DID },
      { pasid: 17, did: DID + 1 },
    ];
    for (const { pasid, did } of owners) guest.pasid(NIC, pasid, { did, type: "pass-through" });
    guest.start("scalable");
    const out = new Translation();
    const caches = owners.map(({ pasid }) => {
      const space = guest.device(NIC, { pasid });
      const cache = new CacheNotifier(space);
      space.attach(cache);
      for (const page of [NEAR, FAR]) expect(cache.translate(page, Access.write, out) && out.gpaPfn).toBe(page);
      return cache;
    });
    for (const { pasid, did } of owners) {
      for (const page of [NEAR, FAR]) guest.map(did, { iovaPfn: page, gpaPfn: MOVED + page });
      guest.pasid(NIC, pasid, { did, type: "second-stage" });
    }
    expect(send(guest)).toBe(true);
    const held = caches.map((cache) => [NEAR, FAR].map((page) => cache.lookup(page, Access.read, out)));
    expect(held).toEqual(holds);
    // What was forgotten is asked for again: by the new entry once its invalidation has named it, else by the one that the unit has cached.
    for (const [index, cache] of caches.entries()) {
      const forgot = entry && holds[index]?.[0] === false;
      expect(cache.translate(NEAR, Access.read, out) && out.gpaPfn).toBe(forgot ? MOVED + NEAR : NEAR);
    }
  });
});

describe("behind an entry that the guest changes in place, from domain 5 to domain 6,", () => {
  const PAGE = 0x10;
  const OTHER = 0x11;
  const OLD = 0x1000;
  const NEW = 0x2000;

  const MODES = {
    legacy: {
      make: (contextEntries: number) => new GuestDriver({ contextEntries }),
      enter: (guest: GuestDriver, did: number) => guest.context(NIC, { did }),
      clear: (guest: GuestDriver) => guest.contexts.clear(NIC),
      invalidate: (guest: GuestDriver, did: number) => guest.invalidate.context(NIC, did),
    },
    scalable: {
      make: (contextEntries: number) => {
        const guest = new GuestDriver({ scalableMode: true, secondStage: true, contextEntries });
        guest.scalableContext(NIC);
        return guest;
      },
      enter: (guest: GuestDriver, did: number) => guest.pasid(NIC, 0, { did, type: "second-stage" }),
      clear: (guest: GuestDriver) => guest.contexts.clearPasid(NIC, 0),
      invalidate: (guest: GuestDriver, did: number) => guest.invalidate.pasidEntry(did, 0),
    },
  } as const;

  /** A device with a cache, attached while its entry was there or while it was not. A unit without `contextEntries` looks at the entry for every request. */
  function behind(mode: keyof typeof MODES, attachedTo: "domain 5" | "nothing", contextEntries: number) {
    const { make, enter, clear, invalidate } = MODES[mode];
    const guest = make(contextEntries);
    for (const page of [PAGE, OTHER]) {
      guest.map(5, { iovaPfn: page, gpaPfn: OLD + page });
      guest.map(6, { iovaPfn: page, gpaPfn: NEW + page });
    }
    if (attachedTo === "domain 5") enter(guest, 5);
    guest.start(mode);
    const space = guest.device(NIC);
    const cache = new CacheNotifier(space);
    space.attach(cache);
    // Without caching mode nobody needs to be told of an entry that becomes present.
    if (attachedTo === "nothing") enter(guest, 5);
    const out = new Translation();
    const target = (page: number): number | undefined =>
      cache.translate(page, Access.read, out) ? out.gpaPfn : undefined;
    const held = (page: number): number | undefined => (cache.lookup(page, Access.read, out) ? out.gpaPfn : undefined);
    expect(target(PAGE)).toBe(OLD + PAGE);
    return {
      guest,
      space,
      target,
      held,
      enter: (did: number) => enter(guest, did),
      clear: () => clear(guest),
      invalidateEntry: (did: number) => expect(invalidate(guest, did)).toBe(true),
    };
  }

  const CASES = (["legacy", "scalable"] as const).flatMap((mode) =>
    (["domain 5", "nothing"] as const).flatMap((attachedTo) =>
      [256, 0].map((contextEntries) => [mode, attachedTo, contextEntries] as const),
    ),
  );

  describe.each(CASES)("in %s mode, attached to %s, with %i cached entries, a cache", (...how) => {
    it("holds nothing of the old domain when the guest has invalidated the entry and the domain", () => {
      const { guest, target, held, enter, invalidateEntry } = behind(...how);
      enter(6);
      target(OTHER);
      invalidateEntry(5);
      // The device goes on between the two.
      target(PAGE);
      guest.invalidate.domain(5);
      expect([undefined, NEW + PAGE]).toContain(held(PAGE));
      expect([undefined, NEW + OTHER]).toContain(held(OTHER));
      expect([target(PAGE), target(OTHER)]).toEqual([NEW + PAGE, NEW + OTHER]);
    });

    it("holds nothing at all when the entry has gone instead", () => {
      const { guest, target, held, clear, invalidateEntry } = behind(...how);
      clear();
      target(OTHER);
      invalidateEntry(5);
      target(PAGE);
      guest.invalidate.domain(5);
      expect([held(PAGE), held(OTHER), target(PAGE), target(OTHER)]).toEqual([
        undefined,
        undefined,
        undefined,
        undefined,
      ]);
    });

    it("of a device that was plugged in where another one has been holds nothing of the old domain either", () => {
      const { guest, space, enter, invalidateEntry } = behind(...how);
      void space.unplug();
      const next = guest.device(NIC);
      const cache = new CacheNotifier(next);
      next.attach(cache);
      const out = new Translation();
      const target = (page: number): number | undefined =>
        cache.translate(page, Access.read, out) ? out.gpaPfn : undefined;
      expect(target(PAGE)).toBe(OLD + PAGE);
      enter(6);
      target(OTHER);
      invalidateEntry(5);
      target(PAGE);
      guest.invalidate.domain(5);
      expect([undefined, NEW + PAGE]).toContain(cache.lookup(PAGE, Access.read, out) ? out.gpaPfn : undefined);
      expect([target(PAGE), target(OTHER)]).toEqual([NEW + PAGE, NEW + OTHER]);
    });

    it.each([
      ["when the guest had changed its entry before it was plugged in", false],
      ["when the host had looked at the domain of the one that is gone", true],
    ] as const)(
      "of a device that was plugged in where another one has been holds nothing of the old domain, %s",
      (_when, looks) => {
        const { guest, space, enter, invalidateEntry } = behind(...how);
        guest.unit.events.on("detach", () => looks && space.domain.label);
        const change = (): void => {
          enter(6);
          invalidateEntry(5);
        };
        if (!looks) change();
        void space.unplug();
        const next = guest.device(NIC);
        const cache = new CacheNotifier(next);
        next.attach(cache);
        const out = new Translation();
        cache.translate(PAGE, Access.read, out);
        const lease = next.dma.segments(PAGE * 4096, 4096, Access.read);
        lease!.onRecall = () => lease?.release();
        const old = lease?.segments[0]?.gpa === (OLD + PAGE) * 4096;
        expect(old).toBe(looks);
        if (looks) change();
        cache.translate(PAGE, Access.read, out);
        guest.unmap(5, PAGE);
        guest.invalidate.domain(5);
        expect([undefined, NEW + PAGE]).toContain(cache.lookup(PAGE, Access.read, out) ? out.gpaPfn : undefined);
        expect(lease?.valid).toBe(!old);
      },
    );

    it("and a lease hold no page of either that is invalidated before the entry is", () => {
      const { guest, space, target, held, enter } = behind(...how);
      const lease = space.dma.segments(PAGE * 4096, 4096, Access.read);
      lease!.onRecall = () => lease?.release();
      enter(6);
      target(OTHER);
      guest.unmap(5, PAGE);
      guest.unmap(6, OTHER);
      guest.invalidate.page(5, PAGE);
      expect([held(PAGE), lease?.valid]).toEqual([undefined, false]);
      guest.invalidate.page(6, OTHER);
      expect(held(OTHER)).not.toBe(NEW + OTHER);
    });
  });
});
