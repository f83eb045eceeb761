/**
 * A machine saved in the middle of disk I/O and restored in another process: v86's state and the unit's.
 *
 * The machine is stopped between two instructions while the guest copies a file. What a disk transfer needs is in v86's state: its transfers complete
 * within the instruction that starts them. Both halves are judged: notifiers that hold the identity mapping of a new machine must be brought to what the
 * restored guest maps by differences.
 */

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { restore, save, type VtdSnapshot } from "@iommu-kit/iommu-vtd/snapshot";
import { type AttachedIommu, attachIommu } from "./adapter/attach-iommu.js";
import type { DmaObserver } from "./adapter/device-dma.js";
import type { GuestFiles } from "./guest/guest-files.js";
import { Judges } from "./judge/judges.js";
import { arrayBufferOf, createMachine, type Machine } from "./machine.js";
import { type Check, equal, moreThan } from "./scenario.js";

/** How saving or restoring went. */
export interface SnapshotResult {
  readonly ok: boolean;
  readonly checks: readonly Check[];
  readonly machineBytes: number;
  readonly unitBytes: number;
  readonly milliseconds: number;
}

const UNIT = { interruptRemapping: false, hostAddressWidth: 36, addressWidths: [39], cachingMode: true } as const;
/** DMA accesses of the disk after which the machine is stopped: in the middle of the first copy. */
const ACCESSES_BEFORE_STOP = 600;

/** Boots, stops in the middle of I/O, and writes `machine.bin` and `unit.json` to the directory. */
export async function saveSnapshot(
  directory: string,
  files: GuestFiles,
  onLine: (line: string) => void,
): Promise<SnapshotResult> {
  let accesses = 0;
  let counting = false;
  let stop: (() => void) | undefined;
  const inFullSwing = new Promise<void>((resolve) => (stop = resolve));
  const { machine, attached, judges } = await build(files, onLine, () => {
    accesses += counting ? 1 : 0;
    if (accesses === ACCESSES_BEFORE_STOP) stop?.();
  });
  machine.console.when(/^@@ fact hold running/, () => (counting = true));
  await machine.emulator.run();
  await inFullSwing;
  await machine.emulator.stop();
  const begin = performance.now();
  const machineState = new Uint8Array(await machine.emulator.save_state());
  const unitState = JSON.stringify(save(attached.unit.iommu));
  const milliseconds = performance.now() - begin;
  await writeFile(join(directory, "machine.bin"), machineState);
  await writeFile(join(directory, "unit.json"), unitState);
  const original = machine.console.fact("hold", "original") ?? "";
  await writeFile(join(directory, "original.txt"), original);
  const copies = machine.console.tasks.get("hold")?.facts.get("copy") ?? [];
  const checks = [
    moreThan("disk accesses before the stop", accesses, ACCESSES_BEFORE_STOP - 1),
    equal("copies finished before the stop", copies.length, 0),
    ...judged(judges, "before", 1_000),
  ];
  await machine.emulator.destroy();
  return {
    ok: checks.every((check) => check.ok),
    checks,
    machineBytes: machineState.length,
    unitBytes: unitState.length,
    milliseconds,
  };
}

/** Restores what `saveSnapshot` wrote, lets the guest finish, and compares its checksums. */
export async function restoreSnapshot(
  directory: string,
  files: GuestFiles,
  onLine: (line: string) => void,
): Promise<SnapshotResult> {
  const { machine, attached, judges } = await build(files, onLine);
  const machineState = await arrayBufferOf(join(directory, "machine.bin"));
  const unitState = await readFile(join(directory, "unit.json"), "utf8");
  const original = await readFile(join(directory, "original.txt"), "utf8");
  // The reports of the guest begin in the middle: its task has begun in the other process.
  machine.console.tasks.set("hold", { result: "running", facts: new Map() });
  const begin = performance.now();
  await machine.emulator.restore_state(machineState);
  const snapshot = JSON.parse(unitState) as VtdSnapshot;
  judges.assume(snapshot.root);
  await restore(attached.unit.iommu, snapshot);
  const milliseconds = performance.now() - begin;
  const done = machine.console.waitFor(/^@@ done/);
  await machine.emulator.run();
  await done;
  const copies = machine.console.tasks.get("hold")?.facts.get("copy") ?? [];
  const disk = attached.devices.find(({ name }) => name === "ide")?.counters;
  const checks = [
    equal("copies finished after the restore", copies.length, 6),
    equal("copies whose SHA-256 is the original's", copies.filter((copy) => copy === original).length, 6),
    moreThan("bytes that the disk wrote by IOVA after the restore", disk?.bytesWritten ?? 0, 10_000_000),
    equal("DMA refused", disk?.refused, 0),
    equal("task", machine.console.tasks.get("hold")?.result, "ok"),
    ...judged(judges, "after", 5_000),
  ];
  await machine.emulator.destroy();
  attached.detach();
  return {
    ok: checks.every((check) => check.ok),
    checks,
    machineBytes: machineState.byteLength,
    unitBytes: unitState.length,
    milliseconds,
  };
}

function judged({ shadow, container }: Judges, when: string, leastChecks: number): readonly Check[] {
  return [
    moreThan(`shadow against fresh walk, ${when}: pages checked`, shadow?.counters.checks ?? 0, leastChecks),
    equal(`shadow against fresh walk, ${when}: mismatches`, shadow?.counters.mismatches, 0),
    equal(`VFIO notifier's container, ${when}: mismatches`, container?.counters.mismatches, 0),
    equal(`pages unmapped while the tables still map them, ${when}`, shadow?.counters.vanished, 0),
  ];
}

interface Judged {
  readonly machine: Machine;
  readonly attached: AttachedIommu;
  readonly judges: Judges;
}

async function build(files: GuestFiles, onLine: (line: string) => void, onDma?: () => void): Promise<Judged> {
  const machine = await createMachine({ files, tasks: ["hold"], commandLine: "intel_iommu=on", onLine });
  const judges = new Judges();
  const observer: DmaObserver = (...access) => {
    onDma?.();
    judges.onDma(...access);
  };
  const options = { unit: UNIT, onDma: observer, onRegisterWrite: judges.onRegisterWrite };
  const attached = attachIommu(machine.emulator, options);
  judges.begin(attached);
  return { machine, attached, judges };
}
