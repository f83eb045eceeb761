/**
 * MAP side: the SCSI controller lsi53c895a in a QEMU process is the device. Its script processor copies memory by DMA, through what the MAP notifier mirrors.
 */
import { sourceId } from "@iommu-kit/iommu-core";
import { VtdIommu } from "@iommu-kit/iommu-vtd";
import { GuestDriver } from "./guest-driver.js";
import { SharedGuestMemory } from "./guest-memory.js";
import { createMemory } from "./native.js";
import { Proof, timed } from "./proof.js";
import { MOST_RANGES, QemuRemote } from "./qemu-remote.js";
import { RemoteMemory } from "./remote-memory.js";

const RAM_BYTES = 16 * 2 ** 20;
const FIRST_TABLE_PFN = 16;
const BAR = 0xc0000000;
const DMA_SCRIPT_POINTER = BAR + 0x2c;
const DMA_STATUS = BAR + 0x0c;
/** IOVA frames: the script, where from, where to. */
const SCRIPT_PFN = 1;
const FROM_PFN = 0x100;
const TO_PFN = 0x200;
/** Frames of guest memory: the script, and where data lies. */
const SCRIPT_FRAME = 1000;
const FROM_FRAMES = [1010, 1007] as const;
const TO_FRAMES = [1020, 1003] as const;
const SPARE_FRAME = 1100;

interface Bench {
  readonly proof: Proof;
  readonly memory: SharedGuestMemory;
  readonly driver: GuestDriver;
  readonly remote: QemuRemote;
  readonly mirror: RemoteMemory;
  readonly events: { windows: number; refused: { readonly full: number[]; readonly unsupported: number[] } };
}

/** Runs all of it. */
export async function proveQemu(): Promise<Proof> {
  const proof = new Proof("QEMU lsi53c895a", "a device in a process of its own behind the MAP notifier");
  const remote = new QemuRemote("lsi53c895a");
  try {
    const bench = await setUp(proof, remote);
    await proveCopies(bench);
    await proveUnmap(bench);
    await proveLimits(bench);
    await measure(bench);
    const withoutScript = bench.mirror.lists.filter((list) => !list.some((range) => range.iova === SCRIPT_PFN * 4096));
    proof.equal(
      `${bench.mirror.lists.length} lists sent: lists in which the page in use was missing`,
      0,
      withoutScript.length,
    );
    proof.equal("live pages that vanished for a moment (windows)", 0, bench.events.windows);
    proof.checkLatencies();
  } finally {
    await remote.stop();
  }
  return proof;
}

async function setUp(proof: Proof, remote: QemuRemote): Promise<Bench> {
  const ram = createMemory(RAM_BYTES, "guest-ram");
  const memory = new SharedGuestMemory(ram.bytes);
  const unit = new VtdIommu({ memory, msi: () => undefined, cachingMode: true });
  const space = unit.addressSpace(sourceId(0, 4, 0));
  const events: Bench["events"] = { windows: 0, refused: { full: [], unsupported: [] } };
  space.events.on("window", (event) => (events.windows += event.pageCount));
  space.events.on("refused", (event) => events.refused[event.answer].push(event.iovaPfn));
  const driver = new GuestDriver(unit, memory, space.sourceId, FIRST_TABLE_PFN);
  driver.map(SCRIPT_PFN, SCRIPT_FRAME);
  await driver.start();
  await remote.ready();
  const identity = await remote.readConfig(0, 4);
  proof.check(
    "the device answers: vendor and device",
    "0x121000",
    `0x${identity.toString(16)}`,
    identity === 0x121000n,
  );
  await remote.writeConfig(0x14, BAR, 4);
  await remote.writeConfig(0x18, BAR + 0x10000, 4);
  await remote.writeConfig(4, 6, 2);
  const mirror = new RemoteMemory(remote, ram.fd);
  await space.attach(mirror).ready;
  return { proof, memory, driver, remote, mirror, events };
}

/** Page to page, and across pages that are neighbours as IOVAs and scattered as frames. */
async function proveCopies(bench: Bench): Promise<void> {
  const { proof, memory, driver, mirror } = bench;
  for (let i = 0; i < 2; i++) {
    driver.map(FROM_PFN + i, FROM_FRAMES[i] ?? 0);
    driver.map(TO_PFN + i, TO_FRAMES[i] ?? 0);
    fillPattern(memory, FROM_FRAMES[i] ?? 0, i + 1);
  }
  await driver.invalidatePages(FROM_PFN, 1);
  await driver.invalidatePages(TO_PFN, 1);
  await copy(bench, FROM_PFN * 4096, TO_PFN * 4096, 4096);
  proof.equal(
    "a page copied: bytes that differ",
    0,
    differences(memory, FROM_FRAMES[0] * 4096, TO_FRAMES[0] * 4096, 4096),
  );
  await copy(bench, FROM_PFN * 4096 + 2048, TO_PFN * 4096 + 1024, 4096);
  const pieces = [
    [FROM_FRAMES[0] * 4096 + 2048, TO_FRAMES[0] * 4096 + 1024, 2048],
    [FROM_FRAMES[1] * 4096, TO_FRAMES[0] * 4096 + 3072, 1024],
    [FROM_FRAMES[1] * 4096 + 1024, TO_FRAMES[1] * 4096, 1024],
  ] as const;
  const wrong = pieces.reduce((sum, [from, to, length]) => sum + differences(memory, from, to, length), 0);
  proof.equal("a page copied across two scattered pages into two others: bytes that differ", 0, wrong);
  const lists = mirror.lists.length;
  await driver.invalidateDomain();
  proof.equal("a domain-wide invalidation that changes nothing: lists sent", 0, mirror.lists.length - lists);
  let intact = 0;
  for (let round = 0; round < 100; round++) {
    const frame = SPARE_FRAME + round;
    driver.map(TO_PFN, frame);
    await driver.invalidatePages(TO_PFN);
    fillPattern(memory, FROM_FRAMES[0], round + 3);
    await copy(bench, FROM_PFN * 4096, TO_PFN * 4096, 4096);
    if (differences(memory, FROM_FRAMES[0] * 4096, frame * 4096, 4096) === 0) intact += 1;
  }
  proof.equal("100 remaps to another page, a copy after each: pages intact", 100, intact);
  proof.used(intact);
}

/** After an unmap the page stays untouched; after a map the new one gets the data. */
async function proveUnmap(bench: Bench): Promise<void> {
  const { proof, memory, driver } = bench;
  const last = SPARE_FRAME + 99;
  memory.bytes.fill(0, last * 4096, last * 4096 + 4096);
  driver.unmap(TO_PFN);
  await driver.invalidatePages(TO_PFN);
  await copy(bench, FROM_PFN * 4096, TO_PFN * 4096, 4096);
  proof.equal("after an unmap: bytes of the page that the device changed", 0, changed(memory, last, 0));
  driver.map(TO_PFN, TO_FRAMES[0]);
  await driver.invalidatePages(TO_PFN);
  await copy(bench, FROM_PFN * 4096, TO_PFN * 4096, 4096);
  proof.equal(
    "mapped again, elsewhere: bytes that differ",
    0,
    differences(memory, FROM_FRAMES[0] * 4096, TO_FRAMES[0] * 4096, 4096),
  );
  proof.equal("  bytes of the old page that the device changed", 0, changed(memory, last, 0));
}

/** What does not fit is reported, and held as soon as it does. */
async function proveLimits(bench: Bench): Promise<void> {
  const { proof, memory, driver, mirror, events } = bench;
  driver.map(0x300, SPARE_FRAME, 1, 1);
  await driver.invalidatePages(0x300);
  proof.equal("a read-only page, which the remote cannot hold: reported", 1, events.refused.unsupported.length);
  const free = MOST_RANGES - (mirror.lists.at(-1)?.length ?? 0);
  for (let i = 0; i < free; i++) driver.map(0x400 + i * 2, SPARE_FRAME + 100 + i * 3);
  await driver.invalidatePages(0x400, 4);
  driver.map(TO_PFN + 16, SPARE_FRAME + 60);
  await driver.invalidatePages(TO_PFN + 16);
  proof.equal("one range more than the remote takes: reported", 1, events.refused.full.length);
  driver.unmap(0x400);
  await driver.invalidatePages(0x400);
  fillPattern(memory, FROM_FRAMES[0], 200);
  await copy(bench, FROM_PFN * 4096, (TO_PFN + 16) * 4096, 4096);
  proof.equal(
    "  and reached as soon as a range is free: bytes that differ",
    0,
    differences(memory, FROM_FRAMES[0] * 4096, (SPARE_FRAME + 60) * 4096, 4096),
  );
  for (let i = 0; i < free; i++) driver.unmap(0x400 + i * 2);
  await driver.invalidatePages(0x400, 4);
}

/** How long things take; every copy is checked. */
async function measure(bench: Bench): Promise<void> {
  const { proof, memory, driver } = bench;
  const rounds = 200;
  const map: number[] = [];
  const unmap: number[] = [];
  const invalidate: number[] = [];
  const copies: number[] = [];
  const firstUse: number[] = [];
  let intact = 0;
  for (let round = 0; round < rounds; round++) {
    const frame = SPARE_FRAME + round;
    fillPattern(memory, FROM_FRAMES[0], round);
    unmap.push(
      await timed(() => {
        driver.unmap(TO_PFN);
        return driver.invalidatePages(TO_PFN);
      }),
    );
    const mapped = await timed(() => {
      driver.map(TO_PFN, frame);
      return driver.invalidatePages(TO_PFN);
    });
    const copied = await timed(() => copy(bench, FROM_PFN * 4096, TO_PFN * 4096, 4096));
    map.push(mapped);
    copies.push(copied);
    firstUse.push(mapped + copied);
    intact += differences(memory, FROM_FRAMES[0] * 4096, frame * 4096, 4096) === 0 ? 1 : 0;
    // Another target in one step: what the remote held changes while it holds it.
    driver.map(TO_PFN, frame + rounds);
    invalidate.push(await timed(() => driver.invalidatePages(TO_PFN)));
  }
  proof.equal("200 copies while measuring: pages intact", rounds, intact);
  proof.used(intact);
  proof.latency("map", "map one page, acknowledged by the remote", map);
  proof.latency("unmap", "unmap one page, acknowledged by the remote", unmap);
  proof.latency("invalidate, acknowledged", "invalidate one page that moved, acknowledged by the remote", invalidate);
  proof.latency(
    "miss to use",
    "no miss, all is told ahead: from the guest's map of a page to the end of the copy",
    firstUse,
  );
  proof.latency(undefined, "copy a page", copies);
}

/** Runs a script of one move and one interrupt instruction. */
async function copy({ memory, remote }: Bench, fromIova: number, toIova: number, byteLength: number): Promise<void> {
  const script = [0xc0000000 + byteLength, fromIova, toIova, 0x98080000, 0x1234];
  for (const [index, word] of script.entries()) memory.view.setUint32(SCRIPT_FRAME * 4096 + index * 4, word, true);
  await remote.writeRegister(DMA_SCRIPT_POINTER, SCRIPT_PFN * 4096, 4);
  await remote.readRegister(DMA_STATUS, 1);
}

function fillPattern(memory: SharedGuestMemory, frame: number, seed: number): void {
  for (let i = 0; i < 4096; i++) memory.bytes[frame * 4096 + i] = (i * 7 + seed * 13 + (i >> 8)) & 0xff;
}

function differences(memory: SharedGuestMemory, fromGpa: number, toGpa: number, byteLength: number): number {
  let count = 0;
  for (let i = 0; i < byteLength; i++) if (memory.bytes[fromGpa + i] !== memory.bytes[toGpa + i]) count += 1;
  return count;
}

function changed(memory: SharedGuestMemory, frame: number, value: number): number {
  return memory.bytes.subarray(frame * 4096, frame * 4096 + 4096).filter((byte) => byte !== value).length;
}
