/**
 * What a unit is: a list of decisions by the host, from which VER, CAP and ECAP are packed.
 *
 * Every option has a default; a combination that the architecture forbids is refused with what would be right.
 */

import { withoutUndefined } from "@iommu-kit/iommu-core";
import { checkOptions } from "./config-rules.js";
import type { UnitCapabilities } from "./spec/capabilities.js";
import { CAP, ECAP, VER } from "./spec/registers-capability.js";

/** Widths of second-stage tables: 3, 4 or 5 levels. */
export type AddressWidth = 39 | 48 | 57;

/** The decisions. Widths are bits, offsets bytes from the register base. */
export interface VtdConfig {
  /** Architecture version to report. Default 1.0; major 6 and above has no register-based invalidation. */
  readonly version?: { readonly major: number; readonly minor: number };
  /** Host address width: addresses in tables at or above it are reserved. 32 to 52, default 48. */
  readonly hostAddressWidth?: number;
  /** Table depths offered. Default 39 and 48. Empty: the unit only remaps interrupts. */
  readonly addressWidths?: readonly AddressWidth[];
  /** Widest second-stage input. Default: the widest of `addressWidths`. */
  readonly maximumGuestAddressWidth?: number;
  /** Second-stage superpages. Default both; 1 GiB needs 2 MiB. */
  readonly superpages?: readonly ("2M" | "1G")[];
  /** The guest must announce every change of its tables, also from absent to present: what MAP notifiers need. Default false, as real units. */
  readonly cachingMode?: boolean;
  /** Width of a domain-id: 4, 6 ... 16. Default 16. */
  readonly domainIdWidth?: number;
  /** Zero-length reads of write-only pages succeed. Default false. */
  readonly zeroLengthRead?: boolean;
  /** Structure accesses are coherent with the guest's caches. Default true: a host that reads RAM is. */
  readonly coherent?: boolean;
  /** The SNP bit of leaf entries may be set. Default false. */
  readonly snoopControl?: boolean;
  /** Context entries may pass requests through. Default true. */
  readonly passThrough?: boolean;
  /** The guest must flush write buffers. Default false. */
  readonly writeBufferFlush?: boolean;
  /** Setting the root table flushes every translation cache (ESRTPS). Default true; the unit flushes either way. */
  readonly rootPointerFlush?: boolean;
  /** Setting the interrupt table flushes the entry cache (ESIRTPS). Default true; the unit flushes either way. */
  readonly interruptPointerFlush?: boolean;
  /** Page-selective invalidation of up to 2^this pages; `false` for none. Default 18. */
  readonly pageSelective?: number | false;
  /** The invalidation queue. Default true. */
  readonly queuedInvalidation?: boolean;
  /** Device TLBs (ATS). Default false. */
  readonly deviceTlb?: boolean;
  /** Interrupt remapping. Default true; needs the queue. */
  readonly interruptRemapping?: boolean;
  /** 32-bit interrupt destinations (x2APIC). Default false. */
  readonly extendedInterruptMode?: boolean;
  /** A guest may let compatibility-format interrupts pass (CFI). Default true; `false` blocks them whenever remapping is on, whatever the guest asks for. */
  readonly compatibilityInterrupts?: boolean;
  /** Posted interrupts. Default false. */
  readonly postedInterrupts?: boolean;
  /** Scalable mode: PASIDs, 256-bit descriptors. Default false; everything down to `stopMarkers` needs it. */
  readonly scalableMode?: boolean;
  /** First-stage translation with 4 levels, or with 4 and 5. Default false. */
  readonly firstStage?: false | "4-level" | "5-level";
  /** First-stage pages of 1 GiB. Default false. */
  readonly firstStage1G?: boolean;
  /** Second-stage translation in scalable mode. Default: as `scalableMode`. */
  readonly secondStage?: boolean;
  /** Nested translation; needs both stages. Default false. */
  readonly nested?: boolean;
  /** Second-stage accessed and dirty flags. Default false; needs `pageWalkCoherency`. */
  readonly secondStageFlags?: boolean;
  /** First-stage extended accessed flag. Default false; needs `pageWalkCoherency`. */
  readonly extendedAccessed?: boolean;
  /** Table accesses in scalable mode can be snooped (PWSNP): what flag updates need. Default: as `scalableMode`. */
  readonly pageWalkCoherency?: boolean;
  /** Requests with PASID of this many bits, 1 to 20; `false` for none. Default false. */
  readonly pasidWidth?: number | false;
  /** Contexts may name the PASID of requests without PASID. Default false. */
  readonly requestPasid?: boolean;
  /** Contexts may make requests without PASID privileged. Default false; needs `supervisorRequests`. */
  readonly requestPrivilege?: boolean;
  /** Privileged requests. Default false. */
  readonly supervisorRequests?: boolean;
  /** Translated requests with PASID (PTRS), where the context enables them; needs `deviceTlb` and `pasidWidth`. Default false. */
  readonly translatedWithPasid?: boolean;
  /** Page requests (PRI); need `deviceTlb`. Default false. */
  readonly pageRequests?: boolean;
  /** Wait descriptors may drain page requests. Default: as `pageRequests`. */
  readonly pageRequestDraining?: boolean;
  /** Stop markers. Default: as `pageRequests`. */
  readonly stopMarkers?: boolean;
  /** Translation requests may say that they will not write; needs `deviceTlb`. Default false. */
  readonly noWriteRequests?: boolean;
  /** Abort-DMA mode. Default false. */
  readonly abortDma?: boolean;
  /** Protected memory regions. Default none. */
  readonly protectedRegions?: readonly ("low" | "high")[];
  /** Fault recording registers, 1 to 256. Default 1. */
  readonly faultRecords?: number;
  /** Where they lie, a multiple of 16. Default 0x220. */
  readonly faultRecordOffset?: number;
  /** Where IVA and IOTLB lie, a multiple of 16. Default 0xf0. */
  readonly iotlbRegisterOffset?: number;
  /** Translations cached, rounded up to a power of two; 0 for none. Default 4096. */
  readonly iotlbEntries?: number;
  /** Context entries cached; 0 for none. Default 256. */
  readonly contextEntries?: number;
  /** Interrupt entries cached, rounded up to a power of two; 0 for none. Default 256. */
  readonly interruptEntries?: number;
  /** Milliseconds until an ATS device that does not answer an invalidation gives a time-out (ITE). Default 2,000. */
  readonly deviceTlbDeadlineMilliseconds?: number;
  /**
   * Milliseconds that pass at least between two messages of the same event (faults, completions, page requests): what comes sooner waits in its IP bit. A guest that makes its devices
   * fault as fast as it can then costs the host so many messages and no more. Default 0: none waits.
   */
  readonly eventIntervalMilliseconds?: number;
}

/** A checked configuration. */
export interface ResolvedConfig extends Required<VtdConfig> {
  /** The word of VER. */
  readonly ver: Int32Array;
  /** CAP and ECAP, and what follows from them. */
  readonly capabilities: UnitCapabilities;
}

/** What each option is where it is left out, unless it follows another one. */
const DEFAULTS: Required<VtdConfig> = {
  version: { major: 1, minor: 0 },
  hostAddressWidth: 48,
  addressWidths: [39, 48],
  maximumGuestAddressWidth: 0,
  superpages: ["2M", "1G"],
  cachingMode: false,
  domainIdWidth: 16,
  zeroLengthRead: false,
  coherent: true,
  snoopControl: false,
  passThrough: true,
  writeBufferFlush: false,
  rootPointerFlush: true,
  interruptPointerFlush: true,
  pageSelective: 18,
  queuedInvalidation: true,
  deviceTlb: false,
  interruptRemapping: true,
  extendedInterruptMode: false,
  compatibilityInterrupts: true,
  postedInterrupts: false,
  scalableMode: false,
  firstStage: false,
  firstStage1G: false,
  secondStage: false,
  nested: false,
  secondStageFlags: false,
  extendedAccessed: false,
  pageWalkCoherency: false,
  pasidWidth: false,
  requestPasid: false,
  requestPrivilege: false,
  supervisorRequests: false,
  translatedWithPasid: false,
  pageRequests: false,
  pageRequestDraining: false,
  stopMarkers: false,
  noWriteRequests: false,
  abortDma: false,
  protectedRegions: [],
  faultRecords: 1,
  faultRecordOffset: 0x220,
  iotlbRegisterOffset: 0xf0,
  iotlbEntries: 4096,
  contextEntries: 256,
  interruptEntries: 256,
  deviceTlbDeadlineMilliseconds: 2000,
  eventIntervalMilliseconds: 0,
};

/**
 * Fills in the defaults and packs the capability registers.
 * @throws {IommuError} `bad-option` for a value out of range or a combination that the architecture forbids.
 */
export function resolveConfig(options: VtdConfig): ResolvedConfig {
  const given = withoutUndefined(options);
  const { scalableMode = false, pageRequests = false } = given;
  const follow = {
    secondStage: scalableMode,
    pageWalkCoherency: scalableMode,
    pageRequestDraining: pageRequests,
    stopMarkers: pageRequests,
  };
  const config = { ...DEFAULTS, ...follow, ...given };
  checkOptions(given, config, Object.keys(DEFAULTS));
  const widest = Math.max(39, ...config.addressWidths);
  const maximumGuestAddressWidth = config.maximumGuestAddressWidth || widest;
  const { major, minor } = config.version;
  const flag = (on: boolean): number => (on ? 1 : 0);
  const pages = config.pageSelective;
  const cap = CAP.pack({
    ND: (config.domainIdWidth - 4) / 2,
    RWBF: flag(config.writeBufferFlush),
    PLMR: flag(config.protectedRegions.includes("low")),
    PHMR: flag(config.protectedRegions.includes("high")),
    CM: flag(config.cachingMode),
    SAGAW: config.addressWidths.reduce((mask, width) => mask | (1 << ((width - 30) / 9)), 0),
    MGAW: maximumGuestAddressWidth - 1,
    ZLR: flag(config.zeroLengthRead),
    FRO: config.faultRecordOffset / 16,
    SSLPS: flag(config.superpages.includes("2M")) | (flag(config.superpages.includes("1G")) << 1),
    PSI: flag(pages !== false),
    NFR: config.faultRecords - 1,
    MAMV: pages === false ? 0 : pages,
    DWD: 1,
    DRD: 1,
    FS1GP: flag(config.firstStage1G),
    FS5LP: flag(config.firstStage === "5-level"),
    PI: flag(config.postedInterrupts),
    ESIRTPS: flag(config.interruptPointerFlush && config.interruptRemapping),
    ESRTPS: flag(config.rootPointerFlush),
  });
  const ecap = ECAP.pack({
    C: flag(config.coherent),
    QI: flag(config.queuedInvalidation),
    DT: flag(config.deviceTlb),
    IR: flag(config.interruptRemapping),
    EIM: flag(config.extendedInterruptMode),
    PT: flag(config.passThrough),
    SC: flag(config.snoopControl),
    IRO: config.iotlbRegisterOffset / 16,
    MHMV: config.interruptRemapping ? 15 : 0,
    NEST: flag(config.nested),
    PRS: flag(config.pageRequests),
    SRS: flag(config.supervisorRequests),
    NWFS: flag(config.noWriteRequests),
    EAFS: flag(config.extendedAccessed),
    PSS: config.pasidWidth === false ? 0 : config.pasidWidth - 1,
    PASID: flag(config.pasidWidth !== false),
    PDS: flag(config.pageRequestDraining),
    SMTS: flag(config.scalableMode),
    SSADS: flag(config.secondStageFlags),
    SSTS: flag(config.secondStage),
    FSTS: flag(config.firstStage !== false),
    SMPWCS: flag(config.pageWalkCoherency),
    RPS: flag(config.requestPasid),
    ADMS: flag(config.abortDma),
    RPRIVS: flag(config.requestPrivilege),
    PTRS: flag(config.translatedWithPasid),
    SMS: flag(config.stopMarkers),
  });
  return {
    ...config,
    maximumGuestAddressWidth,
    ver: VER.pack({ MAX: major, MIN: minor }),
    capabilities: { cap, ecap, hostAddressWidth: config.hostAddressWidth },
  };
}
