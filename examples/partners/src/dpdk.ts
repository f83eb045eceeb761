/**
 * UNMAP-only side: DPDK's testpmd is the device. It reaches guest memory only by what our unit translates from the guest's tables.
 */
import net from "node:net";
import { sourceId } from "@iommu-kit/iommu-core";
import { VtdIommu } from "@iommu-kit/iommu-vtd";
import { socketChannel, VhostFrontEnd, VhostIotlb } from "@iommu-kit/notifier-cache/vhost-user";
import { GuestDriver } from "./guest-driver.js";
import { SharedGuestMemory } from "./guest-memory.js";
import { BUFFERS, Loopback, type Tally } from "./loopback.js";
import { closeFd, createMemory, eventFd, sendWithFds, socketPair } from "./native.js";
import { Proof, sleep, timed, until } from "./proof.js";
import { Testpmd } from "./testpmd.js";

const RAM_BYTES = 64 * 2 ** 20;
const FIRST_TABLE_PFN = 16;

interface Bench {
  readonly proof: Proof;
  readonly unit: VtdIommu;
  readonly driver: GuestDriver;
  readonly card: Loopback;
  readonly iotlb: VhostIotlb;
  readonly frontEnd: VhostFrontEnd;
  /** Requests that the unit refused so far. */
  readonly faults: () => number;
}

/** Runs all of it. */
export async function proveDpdk(): Promise<Proof> {
  const proof = new Proof("DPDK testpmd", "a vhost-user back-end behind the UNMAP-only notifier");
  const testpmd = new Testpmd();
  let bench: Bench | undefined;
  try {
    bench = await setUp(proof, testpmd);
    await provePackets(bench);
    await proveRemap(bench);
    await proveUnmap(bench);
    await proveRights(bench);
    await proveLog(bench);
    await measure(bench);
    proof.check(
      "the connection held to the end",
      "open",
      bench.frontEnd.closed?.message ?? "open",
      bench.frontEnd.closed === undefined,
    );
    const { updates, invalidates, misses, answeredLater } = bench.iotlb.statistics;
    proof.check(
      "IOTLB messages in all",
      "some of each",
      `${misses} MISS, ${updates} UPDATE, ${invalidates} INVALIDATE, ${answeredLater} answered later`,
      misses * updates * invalidates * answeredLater > 0,
    );
    proof.checkLatencies();
  } finally {
    bench?.frontEnd.close();
    await testpmd.stop();
  }
  return proof;
}

async function setUp(proof: Proof, testpmd: Testpmd): Promise<Bench> {
  const ram = createMemory(RAM_BYTES, "guest-ram");
  const memory = new SharedGuestMemory(ram.bytes);
  const unit = new VtdIommu({ memory, msi: () => undefined, cachingMode: true });
  const space = unit.addressSpace(sourceId(0, 3, 0));
  let faults = 0;
  space.events.on("fault", () => (faults += 1));
  const driver = new GuestDriver(unit, memory, space.sourceId, FIRST_TABLE_PFN);
  const card = new Loopback(memory, driver);
  await driver.start();

  const [ours, theirs] = socketPair();
  const frontEnd = new VhostFrontEnd({
    channel: channelOn(await testpmd.connect()),
    backEnd: { channel: channelOn(ours), peerFd: theirs },
  });
  await frontEnd.connect();
  closeFd(theirs);
  proof.check(
    "the back-end translates through its IOTLB, with acknowledgements",
    "features 0x2_0000_0000, protocol 0x28",
    `0x${frontEnd.features.toString(16)}, 0x${frontEnd.protocolFeatures.toString(16)}`,
    (frontEnd.protocolFeatures & 0x28n) === 0x28n,
  );
  const iotlb = new VhostIotlb(space, frontEnd);
  space.attach(iotlb);
  await frontEnd.setMemory([{ gpa: 0, byteLength: RAM_BYTES, fd: ram.fd }]);
  for (const [index, ring] of [card.receive, card.send].entries()) {
    const { size, descriptorIova, availableIova, usedIova } = ring;
    await frontEnd.startRing({
      index,
      size,
      descriptorIova,
      availableIova,
      usedIova,
      kickFd: eventFd(),
      callFd: eventFd(),
    });
  }
  await preload({ card, iotlb, frontEnd });
  await sleep(300);
  return { proof, unit, driver, card, iotlb, frontEnd, faults: () => faults };
}

function channelOn(fd: number): ReturnType<typeof socketChannel> {
  const socket = new net.Socket({ fd, readable: true, writable: true });
  return socketChannel(socket, (message, fds) => sendWithFds(fd, message, fds));
}

/** Cold, warm, and cold again after the guest has invalidated. */
async function provePackets({ proof, driver, card, iotlb, frontEnd, faults }: Bench): Promise<void> {
  const start = iotlb.statistics.misses;
  reportTally(proof, "1,000 packets, cold", 1000, await card.pump(1000));
  proof.atLeast("  misses: one for each buffer at least", BUFFERS, iotlb.statistics.misses - start);
  const warm = iotlb.statistics.misses;
  reportTally(proof, "5,000 packets, warm", 5000, await card.pump(5000));
  proof.equal("  misses", 0, iotlb.statistics.misses - warm);
  await driver.invalidatePages(card.sendPfn, Math.log2(BUFFERS));
  const flushed = iotlb.statistics.misses;
  reportTally(proof, "1,000 packets after one invalidation of all 256 buffers", 1000, await card.pump(1000));
  proof.atLeast("  misses", BUFFERS, iotlb.statistics.misses - flushed);
  await driver.invalidateDomain();
  await preload({ card, iotlb, frontEnd });
  reportTally(proof, "1,000 packets after a domain-wide invalidation, rings included", 1000, await card.pump(1000));
  proof.equal("faults so far", 0, faults());
}

/** Another page under the same IOVA: the device reads the new one, and never the old one again. */
async function proveRemap({ proof, driver, card }: Bench): Promise<void> {
  const rounds = 500;
  let intact = 0;
  let wrong = 0;
  let failed = 0;
  for (let round = 0; round < rounds && failed < 5; round++) {
    const buffer = card.nextBuffer;
    const poisonOld = card.move(buffer);
    await driver.invalidatePages(card.sendPfn + buffer);
    card.post();
    poisonOld();
    const tally = await card.flush();
    failed += card.forget();
    intact += tally.intact;
    wrong += tally.wrong;
  }
  proof.equal("500 remaps to another page, the old one poisoned: packets from the new page", rounds, intact);
  proof.used(intact);
  proof.equal("  packets from anywhere else", 0, wrong);
}

/** Nothing is read while unmapped; the miss that could not be answered is answered when the page comes back. */
async function proveUnmap({ proof, unit, driver, card, iotlb, faults }: Bench): Promise<void> {
  const before = faults();
  const later = iotlb.statistics.answeredLater;
  driver.unmap(card.sendPfn, BUFFERS);
  await driver.invalidatePages(card.sendPfn, Math.log2(BUFFERS));
  for (let i = 0; i < 200; i++) card.post();
  card.send.publish();
  await until(() => faults() > before, 10_000);
  const unmapped = await card.flush(300);
  proof.equal("200 packets while their pages are unmapped: packets read", 0, unmapped.read);
  proof.equal("  packets that came back", 0, unmapped.intact + unmapped.wrong);
  proof.atLeast("  faults that the unit recorded for the device", 1, faults() - before);
  const primaryPending = Math.floor(unit.mmio.read32(0x34) / 2) % 2;
  proof.equal("  the guest sees them: FSTS.PPF", 1, primaryPending);
  proof.atLeast("  misses remembered", 1, iotlb.unansweredMisses);
  const poisons = Array.from({ length: BUFFERS }, (_, buffer) => card.move(buffer));
  for (const poisonOld of poisons) poisonOld();
  card.mapSendBuffers();
  await driver.invalidatePages(card.sendPfn, Math.log2(BUFFERS));
  const mapped = await card.flush();
  proof.equal("  mapped again, elsewhere: the same packets arrive", 200, mapped.intact);
  proof.used(mapped.intact);
  proof.atLeast("  misses answered later, without being asked again", 1, iotlb.statistics.answeredLater - later);
}

/** A page that is mapped for reading only is not written. */
async function proveRights({ proof, driver, card, iotlb, frontEnd, faults }: Bench): Promise<void> {
  await card.pump(100);
  const buffer = card.nextReceiveBuffer;
  card.mapReceiveBuffer(buffer, 1);
  await driver.invalidatePages(card.receivePfn(buffer));
  const bytes = card.receiveBytes(buffer);
  bytes.fill(0x5a);
  const before = faults();
  card.post();
  card.send.publish();
  await until(() => faults() > before, 10_000);
  await sleep(50);
  proof.atLeast("a receive buffer mapped read-only: faults", 1, faults() - before);
  proof.equal("  bytes of it that the device changed", 0, bytes.filter((byte) => byte !== 0x5a).length);
  card.mapReceiveBuffer(buffer, 3);
  await driver.invalidatePages(card.receivePfn(buffer));
  await card.flush(200);
  proof.note("  packets that the device dropped for want of a buffer", card.forget());
  // DPDK 22.11 also drops the entry right behind an invalidated range, and drops packets while it misses a receive buffer.
  await preload({ card, iotlb, frontEnd });
  reportTally(proof, "  writable again: 300 packets", 300, await card.pump(300));
  card.forget();
}

/** Every page that the device writes is in the dirty log, found by its frame; pages that it only reads are not. */
async function proveLog({ proof, driver, card, iotlb, frontEnd }: Bench): Promise<void> {
  const log = createMemory(RAM_BYTES / 4096 / 8, "dirty-log");
  await frontEnd.logWrites({ fd: log.fd, byteLength: log.bytes.length });
  await driver.invalidateDomain();
  await preload({ card, iotlb, frontEnd });
  const { intact } = await card.pump(300);
  proof.equal("300 packets while writes are logged: intact", 300, intact);
  proof.used(intact);
  const isLogged = (frame: number): boolean => (((log.bytes[frame >> 3] ?? 0) >> (frame & 7)) & 1) === 1;
  const written = card.framesWritten;
  const marked = log.bytes.reduce((sum, byte) => sum + byte.toString(2).replaceAll("0", "").length, 0);
  proof.equal(
    "  frames written: receive buffers and used rings, in the log",
    written.length,
    written.filter((frame) => isLogged(frame)).length,
  );
  proof.equal("  other frames in the log", 0, marked - written.filter((frame) => isLogged(frame)).length);
  await frontEnd.logWrites(undefined);
  await preload({ card, iotlb, frontEnd });
}

/** Tells the card its rings and receive buffers, and waits until it knows them. */
async function preload({ card, iotlb, frontEnd }: Pick<Bench, "card" | "iotlb" | "frontEnd">): Promise<void> {
  for (const [iovaPfn, pageCount] of card.pagesToPreload) iotlb.preload(iovaPfn, pageCount);
  await frontEnd.settled();
}

/** How long things take. */
async function measure({ proof, driver, card, iotlb }: Bench): Promise<void> {
  const missToUse: number[] = [];
  const hit: number[] = [];
  const invalidate: number[] = [];
  const map: number[] = [];
  const unmap: number[] = [];
  let lost = 0;
  const sendOne = async (): Promise<void> => {
    const goal = card.send.used + 1;
    card.post();
    card.send.publish();
    await until(() => card.send.used >= goal, 10_000);
  };
  for (let i = 0; i < 200; i++) {
    await driver.invalidatePages(card.sendPfn + card.nextBuffer);
    missToUse.push(await timed(sendOne));
    await card.flush();
    lost += card.forget();
  }
  await card.pump(BUFFERS * 2);
  for (let i = 0; i < 200; i++) {
    hit.push(await timed(sendOne));
    await card.flush();
    lost += card.forget();
  }
  for (let i = 0; i < 500; i++) {
    const pfn = card.sendPfn + (i % BUFFERS);
    iotlb.preload(pfn, 1);
    invalidate.push(await timed(() => driver.invalidatePages(pfn)));
    iotlb.preload(pfn, 1);
    unmap.push(
      await timed(() => {
        driver.unmap(pfn);
        return driver.invalidatePages(pfn);
      }),
    );
    map.push(
      await timed(() => {
        card.mapSendBuffer(i % BUFFERS);
        return driver.invalidatePages(pfn);
      }),
    );
  }
  proof.atMost("400 packets for measuring: packets that the device dropped", 8, lost);
  reportTally(proof, "500 packets after the measurements", 500, await card.pump(500));
  proof.latency("miss to use", "a packet with a miss: sent to read", missToUse);
  proof.latency(undefined, "a packet without: sent to read", hit);
  proof.latency("invalidate, acknowledged", "invalidate one page, acknowledged by the device", invalidate);
  proof.latency("unmap", "unmap one page, acknowledged by the device", unmap);
  proof.latency("map", "map one page", map);
}

function reportTally(proof: Proof, what: string, count: number, tally: Tally): void {
  const { sent, read, intact, wrong } = tally;
  proof.check(
    what,
    `${count} sent, read and back intact`,
    `${sent}, ${read}, ${intact}; ${wrong} wrong`,
    sent === count && read === count && intact === count && wrong === 0,
  );
  proof.used(intact);
}
