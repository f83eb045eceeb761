/**
 * A unit's state back from plain data. Everything is checked before anything changes.
 */

import { type Completion, CompletionGroup, IommuError } from "@iommu-kit/iommu-core";
import type { Unit } from "../unit.js";
import { unitOf } from "../unit-of.js";
import type { VtdIommu } from "../vtd-iommu.js";
import { checkSnapshot, refusal } from "./check.js";
import type { VtdSnapshot } from "./save.js";

/**
 * Restores a unit; guest memory must have been restored before. Notifiers hear differences only. Done when all of them have completed; commands and wait
 * descriptors that were in flight complete then.
 * @throws {IommuError} `bad-snapshot`, with the unit unchanged, for data that is damaged, of another version, or of a unit with other capabilities; `reentrant-call`; `destroyed`.
 */
export function restore(iommu: VtdIommu, snapshot: unknown): Completion {
  return restoreAll([iommu], [snapshot]);
}

/**
 * Restores several units, or none.
 * @throws {IommuError} as `restore`; also if the numbers of units and snapshots differ.
 */
export function restoreAll(iommus: readonly VtdIommu[], snapshots: unknown): Completion {
  if (!Array.isArray(snapshots) || snapshots.length !== iommus.length) {
    throw refusal(`${iommus.length} snapshots`, Array.isArray(snapshots) ? String(snapshots.length) : typeof snapshots);
  }
  const given: readonly unknown[] = snapshots;
  const pairs = iommus.map((iommu, index) => {
    const unit = unitOf(iommu);
    const snapshot = given[index];
    checkSnapshot(unit, snapshot);
    return { unit, snapshot };
  });
  if (new Set(iommus).size !== iommus.length) {
    throw new IommuError("bad-option", "restoreAll: expected each unit once, got one twice", {
      hint: "pass the units in the order in which they were saved",
    });
  }
  for (const { unit } of pairs) unit.enterOrThrow("restore");
  const group = new CompletionGroup();
  for (const { unit, snapshot } of pairs) group.add(apply(unit, snapshot));
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
  unit.protectedMemory.restore(completion);
  for (const event of unit.eventMessages) event.restored();
  const waiting = snapshot.waiting === null ? undefined : Int32Array.from(snapshot.waiting);
  unit.queue.restore(snapshot.command.QIE === 1, waiting, completion);
  // Whoever asks for routes in there finds a unit that has been restored.
  unit.interrupts.changed(undefined);
  return completion;
}
