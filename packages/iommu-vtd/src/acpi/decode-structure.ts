/**
 * Reads one remapping structure (§8.3-§8.9) and its device scopes (§8.3.1) into the plain table's lists.
 *
 * The caller has checked that the fixed part lies within the table; scopes and names are bounded here.
 */

import { readField, readFlag } from "./byte-layout.js";
import type { AnyLayout } from "./byte-layout.js";
import { formatDevicePath } from "./device-path.js";
import { hex } from "./dmar-problems.js";
import type { DmarProblemCode } from "./dmar-problems.js";
import {
  ANDD,
  ATSR,
  DEVICE_SCOPE,
  DRHD,
  PAGE_BYTES,
  PATH_PAIR,
  RHSA,
  RMRR,
  SATC,
  SCOPE_TYPES,
  SIDP,
  STRUCTURES,
} from "./dmar-spec.js";
import type { ScopeType, StructureKind } from "./dmar-spec.js";
import type { CompleteDmarTable, DeviceScope, SidpProperty } from "./dmar-table.js";

/** What the readers of a table share: its bytes, and where to put what is wrong with them. */
export interface DecodeContext {
  readonly view: DataView;
  report(code: DmarProblemCode, where: string, offsetBytes: number, message: string, hint: string): void;
  /** Remembers at which byte a part of the plain table was read. */
  place(where: string, offsetBytes: number): void;
  /** Reports every reserved bit that is set in the structure at `offsetBytes`. */
  checkReserved(where: string, offsetBytes: number, layout: AnyLayout): void;
}

/** The lists of a plain table, still growing. */
export type StructureLists = { readonly [Kind in StructureKind]: CompleteDmarTable[Kind][number][] };

/** Where a structure lies, in the plain table and in the bytes. */
export interface StructurePlace {
  readonly where: string;
  readonly offsetBytes: number;
  readonly byteLength: number;
}

/** Reads the structure at `place` and appends it to its list. */
export function decodeStructure(
  context: DecodeContext,
  lists: StructureLists,
  kind: StructureKind,
  place: StructurePlace,
): void {
  const { view } = context;
  const at = place.offsetBytes;
  switch (kind) {
    case "units":
      lists.units.push({
        registerGpa: readField(view, at, DRHD.fields.REGISTER_BASE),
        registerByteLength: PAGE_BYTES * 2 ** readField(view, at, DRHD.fields.SIZE),
        segment: readField(view, at, DRHD.fields.SEGMENT),
        includeAll: readFlag(view, at, DRHD.fields.FLAGS, "INCLUDE_PCI_ALL"),
        scopes: decodeScopes(context, kind, place).map((entry) => entry.scope),
      });
      return;
    case "reservedRegions": {
      const gpa = readField(view, at, RMRR.fields.BASE);
      lists.reservedRegions.push({
        gpa,
        byteLength: readField(view, at, RMRR.fields.LIMIT) + 1 - gpa,
        segment: readField(view, at, RMRR.fields.SEGMENT),
        scopes: decodeScopes(context, kind, place).map((entry) => entry.scope),
      });
      return;
    }
    case "atsRootPorts":
      lists.atsRootPorts.push({
        segment: readField(view, at, ATSR.fields.SEGMENT),
        allPorts: readFlag(view, at, ATSR.fields.FLAGS, "ALL_PORTS"),
        scopes: decodeScopes(context, kind, place).map((entry) => entry.scope),
      });
      return;
    case "affinities":
      lists.affinities.push({
        registerGpa: readField(view, at, RHSA.fields.REGISTER_BASE),
        proximityDomain: readField(view, at, RHSA.fields.PROXIMITY_DOMAIN),
      });
      return;
    case "namespaceDevices":
      lists.namespaceDevices.push({
        deviceNumber: readField(view, at, ANDD.fields.DEVICE_NUMBER),
        name: decodeName(context, place),
      });
      return;
    case "integratedAtcs":
      lists.integratedAtcs.push({
        segment: readField(view, at, SATC.fields.SEGMENT),
        atcRequired: readFlag(view, at, SATC.fields.FLAGS, "ATC_REQUIRED"),
        scopes: decodeScopes(context, kind, place).map((entry) => entry.scope),
      });
      return;
    case "deviceProperties":
      lists.deviceProperties.push({
        segment: readField(view, at, SIDP.fields.SEGMENT),
        // A kind of scope that SIDP does not take is kept, for checkDmar to report.
        scopes: decodeScopes(context, kind, place).map(
          ({ scope, properties }) =>
            ({ ...scope, properties }) as CompleteDmarTable["deviceProperties"][number]["scopes"][number],
        ),
      });
  }
}

interface DecodedScope {
  readonly scope: DeviceScope;
  readonly properties: readonly SidpProperty[];
}

function decodeScopes(context: DecodeContext, kind: StructureKind, place: StructurePlace): DecodedScope[] {
  const { view } = context;
  const end = place.offsetBytes + place.byteLength;
  const scopes: DecodedScope[] = [];
  let offset: number = place.offsetBytes + STRUCTURES[kind].layout.byteLength;
  while (offset < end) {
    const left = end - offset;
    const where = `${place.where}.scopes[${scopes.length}]`;
    if (left < DEVICE_SCOPE.byteLength) {
      const message = `expected a device scope of at least ${DEVICE_SCOPE.byteLength} bytes, got ${left} bytes`;
      context.report(
        "truncated",
        where,
        offset,
        message,
        "the length of the structure or of the scope before is wrong",
      );
      break;
    }
    const byteLength = readField(view, offset, DEVICE_SCOPE.fields.LENGTH);
    if (byteLength < DEVICE_SCOPE.byteLength || byteLength > left || byteLength % PATH_PAIR.byteLength !== 0) {
      const message = `expected an even length of ${DEVICE_SCOPE.byteLength}..${left}, got ${byteLength}`;
      context.report("length", where, offset, message, "this scope and those behind it are left out");
      break;
    }
    const entry = decodeScope(context, kind, where, offset, byteLength);
    if (entry !== undefined) {
      context.place(where, offset);
      scopes.push(entry);
    }
    offset += byteLength;
  }
  return scopes;
}

function decodeScope(
  context: DecodeContext,
  kind: StructureKind,
  where: string,
  offset: number,
  byteLength: number,
): DecodedScope | undefined {
  const { view } = context;
  context.checkReserved(where, offset, DEVICE_SCOPE);
  const typeNumber = readField(view, offset, DEVICE_SCOPE.fields.TYPE);
  const type = SCOPE_BY_TYPE.get(typeNumber);
  if (type === undefined) {
    const message = `expected a scope type of 1..5, got ${typeNumber}`;
    context.report("unknown-scope", where, offset, message, "the scope is left out");
    return undefined;
  }
  const { FLAGS } = DEVICE_SCOPE.fields;
  const properties = PROPERTIES.filter((name) => readFlag(view, offset, FLAGS, name));
  if (kind !== "deviceProperties" && properties.length > 0) {
    const message = `expected scope flags 0 outside SIDP, got ${hex(readField(view, offset, FLAGS))}`;
    context.report("reserved-bits", where, offset + FLAGS.offsetBytes, message, "clear the flags");
  }
  const id = readField(view, offset, DEVICE_SCOPE.fields.ENUMERATION_ID);
  if (id !== 0 && (type === "endpoint" || type === "bridge")) {
    const message = `expected enumeration id 0 for a PCI device, got ${id}`;
    const at = offset + DEVICE_SCOPE.fields.ENUMERATION_ID.offsetBytes;
    context.report("reserved-bits", where, at, message, "write 0");
  }
  const pairs = [];
  for (let pair = offset + DEVICE_SCOPE.byteLength; pair < offset + byteLength; pair += PATH_PAIR.byteLength) {
    pairs.push({
      device: readField(view, pair, PATH_PAIR.fields.DEVICE),
      function: readField(view, pair, PATH_PAIR.fields.FUNCTION),
    });
  }
  const startBus = readField(view, offset, DEVICE_SCOPE.fields.START_BUS);
  return { scope: plainScope(type, id, formatDevicePath({ startBus, pairs })), properties };
}

function plainScope(type: ScopeType, id: number, path: string): DeviceScope {
  switch (type) {
    case "io-apic":
      return { type, ioApicId: id, path };
    case "hpet":
      return { type, hpetNumber: id, path };
    case "namespace-device":
      return { type, deviceNumber: id, path };
    default:
      return { type, path };
  }
}

/** The name up to its NUL; zero bytes behind it are padding. */
function decodeName(context: DecodeContext, place: StructurePlace): string {
  const { view } = context;
  const begin = place.offsetBytes + ANDD.byteLength;
  const end = place.offsetBytes + place.byteLength;
  let name = "";
  let offset = begin;
  while (offset < end && view.getUint8(offset) !== 0) {
    name += String.fromCharCode(view.getUint8(offset));
    offset++;
  }
  if (offset === end) {
    const message = "expected a NUL behind the name, got the end of the structure";
    context.report("name", place.where, offset, message, "end the name with a NUL");
  }
  for (; offset < end; offset++) {
    if (view.getUint8(offset) === 0) continue;
    const message = `expected only zeroes behind the name, got ${hex(view.getUint8(offset))}`;
    context.report("name", place.where, offset, message, "end the structure with the NUL of the name");
    break;
  }
  return name;
}

const SCOPE_BY_TYPE: ReadonlyMap<number, ScopeType> = new Map(
  (Object.keys(SCOPE_TYPES) as ScopeType[]).map((type) => [SCOPE_TYPES[type], type]),
);

const PROPERTIES = Object.keys(DEVICE_SCOPE.fields.FLAGS.bits) as SidpProperty[];
