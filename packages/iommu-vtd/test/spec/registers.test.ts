// The register map: known capability values, places, and access masks.
import { IommuError } from "@iommu-kit/iommu-core";
import { describe, expect, it } from "vitest";
import { CAP, ECAP } from "../../src/spec/registers-capability.js";
import { FRCD, interruptFaultInformation } from "../../src/spec/registers-event.js";
import { GCMD, GSTS } from "../../src/spec/registers-command.js";
import { registerBlockBytes, registerMap, registerMasks, type RegisterName } from "../../src/spec/registers.js";
import { expectBits } from "./bit-ranges.js";

const bigintOf = (words: Int32Array): bigint =>
  words.reduceRight((value, word) => (value << 32n) | BigInt(word >>> 0), 0n);

const cachingMode48 = { ND: 6, CM: 1, SAGAW: 0b00110, MGAW: 47, FRO: 0x22, SSLPS: 3, PSI: 1, MAMV: 18, DWD: 1, DRD: 1 };
const cap = CAP.pack(cachingMode48);
const ecap = ECAP.pack({ QI: 1, IR: 1, PT: 1, IRO: 0xf, MHMV: 15 });
const masks = registerMasks(registerMap(cap, ecap), 4096);

const writable = (name: RegisterName, unitCap = cap, unitEcap = ecap): Int32Array => {
  const map = registerMap(unitCap, unitEcap);
  const place = map.find((register) => register.name === name);
  if (place === undefined) return new Int32Array();
  const first = place.offsetBytes / 4;
  return registerMasks(map, 4096).writable.slice(first, first + place.layout.wordCount);
};

describe("capability registers", () => {
  it("pack to the value of a 48-bit unit in caching mode", () => {
    expect(bigintOf(cap)).toBe(0x00d2_008c_222f_0686n);
  });

  it("pack to the value of a unit with queue, interrupt remapping and pass-through", () => {
    expect(bigintOf(ecap)).toBe(0xf0_0f4an);
  });

  it("read back from a recorded value", () => {
    const words = Int32Array.of(0x222f_0686, 0x00d2_008c);
    const { ND, CM, SAGAW, MGAW, ZLR, FRO, SSLPS, PSI, NFR, MAMV, DWD, DRD } = CAP.fields;
    const values = [ND, CM, SAGAW, MGAW, ZLR, FRO, SSLPS, PSI, NFR, MAMV, DWD, DRD].map((f) => f.get(words, 0));
    expect(values).toEqual([6, 1, 6, 47, 0, 0x22, 3, 1, 0, 18, 1, 1]);
  });
});

describe("command and status", () => {
  it("have each command bit at the place of the status bit that reports it", () => {
    const pairs = {
      TE: "TES",
      SRTP: "RTPS",
      WBF: "WBFS",
      QIE: "QIES",
      IRE: "IRES",
      SIRTP: "IRTPS",
      CFI: "CFIS",
    } as const;
    for (const [command, status] of Object.entries(pairs)) {
      expect(GCMD.fields[command as keyof typeof pairs].lo).toBe(GSTS.fields[status].lo);
    }
    expect(Object.keys(pairs).toSorted()).toEqual(Object.keys(GCMD.fields).toSorted());
  });
});

describe("fault records", () => {
  it("put the page address, the requester, the reason and the valid bit where software looks for them", () => {
    const record = FRCD.pack({ FI: 0x12345, SID: 0x0018, FR: 0x05, T1: 1, F: 1 });
    expect(bigintOf(record)).toBe((1n << 127n) | (1n << 126n) | (5n << 96n) | (0x18n << 64n) | 0x1234_5000n);
  });

  it("show an interrupt index in the top 16 bits of the fault information", () => {
    expect(bigintOf(FRCD.pack({ FI: interruptFaultInformation(0xffff) }))).toBe(0xffff_0000_0000_0000n);
  });
});

describe("registerMap()", () => {
  it("lists the registers in ascending order, the relocatable ones where the capabilities say", () => {
    const map = registerMap(cap, ecap);
    expect(map.map(({ offsetBytes }) => offsetBytes)).toEqual(map.map((r) => r.offsetBytes).toSorted((a, b) => a - b));
    const place = (name: string): number | undefined => map.find((register) => register.name === name)?.offsetBytes;
    expect([place("IVA"), place("IOTLB"), place("FRCD")]).toEqual([0xf0, 0xf8, 0x220]);
    expect(registerBlockBytes(map)).toBe(4096);
  });

  it("has one fault record more than CAP.NFR, 16 bytes apart", () => {
    const records = registerMap(CAP.pack({ ...cachingMode48, NFR: 3 }), ecap).filter(({ name }) => name === "FRCD");
    expect(records.map(({ offsetBytes, index }) => [offsetBytes, index])).toEqual([
      [0x220, 0],
      [0x230, 1],
      [0x240, 2],
      [0x250, 3],
    ]);
  });

  it("grows the block when fault records lie behind the first page", () => {
    expect(registerBlockBytes(registerMap(CAP.pack({ ...cachingMode48, FRO: 0xff, NFR: 1 }), ecap))).toBe(8192);
    expect(registerBlockBytes(registerMap(CAP.pack({ ...cachingMode48, FRO: 0x3ff, NFR: 255 }), ecap))).toBe(32768);
  });

  it("leaves out the registers of absent features", () => {
    const names = new Set(registerMap(cap, ECAP.pack({ IRO: 0xf })).map(({ name }) => name));
    for (const name of ["IQH", "IQT", "IQA", "ICS", "IECTL", "IQERCD", "IRTA", "PMEN", "PLMBASE", "PHMLIMIT", "PQA"]) {
      expect(names).not.toContain(name);
    }
    expect([...names]).toHaveLength(15);
  });

  it("has protected memory and page requests where they are announced", () => {
    const all = registerMap(CAP.pack({ ...cachingMode48, PLMR: 1, PHMR: 1 }), ECAP.pack({ QI: 1, PRS: 1, IRO: 0xf }));
    const names = all.map(({ name }) => name);
    expect(names).toEqual(expect.arrayContaining(["PMEN", "PLMBASE", "PLMLIMIT", "PHMBASE", "PHMLIMIT", "PQH", "PRS"]));
    expect(names).not.toContain("IRTA");
  });
});

describe("registerMasks()", () => {
  it("lets software write what it may and nothing else", () => {
    expectBits(writable("CAP"), "");
    expectBits(writable("GSTS"), "");
    expectBits(writable("GCMD"), "26:23 31:30");
    expectBits(writable("RTADDR"), "63:10");
    expectBits(writable("CCMD"), "33:0 63:61");
    expectBits(writable("IOTLB"), "49:32 61:60 63");
    expectBits(writable("IVA"), "6:0 63:12");
    expectBits(writable("FECTL"), "31");
    expectBits(writable("FEDATA"), "15:0");
    expectBits(writable("FEADDR"), "31:2");
    expectBits(writable("IQH"), "");
    expectBits(writable("IQT"), "18:4");
    expectBits(writable("IQA"), "2:0 63:12");
    expectBits(writable("IRTA"), "3:0 63:12");
    expectBits(writable("FRCD"), "");
    expectBits(writable("FSTS"), "");
  });

  it("opens the bits that further capabilities bring", () => {
    const modern = ECAP.pack({ QI: 1, IR: 1, EIM: 1, SMTS: 1, SSIRWS: 1, PRS: 1, IRO: 0xf });
    expectBits(writable("IQA", cap, modern), "2:0 63:11");
    expectBits(writable("IRTA", cap, modern), "3:0 63:11");
    expectBits(writable("RTADDR", cap, modern), "7 63:10");
    expectBits(writable("PQT", cap, modern), "18:5");
    expectBits(writable("GCMD", CAP.pack({ ...cachingMode48, RWBF: 1 }), modern), "27:23 31:30");
  });

  it("closes the commands of absent features", () => {
    expectBits(writable("GCMD", cap, ECAP.pack({ IRO: 0xf })), "31:30");
    expectBits(writable("GCMD", cap, ECAP.pack({ QI: 1, IR: 1, EIMER: 1, IRO: 0xf })), "26:24 31:30");
  });

  it("marks what a write of 1 clears", () => {
    expectBits(masks.writeOneToClear.slice(0x34 / 4, 0x38 / 4), "0 6:4");
    expectBits(masks.writeOneToClear.slice(0x9c / 4, 0xa0 / 4), "0");
    expectBits(masks.writeOneToClear.slice(0x220 / 4, 0x230 / 4), "127");
  });

  it("hides write-only bits from reads", () => {
    expectBits(masks.readable.slice(0x18 / 4, 0x1c / 4), "");
    expectBits(masks.readable.slice(0xf0 / 4, 0xf8 / 4), "");
    expectBits(masks.readable.slice(0x220 / 4, 0x230 / 4), "79:12 127:92");
  });

  it("keeps faults over a warm reset", () => {
    expectBits(masks.sticky.slice(0x34 / 4, 0x38 / 4), "1:0 6:4 15:8");
    expectBits(masks.sticky.slice(0x38 / 4, 0x3c / 4), "");
  });

  it("resets events masked and everything else to 0", () => {
    const set = [...masks.reset.entries()].filter(([, word]) => word !== 0);
    expect(set).toEqual([
      [0x38 / 4, 1 << 31],
      [0xa0 / 4, 1 << 31],
    ]);
  });

  it("refuses registers that overlap", () => {
    const clash = registerMap(CAP.pack({ ...cachingMode48, FRO: 0xf }), ecap);
    expect(() => registerMasks(clash, 4096)).toThrow(
      "register FRCD: expected a free place in the block, got offset 0xf0",
    );
  });

  it("refuses a register beyond the block", () => {
    expect(() => registerMasks(registerMap(CAP.pack({ ...cachingMode48, FRO: 0x100 }), ecap), 4096)).toThrow(
      IommuError,
    );
  });
});
