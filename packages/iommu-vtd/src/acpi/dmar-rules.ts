/**
 * The rules a DMAR table must keep (§8.1-§8.9), as one list of checks over the plain table.
 *
 * The builder refuses what breaks a rule; the decoder reports it. Nothing here throws on the contents of a table,
 * and the work is in proportion to the table's size (n log n for overlaps), whatever a damaged table says.
 */

import { Problems, hex, quote } from "./dmar-problems.js";
import type { DmarProblem } from "./dmar-problems.js";
import { ANDD, DMAR_HEADER, MAX_REGISTER_PAGES_LOG2, MAX_STRUCTURE_BYTES, PAGE_BYTES } from "./dmar-spec.js";
import { completeDmar } from "./dmar-table.js";
import type { CompleteDmarTable, DmarTable } from "./dmar-table.js";
import {
  ATC_SCOPES,
  INCLUDE_ALL_SCOPES,
  PROPERTY_SCOPES,
  REGION_SCOPES,
  ROOT_PORT_SCOPES,
  UNIT_SCOPES,
  checkIntegrated,
  checkProperties,
  checkScopeCount,
  checkScopes,
} from "./scope-rules.js";

/** What the rest of the machine says; each part that is given is checked against the table. */
export interface DmarMachine {
  /** Ids of all I/O APICs in the MADT: with interrupt remapping each must be in the scope of exactly one unit. */
  readonly ioApicIds?: readonly number[];
  /** Ranges that the guest's memory map reports as reserved: each reserved region must lie within them. */
  readonly reservedMemory?: readonly MemoryRange[];
  /** MGAW of the units in bits: at least the host address width. */
  readonly maximumGuestAddressWidth?: number;
}

/** A range of guest-physical bytes, half-open. */
export interface MemoryRange {
  /** First byte, a multiple of 4096. */
  readonly gpa: number;
  /** Whole pages. */
  readonly byteLength: number;
}

/**
 * Checks a table against the rules of §8, and against the machine where parts of it are given.
 * @returns what is wrong, structure type by structure type; empty exactly when `buildDmar` accepts the table.
 */
export function checkDmar(table: DmarTable, machine: DmarMachine = {}): DmarProblem[] {
  return new DmarRules(completeDmar(table), machine).check();
}

class DmarRules {
  readonly #table: CompleteDmarTable;
  readonly #machine: DmarMachine;
  readonly #problems = new Problems();
  readonly #segments: ReadonlySet<number>;
  readonly #namespaceDeviceNumbers: ReadonlySet<number>;

  constructor(table: CompleteDmarTable, machine: DmarMachine) {
    this.#table = table;
    this.#machine = machine;
    this.#segments = new Set(table.units.map((unit) => unit.segment));
    this.#namespaceDeviceNumbers = new Set(table.namespaceDevices.map((device) => device.deviceNumber));
  }

  check(): DmarProblem[] {
    this.#checkHeader();
    this.#checkUnits();
    this.#checkRegisterSets();
    this.#checkDevicesOfUnits();
    this.#checkIoApics();
    this.#checkReservedRegions();
    this.#checkAtsRootPorts();
    this.#checkAffinities();
    this.#checkNamespaceDevices();
    this.#checkIntegratedAtcs();
    this.#checkDeviceProperties();
    return this.#problems.list;
  }

  #checkHeader(): void {
    const { oem, hostAddressWidth: width } = this.#table;
    const guestWidth = this.#machine.maximumGuestAddressWidth;
    if (this.#problems.integer("hostAddressWidth", width, 1, 64) && guestWidth !== undefined && guestWidth < width) {
      const message = `expected at most the units' MGAW of ${guestWidth} bits, got ${width}`;
      const hint = "lower the host address width or give the units a larger MGAW";
      this.#problems.add("guest-address-width", "hostAddressWidth", message, hint);
    }
    if (this.#table.x2apicOptOut && !this.#table.interruptRemapping) {
      const message = "expected x2apicOptOut only with interruptRemapping, got it alone";
      this.#problems.add("flags", "x2apicOptOut", message, "set interruptRemapping: true or drop x2apicOptOut");
    }
    this.#problems.text("oem.oemId", oem.oemId, DMAR_HEADER.fields.OEM_ID.byteLength);
    this.#problems.text("oem.oemTableId", oem.oemTableId, DMAR_HEADER.fields.OEM_TABLE_ID.byteLength);
    this.#problems.text("oem.creatorId", oem.creatorId, DMAR_HEADER.fields.CREATOR_ID.byteLength);
    this.#problems.integer("oem.oemRevision", oem.oemRevision, 0, 0xffffffff);
    this.#problems.integer("oem.creatorRevision", oem.creatorRevision, 0, 0xffffffff);
  }

  #checkUnits(): void {
    if (this.#table.units.length === 0) {
      const message = "expected at least one remapping unit, got none";
      this.#problems.add("no-unit", "units", message, "add an entry to units");
    }
    const includeAllOfSegment = new Map<number, string>();
    for (const [index, unit] of this.#table.units.entries()) {
      const where = `units[${index}]`;
      this.#problems.integer(`${where}.segment`, unit.segment, 0, 0xffff);
      const includeAll = includeAllOfSegment.get(unit.segment);
      if (includeAll !== undefined) {
        const message = `expected the include-all unit of segment ${unit.segment} last, got ${where} after ${includeAll}`;
        const hint = unit.includeAll ? "only one unit of a segment is include-all" : `move ${includeAll} to the end`;
        this.#problems.add("include-all", where, message, hint);
      } else if (unit.includeAll) {
        includeAllOfSegment.set(unit.segment, where);
      }
      if (!unit.includeAll) checkScopeCount(this.#problems, where, unit);
      checkScopes(this.#problems, "units", where, unit, {
        allowed: unit.includeAll ? INCLUDE_ALL_SCOPES : UNIT_SCOPES,
        namespaceDeviceNumbers: this.#namespaceDeviceNumbers,
      });
    }
  }

  #checkRegisterSets(): void {
    const width = this.#table.hostAddressWidth;
    const registerSets: { gpa: number; byteLength: number; where: string }[] = [];
    for (const [index, unit] of this.#table.units.entries()) {
      const where = `units[${index}]`;
      const { registerGpa: gpa, registerByteLength: byteLength } = unit;
      const pagesLog2 = Math.log2(byteLength / PAGE_BYTES);
      if (!Number.isInteger(pagesLog2) || pagesLog2 < 0 || pagesLog2 > MAX_REGISTER_PAGES_LOG2) {
        const message = `expected 4096 * 2^N with N in 0..${MAX_REGISTER_PAGES_LOG2}, got ${String(byteLength)}`;
        this.#problems.add("range", `${where}.registerByteLength`, message, "4096 holds all registers as a rule");
      } else if (this.#problems.addressRange(`${where}.registerGpa`, gpa, byteLength, byteLength, width)) {
        registerSets.push({ gpa, byteLength, where });
      }
    }
    let before: { gpa: number; byteLength: number; where: string } | undefined;
    for (const set of registerSets.toSorted((a, b) => a.gpa - b.gpa)) {
      if (before !== undefined && set.gpa < before.gpa + before.byteLength) {
        const message = `expected register sets apart, got ${hex(set.gpa)} inside that of ${before.where}`;
        this.#problems.add("overlap", set.where, message, "give each unit an address range of its own");
      }
      if (before === undefined || set.gpa + set.byteLength > before.gpa + before.byteLength) before = set;
    }
  }

  /** A PCI device belongs to one unit at most (§8.3). */
  #checkDevicesOfUnits(): void {
    const devices = new Map<string, string>();
    for (const [unitIndex, unit] of this.#table.units.entries()) {
      for (const [scopeIndex, scope] of unit.scopes.entries()) {
        if (scope.type !== "endpoint" && scope.type !== "bridge") continue;
        const where = `units[${unitIndex}].scopes[${scopeIndex}]`;
        const what = `device ${quote(scope.path)} of segment ${unit.segment}`;
        const hint = "a PCI device belongs to one unit: keep it in one scope";
        this.#problems.unique(devices, `${unit.segment}:${scope.path}`, where, what, hint);
      }
    }
  }

  #checkIoApics(): void {
    const { ioApicIds } = this.#machine;
    const scoped = new Map<string, string>();
    for (const [unitIndex, unit] of this.#table.units.entries()) {
      for (const [scopeIndex, scope] of unit.scopes.entries()) {
        if (scope.type !== "io-apic") continue;
        const where = `units[${unitIndex}].scopes[${scopeIndex}]`;
        const hint = "an I/O APIC belongs to exactly one unit";
        this.#problems.unique(scoped, String(scope.ioApicId), where, `I/O APIC ${scope.ioApicId}`, hint);
        if (ioApicIds?.includes(scope.ioApicId) === false) {
          const message = `expected an id of the MADT (${ioApicIds.join(", ")}), got ${scope.ioApicId}`;
          this.#problems.add("io-apic", where, message, "use the id that the MADT gives to the I/O APIC");
        }
      }
    }
    if (!this.#table.interruptRemapping) return;
    for (const id of ioApicIds ?? []) {
      if (scoped.has(String(id))) continue;
      const message = `expected I/O APIC ${id} in the scope of a unit because of interruptRemapping, got it in none`;
      const hint = `add { type: "io-apic", ioApicId: ${id}, path } with the source-id of its interrupts as path`;
      this.#problems.add("io-apic", "units", message, hint);
    }
  }

  #checkReservedRegions(): void {
    const { reservedMemory } = this.#machine;
    const reserved = reservedMemory === undefined ? undefined : mergeRanges(reservedMemory);
    for (const [index, region] of this.#table.reservedRegions.entries()) {
      const where = `reservedRegions[${index}]`;
      this.#checkSegment(where, region.segment);
      checkScopeCount(this.#problems, where, region);
      checkScopes(this.#problems, "reservedRegions", where, region, {
        allowed: REGION_SCOPES,
        namespaceDeviceNumbers: this.#namespaceDeviceNumbers,
      });
      if (this.#checkRegionRange(where, region) && reserved?.some((range) => contains(range, region)) === false) {
        const end = region.gpa + region.byteLength;
        const message = `expected reserved memory, got ${hex(region.gpa)}..${hex(end - 1)}, not all of it reserved`;
        const hint = "report the region as reserved in the guest's memory map (E820 or UEFI)";
        this.#problems.add("reserved-memory", where, message, hint);
      }
    }
  }

  #checkRegionRange(where: string, region: MemoryRange): boolean {
    const { gpa, byteLength } = region;
    if (!this.#problems.integer(`${where}.byteLength`, byteLength, 1, Number.MAX_SAFE_INTEGER)) return false;
    if (byteLength % PAGE_BYTES !== 0) {
      const message = `expected a multiple of ${hex(PAGE_BYTES)}, got ${hex(byteLength)}`;
      this.#problems.add("alignment", `${where}.byteLength`, message, "reserve whole pages");
      return false;
    }
    const width = this.#table.hostAddressWidth;
    return this.#problems.addressRange(`${where}.gpa`, gpa, byteLength, PAGE_BYTES, width);
  }

  #checkAtsRootPorts(): void {
    const segments = new Map<string, string>();
    for (const [index, ports] of this.#table.atsRootPorts.entries()) {
      const where = `atsRootPorts[${index}]`;
      this.#checkSegment(where, ports.segment);
      const hint = "list all root ports of a segment in one entry";
      this.#problems.unique(segments, String(ports.segment), where, `segment ${ports.segment}`, hint);
      if (!ports.allPorts) {
        checkScopeCount(this.#problems, where, ports);
      } else if (ports.scopes.length > 0) {
        const message = `expected no scopes with allPorts, got ${ports.scopes.length}`;
        this.#problems.add("scope-count", where, message, "drop the scopes or allPorts");
      }
      checkScopes(this.#problems, "atsRootPorts", where, ports, {
        allowed: ROOT_PORT_SCOPES,
        namespaceDeviceNumbers: this.#namespaceDeviceNumbers,
      });
    }
  }

  #checkAffinities(): void {
    const registerSets = new Set(this.#table.units.map((unit) => unit.registerGpa));
    const seen = new Map<string, string>();
    for (const [index, affinity] of this.#table.affinities.entries()) {
      const where = `affinities[${index}]`;
      const { registerGpa } = affinity;
      this.#problems.integer(`${where}.proximityDomain`, affinity.proximityDomain, 0, 0xffffffff);
      if (!registerSets.has(registerGpa)) {
        const message = `expected the registerGpa of a unit, got ${hex(registerGpa)}`;
        this.#problems.add("no-unit", `${where}.registerGpa`, message, "use the registerGpa of an entry of units");
      }
      const hint = "a unit has one proximity domain";
      this.#problems.unique(seen, String(registerGpa), where, `unit ${hex(registerGpa)}`, hint);
    }
  }

  #checkNamespaceDevices(): void {
    const seen = new Map<string, string>();
    for (const [index, device] of this.#table.namespaceDevices.entries()) {
      const where = `namespaceDevices[${index}]`;
      const { deviceNumber, name } = device;
      this.#problems.integer(`${where}.deviceNumber`, deviceNumber, 1, 0xff);
      const hint = "give each namespace device a number of its own";
      this.#problems.unique(seen, String(deviceNumber), where, `device number ${deviceNumber}`, hint);
      if (name.length > MAX_NAME_LENGTH) {
        const message = `expected at most ${MAX_NAME_LENGTH} characters, got ${name.length}`;
        this.#problems.add("too-long", `${where}.name`, message, "shorten the name");
      } else if (!ACPI_NAME.test(name)) {
        const message = `expected a fully qualified ACPI name, got ${quote(name)}`;
        this.#problems.add("name", `${where}.name`, message, "write it from the root, such as \\_SB.PCI0.I2C1");
      }
    }
  }

  #checkIntegratedAtcs(): void {
    const seen = new Map<string, string>();
    const devices = new Map<string, string>();
    for (const [index, atcs] of this.#table.integratedAtcs.entries()) {
      const where = `integratedAtcs[${index}]`;
      this.#checkSegment(where, atcs.segment);
      const required = String(atcs.atcRequired);
      const what = `segment ${atcs.segment} with atcRequired: ${required}`;
      this.#problems.unique(
        seen,
        `${atcs.segment}:${required}`,
        where,
        what,
        "merge the scopes of both into one entry",
      );
      checkScopeCount(this.#problems, where, atcs);
      checkScopes(this.#problems, "integratedAtcs", where, atcs, {
        allowed: ATC_SCOPES,
        namespaceDeviceNumbers: this.#namespaceDeviceNumbers,
      });
      checkIntegrated(this.#problems, where, atcs, devices);
    }
  }

  #checkDeviceProperties(): void {
    const devices = new Map<string, string>();
    for (const [index, group] of this.#table.deviceProperties.entries()) {
      const where = `deviceProperties[${index}]`;
      this.#checkSegment(where, group.segment);
      checkScopeCount(this.#problems, where, group);
      checkScopes(this.#problems, "deviceProperties", where, group, {
        allowed: PROPERTY_SCOPES,
        namespaceDeviceNumbers: this.#namespaceDeviceNumbers,
      });
      checkIntegrated(this.#problems, where, group, devices);
      checkProperties(this.#problems, where, group.scopes);
    }
  }

  #checkSegment(where: string, segment: number): void {
    if (!this.#problems.integer(`${where}.segment`, segment, 0, 0xffff) || this.#segments.has(segment)) return;
    const message = `expected a segment with a remapping unit, got segment ${segment} without one`;
    this.#problems.add("no-unit", `${where}.segment`, message, "add a unit for the segment or correct its number");
  }
}

// From the root: a backslash, then names of up to four capitals, digits or underscores that do not begin with a digit.
const ACPI_NAME = /^\\[A-Z_][A-Z0-9_]{0,3}(?:\.[A-Z_][A-Z0-9_]{0,3})*$/;
// The NUL takes one byte.
const MAX_NAME_LENGTH = MAX_STRUCTURE_BYTES - ANDD.byteLength - 1;

function contains(outer: MemoryRange, inner: MemoryRange): boolean {
  return outer.gpa <= inner.gpa && inner.gpa + inner.byteLength <= outer.gpa + outer.byteLength;
}

/** The same bytes as ascending ranges with gaps between them. */
function mergeRanges(ranges: readonly MemoryRange[]): MemoryRange[] {
  const merged: { gpa: number; byteLength: number }[] = [];
  for (const range of ranges.toSorted((a, b) => a.gpa - b.gpa)) {
    const last = merged.at(-1);
    if (last !== undefined && range.gpa <= last.gpa + last.byteLength) {
      last.byteLength = Math.max(last.byteLength, range.gpa + range.byteLength - last.gpa);
    } else {
      merged.push({ gpa: range.gpa, byteLength: range.byteLength });
    }
  }
  return merged;
}
