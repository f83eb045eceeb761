// Reserved bits of every structure in memory, against lists written from the specification's tables.
import { describe, expect, it } from "vitest";
import type { UnitCapabilities } from "../../src/spec/capabilities.js";
import { contextEntryReserved, scalableContextEntryReserved } from "../../src/spec/context-entry.js";
import { firstStageReserved, firstStageReservedIndex } from "../../src/spec/first-stage.js";
import {
  destinationOf,
  postedDescriptorGpa,
  postedDescriptorReserved,
  PostedEntry,
  postedEntryReserved,
  remappedEntryReserved,
} from "../../src/spec/interrupt-entry.js";
import { pasidDirectoryReserved, pasidEntryReserved } from "../../src/spec/pasid.js";
import { CAP, ECAP } from "../../src/spec/registers-capability.js";
import { RootEntry, ScalableRootEntry } from "../../src/spec/root-entry.js";
import { reservedIndex, SECOND_STAGE_MAPPING, secondStageReserved } from "../../src/spec/second-stage.js";
import { reservedMask } from "@iommu-kit/iommu-core";
import { expectBits } from "./bit-ranges.js";

type CapValues = Parameters<typeof CAP.pack>[0];
type EcapValues = Parameters<typeof ECAP.pack>[0];

const unit = (hostAddressWidth: number, cap: CapValues = {}, ecap: EcapValues = {}): UnitCapabilities => ({
  cap: CAP.pack({ ND: 6, SSLPS: 3, ...cap }),
  ecap: ECAP.pack(ecap),
  hostAddressWidth,
});

const everything: EcapValues = {
  DT: 1,
  SC: 1,
  MTS: 1,
  PRS: 1,
  SRS: 1,
  EAFS: 1,
  PASID: 1,
  SSADS: 1,
  SSTS: 1,
  FSTS: 1,
  SMPWCS: 1,
  RPS: 1,
  RPRIVS: 1,
  HPTS: 1,
  PTRS: 1,
};

describe("root entries", () => {
  it("reserve what is not the pointer", () => {
    expectBits(reservedMask(RootEntry, 39), "11:1 127:39");
    expectBits(reservedMask(ScalableRootEntry, 46), "11:1 63:46 75:65 127:110");
  });
});

describe("context entries", () => {
  it("reserve address bits above the host's and the unused fields", () => {
    expectBits(contextEntryReserved(unit(39)), "11:4 63:39 71 127:88");
    expectBits(contextEntryReserved(unit(52)), "11:4 63:52 71 127:88");
  });

  it("reserve domain-id bits that the unit does not have", () => {
    expectBits(contextEntryReserved(unit(48, { ND: 2 })), "11:4 63:48 71 127:80");
    expectBits(contextEntryReserved(unit(48, { ND: 0 })), "11:4 63:48 71 127:76");
  });

  it("reserve every optional field of scalable mode on a unit without the capabilities", () => {
    expectBits(scalableContextEntryReserved(unit(48)), "8:2 255:48");
  });

  it("reserve little on a unit with every capability", () => {
    expectBits(scalableContextEntryReserved(unit(48, {}, everything)), "8:7 63:48 255:85");
  });

  it.each<[keyof EcapValues, string]>([
    ["DT", "8:3 255:48"],
    ["PASID", "2 8:4 255:48"],
    ["PRS", "3:2 8:5 255:48"],
    ["HPTS", "4:2 8:6 255:48"],
    ["PTRS", "5:2 8:7 255:48"],
    ["RPS", "8:2 63:48 255:84"],
    ["RPRIVS", "8:2 83:48 255:85"],
  ])("open the field that belongs to ECAP.%s", (capability, ranges) => {
    expectBits(scalableContextEntryReserved(unit(48, {}, { [capability]: 1 })), ranges);
  });
});

describe("PASID structures", () => {
  it("reserve the directory's unused bits", () => {
    expectBits(pasidDirectoryReserved(unit(40)), "11:2 63:40");
  });

  it("reserve what belongs to capabilities that the unit lacks", () => {
    expectBits(pasidEntryReserved(unit(48)), "5:2 63:9 132:80 511:135");
  });

  it("reserve only the architecture's own bits on a unit with every capability", () => {
    expectBits(
      pasidEntryReserved(unit(48, {}, everything)),
      "5 11:10 63:48 86:80 95:91 99 103 107 111 115 119 123 127 129 139:136 255:176 267:259 319:304 511:336",
    );
  });

  it("reserve domain-id bits that the unit does not have, and the first stage's own fields without it", () => {
    expectBits(pasidEntryReserved(unit(48, { ND: 4 }, { SSTS: 1 })), "5 11:9 63:48 132:76 511:135");
  });

  it("ignore the bits of older revisions that software still sets", () => {
    const words = pasidEntryReserved(unit(52, {}, { FSTS: 1 }));
    expect((words[4] ?? 0) & 0x60).toBe(0);
  });
});

describe("second-stage entries", () => {
  const at = (masks: Int32Array, level: number, ps: 0 | 1): Int32Array => {
    const index = reservedIndex(level, ps << 7);
    return masks.slice(index, index + 2);
  };

  it("reserve address bits, the snoop bit and bit 62 of tables at every level", () => {
    const masks = secondStageReserved(unit(39, {}, { SC: 1 }), false);
    for (const level of [2, 3, 4, 5]) expectBits(at(masks, level, 0), "11 51:39 62");
  });

  it("reserve the low address bits of superpages, and PS where no superpage can be", () => {
    const masks = secondStageReserved(unit(39, {}, { SC: 1 }), false);
    expectBits(at(masks, 2, 1), "20:12 51:39 62");
    expectBits(at(masks, 3, 1), "29:12 51:39 62");
    for (const level of [4, 5]) expect((at(masks, level, 1)[0] ?? 0) & 0x80).toBe(0x80);
  });

  it("ignore PS in a PTE", () => {
    const masks = secondStageReserved(unit(48, {}, { SC: 1 }), false);
    for (const ps of [0, 1] as const) expectBits(at(masks, 1, ps), "51:48 62");
  });

  it("reserve the snoop bit of leaves on a unit without snoop control", () => {
    const masks = secondStageReserved(unit(48), false);
    expectBits(at(masks, 1, 0), "11 51:48 62");
    expectBits(at(masks, 2, 1), "20:11 51:48 62");
  });

  it("reserve PS for page sizes that the unit lacks", () => {
    const only2M = secondStageReserved(unit(48, { SSLPS: 1 }, { SC: 1 }), false);
    expectBits(at(only2M, 2, 1), "20:12 51:48 62");
    expect((at(only2M, 3, 1)[0] ?? 0) & 0x80).toBe(0x80);
    const none = secondStageReserved(unit(48, { SSLPS: 0 }), false);
    for (const level of [2, 3]) expect((at(none, level, 1)[0] ?? 0) & 0x80).toBe(0x80);
    expect((at(none, 2, 0)[0] ?? 0) & 0x80).toBe(0);
  });

  it("open bit 62 when the rights are in the high bits", () => {
    const masks = secondStageReserved(unit(52, {}, { SC: 1 }), true);
    expectBits(at(masks, 1, 0), "");
    expectBits(at(masks, 4, 0), "11");
  });

  it("are a mapping by their rights and their frame", () => {
    expectBits(SECOND_STAGE_MAPPING, "1:0 51:12");
  });
});

describe("first-stage entries", () => {
  const at = (masks: Int32Array, level: number, ps: 0 | 1): Int32Array => {
    const index = firstStageReservedIndex(level, ps << 7);
    return masks.slice(index, index + 2);
  };

  it("reserve address bits above the host's, and nothing else in tables and PTEs", () => {
    const masks = firstStageReserved(unit(46, { FS1GP: 1 }));
    for (const level of [1, 2, 3, 4, 5]) expectBits(at(masks, level, 0), "51:46");
    expectBits(at(masks, 1, 1), "51:46");
  });

  it("reserve the low address bits of superpages but the one that is PAT", () => {
    const masks = firstStageReserved(unit(46, { FS1GP: 1 }));
    expectBits(at(masks, 2, 1), "20:13 51:46");
    expectBits(at(masks, 3, 1), "29:13 51:46");
  });

  it("reserve PS in PML4Es and PML5Es, and in PDPEs on a unit without 1 GiB pages", () => {
    const masks = firstStageReserved(unit(52));
    for (const level of [3, 4, 5]) expect((at(masks, level, 1)[0] ?? 0) & 0x80).toBe(0x80);
    expectBits(at(masks, 2, 1), "20:13");
  });
});

describe("interrupt entries", () => {
  it("reserve the unused bits and, without extended destinations, all but destination bits 15:8", () => {
    expectBits(remappedEntryReserved(true), "14:12 31:24 127:84");
    expectBits(remappedEntryReserved(false), "14:12 31:24 39:32 63:48 127:84");
  });

  it("reserve the posted form's unused bits and descriptor addresses beyond the host's", () => {
    expectBits(postedEntryReserved(unit(39, { PI: 1 })), "7:2 13:12 37:24 95:84 127:103");
    expectBits(postedEntryReserved(unit(52, { PI: 1 })), "7:2 13:12 37:24 95:84 127:116");
  });

  it("reserve IM itself on a unit without posted interrupts", () => {
    expectBits(postedEntryReserved(unit(39)), "7:2 13:12 15 37:24 95:84 127:103");
  });

  it("reserve the posted descriptor's unused bits", () => {
    expectBits(postedDescriptorReserved(true), "271:258 287:280 511:320");
    expectBits(postedDescriptorReserved(false), "271:258 295:280 511:304");
  });

  it("give the descriptor's address from its two halves", () => {
    const entry = PostedEntry.pack({ PDA_LO: 0x3ff_ffff, PDA_HI: 0xf_ffff });
    expect(postedDescriptorGpa(entry, 0)).toBe(2 ** 52 - 64);
  });

  it("give the destination in either format", () => {
    expect(destinationOf(0xffff_1234, true)).toBe(0xffff_1234);
    expect(destinationOf(0x0000_1200, false)).toBe(0x12);
  });
});
