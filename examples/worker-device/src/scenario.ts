/**
 * What is shown of a device in a worker, the same in Node and in the browser. Each claim is a value: what was wanted, and what was found.
 */

import { WORKER_REVOKED } from "@iommu-kit/notifier-cache/worker";
import type { Report } from "./device.js";
import { type CacheKind, Machine, type Thread } from "./machine.js";

/** One claim, judged. */
export interface Check {
  readonly what: string;
  readonly expected: string;
  readonly found: string;
  readonly ok: boolean;
}

const POISON = 0xee;
/** A machine that does not get there within this time does not get there. */
const PATIENCE_MILLISECONDS = 20_000;

/** Runs everything, each part on a machine of its own. */
export async function runScenarios(startThread: () => Thread): Promise<readonly Check[]> {
  const checks: Check[] = [];
  const on = async (kind: CacheKind, show: (machine: Machine) => Promise<readonly Check[]>): Promise<void> => {
    const machine = new Machine(startThread(), kind);
    try {
      await machine.start();
      checks.push(...(await show(machine)));
    } finally {
      machine.end();
    }
  };
  await on("cache", copies);
  await on("cache", followsWhileItWorks);
  await on("cache", isCutOff);
  await on("device-tlb", timesOut);
  return checks;
}

/** DMA by IOVA: one miss a page, then hits. */
async function copies(machine: Machine): Promise<readonly Check[]> {
  const { guest, bytes, cache } = machine;
  for (const [iovaPfn, gpaPfn] of [
    [0x10, 0x100],
    [0x11, 0x180],
    [0x20, 0x120],
    [0x21, 0x1a0],
  ] as const)
    guest.setPage(iovaPfn, gpaPfn);
  for (let at = 0; at < 8192; at++) bytes[(at < 4096 ? 0x100_000 : 0x17f_000) + at] = (at * 7) & 0xff;
  const copy = { do: "copy", fromIova: 0x10_000, toIova: 0x20_000, byteLength: 8192 } as const;
  const { done } = await machine.order(copy);
  let wrong = 0;
  for (let at = 0; at < 8192; at++)
    if (bytes[(at < 4096 ? 0x120_000 : 0x19f_000) + at] !== ((at * 7) & 0xff)) wrong += 1;
  const cold = cache.status.misses;
  for (let round = 0; round < 10; round++) await machine.order(copy);
  return [
    holds("two pages are copied by IOVA", done),
    equal("bytes that differ", wrong, 0),
    equal("misses, cold: one a page", cold, 4),
    equal("misses of ten more copies", cache.status.misses - cold, 0),
  ];
}

/** The guest moves pages under a device that reads them as fast as it can. */
async function followsWhileItWorks(machine: Machine): Promise<readonly Check[]> {
  const { guest } = machine;
  const iovaPfns = [0x10, 0x11, 0x12, 0x13];
  const targets = iovaPfns.map((_, index) => 0x100 + index);
  for (const [index, iovaPfn] of iovaPfns.entries()) guest.setPage(iovaPfn, targets[index]);
  const report = machine.order({ do: "watch", iovaPfns, poison: POISON });
  await until(() => machine.accesses > 100);
  let completed = 0;
  for (let round = 0; round < 100; round++) {
    const index = round % iovaPfns.length;
    const [iovaPfn = 0, old = 0] = [iovaPfns[index], targets[index]];
    targets[index] = 0x110 + round;
    machine.fill(0x110 + round, round);
    guest.setPage(iovaPfn, targets[index]);
    guest.invalidatePage(iovaPfn);
    if (await until(() => guest.waitCompleted)) completed += 1;
    // Nobody may read the old page from here on.
    machine.fill(old, POISON);
  }
  const seen = machine.accesses;
  await until(() => machine.accesses > seen + 100);
  machine.stopDevice();
  const { reads, refused, poisoned } = await report;
  return [
    equal("100 pages moved while the device reads: waits that completed", completed, 100),
    equal("reads of a page after it was taken away", poisoned, 0),
    equal("reads that were refused", refused, 0),
    atLeast("reads in all", reads, 1000),
    atLeast("entries dropped by the worker", machine.cache.status.flushedEntries, 50),
  ];
}

/** As an UNMAP-only consumer a device that hangs is seen, and is cut off: the guest goes on, the device reaches nothing. */
async function isCutOff(machine: Machine): Promise<readonly Check[]> {
  const { guest } = machine;
  const { late } = await hangOnPage(machine);
  guest.setPage(0x10, undefined);
  guest.invalidatePage(0x10);
  const early = guest.waitCompleted;
  const seenHung = await until(() => machine.hangs > 0 && machine.cache.status.state === "hung");
  const completed = await until(() => guest.waitCompleted);
  machine.stopDevice();
  const { done, reason } = await late;
  return [
    holds("a device that hangs: the guest's wait is open at first", !early),
    holds("then the device is reported to hang", seenHung),
    holds("then it is cut off, and the guest's wait completes", completed && machine.revoked),
    equal("when it wakes up, its access is refused with reason", done ? "none" : reason, WORKER_REVOKED),
  ];
}

/** As the device TLB of ATS it gives the guest the architected time-out, and serves again when it wakes up. */
async function timesOut(machine: Machine): Promise<readonly Check[]> {
  const { guest } = machine;
  const { late } = await hangOnPage(machine);
  guest.invalidateDeviceTlb(0x10);
  const timedOut = await until(() => guest.timedOut);
  const completed = guest.waitCompleted;
  machine.stopDevice();
  const { done } = await late;
  await until(() => machine.cache.status.state === "running");
  guest.clearTimeOut();
  guest.setPage(0x10, undefined);
  // The unit's own cache first, or the device could fill from it again.
  guest.invalidatePage(0x10);
  guest.invalidateDeviceTlb(0x10);
  const again = await until(() => guest.waitCompleted);
  const after = await machine.order({ do: "copy", fromIova: 0x10_000, toIova: 0x10_000, byteLength: 1 });
  return [
    holds("a device TLB that hangs: the guest sees ITE", timedOut),
    holds("its wait was aborted", !completed),
    holds("the device is not cut off: it reads when it wakes up", done && !machine.revoked),
    holds("the next invalidation is acknowledged", again),
    holds("and what it takes away is gone", !after.done),
  ];
}

/** Makes a device hold page 0x10 and then look at nothing any more. `late`: its report, once it was told to stop. */
async function hangOnPage(machine: Machine): Promise<{ readonly late: Promise<Report> }> {
  machine.guest.setPage(0x10, 0x100);
  await machine.order({ do: "copy", fromIova: 0x10_000, toIova: 0x10_000, byteLength: 1 });
  return { late: machine.order({ do: "hang", iova: 0x10_000 }) };
}

/** Waits, with the event loop turning, for something to hold. */
async function until(condition: () => boolean): Promise<boolean> {
  const end = performance.now() + PATIENCE_MILLISECONDS;
  while (!condition()) {
    if (performance.now() > end) return false;
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  return true;
}

function holds(what: string, ok: boolean): Check {
  return { what, expected: "yes", found: ok ? "yes" : "no", ok };
}

function equal(what: string, found: number | string, expected: number | string): Check {
  return { what, expected: String(expected), found: String(found), ok: found === expected };
}

function atLeast(what: string, found: number, least: number): Check {
  return { what, expected: `at least ${least}`, found: String(found), ok: found >= least };
}
