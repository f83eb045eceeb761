// Structures as drivers and devices write them, in quadwords: a wrong bit number shows here.
import { describe, expect, it } from "vitest";
import { ContextEntry, ScalableContextEntry } from "../../src/spec/context-entry.js";
import { PasidCacheDescriptor, PasidDeviceTlbDescriptor } from "../../src/spec/descriptors.js";
import { PasidTranslationType, TableMode, TranslationType } from "../../src/spec/encodings.js";
import { FirstStageLeafEntry } from "../../src/spec/first-stage.js";
import { PostedDescriptor, PostedEntry, RemappedEntry } from "../../src/spec/interrupt-entry.js";
import {
  CompatibilityAddress,
  CompatibilityData,
  DeliveryMode,
  MESSAGE_WINDOW,
  RemappableAddress,
  SourceValidation,
} from "../../src/spec/interrupt.js";
import { PAGE_REQUEST_TYPE, PageRequest } from "../../src/spec/page-request.js";
import { PasidDirectoryEntry, PasidEntry } from "../../src/spec/pasid.js";
import { GCMD, IRTA, PHM, PLM, PMEN, RTADDR } from "../../src/spec/registers-command.js";
import { EventControl, FSTS, PQA, PQH, PQT, PRS } from "../../src/spec/registers-event.js";
import { CCMD, ICS, IOTLB, IQA, IQERCD, IQH, IQT, IVA } from "../../src/spec/registers-invalidation.js";
import { RootEntry, ScalableRootEntry } from "../../src/spec/root-entry.js";
import { SecondStageLeafEntry, SecondStageTableEntry } from "../../src/spec/second-stage.js";

const quadwords = (words: Int32Array): bigint[] =>
  Array.from({ length: Math.ceil(words.length / 2) }, (_, index) => {
    const high = BigInt((words[index * 2 + 1] ?? 0) >>> 0);
    return (high << 32n) | BigInt((words[index * 2] ?? 0) >>> 0);
  });

describe("translation structures", () => {
  it("legacy: a root-entry and a context-entry of domain 5 with a 4-level table", () => {
    expect(quadwords(RootEntry.pack({ P: 1, CTP: 0x1234 }))).toEqual([0x123_4001n, 0n]);
    const entry = ContextEntry.pack({ P: 1, TT: TranslationType.DEVICE_TLB, SSPTPTR: 0x1234, AW: 2, DID: 5 });
    expect(quadwords(entry)).toEqual([0x123_4005n, 0x502n]);
    expect(quadwords(ContextEntry.pack({ FPD: 1 }))).toEqual([2n, 0n]);
  });

  it("scalable: a root-entry with both halves and a context-entry with everything on", () => {
    expect(quadwords(ScalableRootEntry.pack({ LP: 1, LCTP: 1, UP: 1, UCTP: 2 }))).toEqual([0x1001n, 0x2001n]);
    const entry = ScalableContextEntry.pack({
      P: 1,
      DTE: 1,
      PASIDE: 1,
      PRE: 1,
      PDTS: 7,
      PASIDDIRPTR: 0x1234,
      RID_PASID: 1,
      RID_PRIV: 1,
    });
    expect(quadwords(entry)).toEqual([0x123_4e1dn, 0x10_0001n, 0n, 0n]);
    expect(quadwords(ScalableContextEntry.pack({ HPTE: 1, EPTR: 1 }))[0]).toBe(0x60n);
  });

  it("a PASID directory entry and PASID entries of first stage, second stage and nested translation", () => {
    expect(quadwords(PasidDirectoryEntry.pack({ P: 1, FPD: 1, SMPTBLPTR: 3 }))).toEqual([0x3003n]);
    const { FIRST_STAGE, SECOND_STAGE, NESTED } = PasidTranslationType;
    const first = PasidEntry.pack({ P: 1, PGTT: FIRST_STAGE, DID: 9, SRE: 1, FSPM: 1, WPE: 1, EAFE: 1, FSPTPTR: 0x77 });
    expect(quadwords(first)).toEqual([0x41n, 9n, 0x7_7095n, 0n, 0n, 0n, 0n, 0n]);
    const second = PasidEntry.pack({
      P: 1,
      PGTT: SECOND_STAGE,
      AW: 2,
      SSADE: 1,
      SSPTPTR: 0x55,
      PWSNP: 1,
      PGSNP: 1,
      DID: 1,
    });
    expect(quadwords(second).slice(0, 2)).toEqual([0x5_5289n, 0x180_0001n]);
    expect(quadwords(PasidEntry.pack({ PGTT: NESTED, CD: 1, EMTE: 1, PAT: 0x7040_6070 })).slice(0, 2)).toEqual([
      0xc0n,
      0x7040_6070_0600_0000n,
    ]);
    expect(quadwords(PasidEntry.pack({ HPTSZ: 2, HPTPFD: 1, HPTPTR: 0x11, HPTDID: 6 })).slice(4, 6)).toEqual([
      0x1_1006n,
      6n,
    ]);
  });

  it("paging entries of both stages", () => {
    expect(quadwords(SecondStageTableEntry.pack({ R: 1, W: 1, ADDR: 0x12345 }))).toEqual([0x1234_5003n]);
    expect(quadwords(SecondStageLeafEntry.pack({ R: 1, W: 1, PS: 1, SNP: 1, ADDR: 0x200 }))).toEqual([0x20_0883n]);
    expect(quadwords(SecondStageLeafEntry.pack({ EMT: 6, IPAT: 1, A: 1, D: 1 }))).toEqual([0x370n]);
    expect(quadwords(SecondStageLeafEntry.pack({ IR: 1, IW: 1 }))).toEqual([3n << 61n]);
    expect(quadwords(FirstStageLeafEntry.pack({ P: 1, RW: 1, US: 1, A: 1, D: 1, EA: 1, ADDR: 0x12345 }))).toEqual([
      0x1234_5467n,
    ]);
    expect(quadwords(FirstStageLeafEntry.pack({ PWT: 1, PCD: 1, PS: 1 }))).toEqual([0x98n]);
  });
});

describe("interrupts", () => {
  it("a remappable message for handle 5 with subhandle, and for handle 8000h", () => {
    expect(RemappableAddress.pack({ WINDOW: MESSAGE_WINDOW, FORMAT: 1, SHV: 1, HANDLE_LO: 5 })[0]).toBe(
      0xfee0_00b8 | 0,
    );
    expect(RemappableAddress.pack({ WINDOW: MESSAGE_WINDOW, FORMAT: 1, HANDLE_HI: 1 })[0]).toBe(0xfee0_0014 | 0);
  });

  it("a compatibility message to logical destination 3, level-triggered vector 41h", () => {
    expect(CompatibilityAddress.pack({ WINDOW: MESSAGE_WINDOW, DEST: 3, RH: 1, DM: 1 })[0]).toBe(0xfee0_300c | 0);
    expect(CompatibilityData.pack({ V: 0x41, DLM: DeliveryMode.LOWEST_PRIORITY, LEVEL: 1, TM: 1 })[0]).toBe(0xc141);
  });

  it("a remapped entry", () => {
    const entry = RemappedEntry.pack({
      P: 1,
      DM: 1,
      RH: 1,
      TM: 1,
      DLM: DeliveryMode.NMI,
      V: 0x41,
      DST: 0x100,
      SID: 0xf0ff,
      SQ: 3,
      SVT: SourceValidation.SOURCE_ID,
    });
    expect(quadwords(entry)).toEqual([0x100_0041_009dn, 0x7_f0ffn]);
  });

  it("a posted entry and its descriptor", () => {
    const entry = PostedEntry.pack({ P: 1, FPD: 1, URG: 1, IM: 1, V: 0x41, PDA_LO: 1, PDA_HI: 2, SID: 0x18 });
    expect(quadwords(entry)).toEqual([0x40_0041_c003n, 0x2_0000_0018n]);
    const descriptor = PostedDescriptor.pack({ ON: 1, SN: 1, NV: 0xf2, NDST: 0x100 });
    expect(quadwords(descriptor)).toEqual([0n, 0n, 0n, 0n, 0x100_00f2_0003n, 0n, 0n, 0n]);
  });
});

describe("queues", () => {
  it("a page request for reading and writing, last of its group", () => {
    const request = PageRequest.pack({
      TYPE: PAGE_REQUEST_TYPE,
      PP: 1,
      RID: 0x18,
      PASID: 2,
      PMR: 1,
      RDR: 1,
      WRR: 1,
      LPIG: 1,
      PRGI: 3,
      ADDR: 0x12345,
    });
    expect(quadwords(request)).toEqual([0x20_0002_0018_0101n, 0x1234_501fn, 0n, 0n]);
    expect(quadwords(PageRequest.pack({ EXR: 1 }))[0]).toBe(1n << 52n);
  });

  it("PASID-cache and PASID-based device-TLB invalidations", () => {
    expect(quadwords(PasidCacheDescriptor.pack({ TYPE: 7, G: 1, DID: 3, PASID: 4 }))[0]).toBe(0x4_0003_0017n);
    const device = PasidDeviceTlbDescriptor.pack({
      TYPE: 8,
      MIP: 0x1f,
      PFSID_LO: 8,
      SID: 0x19,
      PASID: 5,
      PFSID_HI: 1,
      GI: 1,
      S: 1,
      ADDR: 0x12345,
    });
    expect(quadwords(device).slice(0, 2)).toEqual([0x10_0005_0019_81f8n, 0x1234_5801n]);
  });
});

describe("registers", () => {
  it("commands and table pointers", () => {
    expect(GCMD.pack({ TE: 1, SRTP: 1 })[0]).toBe(0xc000_0000 | 0);
    expect(GCMD.pack({ WBF: 1, QIE: 1, IRE: 1, SIRTP: 1, CFI: 1 })[0]).toBe(0x0f80_0000);
    expect(quadwords(RTADDR.pack({ RTA: 0x1234, TTM: TableMode.SCALABLE, SSIRWE: 1 }))).toEqual([0x123_4480n]);
    expect(quadwords(IRTA.pack({ IRTA: 0x1234, EIME: 1, S: 15 }))).toEqual([0x123_480fn]);
    expect(PMEN.pack({ EPM: 1, PRS: 1 })[0]).toBe(0x8000_0001 | 0);
    expect([PLM.pack({ PLM: 1 })[0], PHM.pack({ PHM: 1 })[0]]).toEqual([0x20_0000, 0x20_0000]);
  });

  it("register-based invalidation", () => {
    expect(quadwords(CCMD.pack({ ICC: 1, CIRG: 3, CAIG: 1, FM: 2, SID: 0x18, DID: 5 }))).toEqual([
      0xe800_0002_0018_0005n,
    ]);
    expect(quadwords(IOTLB.pack({ IVT: 1, IIRG: 3, IAIG: 1, DR: 1, DW: 1, DID: 5 }))).toEqual([0xb203_0005_0000_0000n]);
    expect(quadwords(IVA.pack({ ADDR: 0x12345, IH: 1, AM: 9 }))).toEqual([0x1234_5049n]);
  });

  it("the invalidation queue", () => {
    expect(quadwords(IQA.pack({ IQA: 0x1234, DW: 1, QS: 7 }))).toEqual([0x123_4807n]);
    expect([quadwords(IQH.pack({ QH: 2 })), quadwords(IQT.pack({ QT: 3 }))]).toEqual([[0x20n], [0x30n]]);
    expect(ICS.pack({ IWC: 1 })[0]).toBe(1);
    expect(quadwords(IQERCD.pack({ IQEI: 4, ITESID: 0x18, ICESID: 0x19 }))).toEqual([0x0019_0018_0000_0004n]);
  });

  it("faults and events", () => {
    expect(FSTS.pack({ PFO: 1, PPF: 1, IQE: 1, ICE: 1, ITE: 1, FRI: 3 })[0]).toBe(0x373);
    expect(EventControl.pack({ IM: 1, IP: 1 })[0]).toBe(0xc000_0000 | 0);
  });

  it("the page request queue", () => {
    expect(quadwords(PQA.pack({ PQA: 0x1234, PQS: 7 }))).toEqual([0x123_4007n]);
    expect([quadwords(PQH.pack({ PQH: 1 })), quadwords(PQT.pack({ PQT: 2 }))]).toEqual([[0x20n], [0x40n]]);
    expect(PRS.pack({ PPR: 1, PRO: 1 })[0]).toBe(3);
  });
});
