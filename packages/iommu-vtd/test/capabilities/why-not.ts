/**
 * Why the unit lacks what it lacks: one line each. Whether it lacks it is found out from the unit itself (capabilities-page.ts); a reason too many or too few fails the test.
 */

/** Capability bits that no configuration sets. */
export const absentCapabilities: Readonly<Record<string, string>> = {
  "CAP.ECMDS": "enhanced commands serve performance monitoring only",
  "ECAP.MTS": "memory types have no effect in an emulator",
  "ECAP.ERS": "gone in this revision: execute requests fault",
  "ECAP.DIT": "throttling of device-TLB invalidations has no effect in an emulator",
  "ECAP.VCS": "PASIDs are the guest's to hand out",
  "ECAP.TDXCS": "TDX Connect is not emulated",
  "ECAP.PMS": "no performance counters: inspection and events say more",
  "ECAP.HPTS": "no host permission tables: a translated request is trusted as its context says",
  "ECAP.SSIRWS": "no system software uses it yet",
  "ECAP.HPT1GPS": "needs host permission tables",
  "ECAP.RDTS": "resource director tags have no effect in an emulator",
  "ECAP.EIMER": "guests in xAPIC mode are served",
  "ECAP.IRREQ": "guests without interrupt remapping are served",
};

/** Fault conditions that cannot arise on this unit. */
export const absentReasons: Readonly<Record<string, string>> = {
  RTA_1_4: "needs ECAP.SSIRWS",
  SPT_9: "needs ECAP.HPTS",
  SGN_3: "gone in this revision: there is no execute permission",
  HPT_1: "needs ECAP.HPTS",
  HPT_2: "needs ECAP.HPTS",
  HPT_3: "needs ECAP.HPTS",
  HPT_4: "needs ECAP.HPTS",
  HPT_5: "needs ECAP.HPTS",
  HPT_6: "needs ECAP.HPTS",
  INTERRUPT_EXTENDED_REQUIRED: "needs ECAP.EIMER",
  INTERRUPT_REMAPPING_REQUIRED: "needs ECAP.IRREQ",
};

/** What has a bit or field, but no effect, because the emulated machine has nothing behind it. */
export const withoutEffect: Readonly<Record<string, string>> = {
  "CAP.RWBF": "reported on request; there are no write buffers, WBF completes at once",
  "CAP.DWD": "requests are over when they return: always drained",
  "CAP.DRD": "requests are over when they return: always drained",
  "CAP.ESRTPS": "the caches are flushed either way",
  "CAP.ESIRTPS": "the entry cache is flushed either way",
  "ECAP.C": "an emulator reads what the guest wrote",
  "ECAP.SC": "decides only whether SNP is reserved",
};
