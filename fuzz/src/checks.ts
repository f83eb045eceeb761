/**
 * What must hold: registers that are well formed, shadows that equal the tables, caches without anything stale.
 */

import { RecordingFlushNotifier, RecordingNotifier, type RunList } from "@iommu-kit/iommu-core/testing";
import type { Consumer } from "./consumers.js";
import { demand } from "./failure.js";
import { type Machine, Offset } from "./machine.js";

/** Leaves that the model lists; beyond that pages are sampled. */
const MOST_LEAVES = 30_000;
const SAMPLED_RUNS = 200;

/** Reserved bits are 0, and what registers say of each other is true. */
export function checkRegisters(machine: Machine): void {
  const status = machine.read32(Offset.GSTS);
  demand((status & 0x307f_ffff) === 0, "registers", () => `GSTS ${status.toString(16)}`);
  const faults = machine.read32(Offset.FSTS);
  demand((faults & 0xffff_008c) === 0, "registers", () => `FSTS ${faults.toString(16)}`);
  const records = machine.plan.faultRecords;
  let pending = false;
  for (let record = 0; record < records; record++) pending = checkRecord(machine, record) || pending;
  demand(((faults & 2) !== 0) === pending, "registers", () => `PPF ${faults & 2}, records ${pending}`);
  const first = (faults >> 8) & 0xff;
  demand(first < records, "registers", () => `FRI ${first} of ${records} records`);
  const head = machine.read64(Offset.IQH);
  demand((head & ~0x7fff0n) === 0n, "registers", () => `IQH ${head.toString(16)}`);
  const command = machine.read32(Offset.GCMD);
  demand(command === 0, "registers", () => `GCMD reads ${command.toString(16)}`);
}

/** A consumer that was detached holds nothing and hears nothing. */
export function checkEnded({ notifier, plan, cache }: Consumer): void {
  if (notifier instanceof RecordingNotifier) {
    if (notifier.revoked === undefined && notifier.breaches.length === 0)
      demand(notifier.pageCount === 0, "detach", () => `${notifier.name} still holds ${notifier.pageCount} pages`);
    return;
  }
  const fails = plan.throwsAt !== undefined || plan.answers === "manual";
  if (notifier instanceof RecordingFlushNotifier && !fails && notifier.revoked === undefined)
    demand(cache.pageCount === 0, "detach", () => `${notifier.name} still caches ${cache.pageCount} pages`);
}

/** After a flush, with all quiet: what a consumer holds is what its device reaches. */
export function checkShadow(machine: Machine, consumer: Consumer): void {
  const { notifier, who, plan } = consumer;
  if (notifier instanceof RecordingFlushNotifier) {
    if (notifier.revoked === undefined)
      demand(
        consumer.cache.pageCount === 0,
        "stale",
        () => `${notifier.name} still caches ${consumer.cache.pageCount} pages`,
      );
    return;
  }
  if (!(notifier instanceof RecordingNotifier) || notifier.revoked !== undefined) return;
  const [place] = consumer.attachments;
  if (place === undefined) return;
  const { attachment } = place;
  demand(attachment.state !== "syncing", "busy", () => `${notifier.name} is still syncing`);
  if (attachment.state === "parked") {
    demand(
      notifier.pageCount === 0,
      "shadow",
      () => `${notifier.name} is parked and holds ${notifier.pageCount} pages`,
    );
    return;
  }
  demand(
    attachment.heldPages === notifier.pageCount,
    "shadow",
    () => `${notifier.name} holds ${notifier.pageCount}, the unit counts ${attachment.heldPages}`,
  );
  const expected = machine.model.reachable(machine.latched, machine.read, who, MOST_LEAVES);
  if (isOverBudget(machine, consumer)) {
    checkFailedClosed(machine, notifier, expected, consumer);
    return;
  }
  if (expected !== undefined) {
    const { mappingsPerView } = machine.plan.limits;
    const fewest = fewestMappings(expected);
    const text = (): string =>
      `${notifier.name}: a view of ${fewest} mappings did not meet a budget of ${mappingsPerView}`;
    demand(fewest <= mappingsPerView, "budget", text);
  }
  if (expected === undefined) checkSamples(machine, consumer, notifier);
  else if (plan.capacity === undefined && !isFullOfBlocks(machine, consumer, notifier))
    checkEqual(notifier, expected, consumer);
  else checkPart(notifier, attachment.refusedPages, expected, consumer);
}

/** How many mappings it takes at least to say what is reachable: the largest superpages that fit. */
function fewestMappings(expected: RunList): number {
  let mappings = 0;
  for (const { iovaPfn, pageCount } of expected.joined()) {
    for (let at = iovaPfn; at < iovaPfn + pageCount; mappings++) {
      let span = 2 ** 27;
      while (at % span !== 0 || at + span > iovaPfn + pageCount) span /= 512;
      at += span;
    }
  }
  return mappings;
}

/** It holds as many blocks of its own largest size as a view may have mappings: there is no room for another. */
function isFullOfBlocks(machine: Machine, { plan }: Consumer, notifier: RecordingNotifier): boolean {
  const { largestBlock = Infinity } = plan;
  return notifier.pageCount + largestBlock > machine.plan.limits.mappingsPerView * largestBlock;
}

function isOverBudget(machine: Machine, { attachments }: Consumer): boolean {
  return attachments.some(({ space }) => machine.overBudget.has(space));
}

function checkRecord(machine: Machine, record: number): boolean {
  const at = Offset.FRCD + record * 16;
  const low = machine.read64(at);
  const high = machine.read64(at + 8);
  if (high >> 63n === 0n) return false;
  const reason = (high >> 32n) & 0xffn;
  demand(
    reason !== 0n && (low & 0xfffn) === 0n,
    "registers",
    () => `record ${record}: ${high.toString(16)} ${low.toString(16)}`,
  );
  const hasPasid = (high & (1n << 31n)) !== 0n;
  const pasid = (high >> 40n) & 0xfffffn;
  demand(hasPasid || pasid === 0n, "registers", () => `record ${record}: PASID ${pasid} without PP`);
  return true;
}

function checkFailedClosed(
  machine: Machine,
  notifier: RecordingNotifier,
  expected: RunList | undefined,
  { attachments }: Consumer,
): void {
  demand(
    notifier.pageCount === 0,
    "budget",
    () => `${notifier.name} holds ${notifier.pageCount} pages of a view over its budget`,
  );
  const { mappingsPerView } = machine.plan.limits;
  const byMappings = attachments.every(({ space }) => machine.overBudget.get(space) === "mappings");
  if (!byMappings || expected === undefined) return;
  demand(
    expected.pageCount > mappingsPerView,
    "budget",
    () => `${notifier.name}: a view of ${expected.pageCount} pages is over a budget of ${mappingsPerView}`,
  );
}

function checkEqual(notifier: RecordingNotifier, expected: RunList, { range }: Consumer): void {
  const held = JSON.stringify(notifier.held());
  const wanted = JSON.stringify(
    range === undefined ? expected.joined() : expected.joined(range.firstPfn, range.pageCount),
  );
  demand(held === wanted, "shadow", () => `${notifier.name} holds ${short(held)}, the tables say ${short(wanted)}`);
}

/** A consumer that was full holds some of it, and the unit knows of the rest. */
function checkPart(notifier: RecordingNotifier, refused: number, expected: RunList, { range }: Consumer): void {
  const wanted = range === undefined ? expected.joined() : expected.joined(range.firstPfn, range.pageCount);
  const total = wanted.reduce((sum, run) => sum + run.pageCount, 0);
  demand(
    notifier.pageCount + refused === total,
    "shadow",
    () => `${notifier.name} holds ${notifier.pageCount} and refused ${refused} of ${total} pages`,
  );
  for (const run of notifier.held()) {
    const [same] = expected.joined(run.iovaPfn, run.pageCount);
    demand(
      same?.pageCount === run.pageCount && same.gpaPfn === run.gpaPfn && same.access === run.access,
      "shadow",
      () => `${notifier.name} holds ${JSON.stringify(run)}, the tables say ${JSON.stringify(same)}`,
    );
  }
}

function checkSamples(machine: Machine, { who }: Consumer, notifier: RecordingNotifier): void {
  const held = notifier.held();
  for (let i = 0; i < SAMPLED_RUNS && i < held.length; i++) {
    const run = held[Math.floor((i * held.length) / SAMPLED_RUNS)] ?? held[0];
    if (run === undefined) return;
    const reach = machine.model.reach(machine.latched, machine.read, who, run.iovaPfn);
    const same = reach?.gpaPfn === run.gpaPfn && reach.access === run.access;
    demand(
      same,
      "shadow",
      () => `${notifier.name} holds ${JSON.stringify(run)}, the tables say ${JSON.stringify(reach)}`,
    );
  }
}

function short(text: string): string {
  return text.length > 400 ? `${text.slice(0, 400)}...` : text;
}
