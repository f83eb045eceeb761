/** Throughput of a device's transfers over scattered pages, against somebody who knows where the bytes are and copies them. */

import assert from "node:assert/strict";
import type { Group, Size } from "../group.js";
import { BenchGuest, DEVICE, FIRST_INPUT, shuffled } from "../guest.js";
import { type Candidate, compare, inProcess } from "../ratio.js";
import { atLeast, type Row } from "../row.js";

const PAGE = 4096;
/** Where the pages begin, as the device sees them. */
const INPUT = FIRST_INPUT * PAGE;
/** 16 MiB of data; every page of it is in the IOTLB. */
const PAGES = 2048;

/** See the file's header. */
export const dmaGroup: Group = {
  name: "dma",
  async measure(size, report) {
    const guest = new BenchGuest({
      pages: PAGES,
      dataFrames: PAGES,
      target: (() => {
        const order = shuffled(PAGES);
        const firstData = 4096 + (PAGES / 512) * 2;
        return (pfn: number): number => firstData + (order[pfn] ?? 0);
      })(),
    });
    guest.start();
    for (let i = guest.firstData * PAGE; i < guest.bytes.length; i++) guest.bytes[i] = Math.imul(i, 0x9e3779b1) >>> 24;
    await large(guest, size, report);
    await small(guest, size, report);
  },
};

/** Transfers of 64 KiB: sixteen pages, aligned. */
async function large(guest: BenchGuest, size: Size, report: (row: Row) => void): Promise<void> {
  const length = 65_536;
  const count = (PAGES * PAGE) / length;
  const buffer = new Uint8Array(length);
  const { bytes } = guest;
  const { dma } = guest.unit.addressSpace(DEVICE);
  const gpas = Float64Array.from({ length: PAGES }, (_, pfn) => guest.targetOf(pfn) * PAGE);
  const read = inProcess(() => {
    let sum = 0;
    for (let i = 0; i < count; i++) {
      if (!dma.read(INPUT + i * length, buffer)) throw new Error("refused");
      sum += (buffer[i] as number) + (buffer[length - 1] as number);
    }
    return sum;
  });
  const copyOut = inProcess(() => {
    let sum = 0;
    for (let i = 0; i < count; i++) {
      for (let page = 0; page < 16; page++) {
        const gpa = gpas[i * 16 + page] as number;
        buffer.set(bytes.subarray(gpa, gpa + PAGE), page * PAGE);
      }
      sum += (buffer[i] as number) + (buffer[length - 1] as number);
    }
    return sum;
  });
  await throughput("reads 64 KiB over scattered pages", [read, copyOut], { count, length }, { size, report, goal: 90 });
  const write = inProcess(() => {
    for (let i = 0; i < count; i++) {
      buffer[i] = i;
      if (!dma.write(INPUT + i * length, buffer)) throw new Error("refused");
    }
    return bytes[(gpas[PAGES - 1] as number) + 4095] as number;
  });
  const copyIn = inProcess(() => {
    for (let i = 0; i < count; i++) {
      buffer[i] = i;
      for (let page = 0; page < 16; page++) {
        bytes.set(buffer.subarray(page * PAGE, (page + 1) * PAGE), gpas[i * 16 + page]);
      }
    }
    return bytes[(gpas[PAGES - 1] as number) + 4095] as number;
  });
  await throughput(
    "writes 64 KiB over scattered pages",
    [write, copyIn],
    { count, length },
    { size, report, goal: 90 },
  );
}

/** Transfers of 512 bytes, each in a page of its own, at scattered places. */
async function small(guest: BenchGuest, size: Size, report: (row: Row) => void): Promise<void> {
  const length = 512;
  const count = PAGES;
  const buffer = new Uint8Array(length);
  const { bytes } = guest;
  const { dma } = guest.unit.addressSpace(DEVICE);
  const order = shuffled(PAGES);
  const iovas = Float64Array.from(
    { length: count },
    (_, i) => INPUT + (order[i % PAGES] ?? 0) * PAGE + (i >> 11) * length,
  );
  const gpas = iovas.map((iova) => guest.targetOf(Math.floor((iova - INPUT) / PAGE)) * PAGE + (iova % PAGE));
  const read = inProcess(() => {
    let sum = 0;
    for (let i = 0; i < count; i++) {
      if (!dma.read(iovas[i] as number, buffer)) throw new Error("refused");
      sum += (buffer[0] as number) + (buffer[length - 1] as number);
    }
    return sum;
  });
  const copyOut = inProcess(() => {
    let sum = 0;
    for (let i = 0; i < count; i++) {
      const gpa = gpas[i] as number;
      buffer.set(bytes.subarray(gpa, gpa + length));
      sum += (buffer[0] as number) + (buffer[length - 1] as number);
    }
    return sum;
  });
  await throughput("reads 512 bytes", [read, copyOut], { count, length }, { size, report, goal: 60 });
  const write = inProcess(() => {
    for (let i = 0; i < count; i++) {
      buffer[0] = i;
      if (!dma.write(iovas[i] as number, buffer)) throw new Error("refused");
    }
    return bytes[gpas[count - 1] as number] as number;
  });
  const copyIn = inProcess(() => {
    for (let i = 0; i < count; i++) {
      buffer[0] = i;
      bytes.set(buffer, gpas[i]);
    }
    return bytes[gpas[count - 1] as number] as number;
  });
  await throughput("writes 512 bytes", [write, copyIn], { count, length }, { size, report, goal: 60 });
}

async function throughput(
  what: string,
  [subject, baseline]: readonly [Candidate, Candidate],
  { count, length }: { readonly count: number; readonly length: number },
  { size, report, goal }: { readonly size: Size; readonly report: (row: Row) => void; readonly goal: number },
): Promise<void> {
  const { check } = await baseline.batch();
  assert.equal((await subject.batch()).check, check);
  const ratio = await compare(subject, baseline, { units: count, pairs: size.pairs, check });
  const [low, high] = ratio.quartiles;
  report({
    what: `a device ${what}, warm`,
    against: "throughput of copying the same bytes directly",
    result: 100 / ratio.ratio,
    unit: "%",
    quartiles: [100 / high, 100 / low],
    goal: atLeast(goal),
    nanoseconds: { subject: ratio.subject, baseline: ratio.baseline, per: length === 512 ? "512 bytes" : "64 KiB" },
  });
}
