/**
 * The texts of the registers that a unit can have. Not from spec/tables.ts: that would bundle the texts of everything it never has.
 */

import { CAPText, ECAPText, VERText } from "../spec/registers-capability.js";
import { GCMDText, GSTSText, IRTAText, PHMText, PLMText, PMENText, RTADDRText } from "../spec/registers-command.js";
import {
  EventAddressText,
  EventControlText,
  EventDataText,
  EventUpperAddressText,
  FRCDText,
  FSTSText,
  PQAText,
  PQHText,
  PQTText,
  PRSText,
} from "../spec/registers-event.js";
import {
  CCMDText,
  ICSText,
  IOTLBText,
  IQAText,
  IQERCDText,
  IQHText,
  IQTText,
  IVAText,
} from "../spec/registers-invalidation.js";
import type { RegisterName } from "../spec/registers.js";
import type { StructureText } from "../spec/tables.js";

/** By mnemonic. */
export const registerTexts: Readonly<Record<RegisterName, StructureText>> = {
  VER: VERText,
  CAP: CAPText,
  ECAP: ECAPText,
  GCMD: GCMDText,
  GSTS: GSTSText,
  RTADDR: RTADDRText,
  CCMD: CCMDText,
  FSTS: FSTSText,
  FECTL: EventControlText,
  FEDATA: EventDataText,
  FEADDR: EventAddressText,
  FEUADDR: EventUpperAddressText,
  PMEN: PMENText,
  PLMBASE: PLMText,
  PLMLIMIT: PLMText,
  PHMBASE: PHMText,
  PHMLIMIT: PHMText,
  IQH: IQHText,
  IQT: IQTText,
  IQA: IQAText,
  ICS: ICSText,
  IECTL: EventControlText,
  IEDATA: EventDataText,
  IEADDR: EventAddressText,
  IEUADDR: EventUpperAddressText,
  IQERCD: IQERCDText,
  IRTA: IRTAText,
  PQH: PQHText,
  PQT: PQTText,
  PQA: PQAText,
  PRS: PRSText,
  PECTL: EventControlText,
  PEDATA: EventDataText,
  PEADDR: EventAddressText,
  PEUADDR: EventUpperAddressText,
  IVA: IVAText,
  IOTLB: IOTLBText,
  FRCD: FRCDText,
};
