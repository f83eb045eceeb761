/**
 * A unit's state as plain data.
 */

import type { Unit } from "../unit.js";
import { unitOf } from "../unit-of.js";
import type { VtdIommu } from "../vtd-iommu.js";

/** Version of the format. A snapshot of another version is refused. */
export const SNAPSHOT_VERSION = 1;

/** JSON-safe. Words are signed 32-bit integers. */
export interface VtdSnapshot {
  /** Says what the object is. */
  readonly format: "iommu-kit/vtd";
  /** Of the format. */
  readonly version: number;
  /** What the unit was: a restore needs the same. VER, CAP (2 words), ECAP (2 words), host address width. */
  readonly identity: readonly number[];
  /** [word index, value] of every register word that is not 0. */
  readonly registers: readonly (readonly [number, number])[];
  /** What has been latched of RTADDR, and whether translation is on. */
  readonly root: { readonly enabled: boolean; readonly mode: number; readonly rootPfn: number };
  /** What has been latched of IRTA, and whether remapping is on. */
  readonly interrupts: {
    readonly enabled: boolean;
    readonly entryCount: number;
    readonly extended: boolean;
    readonly tablePfn: number;
    readonly compatibility: boolean;
  };
  /** What was commanded through GCMD. */
  readonly command: {
    readonly TE: number;
    readonly QIE: number;
    readonly IRE: number;
    readonly CFI: number;
    readonly latching: boolean;
  };
  /** The record that is written next. */
  readonly nextFault: number;
  /** The wait descriptor in flight, or null. */
  readonly waiting: readonly number[] | null;
  /** Over everything above: damaged data is refused. */
  readonly checksum: number;
}

/** What a checksum is over. */
export type SnapshotState = Omit<VtdSnapshot, "checksum">;

/**
 * The state of one unit. Page requests that wait for a response belong to the device models: they ask again after a restore.
 * @throws {IommuError} `destroyed` for a unit that has left its machine: its state has gone with it.
 */
export function save(iommu: VtdIommu): VtdSnapshot {
  const unit = unitOf(iommu);
  unit.checkPresent("save");
  const registers: [number, number][] = [];
  for (const [word, value] of unit.file.words.entries()) if (value !== 0) registers.push([word, value]);
  const { waiting } = unit.queue;
  const state: SnapshotState = {
    format: "iommu-kit/vtd",
    version: SNAPSHOT_VERSION,
    identity: identityOf(unit),
    registers,
    root: { ...unit.root },
    interrupts: { ...unit.interrupts.pointer },
    command: unit.command.state,
    nextFault: unit.faults.next,
    waiting: waiting === undefined ? null : [...waiting],
  };
  return { ...state, checksum: checksumOf(state) };
}

/**
 * The states of several units, in order.
 * @throws {IommuError} as `save`.
 */
export function saveAll(iommus: readonly VtdIommu[]): VtdSnapshot[] {
  return iommus.map(save);
}

/** @internal What two units must have in common to exchange a snapshot. */
export function identityOf(unit: Unit): number[] {
  const { ver, capabilities } = unit.config;
  return [...ver, ...capabilities.cap, ...capabilities.ecap, capabilities.hostAddressWidth];
}

/** @internal FNV-1a over the numbers of a snapshot, in a fixed order. */
export function checksumOf(state: SnapshotState): number {
  const { version, identity, registers, root, interrupts, command, nextFault, waiting } = state;
  const numbers = [
    version,
    ...identity,
    registers.length,
    ...registers.flat(),
    ...[root.enabled, root.mode, root.rootPfn],
    ...[interrupts.enabled, interrupts.entryCount, interrupts.extended, interrupts.tablePfn, interrupts.compatibility],
    ...[command.TE, command.QIE, command.IRE, command.CFI, command.latching],
    nextFault,
    ...(waiting ?? [-1]),
  ].map(Number);
  let hash = 0x811c9dc5 | 0;
  for (const value of numbers) {
    for (const part of [value | 0, Math.floor(value / 2 ** 32) | 0]) hash = Math.imul(hash ^ part, 0x01000193);
    hash ^= hash >>> 15;
  }
  return hash >>> 0;
}
