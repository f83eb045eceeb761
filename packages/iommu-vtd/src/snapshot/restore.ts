/**
 * A unit's state back from plain data. Everything is checked before anything changes.
 */

import { type Completion, CompletionGroup, IommuError, whenDone } from "@iommu-kit/iommu-core";
import type { Unit } from "../unit.js";
import { VtdIommu } from "../vtd-iommu.js";
import { identityOf, SNAPSHOT_VERSION, type VtdSnapshot } from "./save.js";

/**
 * Restores a unit; guest memory must have been restored before. Notifiers hear differences only. Done when all of them have completed; commands and wait
 * descriptors that were in flight complete then.
 * @throws {IommuError} `bad-snapshot`, with the unit unchanged, for data that is damaged, of another version, or of a unit with other capabilities; `reentrant-call`.
 */
export function restore(iommu: VtdIommu, snapshot: unknown): Completion {
  const unit = VtdIommu.unitOf(iommu);
  check(unit, snapshot);
  unit.enterOrThrow("restore");
  return apply(unit, snapshot);
}

/**
 * Restores several units, or none.
 * @throws {IommuError} as `restore`; also if the numbers of units and snapshots differ.
 */
export function restoreAll(iommus: readonly VtdIommu[], snapshots: unknown): Completion {
  if (!Array.isArray(snapshots) || snapshots.length !== iommus.length) {
    throw bad(`${iommus.length} snapshots`, Array.isArray(snapshots) ? String(snapshots.length) : typeof snapshots);
  }
  const units = iommus.map((iommu) => VtdIommu.unitOf(iommu));
  const checked: readonly unknown[] = snapshots;
  for (const [index, unit] of units.entries()) check(unit, checked[index]);
  const group = new CompletionGroup();
  for (const [index, iommu] of iommus.entries()) group.add(restore(iommu, checked[index]));
  return group.take();
}

function apply(unit: Unit, snapshot: VtdSnapshot): Completion {
  const { file } = unit;
  unit.forget();
  unit.pageRequests.reset();
  file.words.fill(0);
  for (const [word, value] of snapshot.registers) file.words[word] = value;
  Object.assign(unit.root, snapshot.root);
  Object.assign(unit.interrupts.pointer, snapshot.interrupts);
  unit.faults.next = snapshot.nextFault;
  unit.protectedMemory.reload();
  const completion = unit.invalidator.everything();
  unit.command.restore(snapshot.command, completion);
  unit.registerInvalidation.restore(completion);
  whenDone(completion, () => unit.protectedMemory.settle());
  const waiting = snapshot.waiting === null ? undefined : Int32Array.from(snapshot.waiting);
  unit.queue.restore(snapshot.command.QIE === 1, waiting, completion);
  return completion;
}

function check(unit: Unit, snapshot: unknown): asserts snapshot is VtdSnapshot {
  if (!isObject(snapshot)) throw bad("an object", typeof snapshot);
  if (snapshot["format"] !== "iommu-kit/vtd") throw bad('format "iommu-kit/vtd"', String(snapshot["format"]));
  if (snapshot["version"] !== SNAPSHOT_VERSION) throw bad(`version ${SNAPSHOT_VERSION}`, String(snapshot["version"]));
  const { identity, registers, root, interrupts, command, nextFault, waiting } = snapshot;
  const own = identityOf(unit);
  if (!isWords(identity) || identity.length !== own.length || own.some((word, index) => identity[index] !== word)) {
    throw bad(
      `a unit with VER, CAP, ECAP and width ${own.join(" ")}`,
      Array.isArray(identity) ? identity.join(" ") : typeof identity,
    );
  }
  const isRegister = (entry: unknown): boolean =>
    isWords(entry) && entry.length === 2 && (entry[0] ?? -1) in unit.file.words;
  if (!Array.isArray(registers) || !registers.every(isRegister))
    throw bad("registers as [word, value]", "something else");
  const pointers = has(root, { enabled: "boolean", mode: "number", rootPfn: "number" });
  const remapping = has(interrupts, {
    enabled: "boolean",
    entryCount: "number",
    extended: "boolean",
    tablePfn: "number",
    compatibility: "boolean",
  });
  const levels = has(command, { TE: "number", QIE: "number", IRE: "number", CFI: "number", latching: "boolean" });
  if (!pointers || !remapping || !levels) throw bad("root, interrupts and command", "something else");
  if (typeof nextFault !== "number" || nextFault < 0 || nextFault >= unit.config.faultRecords) {
    throw bad(`nextFault below ${unit.config.faultRecords}`, String(nextFault));
  }
  const isDescriptor = isWords(waiting) && (waiting.length === 4 || waiting.length === 8);
  if (waiting !== null && !isDescriptor) throw bad("waiting: null or a descriptor", typeof waiting);
}

function has(value: unknown, shape: Readonly<Record<string, "number" | "boolean">>): boolean {
  if (!isObject(value)) return false;
  return Object.entries(shape).every(
    ([key, type]) => typeof value[key] === type && (type === "boolean" || Number.isSafeInteger(value[key])),
  );
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}

function isWords(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((word) => Number.isSafeInteger(word));
}

function bad(expected: string, got: string): IommuError {
  return new IommuError("bad-snapshot", `expected ${expected}, got ${got}`, {
    hint: "restore into a unit with the same options, from a snapshot of this version",
  });
}
