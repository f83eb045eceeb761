/**
 * The register map of a unit (§11.4): where each register lies, and the access masks of the whole block.
 *
 * Offsets are bytes from the base of the unit's register block. IVA, IOTLB and the fault records lie where the
 * capability registers say. A register whose feature is absent is not in the map: it reads 0 and ignores writes, as
 * every offset outside the map does. Registers of features that this unit never has are in registers-optional.ts.
 */
import { BitAccess, type Field, IommuError, type Layout } from "@iommu-kit/iommu-core";
import { CAP, ECAP, VER } from "./registers-capability.js";
import { GCMD, GSTS, IRTA, PHM, PLM, PMEN, RTADDR } from "./registers-command.js";
import {
  EventAddress,
  EventControl,
  EventData,
  EventUpperAddress,
  FRCD,
  FSTS,
  PQA,
  PQH,
  PQT,
  PRS,
} from "./registers-event.js";
import { CCMD, ICS, IOTLB, IQA, IQERCD, IQH, IQT, IVA } from "./registers-invalidation.js";

/** One register: its place in the block and its bits. */
export interface Register<L extends Layout = Layout> {
  /** Byte offset from the base of the block; for IVA, IOTLB and FRCD from the place that ECAP.IRO or CAP.FRO gives. */
  readonly offsetBytes: number;
  readonly layout: L;
}

const at = <L extends Layout>(offsetBytes: number, layout: L): Register<L> => ({ offsetBytes, layout });

/** Every register of the unit by its mnemonic. */
export const Registers = {
  VER: at(0x000, VER),
  CAP: at(0x008, CAP),
  ECAP: at(0x010, ECAP),
  GCMD: at(0x018, GCMD),
  GSTS: at(0x01c, GSTS),
  RTADDR: at(0x020, RTADDR),
  CCMD: at(0x028, CCMD),
  FSTS: at(0x034, FSTS),
  FECTL: at(0x038, EventControl),
  FEDATA: at(0x03c, EventData),
  FEADDR: at(0x040, EventAddress),
  FEUADDR: at(0x044, EventUpperAddress),
  PMEN: at(0x064, PMEN),
  PLMBASE: at(0x068, PLM),
  PLMLIMIT: at(0x06c, PLM),
  PHMBASE: at(0x070, PHM),
  PHMLIMIT: at(0x078, PHM),
  IQH: at(0x080, IQH),
  IQT: at(0x088, IQT),
  IQA: at(0x090, IQA),
  ICS: at(0x09c, ICS),
  IECTL: at(0x0a0, EventControl),
  IEDATA: at(0x0a4, EventData),
  IEADDR: at(0x0a8, EventAddress),
  IEUADDR: at(0x0ac, EventUpperAddress),
  IQERCD: at(0x0b0, IQERCD),
  IRTA: at(0x0b8, IRTA),
  PQH: at(0x0c0, PQH),
  PQT: at(0x0c8, PQT),
  PQA: at(0x0d0, PQA),
  PRS: at(0x0dc, PRS),
  PECTL: at(0x0e0, EventControl),
  PEDATA: at(0x0e4, EventData),
  PEADDR: at(0x0e8, EventAddress),
  PEUADDR: at(0x0ec, EventUpperAddress),
  /** At ECAP.IRO * 16. */
  IVA: at(0, IVA),
  /** At ECAP.IRO * 16 + 8. */
  IOTLB: at(8, IOTLB),
  /** Record 0, at CAP.FRO * 16; CAP.NFR more follow, 16 bytes each. */
  FRCD: at(0, FRCD),
} as const;

/** Mnemonic of a register in `Registers`. */
export type RegisterName = keyof typeof Registers;

/** A register at its final place in the block of one unit. */
export interface PlacedRegister extends Register {
  readonly name: RegisterName;
  /** Number of the fault record, 0 for every other register. */
  readonly index: number;
  /** Fields that a missing capability turns into reserved or read-only bits: software cannot write them. */
  readonly fixed: readonly Field[];
}

/** What each bit of a register block does, one int32 per four bytes of the block. */
export interface RegisterMasks {
  /** A write replaces these bits. */
  readonly writable: Int32Array;
  /** A write of 1 clears these bits. */
  readonly writeOneToClear: Int32Array;
  /** A read returns these bits; the others read 0. */
  readonly readable: Int32Array;
  /** A warm reset leaves these bits. */
  readonly sticky: Int32Array;
  /** The block after a cold reset; VER, CAP and ECAP are the caller's to fill in. */
  readonly reset: Int32Array;
}

/**
 * The registers that a unit with these capabilities has, at their final offsets (§11.4).
 * `cap` and `ecap` are the two words of CAP and ECAP.
 */
export function registerMap(cap: Int32Array, ecap: Int32Array): PlacedRegister[] {
  const has = (field: Field, words: Int32Array): boolean => field.get(words, 0) !== 0;
  const { QI, IR, EIM, EIMER, PRS: pageRequests, SMTS, ADMS, SSIRWS } = ECAP.fields;
  const queue = has(QI, ecap);
  const remapping = has(IR, ecap);
  const low = has(CAP.fields.PLMR, cap);
  const high = has(CAP.fields.PHMR, cap);
  const placed: PlacedRegister[] = [];
  const add = (names: readonly RegisterName[], fixed: readonly Field[] = [], baseBytes = 0, index = 0): void => {
    for (const name of names) {
      const { offsetBytes, layout } = Registers[name];
      placed.push({ name, index, offsetBytes: baseBytes + offsetBytes, layout, fixed });
    }
  };
  const unless = (present: boolean, ...fields: Field[]): Field[] => (present ? [] : fields);

  const { SIRTP, IRE, CFI, QIE, WBF } = GCMD.fields;
  add(["VER", "CAP", "ECAP", "GSTS", "CCMD", "FSTS", "FECTL", "FEDATA", "FEADDR", "FEUADDR"]);
  add(
    ["GCMD"],
    [
      ...unless(queue, QIE),
      ...unless(remapping, SIRTP, IRE, CFI),
      ...unless(!has(EIMER, ecap), CFI),
      ...unless(has(CAP.fields.RWBF, cap), WBF),
    ],
  );
  add(["RTADDR"], unless(has(SSIRWS, ecap), RTADDR.fields.SSIRWE));
  if (low || high) add(["PMEN"]);
  if (low) add(["PLMBASE", "PLMLIMIT"]);
  if (high) add(["PHMBASE", "PHMLIMIT"]);
  if (queue) {
    add(["IQH", "IQT", "ICS", "IECTL", "IEDATA", "IEADDR", "IEUADDR", "IQERCD"]);
    add(["IQA"], unless(has(SMTS, ecap) || has(ADMS, ecap), IQA.fields.DW));
  }
  if (remapping) add(["IRTA"], unless(has(EIM, ecap), IRTA.fields.EIME));
  if (has(pageRequests, ecap)) add(["PQH", "PQT", "PQA", "PRS", "PECTL", "PEDATA", "PEADDR", "PEUADDR"]);
  add(["IVA", "IOTLB"], [], ECAP.fields.IRO.get(ecap, 0) * 16);
  for (let index = 0; index <= CAP.fields.NFR.get(cap, 0); index++) {
    add(["FRCD"], [], (CAP.fields.FRO.get(cap, 0) + index) * 16, index);
  }
  return placed.sort((a, b) => a.offsetBytes - b.offsetBytes);
}

/**
 * The access masks of a block of `blockBytes` bytes (a multiple of 4096 that holds the whole map).
 * @throws {IommuError} `bad-option` if two registers of `map` overlap or one lies outside the block.
 */
export function registerMasks(map: readonly PlacedRegister[], blockBytes: number): RegisterMasks {
  const wordCount = blockBytes / 4;
  const newWords = (): Int32Array => new Int32Array(wordCount);
  const masks = {
    writable: newWords(),
    writeOneToClear: newWords(),
    readable: newWords(),
    sticky: newWords(),
    reset: newWords(),
  };
  let end = 0;
  for (const { name, offsetBytes, layout, fixed } of map) {
    const first = offsetBytes / 4;
    if (first < end || first + layout.wordCount > wordCount) {
      throw new IommuError(
        "bad-option",
        `register ${name}: expected a free place in the block, got offset 0x${offsetBytes.toString(16)}`,
        { hint: "move faultRecordOffset or iotlbRegisterOffset, or have fewer faultRecords" },
      );
    }
    end = first + layout.wordCount;
    masks.writable.set(layout.mask(BitAccess.WRITE), first);
    masks.writeOneToClear.set(layout.mask(BitAccess.W1C), first);
    masks.readable.set(layout.mask(BitAccess.READ), first);
    masks.sticky.set(layout.mask(BitAccess.STICKY), first);
    masks.reset.set(layout.reset, first);
    for (const field of fixed) field.set(masks.writable, first, 0);
  }
  return masks;
}

/** Bytes of the smallest block (a power of two of at least 4096) that holds every register of `map`. */
export function registerBlockBytes(map: readonly PlacedRegister[]): number {
  let blockBytes = 4096;
  for (const { offsetBytes, layout } of map) while (offsetBytes + layout.wordCount * 4 > blockBytes) blockBytes *= 2;
  return blockBytes;
}
