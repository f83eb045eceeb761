/**
 * Table 30 of scalable mode, row by row: what an untranslated request, a translation request and a page request are told, and what is recorded (§7.1.3).
 */

import { type AddressSpace, Translation } from "@iommu-kit/iommu-core";
import { FaultReason, faultName, isQualified, type PageResponse } from "@iommu-kit/iommu-vtd";
import { GuestDriver, type GuestOptions } from "@iommu-kit/iommu-vtd/testing";
import { describe, expect, it } from "vitest";
import { absentReasons } from "../capabilities/why-not.js";

const NIC = "00:03.0";
const PASID = 5;
const PFN = 0x10;
const TARGET = 0x800;
const EMPTY = 2 ** 30;

const CONFIG: GuestOptions = {
  scalableMode: true,
  firstStage: "4-level",
  nested: true,
  secondStageFlags: true,
  pasidWidth: 16,
  requestPasid: true,
  supervisorRequests: true,
  deviceTlb: true,
  pageRequests: true,
  translatedWithPasid: true,
  faultRecords: 8,
  iotlbEntries: 0,
  contextEntries: 0,
};

type Type = "first-stage" | "second-stage" | "nested" | "pass-through";

/** A device whose PASID 5 leads PFN to TARGET; nested, the second stage maps tables and target onto themselves. */
class Rig {
  readonly guest: GuestDriver;
  space: AddressSpace;
  pfn = PFN;
  readonly first;
  readonly second;

  constructor(type: Type = "first-stage", options: GuestOptions = {}) {
    this.guest = new GuestDriver({ ...CONFIG, ...options });
    const { guest } = this;
    this.first = guest.newFirstStageTables();
    this.first.map(PFN, 1, TARGET);
    this.second = guest.tables(2);
    this.second.map(PFN, 1, TARGET);
    this.second.map(TARGET, 1, TARGET);
    this.second.map(0x20000, 512, 0x20000);
    this.context();
    this.entry(type);
    guest.start("scalable");
    this.space = guest.device(NIC, { pasid: PASID });
    guest.unit.mmio.write64(0xd0, BigInt(guest.newFrame()) * 4096n);
  }

  context(fields: Record<string, number> = {}): void {
    this.guest.scalableContext(NIC, { pasids: true, fields: { DTE: 1, PRE: 1, EPTR: 1, RID_PASID: 1, ...fields } });
  }

  entry(type: Type, fields: Record<string, number> = {}): void {
    const firstRootPfn = type === "first-stage" || type === "nested" ? this.first.rootPfn : 0;
    this.guest.pasid(NIC, PASID, { did: 2, type, firstRootPfn, fields: { PWSNP: 1, ...fields } });
  }

  as(options: { readonly pasid?: number; readonly privileged?: boolean; readonly execute?: boolean }): void {
    this.space = this.guest.device(NIC, { pasid: PASID, ...options });
  }

  /** Flips a bit of a 64-bit entry. */
  flip(gpa: number, bit: number): void {
    const at = gpa + (bit >> 5) * 4;
    this.guest.memory.poke(at, this.guest.memory.peek(at) ^ (1 << (bit & 31)));
  }

  poison(gpa: number): void {
    this.guest.memory.poison(Math.floor(gpa / 4096));
  }

  /** Makes the first-stage table of a level read-only in a second stage that keeps flags. */
  protectWithFlags(level: number): void {
    this.entry("nested", { SSADE: 1 });
    this.protect(this.first.entryGpa(PFN, level));
  }

  /** Makes a page of the guest read-only in the second stage. */
  protect(gpa: number): void {
    const pfn = Math.floor(gpa / 4096);
    this.second.map(pfn, 1, pfn, 1);
  }
}

const second = (): Rig => new Rig("second-stage");
const nested = (): Rig => new Rig("nested");
const plain = (options?: GuestOptions): Rig => new Rig("first-stage", options);

/** Makes a rig and spoils it. */
type Spoil = () => Rig;
/** What a translation request is answered: unsupported request, completer abort, success without or with the remaining rights. */
type Answer = "UR" | "CA" | "S0" | "Seff" | "-";
/** Whether a page request is refused, or queued because the check comes later. */
type Page = "IR" | "queued" | "-";

function spoiled(make: () => Rig, spoil: (rig: Rig) => void): Spoil {
  return () => {
    const rig = make();
    spoil(rig);
    return rig;
  };
}

const rows: readonly (readonly [keyof typeof FaultReason, Spoil, Answer, Page])[] = [
  ["RTA_1_1", spoiled(plain, ({ guest }) => guest.setRoot("abort")), "CA", "IR"],
  ["RTA_1_2", spoiled(plain, ({ guest }) => guest.setRoot("reserved")), "CA", "IR"],
  ["RTA_2", spoiled(plain, ({ guest }) => guest.setRoot("legacy")), "UR", "-"],
  [
    "RTA_4",
    spoiled(
      () => plain({ abortDma: true }),
      ({ guest }) => guest.setRoot("abort"),
    ),
    "UR",
    "IR",
  ],
  [
    "RTA_5",
    spoiled(
      () => plain({ version: { major: 8, minor: 0 } }),
      (rig) => rig.as({ execute: true }),
    ),
    "UR",
    "queued",
  ],
  ["SRT_1", spoiled(plain, (rig) => rig.poison(rig.guest.contexts.scalableRootEntryGpa(NIC))), "CA", "IR"],
  ["SRT_2", spoiled(plain, (rig) => rig.flip(rig.guest.contexts.scalableRootEntryGpa(NIC), 0)), "UR", "IR"],
  ["SRT_3", spoiled(plain, (rig) => rig.flip(rig.guest.contexts.scalableRootEntryGpa(NIC), 1)), "CA", "IR"],
  ["SCT_1", spoiled(plain, (rig) => rig.poison(rig.guest.contexts.scalableContextEntryGpa(NIC))), "CA", "IR"],
  ["SCT_2", spoiled(plain, (rig) => rig.flip(rig.guest.contexts.scalableContextEntryGpa(NIC), 0)), "UR", "IR"],
  ["SCT_3", spoiled(plain, (rig) => rig.flip(rig.guest.contexts.scalableContextEntryGpa(NIC), 7)), "CA", "IR"],
  ["SCT_4_1", spoiled(plain, (rig) => rig.context({ DTE: 0 })), "CA", "IR"],
  ["SCT_4_2", spoiled(plain, (rig) => rig.context({ RID_PASID: 2 ** 13 })), "CA", "IR"],
  ["SCT_4_3", spoiled(plain, (rig) => rig.context({ PASIDE: 0 })), "CA", "IR"],
  ["SCT_6", spoiled(plain, (rig) => rig.context({ PASIDE: 0, EPTR: 0 })), "UR", "IR"],
  ["SCT_7", spoiled(plain, (rig) => rig.as({ pasid: 2 ** 13 })), "UR", "IR"],
  ["SCT_9", spoiled(plain, (rig) => rig.as({ pasid: 1 })), "UR", "IR"],
  ["SGN_10", spoiled(plain, (rig) => rig.as({ pasid: 2 ** 16 })), "UR", "IR"],
  ["SPD_1", spoiled(plain, (rig) => rig.poison(rig.guest.contexts.directoryEntryGpa(NIC, PASID))), "CA", "IR"],
  ["SPD_2", spoiled(plain, (rig) => rig.flip(rig.guest.contexts.directoryEntryGpa(NIC, PASID), 0)), "S0", "IR"],
  ["SPD_3", spoiled(plain, (rig) => rig.flip(rig.guest.contexts.directoryEntryGpa(NIC, PASID), 2)), "CA", "IR"],
  ["SPT_1", spoiled(plain, (rig) => rig.poison(rig.guest.contexts.pasidEntryGpa(NIC, PASID))), "CA", "IR"],
  ["SPT_2", spoiled(plain, (rig) => rig.flip(rig.guest.contexts.pasidEntryGpa(NIC, PASID), 0)), "S0", "IR"],
  ["SPT_3", spoiled(plain, (rig) => rig.flip(rig.guest.contexts.pasidEntryGpa(NIC, PASID), 5)), "CA", "IR"],
  ["SPT_4_1", spoiled(second, (rig) => rig.entry("second-stage", { AW: 4 })), "CA", "IR"],
  ["SPT_4_2", spoiled(plain, (rig) => rig.entry("first-stage", { PGTT: 5 })), "CA", "IR"],
  ["SPT_4_3", spoiled(plain, (rig) => rig.entry("first-stage", { FSPM: 1 })), "CA", "IR"],
  ["SPT_4_4", spoiled(nested, (rig) => rig.entry("nested", { FSPTPTR: 2 ** 35, AW: 1 })), "CA", "IR"],
  ["SPT_5", spoiled(plain, (rig) => rig.as({ execute: true })), "S0", "queued"],
  ["SPT_6", spoiled(plain, (rig) => rig.as({ privileged: true })), "S0", "queued"],
  ["SFS_1", spoiled(plain, (rig) => rig.poison(rig.first.entryGpa(PFN, 1))), "S0", "queued"],
  ["SFS_2", spoiled(plain, (rig) => rig.flip(rig.first.entryGpa(PFN, 1), 0)), "S0", "queued"],
  ["SFS_3", spoiled(plain, (rig) => rig.flip(rig.first.entryGpa(PFN, 1), 50)), "S0", "queued"],
  ["SFS_4", spoiled(plain, (rig) => rig.poison(rig.first.entryGpa(PFN, 4))), "S0", "queued"],
  [
    "SFS_5",
    spoiled(
      () => new Rig("nested", { maximumGuestAddressWidth: 39 }),
      (rig) => rig.flip(rig.first.entryGpa(PFN, 2), 39),
    ),
    "S0",
    "queued",
  ],
  ["SFS_6", spoiled(nested, (rig) => rig.protectWithFlags(4)), "S0", "queued"],
  ["SFS_7", spoiled(nested, (rig) => rig.protectWithFlags(1)), "S0", "queued"],
  ["SFS_8", spoiled(nested, (rig) => rig.protect(rig.first.entryGpa(PFN, 1))), "S0", "queued"],
  ["SFS_9", spoiled(plain, (rig) => rig.entry("first-stage", { PWSNP: 0 })), "S0", "queued"],
  ["SFS_10", spoiled(plain, ({ guest }) => (guest.memory.compareExchange = () => false)), "S0", "queued"],
  ["SSS_1", spoiled(second, (rig) => rig.poison(rig.second.entryGpa(PFN, 1))), "CA", "queued"],
  ["SSS_2", spoiled(second, (rig) => (rig.pfn = PFN + 1)), "S0", "queued"],
  ["SSS_3", spoiled(second, (rig) => rig.flip(rig.second.entryGpa(PFN, 1), 62)), "CA", "queued"],
  ["SSS_4", spoiled(second, (rig) => rig.poison(rig.second.entryGpa(PFN, 4))), "CA", "queued"],
  ["SSS_5", spoiled(second, (rig) => rig.entry("second-stage", { SSADE: 1, PWSNP: 0 })), "CA", "queued"],
  [
    "SSS_6",
    spoiled(second, (rig) => {
      rig.entry("second-stage", { SSADE: 1 });
      rig.guest.memory.compareExchange = () => false;
    }),
    "CA",
    "queued",
  ],
  ["SGN_1", spoiled(plain, (rig) => (rig.pfn = 2 ** 36)), "S0", "queued"],
  ["SGN_2", spoiled(plain, (rig) => rig.flip(rig.first.entryGpa(PFN, 2), 2)), "S0", "queued"],
  [
    "SGN_4_2",
    spoiled(
      () => new Rig("pass-through"),
      (rig) => (rig.pfn = 2 ** 36),
    ),
    "S0",
    "queued",
  ],
  ["SGN_5", spoiled(second, (rig) => (rig.pfn = 2 ** 36)), "S0", "queued"],
  ["SGN_6", spoiled(plain, (rig) => rig.flip(rig.first.entryGpa(PFN, 1), 1)), "Seff", "queued"],
  ["SGN_7", spoiled(second, (rig) => rig.flip(rig.second.entryGpa(PFN, 1), 0)), "Seff", "queued"],
  ["SGN_8_1", spoiled(plain, ({ first }) => first.map(PFN, 1, 0xfee00)), "-", "queued"],
];

/** Conditions that only one kind of request can meet: tested with ATS and page requests, and in open-points. */
const ELSEWHERE = ["RTA_1_3", "RTA_3", "SCT_5", "SCT_8", "SCT_10", "SGN_4_1", "SGN_8_2", "SGN_8_3"];

/** The right that the row's condition takes away. */
function accessOf(name: string): 1 | 2 {
  return name === "SGN_6" ? 2 : 1;
}

/** What the device hears at once. */
async function heard(promise: Promise<PageResponse>): Promise<PageResponse | "queued"> {
  const later = Promise.resolve().then(() => Promise.resolve("queued" as const));
  return Promise.race([promise, later]);
}

describe("fault conditions of scalable mode", () => {
  it("are all here", () => {
    const all = Object.keys(FaultReason).filter((name) => /^(RTA|S[A-Z]+)_/.test(name) && !(name in absentReasons));
    expect([...rows.map(([name]) => name), ...ELSEWHERE].toSorted()).toEqual(all.toSorted());
  });

  for (const [name, make] of rows) {
    const reason = FaultReason[name];
    it(`${faultName(reason)} refuses an untranslated request, and is recorded with PASID and flags`, () => {
      const { guest, space, pfn } = make();
      const out = new Translation();
      expect(space.translate(pfn, accessOf(name), out)).toBe(false);
      expect(out.cause).toBe(faultName(reason));
      expect(guest.faults()).toMatchObject([
        {
          reason: reason & 0xff,
          page: pfn,
          type: accessOf(name) === 2 ? 0 : 2,
          pasid: space.pasid,
          privileged: space.privileged,
          execute: space.execute,
        },
      ]);
    });
  }

  for (const [name, make, answer] of rows.filter((row) => row[2] !== "-")) {
    const reason = FaultReason[name];
    it(`${faultName(reason)} answers a translation request with ${answer}`, () => {
      const { guest, space, pfn } = make();
      const [completion] = guest.unit.ats(space).translate(pfn);
      const status = answer === "UR" ? "unsupported" : answer === "CA" ? "abort" : "success";
      expect(completion?.status).toBe(status);
      expect(completion?.access).toBe(answer === "Seff" ? 3 - accessOf(name) : 0);
      const recorded = status !== "success" || name === "SFS_10";
      expect(guest.faults().map((fault) => fault.reason)).toEqual(recorded ? [reason & 0xff] : []);
    });
  }

  for (const [name, make, , page] of rows.filter((row) => row[3] !== "-")) {
    const reason = FaultReason[name];
    it(`${faultName(reason)} ${page === "IR" ? "refuses" : "does not concern"} a page request`, async () => {
      const { guest, space, pfn } = make();
      const response = await heard(guest.unit.ats(space).requestPage({ iovaPfn: pfn }));
      expect(response).toBe(page === "IR" ? "invalid" : "queued");
      expect(guest.unit.mmio.read32(0xc8) / 32).toBe(page === "IR" ? 0 : 1);
      expect(guest.faults().map((fault) => fault.reason)).toEqual(page === "IR" ? [reason & 0xff] : []);
    });
  }
});

/** Where FPD can be set, by the bit's place. */
const FPD = {
  context: (rig: Rig) => rig.flip(rig.guest.contexts.scalableContextEntryGpa(NIC), 1),
  directory: (rig: Rig) => rig.flip(rig.guest.contexts.directoryEntryGpa(NIC, PASID), 1),
  table: (rig: Rig) => rig.flip(rig.guest.contexts.pasidEntryGpa(NIC, PASID), 1),
} as const;
/** The first reason that is found behind the entry. */
const READ_BEFORE = { context: "SCT", directory: "SPD", table: "SPT" } as const;

describe("FPD", () => {
  for (const place of ["context", "directory", "table"] as const) {
    it(`in the ${place} entry keeps qualified faults behind it from being recorded, and no other`, () => {
      let silent = 0;
      for (const [name, make] of rows) {
        const rig = make();
        FPD[place](rig);
        const out = new Translation();
        const done = rig.space.translate(rig.pfn, accessOf(name), out);
        // A PASID or an entry of another place has an FPD of its own.
        if (done || out.cause !== faultName(FaultReason[name])) continue;
        const reached = readsEntry(name, READ_BEFORE[place]);
        const suppressed = reached && isQualified(FaultReason[name]);
        silent += suppressed ? 1 : 0;
        expect([name, rig.guest.faults().length]).toEqual([name, suppressed ? 0 : 1]);
      }
      expect(silent).toBeGreaterThan(10);
    });

    it(`in the ${place} entry is remembered with the entry by the caches`, () => {
      const rig = new Rig("second-stage", { contextEntries: 16, iotlbEntries: 64 });
      FPD[place](rig);
      const out = new Translation();
      expect(rig.space.translate(PFN, 1, out)).toBe(true);
      FPD[place](rig);
      expect(rig.space.translate(EMPTY, 1, out)).toBe(false);
      expect(rig.guest.faults()).toEqual([]);
    });
  }
});

/** Order in which a request meets the structures. */
const ORDER = ["RTA", "SRT", "SCT", "SGN_10", "SPD", "SPT", "SFS", "SSS", "SGN"];

/** Whether the condition is found with or behind an entry of this kind. */
function readsEntry(name: string, kind: "SCT" | "SPD" | "SPT"): boolean {
  if (name === "SGN_10") return kind === "SCT";
  if (["SCT_6", "SCT_7", "SCT_9"].includes(name)) return kind === "SCT";
  if (name === `${kind}_1`) return false;
  return ORDER.indexOf(name.slice(0, 3)) >= ORDER.indexOf(kind);
}
