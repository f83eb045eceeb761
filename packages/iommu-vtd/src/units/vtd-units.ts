/**
 * The units of one PCI segment: routing by device scopes, as firmware describes them (§8.3).
 *
 * The most specific scope wins: a device that is named, then the nearest bridge that is, then the unit that includes all. Units are independent: nothing orders their queues,
 * and each records the faults of its own devices.
 */

import {
  type AddressSpace,
  type AddressSpaceOptions,
  type Completion,
  CompletionGroup,
  formatSourceId,
  IommuError,
  type MsiMessage,
  type SourceId,
} from "@iommu-kit/iommu-core";
import type { DeviceScope, RemappingUnit } from "../acpi/dmar-table.js";
import { UNLOCATED } from "../interrupt/interrupt-remap.js";
import { restoreAll } from "../snapshot/restore.js";
import { saveAll, type VtdSnapshot } from "../snapshot/save.js";
import { unitOf } from "../unit-of.js";
import type { VtdIommu } from "../vtd-iommu.js";
import { type Bridge, Bridges, pathOf } from "./bridges.js";

/** A unit and what it is responsible for. */
export interface PlacedUnit {
  /** The unit. */
  readonly unit: VtdIommu;
  /** Where the guest finds its registers: a multiple of the block's size. */
  readonly registerGpa: number;
  /** Serves every PCI device that no other unit names. At most one unit; its scopes are I/O APICs, HPETs and namespace devices only. */
  readonly includeAll?: boolean;
  /** Devices that are its own. Default: none named. */
  readonly scopes?: readonly DeviceScope[];
}

/** What `VtdUnits` works with. */
export interface VtdUnitsOptions {
  /** All units of the machine. */
  readonly units: readonly PlacedUnit[];
  /** Default: none, every device is on its root bus. */
  readonly bridges?: readonly Bridge[];
  /** Default 0. */
  readonly segment?: number;
}

/** Who sends a message. */
export type InterruptSource = SourceId | { readonly ioApicId: number } | { readonly hpetNumber: number };

/**
 * Several units as one machine has them: says which unit serves a device, and under which requester-id. The units themselves stay the host's: each has its
 * own registers, options and memory.
 */
export class VtdUnits {
  readonly #units: readonly PlacedUnit[];
  readonly #segment: number;
  #bridges: Bridges;

  /** @throws {IommuError} `bad-option` for scopes that contradict each other, overlapping register blocks, or bridges that cannot be. */
  constructor(options: VtdUnitsOptions) {
    // Firmware lists the unit that includes all last, and so do lookups.
    this.#units = options.units.toSorted((a, b) => Number(a.includeAll === true) - Number(b.includeAll === true));
    this.#segment = options.segment ?? 0;
    this.#bridges = new Bridges(options.bridges ?? []);
    checkUnits(this.#units);
  }

  /** The units, the one that includes all last. */
  get units(): readonly VtdIommu[] {
    return this.#units.map(({ unit }) => unit);
  }

  /** The guest has renumbered buses. Address spaces that were given out keep their requester-id: devices that moved ask again. */
  setBridges(bridges: readonly Bridge[]): void {
    this.#bridges = new Bridges(bridges);
  }

  /** The unit that serves a device, by its own source-id; `undefined` if none does and its requests are not translated. */
  unitOf(sourceId: SourceId): VtdIommu | undefined {
    return (this.#named(sourceId) ?? this.#behindBridge(sourceId) ?? this.#includesAll())?.unit;
  }

  /** The requester-id under which a device's requests arrive: another's behind a PCI bridge. */
  requesterIdOf(sourceId: SourceId): SourceId {
    return this.#bridges.requesterIdOf(sourceId);
  }

  /**
   * What a device sees, through the unit that serves it. Devices that share a requester-id share the address space.
   * @throws {IommuError} `not-supported` if no unit serves the device; `bad-source-id`, `bad-option` as `VtdIommu.addressSpace`.
   */
  addressSpace(sourceId: SourceId, options: AddressSpaceOptions = {}): AddressSpace {
    const unit = this.unitOf(sourceId);
    if (unit !== undefined) return unit.addressSpace(this.requesterIdOf(sourceId), options);
    throw new IommuError("not-supported", `expected a unit whose scopes cover ${formatSourceId(sourceId)}, got none`, {
      hint: "give it raw memory, or name it in a scope, or let one unit include all",
    });
  }

  /**
   * A message of a device, an I/O APIC or an HPET. `false`: refused. `undefined`: no unit serves the source, deliver it as it is.
   * While a bridge on its way has no bus numbers, an I/O APIC or HPET has no source-id: entries that validate the source refuse it.
   */
  interrupt(source: InterruptSource, message: MsiMessage): boolean | undefined {
    if (typeof source === "number") return this.unitOf(source)?.interrupt(this.requesterIdOf(source), message);
    for (const { unit, scopes = [] } of this.#units) {
      const scope = scopes.find((one) => isScopeOf(one, source));
      if (scope !== undefined)
        return unitOf(unit).interrupts.request(this.#bridges.locate(scope.path) ?? UNLOCATED, message);
    }
    return undefined;
  }

  /** Whose registers lie at an address, and at which offset. */
  registersAt(gpa: number): { readonly unit: VtdIommu; readonly offsetBytes: number } | undefined {
    for (const { unit, registerGpa } of this.#units) {
      const offsetBytes = gpa - registerGpa;
      if (offsetBytes >= 0 && offsetBytes < unit.mmio.byteLength) return { unit, offsetBytes };
    }
    return undefined;
  }

  /** What the DMAR table says: `units` of a `DmarTable` (subpath `./acpi`). */
  dmarUnits(): RemappingUnit[] {
    return this.#units.map(({ unit, registerGpa, includeAll = false, scopes = [] }) => ({
      registerGpa,
      registerByteLength: unit.mmio.byteLength,
      segment: this.#segment,
      includeAll,
      scopes,
    }));
  }

  /** Resets every unit. Done when every notifier has completed. */
  reset(options: { readonly warm?: boolean } = {}): Completion {
    const group = new CompletionGroup();
    for (const { unit } of this.#units) group.add(unit.reset(options));
    return group.take();
  }

  /** The state of every unit, for `restore` of units in the same order. Bridges are the host's. */
  save(): VtdSnapshot[] {
    return saveAll(this.units);
  }

  /**
   * Restores every unit, or none.
   * @throws {IommuError} `bad-snapshot`, with every unit unchanged.
   */
  restore(snapshots: unknown): Completion {
    return restoreAll(this.units, snapshots);
  }

  #named(sourceId: SourceId): PlacedUnit | undefined {
    return this.#units.find(({ scopes = [] }) =>
      scopes.some(({ type, path }) => type !== "bridge" && this.#bridges.locate(path) === sourceId),
    );
  }

  /** A bridge's scope covers the bridge and everything behind it; the nearest one counts. */
  #behindBridge(sourceId: SourceId): PlacedUnit | undefined {
    const places = [sourceId, ...this.#bridges.above(sourceId).map((bridge) => bridge.sourceId)];
    for (const place of places) {
      const found = this.#units.find(({ scopes = [] }) =>
        scopes.some(({ type, path }) => type === "bridge" && this.#bridges.locate(path) === place),
      );
      if (found !== undefined) return found;
    }
    return undefined;
  }

  #includesAll(): PlacedUnit | undefined {
    return this.#units.find(({ includeAll }) => includeAll === true);
  }
}

function isScopeOf(scope: DeviceScope, source: Exclude<InterruptSource, number>): boolean {
  if ("ioApicId" in source) return scope.type === "io-apic" && scope.ioApicId === source.ioApicId;
  return scope.type === "hpet" && scope.hpetNumber === source.hpetNumber;
}

function checkUnits(units: readonly PlacedUnit[]): void {
  const named = new Map<string, string>();
  let end = -1;
  for (const { unit, registerGpa } of units.toSorted((a, b) => a.registerGpa - b.registerGpa)) {
    const { byteLength } = unit.mmio;
    if (!(registerGpa >= 0) || registerGpa % byteLength !== 0 || registerGpa < end)
      throw bad(`register blocks apart, each at a multiple of ${byteLength}`, `one at 0x${registerGpa.toString(16)}`);
    end = registerGpa + byteLength;
  }
  for (const [index, { scopes = [], includeAll }] of units.entries()) {
    for (const scope of scopes) {
      pathOf(scope.path);
      const pci = scope.type === "endpoint" || scope.type === "bridge";
      if (includeAll === true && pci) throw bad("no PCI device named by the unit that includes all", scope.path);
      const name = nameOf(scope);
      if (named.has(name)) throw bad("each device named once", `${name} named twice`);
      named.set(name, String(index));
    }
  }
  if (units.filter(({ includeAll }) => includeAll === true).length > 1)
    throw bad("one unit that includes all", "several");
  if (new Set(units.map(({ unit }) => unit)).size !== units.length) throw bad("each unit once", "one twice");
}

function nameOf(scope: DeviceScope): string {
  if (scope.type === "io-apic") return `I/O APIC ${scope.ioApicId}`;
  if (scope.type === "hpet") return `HPET ${scope.hpetNumber}`;
  if (scope.type === "namespace-device") return `namespace device ${scope.deviceNumber} at ${scope.path}`;
  return `${scope.type} ${scope.path}`;
}

function bad(expected: string, got: string): IommuError {
  return new IommuError("bad-option", `units: expected ${expected}, got ${got}`, {
    hint: "describe the machine as its DMAR table would",
  });
}
