/**
 * The closed list of deviations: where the recorded systems do something else than the architecture asks for, and our unit follows the architecture.
 *
 * A deviation counts only where the reference unit (reference/), given nothing but this trait in addition, predicts the oracle's answer, and without it ours.
 * Everything else that differs is a failure. The counts on each given file stand in docs/deviations.md.
 */

/** What a deviation is, and where the architecture settles it. */
export interface Deviation {
  /** Section of the specification, revision 5.10. */
  readonly section: string;
  /** What the architecture says, and we do. */
  readonly ours: string;
  /** What the oracle does. */
  readonly theirs: string;
  /** Whether the oracle's own description names it. */
  readonly known: boolean;
}

/** All of them. */
export const DEVIATIONS = {
  "context-reserved-bits-recorded-despite-fpd": {
    section: "§7.1.3, LCT.3",
    ours: "a reserved bit in a context-entry with FPD = 1 refuses requests without recording a fault",
    theirs: "records reason 0Bh",
    known: true,
  },
  "pass-through-beyond-width": {
    section: "§3.9, LGN.1.3",
    ours: "a pass-through request above the host address width is refused with reason 04h",
    theirs: "lets it through",
    known: true,
  },
  "compatibility-interrupts-pass": {
    section: "§5.1.4",
    ours: "with IRES = 1 and CFIS = 0 a compatibility-format interrupt is refused with reason 25h",
    theirs: "delivers it",
    known: true,
  },
  "bus-range-reversed": {
    section: "§9.9, SVT = 10b",
    ours: "SID bits 15:8 are the first bus allowed, bits 7:0 the last",
    theirs: "takes bits 7:0 as the first and 15:8 as the last",
    known: true,
  },
  "destination-bits-unchecked": {
    section: "§9.9, DST",
    ours: "without extended interrupt mode, destination bits 63:48 and 39:32 of an interrupt entry are reserved: reason 24h",
    theirs: "ignores them",
    known: true,
  },
  "posted-format-bit-ignored": {
    section: "§9.9, IM",
    ours: "on a unit without posted interrupts (CAP.PI = 0) bit 15 of an interrupt entry is reserved: reason 24h",
    theirs: "ignores it",
    known: false,
  },
  "fault-address-above-widest-table": {
    section: "§11.4.7.6, FI",
    ours: "bits of the faulting address at and above the widest supported table read 0",
    theirs: "records all 64 bits",
    known: false,
  },
  "fault-event-stays-pending": {
    section: "§11.4.7.2, IP",
    ours: "a pending fault event is dropped when every status bit of FSTS is 0, also when the last one went with the F bit of a record",
    theirs: "drops it only on a write of FSTS",
    known: false,
  },
  "queue-waits-for-a-tail-write": {
    section: "§6.5.2.11",
    ours: "when software clears IQE, fetching resumes at once, so an error that is still there is reported again",
    theirs: "resumes with the next write of IQT",
    known: false,
  },
  "queue-takes-absent-descriptor-types": {
    section: "§6.5.2, IQEI 3",
    ours: "device-TLB descriptors without ECAP.DT, and PASID descriptors in a 128-bit queue, are invalid descriptors",
    theirs: "skips them as if they had been carried out",
    known: false,
  },
  "page-selective-mask-of-8-bits": {
    section: "§6.5.2.3",
    ours: "a page-selective invalidation drops the pages that it names; others stay cached",
    theirs:
      "keeps the address mask in 8 bits, so pages whose frame number agrees in bits 7:AM go as well, and with AM > 7 the whole domain",
    known: false,
  },
  "page-selective-base-not-aligned": {
    section: "§6.5.2.3",
    ours: "the low AM bits of the page number in a page-selective invalidation are ignored: notifiers hear of the aligned range",
    theirs:
      "tells notifiers of as many pages from the unaligned base on, so changes behind the range are announced before they are invalidated",
    known: false,
  },
  "scalable-mode-with-legacy-codes": {
    section: "§7.1.3, SSS.2 and SGN.6",
    ours: "in scalable mode second-stage faults carry codes 78h and above",
    theirs: "records the legacy code 05h",
    known: true,
  },
  "records-without-pasid-say-pasid-0": {
    section: "§11.4.7.6, PP",
    ours: "the record of a request without PASID has PP = 0",
    theirs: "sets PP with PASID 0 in scalable mode",
    known: true,
  },
  "pasid-invalidations-not-announced": {
    section: "§6.5.2.2, §6.5.2.4",
    ours: "notifiers follow PASID-cache and PASID-based invalidations",
    theirs: "tells nobody of them, so what was mapped before stays announced",
    known: true,
  },
  "write-refused-in-silence": {
    section: "§7.1.3, LGN.2 and SGN.6; §6.2.4",
    ours: "a write to a cached read-only page is refused and recorded, with reason 05h or 85h",
    theirs: "drops the write without a record",
    known: false,
  },
} as const satisfies Record<string, Deviation>;

/** The name of a deviation. */
export type DeviationName = keyof typeof DEVIATIONS;

/** Deviations that a reference unit is to have. */
export type Traits = ReadonlySet<DeviationName>;

/** None: the architecture. */
export const ARCHITECTURE: Traits = new Set();

/** Those of QEMU 7.2. */
export const QEMU: Traits = new Set(Object.keys(DEVIATIONS) as DeviationName[]);
