/**
 * Table 30 of scalable mode, row by row and column by column: what untranslated, translation, translated and page requests are told, each with and without PASID, page requests as the
 * last of their group and not, and what is recorded (§7.1.3).
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
const FRCD_AT = 0x220 + 12;
const PQT = 0xc8;

const CONFIG: GuestOptions = {
  scalableMode: true,
  firstStage: "4-level",
  nested: true,
  secondStageFlags: true,
  pasidWidth: 16,
  requestPasid: true,
  supervisorRequests: true,
  requestPrivilege: true,
  deviceTlb: true,
  pageRequests: true,
  translatedWithPasid: true,
  faultRecords: 8,
  iotlbEntries: 0,
  contextEntries: 0,
};

type Type = "first-stage" | "second-stage" | "nested" | "pass-through";

/** Whose requests: those with PASID 5, or those without, which then go through the same entry (RID_PASID). */
type Who = "with PASID" | "without PASID";

/** A device whose PASID 5 leads PFN to TARGET; nested, the second stage maps tables and target onto themselves. */
class Rig {
  readonly who: Who;
  readonly guest: GuestDriver;
  space: AddressSpace;
  pfn = PFN;
  /** Where entries that have an FPD bit lie, found before anything is spoiled. */
  readonly entries;
  readonly first;
  readonly second;

  constructor(who: Who, type: Type = "first-stage", options: GuestOptions = {}) {
    this.who = who;
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
    this.entries = {
      context: guest.contexts.scalableContextEntryGpa(NIC),
      directory: guest.contexts.directoryEntryGpa(NIC, PASID),
      table: guest.contexts.pasidEntryGpa(NIC, PASID),
    };
    guest.start("scalable");
    this.space = guest.device(NIC, who === "with PASID" ? { pasid: PASID } : {});
    guest.unit.mmio.write64(0xd0, BigInt(guest.newFrame()) * 4096n);
  }

  context(fields: Record<string, number> = {}): void {
    const RID_PASID = this.who === "with PASID" ? 1 : PASID;
    this.guest.scalableContext(NIC, { pasids: true, fields: { DTE: 1, PRE: 1, EPTR: 1, RID_PASID, ...fields } });
  }

  /** Makes the requests privileged. */
  privileged(): void {
    if (this.who === "with PASID") this.as({ privileged: true });
    else this.context({ RID_PRIV: 1 });
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

const second = (who: Who): Rig => new Rig(who, "second-stage");
const nested = (who: Who): Rig => new Rig(who, "nested");
const plain = (who: Who): Rig => new Rig(who);

/** Makes a rig and spoils it. */
type Spoil = (who?: Who) => Rig;
/** What a translation request is answered: unsupported request, completer abort, success without or with the remaining rights. */
type Answer = "UR" | "CA" | "S0" | "Seff" | "-";
/** Whether a page request is refused, or queued because the check comes later. */
type Page = "IR" | "queued" | "-";

function spoiled(make: (who: Who) => Rig, spoil: (rig: Rig) => void): Spoil {
  return (who = "with PASID") => {
    const rig = make(who);
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
      (who) => new Rig(who, "first-stage", { abortDma: true }),
      ({ guest }) => guest.setRoot("abort"),
    ),
    "UR",
    "IR",
  ],
  [
    "RTA_5",
    spoiled(
      (who) => new Rig(who, "first-stage", { version: { major: 8, minor: 0 } }),
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
  ["SPT_6", spoiled(plain, (rig) => rig.privileged()), "S0", "queued"],
  ["SFS_1", spoiled(plain, (rig) => rig.poison(rig.first.entryGpa(PFN, 1))), "S0", "queued"],
  ["SFS_2", spoiled(plain, (rig) => rig.flip(rig.first.entryGpa(PFN, 1), 0)), "S0", "queued"],
  ["SFS_3", spoiled(plain, (rig) => rig.flip(rig.first.entryGpa(PFN, 1), 50)), "S0", "queued"],
  ["SFS_4", spoiled(plain, (rig) => rig.poison(rig.first.entryGpa(PFN, 4))), "S0", "queued"],
  [
    "SFS_5",
    spoiled(
      (who) => new Rig(who, "nested", { maximumGuestAddressWidth: 39 }),
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
      (who) => new Rig(who, "pass-through"),
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

/** Rows that only requests with PASID can meet. */
const WITH_PASID_ONLY = new Set(["RTA_2", "RTA_5", "SCT_6", "SCT_7", "SCT_9", "SGN_10", "SPT_5"]);

/** Who can meet a row's condition. */
function whoMeets(name: string): readonly Who[] {
  return WITH_PASID_ONLY.has(name) ? ["with PASID"] : ["with PASID", "without PASID"];
}

/** Rows that refuse translated requests: those of registers, root and context entries, and of the PASID's value. No table behind is read for them. */
const REFUSES_TRANSLATED = /^(RTA|SRT|SCT_[1-4]|SCT_7|SCT_9|SGN_10)/;

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
    for (const who of whoMeets(name)) {
      it(`${faultName(reason)} refuses an untranslated request ${who}, and is recorded with PASID and flags`, () => {
        const { guest, space, pfn } = make(who);
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
        expect(space.pasid === undefined).toBe(who === "without PASID");
      });
    }
  }

  for (const [name, make, answer] of rows.filter((row) => row[2] !== "-")) {
    const reason = FaultReason[name];
    for (const who of whoMeets(name)) {
      it(`${faultName(reason)} answers a translation request ${who} with ${answer}`, () => {
        const { guest, space, pfn } = make(who);
        const [completion] = guest.unit.ats(space).translate(pfn);
        const status = answer === "UR" ? "unsupported" : answer === "CA" ? "abort" : "success";
        expect(completion?.status).toBe(status);
        expect(completion?.access).toBe(answer === "Seff" ? 3 - accessOf(name) : 0);
        const recorded = status !== "success" || name === "SFS_10";
        expect(guest.faults().map((fault) => [fault.reason, fault.pasid])).toEqual(
          recorded ? [[reason & 0xff, space.pasid]] : [],
        );
      });
    }
  }

  for (const [name, make] of rows) {
    const reason = FaultReason[name];
    const refuses = REFUSES_TRANSLATED.test(name);
    for (const who of whoMeets(name)) {
      it(`${faultName(reason)} ${refuses ? "refuses" : "does not concern"} a translated request ${who}`, () => {
        const { guest, space } = make(who);
        const done = guest.unit.ats(space).read(TARGET * 4096, new Uint8Array(4));
        // Without EPTR, which is reserved where the context takes no PASIDs, a translated request may have none: SCT.10.
        const expected = name === "SCT_6" ? FaultReason.SCT_10 : refuses ? reason : 0;
        expect(done).toBe(expected === 0);
        expect(guest.faults().map((fault) => [fault.reason, fault.page, fault.pasid])).toEqual(
          expected === 0 ? [] : [[expected & 0xff, TARGET, space.pasid]],
        );
        if (expected !== 0) expect((guest.unit.mmio.read32(FRCD_AT) >>> 28) & 3).toBe(2);
      });
    }
  }

  for (const [name, make, , page] of rows.filter((row) => row[3] !== "-")) {
    const reason = FaultReason[name];
    for (const who of whoMeets(name)) {
      for (const last of [true, false]) {
        const told = page === "IR" ? (last ? "invalid" : "dropped") : "queued";
        it(`${faultName(reason)}: a page request ${who}, ${last ? "the last" : "not the last"} of its group, is ${told}`, async () => {
          const { guest, space, pfn } = make(who);
          expect(await heard(guest.unit.ats(space).requestPage({ iovaPfn: pfn, last }))).toBe(told);
          expect(guest.unit.mmio.read32(PQT) / 32).toBe(page === "IR" ? 0 : 1);
          expect(guest.faults().map((fault) => [fault.reason, fault.type, fault.pasid])).toEqual(
            page === "IR" ? [[reason & 0xff, 1, space.pasid]] : [],
          );
        });
      }
    }
  }
});

/** How many of the rows FPD keeps from being recorded there: 31 of PASID-table entries and walks, two of the directory, nine of the context-entry and of the PASID's value. */
const SUPPRESSED = { context: 31 + 2 + 9, directory: 31 + 2, table: 31 } as const;
/** The first reason that is found behind the entry. */
const READ_BEFORE = { context: "SCT", directory: "SPD", table: "SPT" } as const;

describe("FPD", () => {
  for (const place of ["context", "directory", "table"] as const) {
    it(`in the ${place} entry keeps qualified faults behind it from being recorded, and no other`, () => {
      const silent: string[] = [];
      for (const [name, make] of rows) {
        const rig = make();
        rig.flip(rig.entries[place], 1);
        const out = new Translation();
        expect(rig.space.translate(rig.pfn, accessOf(name), out), name).toBe(false);
        expect(out.cause).toBe(faultName(FaultReason[name]));
        const reached = readsEntry(name, READ_BEFORE[place]);
        const suppressed = reached && isQualified(FaultReason[name]);
        if (suppressed) silent.push(name);
        expect([name, rig.guest.faults().length]).toEqual([name, suppressed ? 0 : 1]);
      }
      expect(silent.length).toBe(SUPPRESSED[place]);
    });

    it(`in the ${place} entry is remembered with the entry by the caches`, () => {
      const rig = new Rig("with PASID", "second-stage", { contextEntries: 16, iotlbEntries: 64 });
      rig.flip(rig.entries[place], 1);
      const out = new Translation();
      expect(rig.space.translate(PFN, 1, out)).toBe(true);
      rig.flip(rig.entries[place], 1);
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
