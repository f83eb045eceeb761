/**
 * The state of a unit as one plain object.
 *
 * Structures are read from guest memory anew, beside the caches: looking changes no counter and sets no flag. Everything is bounded, so a guest that fills its tables does
 * not fill the host's memory.
 */

import { TableModeText } from "../spec/encoding-texts.js";
import { unitOf } from "../unit-of.js";
import type { VtdIommu } from "../vtd-iommu.js";
import { type DeviceInspection, inspectDevices, inspectViews, type ViewInspection } from "./devices.js";
import { type FaultInspection, inspectFaults } from "./faults.js";
import { hexGpa } from "./hex-text.js";
import { inspectQueue, type QueueInspection } from "./queue.js";
import { inspectRegisters, type RegisterInspection } from "./registers.js";

/** How much to show. */
export interface InspectOptions {
  /** Mapped ranges of a device or view. Default 32. */
  readonly ranges?: number;
  /** Table entries read for one device. Default 2^17. */
  readonly entries?: number;
  /** Devices, views, fault records, descriptors: of each. Default 64. */
  readonly items?: number;
}

/** JSON-safe. Frames are 4 KiB; 64-bit values are hexadecimal text. */
export interface Inspection {
  /** One line: mode, what is on. */
  readonly summary: string;
  /** As the unit goes by it: what has been latched and commanded. */
  readonly translation: {
    readonly enabled: boolean;
    readonly mode: "legacy" | "scalable" | "reserved" | "abort";
    readonly rootGpa: string;
  };
  /** As commanded through GCMD; GSTS follows when notifiers have completed. */
  readonly commanded: Readonly<Record<string, number | boolean>>;
  /** As the unit goes by it: what has been latched and commanded. */
  readonly interruptRemapping: {
    readonly enabled: boolean;
    readonly extended: boolean;
    readonly compatibility: boolean;
    readonly tableGpa: string;
    readonly entryCount: number;
  };
  /** `first+count` frames each. */
  readonly protectedRegions: readonly { readonly firstPfn: number; readonly pageCount: number }[];
  /** All registers of the block. */
  readonly registers: readonly RegisterInspection[];
  /** How full the caches are, and how often they answered. A DMA port that repeats a transfer asks none of them. */
  readonly caches: Readonly<
    Record<string, { readonly entries: number; readonly hits?: number; readonly misses?: number }>
  >;
  /** The invalidation queue. */
  readonly queue: QueueInspection;
  /** The records that hold a fault. */
  readonly faults: readonly FaultInspection[];
  /** Page requests that wait for a response. */
  readonly pageRequests: number;
  /** Every address space that was asked for. */
  readonly devices: readonly DeviceInspection[];
  /** What MAP notifiers have been told, by domain. */
  readonly views: readonly ViewInspection[];
}

/** Looks at a unit. What it answers is a copy: it does not change later. */
export function inspect(iommu: VtdIommu, options: InspectOptions = {}): Inspection {
  const unit = unitOf(iommu);
  const { ranges = 32, entries = 2 ** 17, items = 64 } = options;
  const limits = { ranges, entries, items };
  const { root, interrupts, bindings, iotlb } = unit;
  const mode = TableModeText[root.mode] ?? "reserved";
  const cached = ({ size, hits, misses }: { size: number; hits: number; misses: number }) => ({
    entries: size,
    hits,
    misses,
  });
  const { enabled, extended, compatibility, tablePfn, entryCount } = interrupts.pointer;
  return {
    summary: summaryOf(root.enabled, mode, enabled),
    translation: { enabled: root.enabled, mode, rootGpa: hexGpa(root.rootPfn) },
    commanded: { ...unit.command.state },
    interruptRemapping: { enabled, extended, compatibility, tableGpa: hexGpa(tablePfn), entryCount },
    protectedRegions: unit.filter.protectedRegions.map(({ firstPfn, pageCount }) => ({ firstPfn, pageCount })),
    registers: inspectRegisters(unit),
    caches: {
      iotlb: cached(iotlb),
      contexts: cached(bindings.contexts),
      "scalable contexts": cached(bindings.scalableContexts),
      "PASID entries": cached(bindings.pasids),
      "interrupt entries": { entries: interrupts.cache.size },
    },
    queue: inspectQueue(unit, Math.min(items, 16)),
    faults: inspectFaults(unit, items),
    pageRequests: unit.pageRequests.waiting,
    devices: inspectDevices(unit, limits),
    views: inspectViews(unit, limits),
  };
}

function summaryOf(translating: boolean, mode: string, remapping: boolean): string {
  const translation = translating ? `translating, ${mode} mode` : "translation off";
  return `${translation}; interrupt remapping ${remapping ? "on" : "off"}`;
}
