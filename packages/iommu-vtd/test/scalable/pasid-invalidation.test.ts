/**
 * Which cached translations and which views each invalidation of scalable mode reaches, for all four translation types (§6.5.2.1 to §6.5.2.4, Table 28).
 */

import { type AddressSpace, ALL_FRAMES, Translation } from "@iommu-kit/iommu-core";
import { RecordingFlushNotifier, RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { describe, expect, it } from "vitest";
import { type FirstStageTables, GuestDriver, type GuestOptions } from "../../src/testing/index.js";

const DEVICE = "00:03.0";
const DID = 5;
const OTHER_DID = 6;
const PASID = 7;
const OTHER_PASID = 8;
/** Two pages of every space, and where they go at first and later. */
const NEAR = 0x10;
const FAR = 0x400;
const OLD = 0x1000;
const NEW = 0x2000;
/** Guest-physical frames of nested leaves. */
const GUEST = 0x3000;

type Type = "first-stage" | "second-stage" | "nested" | "pass-through";

/** One PASID of the device with tables of its own, all under the names that invalidations use. */
class Subject {
  readonly space: AddressSpace;
  readonly #guest: GuestDriver;
  readonly #type: Type;
  readonly #did: number;
  readonly #pasid: number;
  readonly #first: FirstStageTables | undefined;

  constructor(guest: GuestDriver, type: Type, did: number, pasid: number) {
    this.#guest = guest;
    this.#type = type;
    this.#did = did;
    this.#pasid = pasid;
    const second = guest.tables(did);
    if (type === "first-stage" || type === "nested") this.#first = guest.newFirstStageTables();
    if (type === "nested") {
      // The second stage finds the first-stage tables where they are.
      second.map(0, 512 * 512, 0, 3, 512);
    }
    this.#point(OLD);
    guest.pasid(DEVICE, pasid, {
      did,
      type,
      ...(this.#first && { firstRootPfn: this.#first.rootPfn }),
      fields: { PWSNP: 1 },
    });
    this.space = guest.device(DEVICE, { pasid });
  }

  /** Makes the tables lead elsewhere, or, passed through, the entry to such tables; nobody is told. */
  move(): void {
    this.#point(NEW);
    if (this.#type === "pass-through")
      this.#guest.pasid(DEVICE, this.#pasid, { did: this.#did, type: "second-stage", fields: { PWSNP: 1 } });
  }

  #point(target: number): void {
    for (const page of [NEAR, FAR]) {
      if (this.#type === "second-stage" || this.#type === "pass-through") {
        this.#guest.tables(this.#did).map(page, 1, target + page, 3);
      } else {
        const frame = this.#type === "nested" ? GUEST + target + page : target + page;
        this.#first?.map(page, 1, frame, { writable: true, user: true });
      }
    }
  }

  /** Whether a page still leads where it led first. */
  isOld(page: number): boolean {
    const out = new Translation();
    expect(this.space.translate(page, 1, out), out.cause).toBe(true);
    const base = this.#type === "nested" ? GUEST : 0;
    expect([base + OLD + page, base + NEW + page]).toContain(out.gpaPfn);
    return out.gpaPfn === base + OLD + page;
  }
}

function start(options: GuestOptions = {}): GuestDriver {
  const guest = new GuestDriver({
    scalableMode: true,
    firstStage: "4-level",
    nested: true,
    pasidWidth: 20,
    requestPasid: true,
    cachingMode: true,
    ram: [{ firstPfn: 0, pageCount: 0x40000 }],
    ...options,
  });
  guest.scalableContext(DEVICE, { pasids: true });
  return guest;
}

interface Case {
  readonly name: string;
  readonly send: (guest: GuestDriver) => boolean;
  /** Which of [near page, far page] of the named PASID stay cached. */
  readonly keeps: readonly [boolean, boolean];
  /** The same for another PASID of the same domain. */
  readonly keepsOtherPasid: readonly [boolean, boolean];
}

const KEPT = [true, true] as const;
const DROPPED = [false, false] as const;
const NEAR_DROPPED = [false, true] as const;

const pageOfDomain = (guest: GuestDriver): boolean => guest.invalidate.page(DID, NEAR);
const domain = (guest: GuestDriver): boolean => guest.invalidate.domain(DID);
const pageOfPasid = (guest: GuestDriver): boolean => guest.invalidate.pasidPages(DID, PASID, NEAR);
const wholePasid = (guest: GuestDriver): boolean => guest.invalidate.pasidAll(DID, PASID);

const firstStageCases: readonly Case[] = [
  {
    name: "a page of the domain: everything of the domain",
    send: pageOfDomain,
    keeps: DROPPED,
    keepsOtherPasid: DROPPED,
  },
  { name: "the domain: everything of the domain", send: domain, keeps: DROPPED, keepsOtherPasid: DROPPED },
  {
    name: "a page of the PASID: that page of that PASID",
    send: pageOfPasid,
    keeps: NEAR_DROPPED,
    keepsOtherPasid: KEPT,
  },
  { name: "the PASID: everything of that PASID", send: wholePasid, keeps: DROPPED, keepsOtherPasid: KEPT },
];

const cases: Readonly<Record<Exclude<Type, "pass-through">, readonly Case[]>> = {
  "first-stage": firstStageCases,
  nested: firstStageCases,
  "second-stage": [
    { name: "a page of the domain: that page", send: pageOfDomain, keeps: NEAR_DROPPED, keepsOtherPasid: NEAR_DROPPED },
    { name: "the domain: everything of the domain", send: domain, keeps: DROPPED, keepsOtherPasid: DROPPED },
    { name: "a page of the PASID: nothing", send: pageOfPasid, keeps: KEPT, keepsOtherPasid: KEPT },
    { name: "the PASID: everything of that PASID", send: wholePasid, keeps: DROPPED, keepsOtherPasid: KEPT },
  ],
};

for (const type of ["first-stage", "second-stage", "nested"] as const) {
  describe(`cached ${type} translations`, () => {
    for (const { name, send, keeps, keepsOtherPasid } of cases[type]) {
      it(`drops on an invalidation of ${name}, and no other`, () => {
        const guest = start();
        const named = new Subject(guest, type, DID, PASID);
        const sibling = new Subject(guest, type, DID, OTHER_PASID);
        const stranger = new Subject(guest, type, OTHER_DID, PASID + 10);
        guest.start("scalable");
        const all = [named, sibling, stranger];
        for (const subject of all) for (const page of [NEAR, FAR]) expect(subject.isOld(page)).toBe(true);
        for (const subject of all) subject.move();
        expect(send(guest)).toBe(true);
        expect([named.isOld(NEAR), named.isOld(FAR)]).toEqual(keeps);
        expect([sibling.isOld(NEAR), sibling.isOld(FAR)]).toEqual(keepsOtherPasid);
        expect([stranger.isOld(NEAR), stranger.isOld(FAR)]).toEqual(KEPT);
      });
    }
  });

  describe(`a MAP notifier on a ${type} space`, () => {
    it("holds the combined translation, and follows a change by the difference", () => {
      const guest = start();
      const subject = new Subject(guest, type, DID, PASID);
      guest.start("scalable");
      const notifier = new RecordingNotifier({ granularity: "page" });
      subject.space.attach(notifier);
      const base = type === "nested" ? GUEST : 0;
      expect(notifier.lookup(NEAR)).toEqual({ gpaPfn: base + OLD + NEAR, access: 3 });
      expect(notifier.lookup(FAR)).toEqual({ gpaPfn: base + OLD + FAR, access: 3 });
      subject.move();
      notifier.calls.length = 0;
      expect(guest.invalidate.domain(DID)).toBe(true);
      expect(notifier.lookup(NEAR)).toEqual({ gpaPfn: base + NEW + NEAR, access: 3 });
      expect(notifier.calls.filter((call) => call.type === "unmap").map((call) => call.iovaPfn)).toEqual([NEAR, FAR]);
      notifier.check();
    });
  });
}

type Send = (guest: GuestDriver) => boolean;

const INVALIDATIONS = {
  "a page of the domain": pageOfDomain,
  "the domain": domain,
  "a page of the PASID": pageOfPasid,
  "the PASID": wholePasid,
  "the PASID's entry": (guest) => guest.invalidate.pasidEntry(DID, PASID),
  "the domain's PASID entries": (guest) => guest.invalidate.pasidEntriesOfDomain(DID),
  "every PASID entry": (guest) => guest.invalidate.pasidEntries(),
  "every translation": (guest) => guest.invalidate.all(),
} as const satisfies Readonly<Record<string, Send>>;

type Reach = "everything" | "the page" | "nothing";
/** How much is reached of the named PASID, of another one of its domain, and of one of another domain. */
type Reached = readonly [Reach, Reach, Reach];

const ENTRIES: Readonly<Record<string, Reached>> = {
  "the domain": ["everything", "everything", "nothing"],
  "the PASID": ["everything", "nothing", "nothing"],
  "the PASID's entry": ["everything", "nothing", "nothing"],
  "the domain's PASID entries": ["everything", "everything", "nothing"],
  "every PASID entry": ["everything", "everything", "everything"],
  "every translation": ["everything", "everything", "everything"],
};
const FIRST_STAGE_REACH: Readonly<Record<string, Reached>> = {
  ...ENTRIES,
  "a page of the domain": ["everything", "everything", "nothing"],
  "a page of the PASID": ["the page", "nothing", "nothing"],
};
const SECOND_STAGE_REACH: Readonly<Record<string, Reached>> = {
  ...ENTRIES,
  "a page of the domain": ["the page", "the page", "nothing"],
  "a page of the PASID": ["nothing", "nothing", "nothing"],
};
const REACH: Readonly<Record<Type, Readonly<Record<string, Reached>>>> = {
  "first-stage": FIRST_STAGE_REACH,
  nested: FIRST_STAGE_REACH,
  "second-stage": SECOND_STAGE_REACH,
  "pass-through": SECOND_STAGE_REACH,
};

for (const type of ["first-stage", "second-stage", "nested", "pass-through"] as const) {
  describe(`notifiers on ${type} spaces hear of an invalidation of`, () => {
    for (const [name, send] of Object.entries<Send>(INVALIDATIONS)) {
      const reached = REACH[type][name] ?? ["nothing", "nothing", "nothing"];
      it(`${name}: ${reached.join(", ")} for the named PASID, its sibling and a stranger`, () => {
        const guest = start();
        const subjects = [
          new Subject(guest, type, DID, PASID),
          new Subject(guest, type, DID, OTHER_PASID),
          new Subject(guest, type, OTHER_DID, PASID + 10),
        ];
        guest.start("scalable");
        const base = type === "nested" ? GUEST : 0;
        const held = subjects.map(({ space }) => {
          const [cache, mirror] = [new RecordingFlushNotifier(), new RecordingNotifier({ granularity: "page" })];
          space.attach(cache);
          space.attach(mirror);
          cache.take();
          return { cache, mirror };
        });
        for (const subject of subjects) subject.move();
        expect(send(guest)).toBe(true);
        const ranges = { everything: [ALL_FRAMES], "the page": [{ firstPfn: NEAR, pageCount: 1 }], nothing: [] };
        expect(held.map(({ cache }) => cache.take())).toEqual(reached.map((reach) => ranges[reach]));
        const pages = held.map(({ mirror }) => [NEAR, FAR].map((page) => (mirror.lookup(page)?.gpaPfn ?? -1) - page));
        // What passes through changes with its entry, so only with an invalidation of that.
        const entry = name.includes("entr");
        const [old, now] = type === "pass-through" ? [0, entry ? NEW : 0] : [base + OLD, base + NEW];
        const after = { everything: [now, now], "the page": [now, old], nothing: [old, old] };
        expect(pages).toEqual(reached.map((reach) => after[reach]));
        for (const { mirror } of held) mirror.check();
      });
    }
  });
}

describe("a PASID entry that changes", () => {
  it("is seen when the PASID cache is told, and not before; only differences are announced", () => {
    const guest = start();
    const subject = new Subject(guest, "second-stage", DID, PASID);
    guest.start("scalable");
    const notifier = new RecordingNotifier({ granularity: "page" });
    subject.space.attach(notifier);
    expect(subject.isOld(NEAR)).toBe(true);
    // Another table under another domain-id: one page the same, one elsewhere.
    guest.map(OTHER_DID, { iovaPfn: NEAR, gpaPfn: OLD + NEAR });
    guest.map(OTHER_DID, { iovaPfn: FAR, gpaPfn: 0x77 });
    guest.pasid(DEVICE, PASID, { did: OTHER_DID, type: "second-stage", fields: { PWSNP: 1 } });
    notifier.calls.length = 0;
    expect(guest.invalidate.domain(DID)).toBe(true);
    expect(notifier.calls).toEqual([]);
    expect(guest.invalidate.pasidEntry(DID, PASID)).toBe(true);
    const told = notifier.calls.filter((call) => call.type === "map" || call.type === "unmap");
    expect(told.map(({ type, iovaPfn, pageCount }) => [type, iovaPfn, pageCount])).toEqual([
      ["unmap", FAR, 1],
      ["map", FAR, 1],
    ]);
    notifier.check();
  });

  it("from tables to pass-through is the difference to the identity mapping", () => {
    const guest = start();
    const subject = new Subject(guest, "second-stage", DID, PASID);
    guest.map(DID, { iovaPfn: 0x99, gpaPfn: 0x99 });
    guest.start("scalable");
    const notifier = new RecordingNotifier({ granularity: "page" });
    subject.space.attach(notifier);
    guest.pasid(DEVICE, PASID, { did: OTHER_DID, type: "pass-through" });
    notifier.calls.length = 0;
    expect(guest.invalidate.pasidEntry(DID, PASID)).toBe(true);
    const unmapped = notifier.calls.filter((call) => call.type === "unmap").map((call) => call.iovaPfn);
    expect(unmapped).not.toContain(0x99);
    expect(notifier.lookup(0x99)).toEqual({ gpaPfn: 0x99, access: 3 });
    expect(notifier.lookup(NEAR)).toEqual({ gpaPfn: NEAR, access: 3 });
    notifier.check();
  });

  for (const [name, send, reached] of [
    ["the PASID", (guest: GuestDriver) => guest.invalidate.pasidEntry(DID, PASID), [true, false]],
    ["the domain", (guest: GuestDriver) => guest.invalidate.pasidEntriesOfDomain(DID), [true, true]],
    ["everything", (guest: GuestDriver) => guest.invalidate.pasidEntries(), [true, true]],
    ["another domain", (guest: GuestDriver) => guest.invalidate.pasidEntriesOfDomain(OTHER_DID), [false, false]],
    [
      "the PASID in another domain",
      (guest: GuestDriver) => guest.invalidate.pasidEntry(OTHER_DID, PASID),
      [false, false],
    ],
  ] as const) {
    it(`for pass-through, is dropped by a PASID-cache invalidation of ${name} exactly where that reaches`, () => {
      const guest = start();
      for (const pasid of [PASID, OTHER_PASID]) guest.pasid(DEVICE, pasid, { did: DID, type: "pass-through" });
      guest.start("scalable");
      const spaces = [PASID, OTHER_PASID].map((pasid) => guest.device(DEVICE, { pasid }));
      const out = new Translation();
      for (const space of spaces) expect(space.translate(NEAR, 1, out)).toBe(true);
      for (const pasid of [PASID, OTHER_PASID]) guest.contexts.clearPasid(DEVICE, pasid);
      expect(send(guest)).toBe(true);
      expect(spaces.map((space) => !space.translate(NEAR, 1, out))).toEqual(reached);
    });
  }

  it("leaves pass-through translations alone when only the IOTLB is told of pages or PASIDs", () => {
    const guest = start();
    guest.pasid(DEVICE, PASID, { did: DID, type: "pass-through" });
    guest.start("scalable");
    const space = guest.device(DEVICE, { pasid: PASID });
    const out = new Translation();
    expect(space.translate(NEAR, 1, out)).toBe(true);
    guest.contexts.clearPasid(DEVICE, PASID);
    for (const send of [pageOfDomain, domain, pageOfPasid, wholePasid]) expect(send(guest)).toBe(true);
    expect(space.translate(NEAR, 1, out)).toBe(true);
  });
});

describe("an address space that is refused", () => {
  const OTHER_DEVICE = "00:05.0";

  /** Two PASIDs of two devices, both without an entry, each with a cache and a mirror. */
  function refused(options: { readonly cachingMode?: boolean; readonly contextEntries?: number } = {}) {
    const guest = start(options);
    guest.scalableContext(OTHER_DEVICE, { pasids: true });
    // The second one's directory and table exist, its entry does not.
    guest.pasid(OTHER_DEVICE, PASID, { did: OTHER_DID, type: "second-stage", fields: { PWSNP: 1 } });
    guest.contexts.clearPasid(OTHER_DEVICE, PASID);
    guest.map(OTHER_DID, { iovaPfn: NEAR, gpaPfn: NEW });
    guest.start("scalable");
    const space = guest.device(OTHER_DEVICE, { pasid: OTHER_PASID });
    const cache = new RecordingFlushNotifier();
    space.attach(cache);
    cache.take();
    const present = (did: number): void =>
      guest.pasid(OTHER_DEVICE, OTHER_PASID, { did, type: "second-stage", fields: { PWSNP: 1 } });
    return { guest, space, cache, present };
  }

  it.each([
    ["of another PASID", (guest: GuestDriver) => guest.invalidate.pasidEntry(OTHER_DID, PASID)],
    ["of its PASID in another domain", (guest: GuestDriver) => guest.invalidate.pasidEntry(DID, OTHER_PASID)],
    ["of another domain's PASID entries", (guest: GuestDriver) => guest.invalidate.pasidEntriesOfDomain(DID)],
    ["of a domain's translations", (guest: GuestDriver) => guest.invalidate.domain(DID)],
  ] as const)("hears of no invalidation %s, even when its entry has become present", (_name, send) => {
    const { guest, space, cache, present } = refused();
    expect(send(guest)).toBe(true);
    expect(cache.take()).toEqual([]);
    const mirror = new RecordingNotifier({ granularity: "page" });
    space.attach(mirror);
    present(OTHER_DID);
    expect(send(guest)).toBe(true);
    expect(cache.take()).toEqual([]);
    expect(mirror.lookup(NEAR)).toBeUndefined();
  });

  it.each([
    ["its PASID under its new domain-id", (guest: GuestDriver) => guest.invalidate.pasidEntry(OTHER_DID, OTHER_PASID)],
    ["its PASID under domain-id 0", (guest: GuestDriver) => guest.invalidate.pasidEntry(0, OTHER_PASID)],
    ["the PASID entries of its new domain", (guest: GuestDriver) => guest.invalidate.pasidEntriesOfDomain(OTHER_DID)],
    ["the PASID entries of domain-id 0", (guest: GuestDriver) => guest.invalidate.pasidEntriesOfDomain(0)],
    ["every PASID entry", (guest: GuestDriver) => guest.invalidate.pasidEntries()],
  ] as const)("is brought to its new tables by an invalidation that names %s", (_name, send) => {
    const { guest, space, cache, present } = refused();
    const mirror = new RecordingNotifier({ granularity: "page" });
    space.attach(mirror);
    present(OTHER_DID);
    expect(send(guest)).toBe(true);
    expect(cache.take()).toEqual([ALL_FRAMES]);
    expect(mirror.lookup(NEAR)).toEqual({ gpaPfn: NEW, access: 3 });
  });

  it.each([1024, 0])(
    "hears when an entry goes that became present unannounced, without caching mode and with %i cached entries",
    (contextEntries) => {
      const { guest, space, cache, present } = refused({ cachingMode: false, contextEntries });
      present(OTHER_DID);
      const out = new Translation();
      expect(space.translate(NEAR, 1, out)).toBe(true);
      guest.contexts.clearPasid(OTHER_DEVICE, OTHER_PASID);
      expect(guest.invalidate.pasidEntriesOfDomain(OTHER_DID)).toBe(true);
      expect(cache.take()).toEqual([ALL_FRAMES]);
    },
  );

  it("without PASID is named by RID_PASID", () => {
    const { guest } = refused();
    guest.scalableContext(OTHER_DEVICE, { pasids: true, requestPasid: PASID });
    guest.invalidate.contexts();
    const mirror = new RecordingNotifier({ granularity: "page" });
    guest.device(OTHER_DEVICE).attach(mirror);
    guest.pasid(OTHER_DEVICE, PASID, { did: OTHER_DID, type: "second-stage", fields: { PWSNP: 1 } });
    expect(guest.invalidate.pasidEntry(OTHER_DID, OTHER_PASID)).toBe(true);
    expect(mirror.lookup(NEAR)).toBeUndefined();
    expect(guest.invalidate.pasidEntry(OTHER_DID, PASID)).toBe(true);
    expect(mirror.lookup(NEAR)).toEqual({ gpaPfn: NEW, access: 3 });
  });
});

describe("an invalidation of a PASID", () => {
  for (const [name, send] of [
    ["its translations", wholePasid],
    ["a page of them", pageOfPasid],
    ["its entry", (guest: GuestDriver) => guest.invalidate.pasidEntry(DID, PASID)],
  ] as const) {
    it(`(${name}) does not concern the same PASID in another domain`, () => {
      const guest = start();
      const other = "00:04.0";
      guest.scalableContext(other, { pasids: true });
      const tables = guest.newFirstStageTables();
      tables.map(NEAR, 1, OLD, { writable: true, user: true });
      const entry = { type: "first-stage", firstRootPfn: tables.rootPfn, fields: { PWSNP: 1 } } as const;
      guest.pasid(DEVICE, PASID, { did: DID, ...entry });
      guest.pasid(other, PASID, { did: OTHER_DID, ...entry });
      guest.start("scalable");
      const [named, stranger] = [DEVICE, other].map((device) => {
        const cache = new RecordingFlushNotifier();
        const space = guest.device(device, { pasid: PASID });
        space.attach(cache);
        cache.take();
        const out = new Translation();
        expect(space.translate(NEAR, 1, out)).toBe(true);
        return { cache, target: () => (space.translate(NEAR, 1, out) ? out.gpaPfn : -1) };
      });
      tables.map(NEAR, 1, NEW, { writable: true, user: true });
      expect(send(guest)).toBe(true);
      expect(named?.cache.take()).toHaveLength(1);
      expect(stranger?.cache.take()).toEqual([]);
      expect(stranger?.target()).toBe(OLD);
    });
  }
});

describe("requests without PASID", () => {
  it("go through the entry of RID_PASID, and are invalidated under that PASID", () => {
    const guest = start();
    guest.scalableContext(DEVICE, { pasids: true, requestPasid: PASID });
    const tables = guest.newFirstStageTables();
    tables.map(NEAR, 1, OLD, { writable: true, user: true });
    guest.pasid(DEVICE, PASID, { did: DID, type: "first-stage", firstRootPfn: tables.rootPfn, fields: { PWSNP: 1 } });
    guest.start("scalable");
    const space = guest.device(DEVICE);
    const out = new Translation();
    expect(space.translate(NEAR, 1, out) && out.gpaPfn).toBe(OLD);
    tables.map(NEAR, 1, NEW, { writable: true, user: true });
    guest.invalidate.pasidPages(DID, OTHER_PASID, NEAR);
    expect(space.translate(NEAR, 1, out) && out.gpaPfn).toBe(OLD);
    guest.invalidate.pasidPages(DID, PASID, NEAR);
    expect(space.translate(NEAR, 1, out) && out.gpaPfn).toBe(NEW);
  });

  it("share one view with those of another device under the same PASID entry's tables", () => {
    const guest = start();
    for (const device of [DEVICE, "00:04.0"]) {
      guest.scalableContext(device, {});
      guest.pasid(device, 0, { did: DID, type: "second-stage", fields: { PWSNP: 1 } });
    }
    guest.map(DID, { iovaPfn: NEAR, gpaPfn: OLD });
    guest.start("scalable");
    const notifiers = [DEVICE, "00:04.0"].map((device) => {
      const notifier = new RecordingNotifier({ granularity: "page" });
      guest.device(device).attach(notifier);
      return notifier;
    });
    guest.memory.counters.reads = 0;
    guest.memory.counters.fetches = 0;
    guest.invalidate.domain(DID);
    const together = guest.memory.counters.fetches + guest.memory.counters.reads;
    for (const notifier of notifiers) expect(notifier.lookup(NEAR)).toEqual({ gpaPfn: OLD, access: 3 });
    // Four tables and the queue: a scan for each device would read twice as many.
    expect(together).toBeLessThan(10);
  });
});

describe("a PASID entry that is exchanged, on a unit that keeps none", () => {
  it("leaves nothing of its old domain in a cache, although pages of that were invalidated in between", () => {
    const guest = new GuestDriver({ scalableMode: true, contextEntries: 0 });
    guest.scalableContext(DEVICE, {});
    guest.pasid(DEVICE, 0, { did: DID, type: "second-stage" });
    guest.start("scalable");
    const cache = new RecordingFlushNotifier();
    guest.device(DEVICE).attach(cache);
    cache.take();
    guest.pasid(DEVICE, 0, { did: OTHER_DID, type: "second-stage" });
    guest.invalidate.page(DID, FAR);
    guest.invalidate.pasidEntry(DID, 0);
    guest.invalidate.domain(DID);
    expect(cache.take()).toContainEqual(ALL_FRAMES);
  });

  it("is not gone for the guest before a cache has let go of it, also where the arrival of another consumer has found the exchange", async () => {
    const guest = new GuestDriver({ scalableMode: true, contextEntries: 0 });
    guest.scalableContext(DEVICE, {});
    guest.pasid(DEVICE, 0, { did: DID, type: "second-stage" });
    guest.start("scalable");
    const slow = new RecordingFlushNotifier();
    guest.device(DEVICE).attach(slow);
    slow.answers.mode = "manual";
    guest.pasid(DEVICE, 0, { did: OTHER_DID, type: "second-stage" });
    guest.device(DEVICE).attach(new RecordingFlushNotifier());
    for (const invalidate of [() => guest.invalidate.pasidEntry(DID, 0), () => guest.invalidate.domain(DID)]) {
      invalidate();
      await guest.scheduler.idle();
      expect(guest.queue.completed).toBe(false);
    }
    slow.answers.mode = "sync";
    slow.answers.settle();
    await guest.scheduler.idle();
    expect(guest.queue.completed).toBe(true);
  });
});
