/**
 * The bridges of a PCI segment as the guest has numbered their buses: who is behind whom, and as whom requests arrive at a unit.
 *
 * A PCI Express bridge passes requester-ids on. Behind a PCI-Express-to-PCI bridge requests carry the bridge's secondary bus, device 0, function 0; behind a conventional
 * bridge the bridge's own id (§3.4.1). The rules apply from the device upwards, one bridge after the other.
 */

import { IommuError, type SourceId } from "@iommu-kit/iommu-core";
import { type DevicePath, parseDevicePath } from "../acpi/device-path.js";

/** A bridge. Its bus numbers are the guest's: tell `VtdUnits.setBridges` when they change. */
export interface Bridge {
  /** Place: `"00:1c.0"`, or `"00:1c.0/02.0"` behind another bridge. */
  readonly path: string;
  /** `pcie`: a root port or switch port. `pcie-to-pci`: takes over requests of the buses behind it. `pci`: a conventional bridge. */
  readonly kind: "pcie" | "pcie-to-pci" | "pci";
  /** Buses behind it, both included. */
  readonly secondaryBus: number;
  /** Highest bus number behind it. */
  readonly subordinateBus: number;
}

interface PlacedBridge extends Bridge {
  readonly sourceId: SourceId;
}

/** The bridges of one segment. */
export class Bridges {
  /** Widest range of buses first: a bridge comes before those behind it. */
  readonly #bridges: readonly PlacedBridge[];

  /** @throws {IommuError} `bad-option` for a path or bus number that cannot be, or a bridge behind one that is not named. */
  constructor(bridges: readonly Bridge[]) {
    const placed: PlacedBridge[] = [];
    for (const bridge of bridges.toSorted((a, b) => depthOf(a.path) - depthOf(b.path))) {
      const { path, secondaryBus, subordinateBus } = bridge;
      if (!isBus(secondaryBus) || !isBus(subordinateBus) || subordinateBus < secondaryBus)
        throw bad(`${path}: buses in 0..255 in ascending order`, `${secondaryBus}..${subordinateBus}`);
      const sourceId = sourceIdOf(pathOf(path), placed);
      if (sourceId === undefined) throw bad(`${path}: every bridge on its way`, "one that is not among the bridges");
      placed.push({ ...bridge, sourceId });
    }
    this.#bridges = placed;
  }

  /** The source-id of a place, or `undefined` while a bridge on its way has no bus numbers. */
  locate(path: string): SourceId | undefined {
    return sourceIdOf(pathOf(path), this.#bridges);
  }

  /** The bridges above a device, nearest first. */
  above(sourceId: SourceId): readonly (Bridge & { readonly sourceId: SourceId })[] {
    const bus = sourceId >> 8;
    return this.#bridges.filter((bridge) => isBehind(bus, bridge)).toReversed();
  }

  /** The bridge at a source-id. */
  at(sourceId: SourceId): Bridge | undefined {
    return this.#bridges.find((bridge) => bridge.sourceId === sourceId);
  }

  /** The requester-id under which a device's requests arrive at its unit. */
  requesterIdOf(sourceId: SourceId): SourceId {
    let requesterId = sourceId;
    for (const bridge of this.above(sourceId)) {
      if (bridge.kind === "pcie-to-pci") requesterId = bridge.secondaryBus * 256;
      else if (bridge.kind === "pci") requesterId = bridge.sourceId;
    }
    return requesterId;
  }
}

/** Whether a bus is behind a bridge. */
function isBehind(bus: number, bridge: Bridge): boolean {
  return bus >= bridge.secondaryBus && bus <= bridge.subordinateBus;
}

/** @throws {IommuError} `bad-option`. */
export function pathOf(path: string): DevicePath {
  const parsed = parseDevicePath(path);
  const fits = parsed?.pairs.every(({ device, function: fn }) => device < 32 && fn < 8) === true;
  if (parsed === undefined || !fits) throw bad('a place like "00:1c.0" or "00:1c.0/00.0"', path);
  return parsed;
}

function sourceIdOf({ startBus, pairs }: DevicePath, bridges: readonly PlacedBridge[]): SourceId | undefined {
  let bus: number | undefined = startBus;
  let sourceId: SourceId | undefined;
  for (const { device, function: fn } of pairs) {
    if (bus === undefined) return undefined;
    const here: SourceId = bus * 256 + device * 8 + fn;
    sourceId = here;
    bus = bridges.find((bridge) => bridge.sourceId === here)?.secondaryBus;
  }
  return sourceId;
}

function depthOf(path: string): number {
  return pathOf(path).pairs.length;
}

function isBus(value: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= 255;
}

function bad(expected: string, got: string): IommuError {
  return new IommuError("bad-option", `bridges: expected ${expected}, got ${got}`, {
    hint: "name every bridge between the root bus and the device, with the bus numbers of its configuration space",
  });
}
