// Bit positions transcribed a second time, as a check on the tables: "NAME hi:lo" for every field of a structure.
import { describe, expect, it } from "vitest";
import type { Layout } from "@iommu-kit/iommu-core";
import { ContextEntry, ScalableContextEntry } from "../../src/spec/context-entry.js";
import {
  ContextCacheDescriptor,
  DeviceTlbDescriptor,
  InterruptEntryCacheDescriptor,
  IotlbDescriptor,
  PasidCacheDescriptor,
  PasidDeviceTlbDescriptor,
  PasidIotlbDescriptor,
  WaitDescriptor,
} from "../../src/spec/descriptors.js";
import { FirstStageLeafEntry, FirstStageTableEntry } from "../../src/spec/first-stage.js";
import { PostedDescriptor, PostedEntry, RemappedEntry } from "../../src/spec/interrupt-entry.js";
import { CompatibilityAddress, CompatibilityData, RemappableAddress } from "../../src/spec/interrupt.js";
import { PageGroupResponse, PageRequest } from "../../src/spec/page-request.js";
import { PasidDirectoryEntry, PasidEntry } from "../../src/spec/pasid.js";
import { CAP, ECAP, VER } from "../../src/spec/registers-capability.js";
import { GCMD, GSTS, IRTA, PMEN, RTADDR } from "../../src/spec/registers-command.js";
import { EventControl, FRCD, FSTS, PQA, PRS } from "../../src/spec/registers-event.js";
import { CCMD, IOTLB, IQA, IQERCD, IVA } from "../../src/spec/registers-invalidation.js";
import { RootEntry, ScalableRootEntry } from "../../src/spec/root-entry.js";
import { SecondStageLeafEntry, SecondStageTableEntry } from "../../src/spec/second-stage.js";

// Fields of the second to eighth quadword are written as quadword/hi:lo, as the specification's figures count them.
const positions: readonly (readonly [string, Layout, string])[] = [
  ["VER", VER, "MAX 7:4, MIN 3:0"],
  [
    "CAP",
    CAP,
    `ND 2:0, RWBF 4, PLMR 5, PHMR 6, CM 7, SAGAW 12:8, MGAW 21:16, ZLR 22, FRO 33:24, SSLPS 37:34, PSI 39, NFR 47:40,
     MAMV 53:48, DWD 54, DRD 55, FS1GP 56, PI 59, FS5LP 60, ECMDS 61, ESIRTPS 62, ESRTPS 63`,
  ],
  [
    "ECAP",
    ECAP,
    `C 0, QI 1, DT 2, IR 3, EIM 4, PT 6, SC 7, IRO 17:8, MHMV 23:20, MTS 25, NEST 26, PRS 29, ERS 30, SRS 31, NWFS 33,
     EAFS 34, PSS 39:35, PASID 40, DIT 41, PDS 42, SMTS 43, VCS 44, SSADS 45, SSTS 46, FSTS 47, SMPWCS 48, RPS 49,
     TDXCS 50, PMS 51, ADMS 52, RPRIVS 53, HPTS 55, PTRS 56, SSIRWS 57, SMS 58, HPT1GPS 59, RDTS 60, EIMER 61, IRREQ 62`,
  ],
  ["GCMD", GCMD, "TE 31, SRTP 30, WBF 27, QIE 26, IRE 25, SIRTP 24, CFI 23"],
  ["GSTS", GSTS, "TES 31, RTPS 30, WBFS 27, QIES 26, IRES 25, IRTPS 24, CFIS 23"],
  ["RTADDR", RTADDR, "RTA 63:12, TTM 11:10, SSIRWE 7"],
  ["IRTA", IRTA, "IRTA 63:12, EIME 11, S 3:0"],
  ["PMEN", PMEN, "EPM 31, PRS 0"],
  ["CCMD", CCMD, "ICC 63, CIRG 62:61, CAIG 60:59, FM 33:32, SID 31:16, DID 15:0"],
  ["IOTLB", IOTLB, "IVT 63, IIRG 61:60, IAIG 58:57, DR 49, DW 48, DID 47:32"],
  ["IVA", IVA, "ADDR 63:12, IH 6, AM 5:0"],
  ["IQA", IQA, "IQA 63:12, DW 11, QS 2:0"],
  ["IQERCD", IQERCD, "ICESID 63:48, ITESID 47:32, IQEI 3:0"],
  ["FSTS", FSTS, "FRI 15:8, ITE 6, ICE 5, IQE 4, PPF 1, PFO 0"],
  ["FECTL", EventControl, "IM 31, IP 30"],
  [
    "FRCD",
    FRCD,
    "F 1/63, T1 1/62, AT 1/61:60, PV 1/59:40, FR 1/39:32, PP 1/31, EXE 1/30, PRIV 1/29, T2 1/28, SID 1/15:0, FI 63:12",
  ],
  ["PQA", PQA, "PQA 63:12, PQS 2:0"],
  ["PRS", PRS, "PRO 1, PPR 0"],
  ["root entry", RootEntry, "P 0, CTP 63:12"],
  ["scalable root entry", ScalableRootEntry, "LP 0, LCTP 63:12, UP 1/0, UCTP 1/63:12"],
  ["context entry", ContextEntry, "P 0, FPD 1, TT 3:2, SSPTPTR 63:12, AW 1/2:0, DID 1/23:8"],
  [
    "scalable context entry",
    ScalableContextEntry,
    "P 0, FPD 1, DTE 2, PASIDE 3, PRE 4, HPTE 5, EPTR 6, PDTS 11:9, PASIDDIRPTR 63:12, RID_PASID 1/19:0, RID_PRIV 1/20",
  ],
  ["PASID-directory entry", PasidDirectoryEntry, "P 0, FPD 1, SMPTBLPTR 63:12"],
  [
    "PASID-table entry",
    PasidEntry,
    `P 0, FPD 1, AW 4:2, PGTT 8:6, SSADE 9, SSPTPTR 63:12, DID 1/15:0, PWSNP 1/23, PGSNP 1/24, CD 1/25, EMTE 1/26,
     PAT 1/63:32, SRE 2/0, FSPM 2/3:2, WPE 2/4, EAFE 2/7, FSPTPTR 2/63:12, HPTSZ 4/1:0, HPTPFD 4/2, HPTPTR 4/63:12,
     HPTDID 5/15:0`,
  ],
  ["second-stage table entry", SecondStageTableEntry, "R 0, W 1, PS 7, A 8, ADDR 51:12, IR 61, IW 62"],
  [
    "second-stage leaf entry",
    SecondStageLeafEntry,
    "R 0, W 1, EMT 5:3, IPAT 6, PS 7, A 8, D 9, SNP 11, ADDR 51:12, IR 61, IW 62",
  ],
  ["first-stage table entry", FirstStageTableEntry, "P 0, RW 1, US 2, A 5, PS 7, EA 10, ADDR 51:12"],
  ["first-stage leaf entry", FirstStageLeafEntry, "P 0, RW 1, US 2, PWT 3, PCD 4, A 5, D 6, PS 7, EA 10, ADDR 51:12"],
  ["context-cache invalidate", ContextCacheDescriptor, "TYPE 3:0, G 5:4, TYPE_HI 11:9, DID 31:16, SID 47:32, FM 49:48"],
  [
    "IOTLB invalidate",
    IotlbDescriptor,
    "TYPE 3:0, G 5:4, DW 6, DR 7, TYPE_HI 11:9, DID 31:16, AM 1/5:0, IH 1/6, ADDR 1/63:12",
  ],
  [
    "device-TLB invalidate",
    DeviceTlbDescriptor,
    "TYPE 3:0, TYPE_HI 11:9, PFSID_LO 15:12, MIP 20:16, SID 47:32, PFSID_HI 63:52, S 1/0, ADDR 1/63:12",
  ],
  ["interrupt-entry invalidate", InterruptEntryCacheDescriptor, "TYPE 3:0, G 4, TYPE_HI 11:9, IM 31:27, IIDX 47:32"],
  ["wait", WaitDescriptor, "TYPE 3:0, IF 4, SW 5, FN 6, PD 7, TYPE_HI 11:9, DATA 63:32, SADDR 1/51:2"],
  [
    "PASID-based IOTLB invalidate",
    PasidIotlbDescriptor,
    "TYPE 3:0, G 5:4, TYPE_HI 11:9, DID 31:16, PASID 51:32, AM 1/5:0, IH 1/6, ADDR 1/63:12",
  ],
  ["PASID-cache invalidate", PasidCacheDescriptor, "TYPE 3:0, G 5:4, TYPE_HI 11:9, DID 31:16, PASID 51:32"],
  [
    "PASID-based device-TLB invalidate",
    PasidDeviceTlbDescriptor,
    `TYPE 3:0, MIP 8:4, TYPE_HI 11:9, PFSID_LO 15:12, SID 31:16, PASID 51:32, PFSID_HI 63:52, GI 1/0, S 1/11,
     ADDR 1/63:12`,
  ],
  [
    "page group response",
    PageGroupResponse,
    "TYPE 3:0, PP 4, TYPE_HI 11:9, RC 15:12, RID 31:16, PASID 51:32, PRGI 1/11:3",
  ],
  [
    "page request",
    PageRequest,
    "TYPE 7:0, PP 8, RID 31:16, PASID 51:32, EXR 52, PMR 53, RDR 1/0, WRR 1/1, LPIG 1/2, PRGI 1/11:3, ADDR 1/63:12",
  ],
  ["remappable address", RemappableAddress, "WINDOW 31:20, HANDLE_LO 19:5, FORMAT 4, SHV 3, HANDLE_HI 2"],
  ["compatibility address", CompatibilityAddress, "WINDOW 31:20, DEST 19:12, FORMAT 4, RH 3, DM 2"],
  ["compatibility data", CompatibilityData, "TM 15, LEVEL 14, DLM 10:8, V 7:0"],
  [
    "remapped interrupt entry",
    RemappedEntry,
    "P 0, FPD 1, DM 2, RH 3, TM 4, DLM 7:5, IM 15, V 23:16, DST 63:32, SID 1/15:0, SQ 1/17:16, SVT 1/19:18",
  ],
  [
    "posted interrupt entry",
    PostedEntry,
    "P 0, FPD 1, URG 14, IM 15, V 23:16, PDA_LO 63:38, SID 1/15:0, SQ 1/17:16, SVT 1/19:18, PDA_HI 1/63:32",
  ],
  ["posted-interrupt descriptor", PostedDescriptor, "ON 4/0, SN 4/1, NV 4/23:16, NDST 4/63:32"],
];

const parse = (text: string): Record<string, [number, number]> =>
  Object.fromEntries(
    text.split(",").map((item) => {
      const [, name = "", quadword = "0", hi = "", lo = hi] =
        /^(\w+) (?:(\d)\/)?(\d+)(?::(\d+))?$/.exec(item.trim()) ?? [];
      return [name, [Number(quadword) * 64 + Number(hi), Number(quadword) * 64 + Number(lo)]];
    }),
  );

describe("bit positions", () => {
  it.each(positions)("of the fields of %s are those of the specification", (_, layout, text) => {
    const ours = Object.entries(layout.fields).map(([name, { hi, lo }]) => [name, [hi, lo]]);
    expect(Object.fromEntries(ours)).toEqual(parse(text));
  });
});
