/**
 * From the bytes of a DMAR table (§8) back to the plain table: for tools, tests and people.
 *
 * Takes any bytes: damage is reported as problems, each with its place in the bytes and in the plain table, and as
 * much as can be read is read. What `buildDmar` made decodes to the same table without a problem.
 */

import { readField, readFlag, readText, reservedBitsSet } from "./byte-layout.js";
import type { AnyLayout } from "./byte-layout.js";
import {
  DMAR_HEADER,
  DMAR_REVISION,
  DMAR_SIGNATURE,
  STRUCTURES,
  STRUCTURE_HEADER,
  STRUCTURE_KINDS,
} from "./dmar-spec.js";
import type { StructureKind } from "./dmar-spec.js";
import { checkDmar } from "./dmar-rules.js";
import { hex, quote } from "./dmar-problems.js";
import type { DmarProblem, DmarProblemCode } from "./dmar-problems.js";
import type { CompleteDmarTable } from "./dmar-table.js";
import { decodeStructure } from "./decode-structure.js";
import type { DecodeContext, StructureLists } from "./decode-structure.js";

/** A structure of a type that this decoder does not know; software must skip it by its length (§8.2). */
export interface SkippedStructure {
  /** The number that is not known. */
  readonly type: number;
  /** From the start of the table. */
  readonly offsetBytes: number;
  /** As its header says. */
  readonly byteLength: number;
}

/** What `decodeDmar` read. */
export interface DecodedDmar {
  /**
   * The table with all defaults filled in, as far as it could be read; undefined when there is no DMAR header.
   * An address above 2^53 is rounded (and reported); everything else is exact.
   */
  readonly table: CompleteDmarTable | undefined;
  /** Everything that is damaged or breaks a rule: of the bytes first, then of the contents. */
  readonly problems: readonly DmarProblem[];
  /** Structures that this revision does not know. */
  readonly skipped: readonly SkippedStructure[];
}

/**
 * Reads a DMAR table; `bytes` begins at its signature.
 * Never throws, whatever the bytes are; the result does not refer to `bytes`.
 */
export function decodeDmar(bytes: Uint8Array): DecodedDmar {
  return new DmarDecoder(bytes).decode();
}

class DmarDecoder implements DecodeContext {
  readonly view: DataView;
  readonly #bytes: Uint8Array;
  readonly #problems: DmarProblem[] = [];
  readonly #skipped: SkippedStructure[] = [];
  readonly #offsetByPlace = new Map<string, number>();
  readonly #lists: StructureLists = {
    units: [],
    reservedRegions: [],
    atsRootPorts: [],
    affinities: [],
    namespaceDevices: [],
    integratedAtcs: [],
    deviceProperties: [],
  };

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  decode(): DecodedDmar {
    const end = this.#checkEnvelope();
    if (end === undefined) return { table: undefined, problems: this.#problems, skipped: this.#skipped };
    this.#readStructures(end);
    const table = this.#readHeader();
    for (const problem of checkDmar(table)) {
      this.#problems.push({ ...problem, offsetBytes: this.#offsetOf(problem.where) });
    }
    return { table, problems: this.#problems, skipped: this.#skipped };
  }

  report(code: DmarProblemCode, where: string, offsetBytes: number, message: string, hint: string): void {
    this.#problems.push({ code, where, offsetBytes, message, hint });
  }

  place(where: string, offsetBytes: number): void {
    this.#offsetByPlace.set(where, offsetBytes);
  }

  checkReserved(where: string, offsetBytes: number, layout: AnyLayout): void {
    for (const offset of reservedBitsSet(this.view, offsetBytes, layout)) {
      const at = offsetBytes + offset;
      const message = `expected reserved bits 0, got byte ${hex(this.view.getUint8(at))}`;
      this.report("reserved-bits", where, at, message, "clear the reserved bits");
    }
  }

  /** Checks size, signature, revision, length and checksum; returns where the structures end. */
  #checkEnvelope(): number | undefined {
    const available = this.#bytes.length;
    const { fields } = DMAR_HEADER;
    if (available < DMAR_HEADER.byteLength) {
      const message = `expected at least ${DMAR_HEADER.byteLength} bytes, got ${available}`;
      this.report("truncated", "", 0, message, "pass the whole table");
      return undefined;
    }
    const signature = readText(this.view, 0, fields.SIGNATURE);
    if (signature !== DMAR_SIGNATURE) {
      const message = `expected the signature ${quote(DMAR_SIGNATURE)}, got ${quote(signature)}`;
      this.report("signature", "", fields.SIGNATURE.offsetBytes, message, "pass the bytes from the signature on");
      return undefined;
    }
    const revision = readField(this.view, 0, fields.REVISION);
    if (revision !== DMAR_REVISION) {
      const message = `expected revision ${DMAR_REVISION}, got ${revision}`;
      this.report("revision", "", fields.REVISION.offsetBytes, message, "the table is read as revision 1");
    }
    this.checkReserved("", 0, DMAR_HEADER);
    return this.#checkLength(readField(this.view, 0, fields.LENGTH), available);
  }

  #checkLength(byteLength: number, available: number): number {
    const at = DMAR_HEADER.fields.LENGTH.offsetBytes;
    if (byteLength < DMAR_HEADER.byteLength) {
      const message = `expected a length of at least ${DMAR_HEADER.byteLength}, got ${byteLength}`;
      this.report("length", "", at, message, "all bytes are read as the table");
      return available;
    }
    if (byteLength > available) {
      const message = `expected ${byteLength} bytes as the length field says, got ${available}`;
      this.report("truncated", "", at, message, "pass the whole table");
      return available;
    }
    if (byteLength < available) {
      const message = `expected ${byteLength} bytes as the length field says, got ${available}`;
      this.report("length", "", at, message, "pass the table alone; the bytes behind it are not read");
    }
    const sum = this.#bytes.subarray(0, byteLength).reduce((total, byte) => (total + byte) & 0xff, 0);
    if (sum !== 0) {
      const checksumAt = DMAR_HEADER.fields.CHECKSUM.offsetBytes;
      const got = this.view.getUint8(checksumAt);
      const message = `expected checksum ${hex((got - sum) & 0xff)}, got ${hex(got)}`;
      this.report("checksum", "", checksumAt, message, "the table was changed after its checksum was made");
    }
    return byteLength;
  }

  #readStructures(end: number): void {
    let highestType = 0;
    let offset: number = DMAR_HEADER.byteLength;
    while (offset < end) {
      const left = end - offset;
      if (left < STRUCTURE_HEADER.byteLength) {
        const message = `expected a structure of at least ${STRUCTURE_HEADER.byteLength} bytes, got ${left} bytes`;
        this.report("truncated", "", offset, message, "the table's length or that of the structure before is wrong");
        return;
      }
      const type = readField(this.view, offset, STRUCTURE_HEADER.fields.TYPE);
      const byteLength = readField(this.view, offset, STRUCTURE_HEADER.fields.LENGTH);
      if (byteLength < STRUCTURE_HEADER.byteLength || byteLength > left) {
        const message = `expected a structure of ${STRUCTURE_HEADER.byteLength}..${left} bytes, got length ${byteLength}`;
        this.report("length", "", offset, message, "this structure and all behind it cannot be read");
        return;
      }
      if (type < highestType) {
        const message = `expected type ${highestType} or above here, got ${type}`;
        this.report("type-order", "", offset, message, "list the structures in ascending order of their type");
      }
      highestType = Math.max(highestType, type);
      this.#readStructure(type, offset, byteLength);
      offset += byteLength;
    }
  }

  #readStructure(type: number, offsetBytes: number, byteLength: number): void {
    const kind = KIND_BY_TYPE.get(type);
    if (kind === undefined) {
      this.#skipped.push({ type, offsetBytes, byteLength });
      return;
    }
    const { mnemonic, layout } = STRUCTURES[kind];
    if (byteLength < layout.byteLength) {
      const message = `expected a ${mnemonic} of at least ${layout.byteLength} bytes, got ${byteLength}`;
      this.report("length", kind, offsetBytes, message, "the structure is left out");
      return;
    }
    const where = `${kind}[${this.#lists[kind].length}]`;
    this.place(where, offsetBytes);
    this.checkReserved(where, offsetBytes, layout);
    decodeStructure(this, this.#lists, kind, { where, offsetBytes, byteLength });
  }

  #readHeader(): CompleteDmarTable {
    const { view } = this;
    const { fields } = DMAR_HEADER;
    return {
      hostAddressWidth: readField(view, 0, fields.HAW) + 1,
      interruptRemapping: readFlag(view, 0, fields.FLAGS, "INTR_REMAP"),
      x2apicOptOut: readFlag(view, 0, fields.FLAGS, "X2APIC_OPT_OUT"),
      dmaControlOptIn: readFlag(view, 0, fields.FLAGS, "DMA_CTRL_PLATFORM_OPT_IN_FLAG"),
      oem: {
        oemId: readText(view, 0, fields.OEM_ID),
        oemTableId: readText(view, 0, fields.OEM_TABLE_ID),
        oemRevision: readField(view, 0, fields.OEM_REVISION),
        creatorId: readText(view, 0, fields.CREATOR_ID),
        creatorRevision: readField(view, 0, fields.CREATOR_REVISION),
      },
      ...this.#lists,
    };
  }

  /** Where the innermost part that was placed and contains `where` begins; 0 for the header. */
  #offsetOf(where: string): number {
    for (let place = where; place !== ""; place = place.slice(0, Math.max(place.lastIndexOf("."), 0))) {
      const offset = this.#offsetByPlace.get(place);
      if (offset !== undefined) return offset;
    }
    return 0;
  }
}

const KIND_BY_TYPE: ReadonlyMap<number, StructureKind> = new Map(
  STRUCTURE_KINDS.map((kind) => [STRUCTURES[kind].type, kind]),
);
