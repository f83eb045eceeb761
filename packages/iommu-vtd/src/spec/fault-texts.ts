/**
 * One line for each fault reason, for people: events, inspection, documentation (§7.1.3, §5.1.4.1).
 */
import { FaultReason, type FaultReason as Reason, faultCode } from "./fault-reasons.js";

/** What happened, by the name of the reason. */
const faultTexts: Readonly<Record<keyof typeof FaultReason, string>> = {
  LRT_2: "The root-entry is not present",
  LCT_2: "The context-entry is not present",
  LCT_4_1: "The context-entry's address width is not supported",
  LCT_4_2: "The context-entry's translation type is reserved or not supported",
  LCT_4_3: "The top second-stage table cannot be read",
  LGN_1_1: "The address is wider than the second-stage tables or the unit allow",
  LGN_1_2: "The translated address is wider than the host's",
  LGN_1_3: "The passed-through address is wider than the host's",
  LGN_2: "No write permission",
  LGN_3: "No read permission",
  LSS_1: "A second-stage table cannot be read",
  LRT_1: "The root-entry cannot be read",
  LCT_1: "The context-entry cannot be read",
  LRT_3: "The root-entry has a reserved bit set",
  LCT_3: "The context-entry has a reserved bit set",
  LSS_2: "A second-stage entry has a reserved bit set",
  LCT_5: "The context-entry blocks translation and translated requests",
  LGN_4: "The result lies in the interrupt window",
  INTERRUPT_REQUEST_RESERVED: "The remappable request has a reserved field set",
  INTERRUPT_INDEX: "The interrupt index is beyond the table",
  INTERRUPT_NOT_PRESENT: "The interrupt entry is not present",
  INTERRUPT_ENTRY_ACCESS: "The interrupt entry cannot be read",
  INTERRUPT_ENTRY_RESERVED: "The interrupt entry has a reserved field set",
  INTERRUPT_COMPATIBILITY: "Compatibility-format interrupts are blocked",
  INTERRUPT_SOURCE: "The requester may not use the interrupt entry",
  INTERRUPT_POSTED_ACCESS: "The posted-interrupt descriptor cannot be accessed",
  INTERRUPT_POSTED_RESERVED: "The posted-interrupt descriptor has a reserved field set",
  INTERRUPT_MALFORMED: "The request to the interrupt window is no interrupt",
  INTERRUPT_EXTENDED_REQUIRED: "The unit requires extended interrupt mode",
  INTERRUPT_REMAPPING_REQUIRED: "The unit requires interrupt remapping",
  RTA_1_1: "Abort-DMA table mode is not supported",
  RTA_1_2: "The table mode is reserved",
  RTA_1_3: "Scalable table mode is not supported",
  RTA_1_4: "High second-stage rights need scalable mode",
  RTA_2: "A request with PASID in legacy mode",
  RTA_3: "A page request in legacy mode",
  RTA_4: "Abort-DMA mode blocks every request",
  RTA_5: "Execute requests are not supported",
  SRT_1: "The root-entry cannot be read",
  SRT_2: "The root-entry's half is not present",
  SRT_3: "The root-entry has a reserved bit set",
  SCT_1: "The context-entry cannot be read",
  SCT_2: "The context-entry is not present",
  SCT_3: "The context-entry has a reserved bit set",
  SCT_4_1: "The context-entry enables page requests without the device TLB",
  SCT_4_2: "The context-entry's RID_PASID is beyond the PASID directory",
  SCT_4_3: "The context-entry enables translated requests with PASID, but no PASIDs",
  SCT_5: "The device TLB is not enabled",
  SCT_6: "Requests with PASID are not enabled",
  SCT_7: "The PASID is beyond the PASID directory",
  SCT_8: "Page requests are not enabled",
  SCT_9: "The PASID is that of requests without PASID",
  SCT_10: "Translated requests with PASID are not enabled",
  SPD_1: "The PASID-directory entry cannot be read",
  SPD_2: "The PASID-directory entry is not present",
  SPD_3: "The PASID-directory entry has a reserved bit set",
  SPT_1: "The PASID-table entry cannot be read",
  SPT_2: "The PASID-table entry is not present",
  SPT_3: "The PASID-table entry has a reserved bit set",
  SPT_4_1: "The PASID-table entry's address width is not supported",
  SPT_4_2: "The PASID-table entry's translation type is reserved or not supported",
  SPT_4_3: "The PASID-table entry's first-stage mode is not supported",
  SPT_4_4: "The first-stage table lies beyond the second stage",
  SPT_5: "Execute requests are not enabled",
  SPT_6: "Supervisor requests are not enabled",
  SPT_9: "The address is beyond the host permission table",
  SFS_1: "A first-stage table cannot be read",
  SFS_2: "A first-stage entry is not present",
  SFS_3: "A first-stage entry has a reserved bit set",
  SFS_4: "The top first-stage table cannot be read",
  SFS_5: "A first-stage table or page lies beyond the second stage",
  SFS_6: "The second stage does not let the top first-stage table be read",
  SFS_7: "The second stage does not let a first-stage table be read",
  SFS_8: "The second stage does not let a first-stage entry's flags be written",
  SSS_1: "A second-stage table cannot be read",
  SSS_2: "A second-stage entry is not present",
  SSS_3: "A second-stage entry has a reserved bit set",
  SSS_4: "The top second-stage table cannot be read",
  SSS_5: "Second-stage flags need snooped table accesses",
  SSS_6: "A second-stage entry's flags cannot be written",
  SGN_1: "The address is not canonical",
  SGN_2: "A user request to a supervisor page",
  SGN_3: "No execute permission",
  SGN_4_1: "The translated address is wider than the host's",
  SGN_4_2: "The passed-through address is wider than the host's",
  SGN_5: "The address is wider than the second-stage tables or the unit allow",
  SGN_6: "No write permission",
  SGN_7: "No read permission",
  SGN_8_1: "The result lies in the interrupt window",
  SGN_8_2: "The answered range overlaps the interrupt window",
  SGN_8_3: "The translated address lies in the interrupt window",
  SGN_10: "The PASID is wider than the unit allows",
  SFS_9: "First-stage flags need snooped table accesses",
  SFS_10: "A first-stage entry's flags cannot be written",
  HPT_1: "A host permission table cannot be read",
  HPT_2: "A host permission entry has a reserved bit set",
  HPT_3: "The top host permission table cannot be read",
  HPT_4: "No host permission for a zero-length read",
  HPT_5: "No host write permission",
  HPT_6: "No host read permission",
};

/** One reason, as documentation and inspection show it. */
export interface FaultText {
  /** Key in `FaultReason`. */
  readonly name: keyof typeof FaultReason;
  /** As the specification writes it, such as `LCT.4.1`; interrupt reasons have no mnemonic and show their code. */
  readonly mnemonic: string;
  /** Architected code, 1 to 255. */
  readonly code: number;
  readonly reason: Reason;
  readonly meaning: string;
}

/** Every reason, in ascending order of code and condition. */
export function faultTable(): FaultText[] {
  const rows = Object.entries(FaultReason).map(([key, reason]) => {
    const name = key as keyof typeof FaultReason;
    const code = faultCode(reason);
    const mnemonic = name.startsWith("INTERRUPT") ? `${code.toString(16)}h` : name.replaceAll("_", ".");
    return { name, mnemonic, code, reason, meaning: faultTexts[name] };
  });
  return rows.sort((a, b) => a.code - b.code || a.reason - b.reason);
}

/** The line for a reason, also for a number that is only an architected code; a sentence for an unknown one. */
export function faultMeaning(reason: number): string {
  const rows = faultTable();
  const found = rows.find((row) => row.reason === reason) ?? rows.find((row) => row.code === reason);
  return found?.meaning ?? `Reserved fault reason ${faultCode(reason).toString(16)}h`;
}
