/**
 * 10,000 machines, one after the other: built, used, reset, restored, left in the middle of something, dropped. Memory stays flat, and nothing keeps listening.
 */

import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { BufferMemory, byteAddress, parseSourceId } from "@iommu-kit/iommu-core";
import { ManualScheduler, RecordingFlushNotifier } from "@iommu-kit/iommu-core/testing";
import { VtdIommu } from "@iommu-kit/iommu-vtd";
import { restore, save } from "@iommu-kit/iommu-vtd/snapshot";
import { MemoryContainer, type1v2, VfioNotifier } from "../src/index.js";
import { expect, it } from "vitest";

const CYCLES = 10_000;
const EVENTS = [
  "fault",
  "map",
  "unmap",
  "change",
  "invalidate",
  "attach",
  "detach",
  "failed",
  "window",
  "refused",
  "budget",
  "move",
] as const;

/** RAM with tables that lead 00:03.0 to 16 pages; shared by all machines, as it is the only thing that may be large. */
function ram(): BufferMemory {
  const memory = new BufferMemory([{ firstPfn: 0, bytes: new Uint8Array(2 ** 20) }]);
  memory.writeWord(0x10000, 0x11001);
  memory.writeWord(0x11180, 0x12001);
  memory.writeWord(0x11188, 0x101);
  memory.writeWord(0x12000, 0x13003);
  memory.writeWord(0x13000, 0x14003);
  for (let i = 0; i < 16; i++) memory.writeWord(0x14000 + i * 8, (0x20 + i) * 4096 + 3);
  return memory;
}

/** One machine's life, ended in one of several states. Answers what must be 0 afterwards. */
async function life(memory: BufferMemory, cycle: number, graveyard: FinalizationRegistry<number>): Promise<number> {
  const scheduler = new ManualScheduler();
  const unit = new VtdIommu({ memory, scheduler, cachingMode: true, msi: () => undefined });
  graveyard.register(unit, cycle);
  const listener = (): void => undefined;
  for (const name of EVENTS) unit.events.on(name, listener);
  const disk = unit.addressSpace(parseSourceId("00:03.0"));
  const container = new MemoryContainer(type1v2);
  const vfio = new VfioNotifier(container);
  vfio.attachTo(disk);
  const slow = new RecordingFlushNotifier({ answers: cycle % 3 === 0 ? "manual" : "sync" });
  disk.attach(slow);
  unit.mmio.write64(0x20, 0x10000n);
  unit.mmio.write32(0x18, 0x4000_0000);
  unit.mmio.write32(0x18, 0x8000_0000);
  disk.dma.write(0x1010, Uint8Array.of(1, 2, 3));
  disk.dma.read(0x99_0000, new Uint8Array(4));
  const lease = disk.dma.segments(byteAddress(2), 4096, 3);
  // A queue that is told of an invalidation and a wait.
  unit.mmio.write64(0x90, 0x18000n);
  unit.mmio.write32(0x18, 0x8400_0000);
  for (const [at, word] of [0x12, 0, 0, 0, 0x25, 7, 0x19000, 0].entries()) memory.writeWord(0x18000 + at * 4, word);
  unit.mmio.write64(0x88, 0x20n);
  const snapshot = save(unit);
  if (cycle % 4 === 1) void unit.reset();
  if (cycle % 4 === 2) void restore(unit, snapshot);
  if (cycle % 4 === 3) {
    unit.mmio.write32(0x18, 0x0400_0000);
    unit.mmio.write32(0x18, 0x8400_0000);
  }
  lease?.release();
  // Dropped in the middle of everything in one of five lives, unplugged in order in two, destroyed in two.
  const end = ["dropped", "unplugged", "destroyed", "unplugged", "destroyed"][cycle % 5];
  if (end === "unplugged") {
    void vfio.detach();
    void disk.unplug();
  }
  if (end === "destroyed") void unit.destroy();
  if (end !== "dropped") {
    slow.answers.settle();
    await scheduler.idle();
  }
  // Who destroys a unit need not think of time-outs and listeners.
  if (end === "unplugged") {
    scheduler.advance(10_000);
    await scheduler.idle();
  }
  if (end !== "destroyed") for (const name of EVENTS) unit.events.off(name, listener);
  const left = EVENTS.reduce((sum, name) => sum + unit.events.listenerCount(name) + disk.events.listenerCount(name), 0);
  return left + (end === "dropped" ? 0 : container.entriesHeld + scheduler.timerCount + scheduler.deferredCount);
}

it("10,000 lives of a machine hold memory flat, and leave no listener, timer, entry or machine behind", async () => {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const memory = ram();
  const graves = { filled: 0 };
  const graveyard = new FinalizationRegistry<number>(() => (graves.filled += 1));
  const used = async (): Promise<number> => {
    for (let i = 0; i < 3; i++) {
      collect();
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    return process.memoryUsage().heapUsed + process.memoryUsage().arrayBuffers;
  };
  let left = 0;
  let early = 0;
  for (let cycle = 0; cycle < CYCLES; cycle++) {
    left += await life(memory, cycle, graveyard);
    if (cycle === CYCLES / 5) early = await used();
  }
  const late = await used();
  // The registry is told in its own time.
  for (let i = 0; i < 200; i++) if (graves.filled <= CYCLES - 10) await used();
  expect(left).toBe(0);
  // 100 bytes a life would be 800 kB.
  expect(late - early).toBeLessThan(400_000);
  // A registry that nobody refers to tells nothing.
  expect(graveyard).toBeInstanceOf(FinalizationRegistry);
  expect(graves.filled).toBeGreaterThan(CYCLES - 10);
});
