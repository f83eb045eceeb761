/**
 * How long a boot to user space takes, with a unit and without: the same guest, the same machine.
 *
 * Both kinds have the same devices. Without a unit the kernel gets the same options and finds nothing to drive.
 */

import { attachIommu } from "./adapter/attach-iommu.js";
import type { GuestFiles } from "./guest/guest-files.js";
import { createMachine } from "./machine.js";

/** One boot. */
export interface BootTime {
  /** From the first instruction to the first process of user space. */
  readonly wallMilliseconds: number;
  /** Processor time of the emulator in between: what a busy machine changes less. */
  readonly cpuMilliseconds: number;
  /** Instructions of the guest: what a busy machine hardly changes. */
  readonly instructions: number;
}

/** Pairs, and the ratio of each pair's times. */
export interface BootComparison {
  readonly pairs: readonly { readonly withUnit: BootTime; readonly without: BootTime }[];
  readonly medianWallRatio: number;
  readonly medianCpuRatio: number;
  readonly medianInstructionRatio: number;
}

/** Boots once. */
export async function measureBoot(
  withUnit: boolean,
  files: GuestFiles,
  onLine: (line: string) => void,
): Promise<BootTime> {
  const { emulator, console } = await createMachine({ files, tasks: [], commandLine: "intel_iommu=on", onLine });
  if (withUnit) attachIommu(emulator, {});
  const wall = performance.now();
  const cpu = process.cpuUsage();
  const up = console.waitFor(/^@@ up/);
  await emulator.run();
  await up;
  const { user, system } = process.cpuUsage(cpu);
  const time: BootTime = {
    wallMilliseconds: performance.now() - wall,
    cpuMilliseconds: (user + system) / 1000,
    instructions: emulator.get_instruction_counter(),
  };
  await emulator.destroy();
  return time;
}

/** Runs `pairCount` pairs in alternating order, so that a slow drift of the machine hits both kinds alike. */
export async function compareBoots(
  pairCount: number,
  boot: (withUnit: boolean) => Promise<BootTime>,
): Promise<BootComparison> {
  const pairs: { withUnit: BootTime; without: BootTime }[] = [];
  for (let pair = 0; pair < pairCount; pair += 1) {
    const unitFirst = pair % 2 === 0;
    const first = await boot(unitFirst);
    const second = await boot(!unitFirst);
    pairs.push(unitFirst ? { withUnit: first, without: second } : { withUnit: second, without: first });
  }
  const ratio = (measure: keyof BootTime): number =>
    median(pairs.map(({ withUnit, without }) => withUnit[measure] / without[measure]));
  return {
    pairs,
    medianWallRatio: ratio("wallMilliseconds"),
    medianCpuRatio: ratio("cpuMilliseconds"),
    medianInstructionRatio: ratio("instructions"),
  };
}

/** The middle value, or the mean of the two in the middle. */
function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? Number.NaN)) / 2;
}
