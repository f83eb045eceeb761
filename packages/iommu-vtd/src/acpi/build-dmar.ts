/**
 * From a plain table to the bytes of the DMAR ACPI table (§8).
 *
 * Everything is checked first (dmar-rules.ts), so the writers below need no checks of their own. Structures
 * come out in ascending type order because `STRUCTURES` is.
 */

import { IommuError } from "@iommu-kit/iommu-core";

import { packFlags, writeField, writeText } from "./byte-layout.js";
import { parseDevicePath } from "./device-path.js";
import { checkDmar } from "./dmar-rules.js";
import type { DmarMachine } from "./dmar-rules.js";
import {
  ANDD,
  ATSR,
  DEVICE_SCOPE,
  DMAR_HEADER,
  DMAR_REVISION,
  DMAR_SIGNATURE,
  DRHD,
  PAGE_BYTES,
  PATH_PAIR,
  RHSA,
  RMRR,
  SATC,
  SCOPE_TYPES,
  SIDP,
  STRUCTURES,
  STRUCTURE_HEADER,
  STRUCTURE_KINDS,
} from "./dmar-spec.js";
import type { StructureKind } from "./dmar-spec.js";
import { completeDmar } from "./dmar-table.js";
import type { CompleteDmarTable, DeviceScope, DmarTable, PropertyScope } from "./dmar-table.js";

/**
 * Builds the DMAR table of a machine, checksum included, ready to be handed to the guest's firmware.
 *
 * @param table what the table says; see `DmarTable` for units and ranges.
 * @param machine facts from the machine's other tables to check against (optional, not part of the bytes).
 * @throws {IommuError} `bad-option` for the first broken rule; its `cause` is the list of all (`DmarProblem[]`).
 */
export function buildDmar(table: DmarTable, machine: DmarMachine = {}): Uint8Array {
  const problems = checkDmar(table, machine);
  const [first] = problems;
  if (first !== undefined) {
    const others = problems.length > 1 ? ` - and ${problems.length - 1} more` : "";
    throw new IommuError("bad-option", `DMAR ${first.where}: ${first.message}${others}`, {
      hint: first.hint,
      cause: problems,
    });
  }
  const complete = completeDmar(table);
  return concatTable(
    complete,
    STRUCTURE_KINDS.flatMap((kind) => ENCODERS[kind](complete)),
  );
}

/** Each kind's structures as bytes, in the order of their list. */
const ENCODERS: Readonly<Record<StructureKind, (table: CompleteDmarTable) => Uint8Array[]>> = {
  units: (table) =>
    table.units.map((unit) => {
      const { bytes, view } = newStructure("units", unit.scopes);
      if (unit.includeAll) writeField(view, 0, DRHD.fields.FLAGS, packFlags(DRHD.fields.FLAGS, ["INCLUDE_PCI_ALL"]));
      writeField(view, 0, DRHD.fields.SIZE, Math.log2(unit.registerByteLength / PAGE_BYTES));
      writeField(view, 0, DRHD.fields.SEGMENT, unit.segment);
      writeField(view, 0, DRHD.fields.REGISTER_BASE, unit.registerGpa);
      return bytes;
    }),
  reservedRegions: (table) =>
    table.reservedRegions.map((region) => {
      const { bytes, view } = newStructure("reservedRegions", region.scopes);
      writeField(view, 0, RMRR.fields.SEGMENT, region.segment);
      writeField(view, 0, RMRR.fields.BASE, region.gpa);
      writeField(view, 0, RMRR.fields.LIMIT, region.gpa + region.byteLength - 1);
      return bytes;
    }),
  atsRootPorts: (table) =>
    table.atsRootPorts.map((ports) => {
      const { bytes, view } = newStructure("atsRootPorts", ports.scopes);
      if (ports.allPorts) writeField(view, 0, ATSR.fields.FLAGS, packFlags(ATSR.fields.FLAGS, ["ALL_PORTS"]));
      writeField(view, 0, ATSR.fields.SEGMENT, ports.segment);
      return bytes;
    }),
  affinities: (table) =>
    table.affinities.map((affinity) => {
      const { bytes, view } = newStructure("affinities", []);
      writeField(view, 0, RHSA.fields.REGISTER_BASE, affinity.registerGpa);
      writeField(view, 0, RHSA.fields.PROXIMITY_DOMAIN, affinity.proximityDomain);
      return bytes;
    }),
  namespaceDevices: (table) =>
    table.namespaceDevices.map((device) => {
      // The extra byte stays 0 and ends the name.
      const { bytes, view } = newStructure("namespaceDevices", [], device.name.length + 1);
      writeField(view, 0, ANDD.fields.DEVICE_NUMBER, device.deviceNumber);
      for (let index = 0; index < device.name.length; index++) {
        bytes[ANDD.byteLength + index] = device.name.charCodeAt(index);
      }
      return bytes;
    }),
  integratedAtcs: (table) =>
    table.integratedAtcs.map((atcs) => {
      const { bytes, view } = newStructure("integratedAtcs", atcs.scopes);
      if (atcs.atcRequired) writeField(view, 0, SATC.fields.FLAGS, packFlags(SATC.fields.FLAGS, ["ATC_REQUIRED"]));
      writeField(view, 0, SATC.fields.SEGMENT, atcs.segment);
      return bytes;
    }),
  deviceProperties: (table) =>
    table.deviceProperties.map((group) => {
      const { bytes, view } = newStructure("deviceProperties", group.scopes);
      writeField(view, 0, SIDP.fields.SEGMENT, group.segment);
      return bytes;
    }),
};

/** A structure with type, length and scopes written and its other fields 0. */
function newStructure(
  kind: StructureKind,
  scopes: readonly (DeviceScope | PropertyScope)[],
  extraBytes = 0,
): { bytes: Uint8Array; view: DataView } {
  const { type, layout } = STRUCTURES[kind];
  const encodedScopes = scopes.map(encodeScope);
  const byteLength = encodedScopes.reduce((sum, scope) => sum + scope.length, layout.byteLength + extraBytes);
  const bytes = new Uint8Array(byteLength);
  const view = new DataView(bytes.buffer);
  writeField(view, 0, STRUCTURE_HEADER.fields.TYPE, type);
  writeField(view, 0, STRUCTURE_HEADER.fields.LENGTH, byteLength);
  let offset: number = layout.byteLength;
  for (const scope of encodedScopes) {
    bytes.set(scope, offset);
    offset += scope.length;
  }
  return { bytes, view };
}

function encodeScope(scope: DeviceScope | PropertyScope): Uint8Array {
  const path = parseDevicePath(scope.path) ?? { startBus: 0, pairs: [] };
  const byteLength = DEVICE_SCOPE.byteLength + PATH_PAIR.byteLength * path.pairs.length;
  const bytes = new Uint8Array(byteLength);
  const view = new DataView(bytes.buffer);
  writeField(view, 0, DEVICE_SCOPE.fields.TYPE, SCOPE_TYPES[scope.type]);
  writeField(view, 0, DEVICE_SCOPE.fields.LENGTH, byteLength);
  if ("properties" in scope) {
    const { FLAGS } = DEVICE_SCOPE.fields;
    writeField(view, 0, FLAGS, packFlags(FLAGS, scope.properties ?? []));
  }
  writeField(view, 0, DEVICE_SCOPE.fields.ENUMERATION_ID, enumerationId(scope));
  writeField(view, 0, DEVICE_SCOPE.fields.START_BUS, path.startBus);
  for (const [index, pair] of path.pairs.entries()) {
    const offset = DEVICE_SCOPE.byteLength + PATH_PAIR.byteLength * index;
    writeField(view, offset, PATH_PAIR.fields.DEVICE, pair.device);
    writeField(view, offset, PATH_PAIR.fields.FUNCTION, pair.function);
  }
  return bytes;
}

function enumerationId(scope: DeviceScope): number {
  switch (scope.type) {
    case "io-apic":
      return scope.ioApicId;
    case "hpet":
      return scope.hpetNumber;
    case "namespace-device":
      return scope.deviceNumber;
    default:
      return 0;
  }
}

function concatTable(table: CompleteDmarTable, structures: readonly Uint8Array[]): Uint8Array {
  const byteLength = structures.reduce((sum, structure) => sum + structure.length, DMAR_HEADER.byteLength);
  const bytes = new Uint8Array(byteLength);
  const view = new DataView(bytes.buffer);
  const { fields } = DMAR_HEADER;
  writeText(view, 0, fields.SIGNATURE, DMAR_SIGNATURE);
  writeField(view, 0, fields.LENGTH, byteLength);
  writeField(view, 0, fields.REVISION, DMAR_REVISION);
  writeText(view, 0, fields.OEM_ID, table.oem.oemId);
  writeText(view, 0, fields.OEM_TABLE_ID, table.oem.oemTableId);
  writeField(view, 0, fields.OEM_REVISION, table.oem.oemRevision);
  writeText(view, 0, fields.CREATOR_ID, table.oem.creatorId);
  writeField(view, 0, fields.CREATOR_REVISION, table.oem.creatorRevision);
  writeField(view, 0, fields.HAW, table.hostAddressWidth - 1);
  const set = [
    ...(table.interruptRemapping ? (["INTR_REMAP"] as const) : []),
    ...(table.x2apicOptOut ? (["X2APIC_OPT_OUT"] as const) : []),
    ...(table.dmaControlOptIn ? (["DMA_CTRL_PLATFORM_OPT_IN_FLAG"] as const) : []),
  ];
  writeField(view, 0, fields.FLAGS, packFlags(fields.FLAGS, set));
  let offset = DMAR_HEADER.byteLength;
  for (const structure of structures) {
    bytes.set(structure, offset);
    offset += structure.length;
  }
  const sum = bytes.reduce((total, byte) => (total + byte) & 0xff, 0);
  writeField(view, 0, fields.CHECKSUM, (0x100 - sum) & 0xff);
  return bytes;
}
