import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Access, IommuError } from "@iommu-kit/iommu-core";
import fc from "fast-check";
import { afterEach, describe, expect, it } from "vitest";
import {
  MemoryTable,
  socketChannel,
  VhostFrontEnd,
  VhostIotlb,
  type VhostIotlbOptions,
} from "../src/vhost-user/index.js";
import { FakeBackEnd, type FakeBackEndOptions } from "./fake-back-end.js";
import { FakeMachine, Ram } from "./fake-machine.js";

const RAM_PAGES = 2048;
const IOVA = 0x100000; // page 0x100

const backEnds: FakeBackEnd[] = [];

// Whatever a test looks at: no message of the front-end broke the protocol.
afterEach(() => {
  const broken = backEnds.splice(0).flatMap((backEnd) => backEnd.broken);
  if (broken.length > 0) throw new Error(`the front-end broke the protocol: ${broken.join("; ")}`);
});

interface Bench {
  readonly machine: FakeMachine;
  readonly backEnd: FakeBackEnd;
  readonly frontEnd: VhostFrontEnd;
  readonly iotlb: VhostIotlb;
}

async function connected(
  options: Partial<FakeBackEndOptions> = {},
  iotlbOptions: VhostIotlbOptions = {},
  tell: "runs" | "tables" | "more" = "runs",
): Promise<Bench> {
  const machine = new FakeMachine({ memory: new Ram(RAM_PAGES), holes: [{ firstPfn: 0x700, pageCount: 0x10 }] });
  if (tell === "tables") machine.tellTables();
  if (tell === "more") machine.tellMore();
  const backEnd = new FakeBackEnd({ memory: machine.memory.bytes, ...options });
  backEnds.push(backEnd);
  const frontEnd = new VhostFrontEnd({
    channel: backEnd.channel,
    backEnd: { channel: backEnd.requestChannel, peerFd: 42 },
  });
  await frontEnd.connect();
  await frontEnd.setMemory([{ gpa: 0, byteLength: RAM_PAGES * 4096, fd: 7 }]);
  const iotlb = new VhostIotlb(machine.space, frontEnd, iotlbOptions);
  machine.space.attach(iotlb);
  return { machine, backEnd, frontEnd, iotlb };
}

/** Lets the messages that are on their way arrive. */
async function settle(): Promise<void> {
  for (let i = 0; i < 20; i++) await Promise.resolve();
}

function fill(machine: FakeMachine, gpaPfn: number, value: number): void {
  machine.memory.bytes.fill(value, gpaPfn * 4096, gpaPfn * 4096 + 4096);
}

describe("VhostFrontEnd", () => {
  it("negotiates in the order of the protocol and asks for nothing that was not offered", async () => {
    const { backEnd, frontEnd } = await connected();
    expect(backEnd.seen.map((each) => each.request)).toEqual([1, 15, 16, 3, 21, 2, 5]);
    expect(frontEnd.features & (1n << 33n)).not.toBe(0n);
    expect(backEnd.features).toBe(frontEnd.features);
    expect(backEnd.seen.at(-1)?.fds).toEqual([7]);
    expect(await frontEnd.queueCount()).toBe(2);
  });

  it("reads replies however the stream is cut", async () => {
    for (const pieceBytes of [1, 3, 11, 13]) {
      const { frontEnd } = await connected({ pieceBytes });
      expect(await frontEnd.stopRing(0)).toBe(77);
    }
  });

  it("says how to start a back-end that cannot translate", async () => {
    const backEnd = new FakeBackEnd({ memory: new Uint8Array(0), features: 1n << 30n });
    const frontEnd = new VhostFrontEnd({
      channel: backEnd.channel,
      backEnd: { channel: backEnd.requestChannel, peerFd: 42 },
    });
    await expect(frontEnd.connect()).rejects.toThrow(/iommu-support=1/);
  });

  it("sets rings up completely before it enables them, with and without file descriptors", async () => {
    const { backEnd, frontEnd } = await connected();
    const ring = { index: 1, size: 256, descriptorIova: IOVA, availableIova: IOVA + 0x1000, usedIova: 2n ** 63n };
    await frontEnd.startRing({ ...ring, kickFd: 3, callFd: 4, errorFd: 5, base: 9 });
    expect(backEnd.seen.slice(7).map((each) => each.request)).toEqual([8, 10, 9, 13, 14, 12, 18]);
    const address = backEnd.seen[9]?.payload;
    expect([8, 16, 24].map((at) => address?.getBigUint64(at, true))).toEqual([
      BigInt(IOVA),
      2n ** 63n,
      BigInt(IOVA) + 0x1000n,
    ]);
    await frontEnd.startRing({ ...ring, index: 0 });
    expect(backEnd.ringsEnabled).toEqual(new Set([0, 1]));
    expect(await frontEnd.stopRing(1)).toBe(77);
    expect([...backEnd.ringsEnabled]).toEqual([0]);
  });

  it("waits for a GET_FEATURES behind each request where there are no acknowledgements", async () => {
    const { backEnd, frontEnd, machine } = await connected({ protocolFeatures: 1n << 5n });
    expect(backEnd.seen.some((each) => each.needReply)).toBe(false);
    machine.map(0x100, 5);
    backEnd.dmaRead(BigInt(IOVA), 8);
    await settle();
    backEnd.hung = true;
    let done = false;
    void machine.invalidate(0x100, 1)?.then(() => (done = true));
    await settle();
    expect(done).toBe(false);
    backEnd.resume();
    await settle();
    expect(done).toBe(true);
    expect(await frontEnd.queueCount()).toBe(1);
  });

  it("starts and stops the dirty log, and tells the rings that run", async () => {
    const { backEnd, frontEnd } = await connected();
    await frontEnd.startRing({ index: 1, size: 8, descriptorIova: IOVA, availableIova: IOVA, usedIova: IOVA + 0x2000 });
    const lastAddress = (): readonly (number | bigint | undefined)[] => {
      const payload = backEnd.seen.findLast((each) => each.request === 9)?.payload;
      return [payload?.getUint32(0, true), payload?.getUint32(4, true), payload?.getBigUint64(32, true)];
    };
    expect(lastAddress()).toEqual([1, 0, 0n]);
    await frontEnd.logWrites({ fd: 9, byteLength: 4096 });
    expect(backEnd.logging).toEqual({ size: 4096n, offset: 0n });
    expect(backEnd.features & (1n << 26n)).not.toBe(0n);
    expect(lastAddress()).toEqual([1, 1, BigInt(IOVA + 0x2000)]);
    await frontEnd.logWrites(undefined);
    expect(backEnd.features & (1n << 26n)).toBe(0n);
    expect(lastAddress()).toEqual([1, 0, 0n]);
  });

  it("says so when a back-end cannot log", async () => {
    const { frontEnd } = await connected({ protocolFeatures: 1n << 5n });
    await expect(frontEnd.logWrites({ fd: 9, byteLength: 4096 })).rejects.toThrow(/shared dirty log/);
  });

  it("reports a refused request", async () => {
    const { backEnd, frontEnd } = await connected();
    backEnd.status = 5n;
    await expect(frontEnd.setMemory([{ gpa: 0, byteLength: 4096, fd: 7 }])).rejects.toThrow(
      /carry out request 5, got status 5/,
    );
  });

  it("fails everything that waits when the connection ends, and every later request", async () => {
    const { backEnd, frontEnd } = await connected();
    backEnd.hung = true;
    const pending = frontEnd.startRing({ index: 0, size: 8, descriptorIova: 0, availableIova: 0, usedIova: 0 });
    backEnd.channel.close();
    await expect(pending).rejects.toThrow(IommuError);
    await expect(frontEnd.queueCount()).rejects.toThrow(/closed/);
    expect(frontEnd.closed?.code).toBe("destroyed");
  });

  it("ends the connection when a message cannot be sent, and throws nothing at whoever caused it", async () => {
    const { machine, backEnd, frontEnd } = await connected();
    machine.map(0x100, 5);
    backEnd.channel.send = () => {
      throw new Error("EPIPE");
    };

    expect(() => backEnd.dmaRead(BigInt(IOVA), 4)).not.toThrow();
    await settle();

    expect(String(frontEnd.closed?.cause)).toBe("Error: EPIPE");
    await expect(frontEnd.queueCount()).rejects.toThrow(/could not be sent/);
    await machine.invalidate();
    expect(machine.space.attachments[0]?.state).toBe("failed");
  });

  it("ends the connection on a reply that it did not ask for, and on a payload beyond the protocol's limit", async () => {
    for (const [request, flags, size] of [
      [1, 5, 0],
      [1, 1, 0],
      [1, 5, 0x10000],
    ] as const) {
      const { backEnd, frontEnd } = await connected();
      backEnd.inject(backEnd.channel, new Uint8Array(Uint32Array.of(request, flags, size).buffer));
      expect(frontEnd.closed?.message).toMatch(/expected a (reply|payload)/);
    }
  });

  it("ends the connection on a reply that is too short for what was asked", async () => {
    const asked = [
      [17, (frontEnd: VhostFrontEnd) => frontEnd.queueCount()],
      [5, (frontEnd: VhostFrontEnd) => frontEnd.setMemory([{ gpa: 0, byteLength: 4096, fd: 7 }])],
    ] as const;
    for (const [request, ask] of asked) {
      const { backEnd, frontEnd } = await connected();
      backEnd.hung = true;
      const answer = ask(frontEnd);
      backEnd.inject(backEnd.channel, new Uint8Array(Uint32Array.of(request, 5, 4, 0).buffer));
      await expect(answer).rejects.toThrow(`expected 8 bytes in reply to request ${request}, got 4`);
      expect(frontEnd.closed).toBeDefined();
    }
  });

  it("ends the connection on the reply to another request, and on nonsense from the request channel", async () => {
    const { backEnd, frontEnd } = await connected();
    backEnd.hung = true;
    const answer = frontEnd.queueCount();
    backEnd.inject(backEnd.channel, new Uint8Array(Uint32Array.of(1, 5, 8, 0, 0).buffer));
    await expect(answer).rejects.toThrow(/expected a reply to request 17, got one numbered 1/);
    const other = await connected();
    other.backEnd.inject(other.backEnd.requestChannel, new Uint8Array(Uint32Array.of(1, 1, 0x10000).buffer));
    other.backEnd.inject(other.backEnd.requestChannel, new Uint8Array(Uint32Array.of(1, 1, 0x10000).buffer));
    expect(other.frontEnd.closed?.message).toMatch(/expected a payload of at most/);
  });

  it("sends nothing once the connection is over", async () => {
    const { backEnd, frontEnd } = await connected();
    expect(frontEnd.protocolFeatures & (1n << 5n)).not.toBe(0n);
    frontEnd.close();
    frontEnd.close();
    const sent = backEnd.seen.length;
    frontEnd.update(0x100, 1, 0, Access.read);
    backEnd.ask(1, BigInt(IOVA), Access.read, true);
    await settle();
    expect(backEnd.seen.length).toBe(sent);
    expect(backEnd.replies).toEqual([]);
  });

  it("acknowledges a change of the device's configuration, and refuses what it does not know or cannot read", async () => {
    const { backEnd } = await connected();
    for (const request of [2, 9, 1])
      backEnd.inject(backEnd.requestChannel, new Uint8Array(Uint32Array.of(request, 1 | 8, 0).buffer));
    expect(backEnd.replies).toEqual([0n, 1n, 1n]);
  });

  it("refuses memory tables that are no whole pages, too long, empty or overlapping", () => {
    const region = (gpa: number, byteLength = 4096): { gpa: number; byteLength: number; fd: number } => ({
      gpa,
      byteLength,
      fd: 1,
    });
    const tables = [
      [],
      [region(1)],
      [region(0, 100)],
      [region(0, 8192), region(4096)],
      Array.from({ length: 9 }, (_, i) => region(i * 4096)),
    ];
    for (const table of tables) expect(() => new MemoryTable(table)).toThrow(IommuError);
    expect(new MemoryTable([region(0), region(8192)]).userAddressOf(0, 2)).toBeUndefined();
  });

  it("works over a real UNIX socket, with file descriptors given to the host's native call in order", async () => {
    const folder = mkdtempSync(join(tmpdir(), "vhost-"));
    const path = join(folder, "socket");
    const backEnd = new FakeBackEnd({ memory: new Uint8Array(4096) });
    const server = net.createServer((peer) => {
      backEnd.channel.onBytes = (bytes) => peer.write(bytes);
      peer.on("data", (bytes) => cut(bytes, (message) => backEnd.channel.send(message, descriptorsOf(message))));
    });
    server.listen(path);
    await once(server, "listening");
    const socket = net.connect(path);
    await once(socket, "connect");
    const sent: (readonly number[])[] = [];
    const channel = socketChannel(socket, (message, fds) => {
      sent.push(fds);
      socket.write(message);
      return message.length;
    });
    const frontEnd = new VhostFrontEnd({ channel, backEnd: { channel: backEnd.requestChannel, peerFd: 42 } });
    try {
      await frontEnd.connect();
      await frontEnd.setMemory([{ gpa: 0, byteLength: 4096, fd: 7 }]);
      expect(sent).toEqual([[42], [7]]);
      expect(backEnd.broken).toEqual([]);
      const closed = once(socket, "close");
      frontEnd.close();
      await closed;
    } finally {
      server.close();
      rmSync(folder, { recursive: true });
    }
  });
});

/** Messages of a chunk that holds whole messages. */
function cut(bytes: Uint8Array, take: (message: Uint8Array) => void): void {
  for (let at = 0; at < bytes.length;) {
    const size = 12 + new DataView(bytes.buffer, bytes.byteOffset + at).getUint32(8, true);
    take(bytes.slice(at, at + size));
    at += size;
  }
}

/** A socket of the test cannot carry descriptors: the fake is told as many as the protocol wants. */
function descriptorsOf(message: Uint8Array): number[] {
  return message[0] === 21 || message[0] === 5 ? [1] : [];
}

describe("VhostIotlb", () => {
  it("answers a miss with the target and the real rights of the page", async () => {
    const { machine, backEnd, iotlb } = await connected();
    machine.map(0x100, 5, Access.read);
    fill(machine, 5, 0xaa);
    expect(backEnd.dmaRead(BigInt(IOVA + 8), 4)).toBeUndefined();
    await settle();
    expect(backEnd.dmaRead(BigInt(IOVA + 8), 4)).toEqual(Uint8Array.of(0xaa, 0xaa, 0xaa, 0xaa));
    expect(backEnd.entries).toMatchObject([{ size: 4096n, perm: Access.read }]);
    expect(iotlb.statistics).toMatchObject({ misses: 1, updates: 1, corrections: 0 });
  });

  it("gives a superpage in one UPDATE, cut at the edges of memory, of the attached range and of what is not memory", async () => {
    const { machine, backEnd } = await connected();
    machine.map(0x200, 0x200, Access.readWrite, 512);
    backEnd.dmaRead(0x201000n, 4);
    machine.map(0x400, 0x7ff - 0x100, Access.readWrite, 512); // ends behind RAM
    backEnd.dmaRead(0x400000n, 4);
    machine.map(0x600, 0x600, Access.readWrite, 512); // has a hole at 0x700
    backEnd.dmaRead(0x6ff000n, 4);
    await settle();
    expect(backEnd.entries.map((each) => [each.iova, each.size])).toEqual([
      [0x200000n, 0x200000n],
      [0x400000n, 0x100000n],
      [0x600000n, 0x100000n],
    ]);
  });

  it("never tells the last frame of the 64-bit space, whose INVALIDATE would wrap, and tells the one before it", async () => {
    const { machine, backEnd, iotlb } = await connected();
    const last = 2 ** 52 - 1;
    machine.map(last, 5);
    machine.map(last - 1, 6);
    expect([iotlb.preload(last, 1), iotlb.preload(last - 1, 1)]).toEqual([false, true]);
    expect(backEnd.dmaRead(BigInt(last) * 4096n, 4)).toBeUndefined();
    await settle();
    expect(backEnd.entries.map(({ iova }) => iova)).toEqual([BigInt(last - 1) * 4096n]);
    machine.unmap(last - 1);
    await machine.invalidate();
    expect(backEnd.entries).toEqual([]);
  });

  it("asks once for what is beyond memory while requests pass, however often the guest invalidates", async () => {
    const { machine, backEnd, iotlb } = await connected();
    await machine.setDomain("bypass");
    for (const iova of [1n << 45n, 0x900000n]) expect(backEnd.dmaRead(iova, 4)).toBeUndefined();
    await settle();
    const asked = machine.translations;
    for (let i = 0; i < 3; i++) await machine.invalidate();
    expect([iotlb.unansweredMisses, machine.translations]).toEqual([2, asked]);
  });

  it("completes the guest's invalidation only when the back-end has confirmed", async () => {
    const { machine, backEnd, iotlb } = await connected();
    machine.map(0x100, 5);
    backEnd.dmaRead(BigInt(IOVA), 4);
    await settle();
    backEnd.hung = true;
    machine.unmap(0x100);
    let done = 0;
    void machine.invalidate(0x100, 1)?.then(() => (done += 1));
    // A second one that has nothing left to drop still waits for the first.
    void machine.invalidate(0x100, 1)?.then(() => (done += 1));
    await settle();
    expect(done).toBe(0);
    backEnd.resume();
    await settle();
    expect(done).toBe(2);
    expect(backEnd.entries).toEqual([]);
    expect(iotlb.statistics.invalidates).toBe(1);
    expect(machine.invalidate(0x100, 1)).toBeUndefined();
  });

  it("remembers a miss that it cannot answer and answers it when the page gets mapped", async () => {
    const { machine, backEnd, iotlb } = await connected();
    const faults: unknown[] = [];
    machine.space.events.on("fault", (event) => faults.push(event));
    backEnd.dmaRead(BigInt(IOVA), 4);
    await settle();
    expect(iotlb.unansweredMisses).toBe(1);
    void machine.invalidate(0x100, 1);
    expect(faults.length).toBe(1);
    fill(machine, 5, 0x55);
    machine.map(0x100, 5);
    void machine.invalidate(0x100, 1);
    await settle();
    expect(backEnd.dmaRead(BigInt(IOVA), 1)).toEqual(Uint8Array.of(0x55));
    expect(iotlb.unansweredMisses).toBe(0);
    expect(iotlb.statistics).toMatchObject({ misses: 1, answeredLater: 1 });
    expect(faults.length).toBe(1);
  });

  it("keeps a miss for writing while the page is mapped for reading only", async () => {
    const { machine, backEnd, iotlb } = await connected();
    backEnd.dmaWrite(BigInt(IOVA), Uint8Array.of(1));
    await settle();
    machine.map(0x100, 5, Access.read);
    await machine.invalidate(0x100, 1);
    expect(iotlb.unansweredMisses).toBe(1);
    machine.map(0x100, 5, Access.readWrite);
    await machine.invalidate(0x100, 1);
    expect(iotlb.unansweredMisses).toBe(0);
    expect(backEnd.dmaWrite(BigInt(IOVA), Uint8Array.of(9))).toBe(true);
    expect(machine.memory.bytes[5 * 4096]).toBe(9);
  });

  it("looks again at unanswered misses when told to, for units that announce no new mappings", async () => {
    const { machine, backEnd, iotlb } = await connected();
    backEnd.dmaRead(BigInt(IOVA), 4);
    await settle();
    expect(iotlb.retryMisses()).toBe(0);
    machine.map(0x100, 5);
    expect(iotlb.retryMisses()).toBe(1);
    expect(backEnd.dmaRead(BigInt(IOVA), 4)).toBeDefined();
  });

  it("finds the rights of a page that got mapped in tables of 512 entries", async () => {
    const { machine, backEnd, iotlb } = await connected({}, {}, "tables");
    backEnd.dmaWrite(BigInt(IOVA), Uint8Array.of(1));
    await settle();
    machine.map(0x100, 5, Access.read);
    expect(iotlb.retryMisses()).toBe(0);
    machine.map(0x100, 5);
    expect(iotlb.retryMisses()).toBe(1);
  });

  it("answers a miss by the page itself where a backend tells its neighbours as well", async () => {
    const { machine, backEnd, iotlb } = await connected({}, {}, "more");
    backEnd.dmaWrite(BigInt(IOVA), Uint8Array.of(1));
    await settle();
    machine.map(0xff, 4);
    machine.map(0x101, 6);
    expect(iotlb.retryMisses()).toBe(0);
    machine.map(0x100, 5);
    expect(iotlb.retryMisses()).toBe(1);
    await settle();
    expect(backEnd.dmaWrite(BigInt(IOVA), Uint8Array.of(7))).toBe(true);
    expect(machine.memory.bytes[5 * 4096]).toBe(7);
  });

  it("tells nothing ahead where a device that sees memory as it is has no memory", async () => {
    const { machine, backEnd, iotlb } = await connected();
    await machine.setDomain("bypass", [{ firstPfn: 0x300, pageCount: 0x10 }]);
    const told = [0x2ff, 0x300, 0x30f, 0x310, RAM_PAGES].map((pfn) => iotlb.preload(pfn, 1));
    expect(told).toEqual([true, false, false, true, false]);
    await settle();
    expect(backEnd.entries.map(({ iova }) => iova)).toEqual([0x2ff000n, 0x310000n]);
  });

  it("tells ahead what a device may reach that sees memory as it is, and nothing to one that sees none", async () => {
    const { machine, backEnd, iotlb } = await connected();
    await machine.setDomain("bypass");
    expect(iotlb.preload(0x40, 1)).toBe(true);
    await settle();
    expect(backEnd.dmaRead(0x40000n, 4)).toBeDefined();
    await machine.setDomain("blocked");
    expect(iotlb.preload(0x40, 1)).toBe(false);
    expect(backEnd.entries).toEqual([]);
  });

  it("gives only the rights that were asked for where it is told to, and takes a miss without rights for a read", async () => {
    const { machine, backEnd } = await connected({}, { rights: "requested" });
    machine.map(0x100, 5);
    backEnd.ask(1, BigInt(IOVA), Access.none);
    await settle();
    expect(backEnd.entries).toMatchObject([{ perm: Access.read }]);
    backEnd.dmaWrite(BigInt(IOVA), Uint8Array.of(1));
    await settle();
    expect(backEnd.entries).toMatchObject([{ perm: Access.readWrite }]);
  });

  it("takes an answer back before it gives another: rights that grew without an invalidation", async () => {
    const { machine, backEnd, iotlb } = await connected();
    machine.map(0x100, 5, Access.read);
    backEnd.dmaRead(BigInt(IOVA), 4);
    await settle();
    machine.map(0x100, 5, Access.readWrite);
    backEnd.dmaWrite(BigInt(IOVA), Uint8Array.of(1));
    await settle();
    expect(backEnd.entries).toMatchObject([{ perm: Access.readWrite }]);
    expect(iotlb.statistics.corrections).toBe(1);
  });

  it("answers again, without an INVALIDATE, what the back-end has dropped by itself", async () => {
    const { machine, backEnd, iotlb } = await connected();
    machine.map(0x100, 5);
    backEnd.dmaRead(BigInt(IOVA), 4);
    await settle();
    backEnd.entries = [];
    backEnd.dmaRead(BigInt(IOVA), 4);
    await settle();
    expect(backEnd.entries.length).toBe(1);
    expect(iotlb.statistics).toMatchObject({ misses: 2, updates: 2, corrections: 0 });
  });

  it("invalidates the whole 64-bit space with ranges that do not wrap, and only if anything is held", async () => {
    const { machine, backEnd } = await connected();
    const messages = (): number => backEnd.seen.filter((each) => each.request === 22).length;
    void machine.invalidate();
    expect(messages()).toBe(0);
    machine.map(0x100, 5);
    machine.map(2 ** 52 - 2, 6);
    backEnd.dmaRead(BigInt(IOVA), 4);
    backEnd.dmaRead(2n ** 64n - 8192n, 4);
    await settle();
    await machine.invalidate();
    expect(backEnd.entries).toEqual([]);
    expect(messages()).toBe(4);
  });

  it("tells pages ahead of a miss, a superpage once", async () => {
    const { machine, backEnd, iotlb } = await connected();
    machine.map(0x200, 0x200, Access.readWrite, 512);
    machine.map(0x100, 5);
    expect(iotlb.preload(0x200, 512)).toBe(true);
    expect(iotlb.preload(0x100, 2)).toBe(false);
    await settle();
    expect(backEnd.entries.length).toBe(2);
    expect(iotlb.statistics).toMatchObject({ misses: 0, updates: 2 });
  });

  it("can wait until the back-end knows what it was told ahead", async () => {
    const { machine, backEnd, frontEnd, iotlb } = await connected();
    machine.map(0x100, 5);
    backEnd.hung = true;
    iotlb.preload(0x100, 1);
    let known = false;
    const settled = frontEnd.settled().then(() => (known = true));
    await settle();
    expect(known).toBe(false);
    backEnd.resume();
    await settled;
    expect(backEnd.entries.length).toBe(1);
  });

  it("counts an access failure and tells the host", async () => {
    const failures: number[] = [];
    const { backEnd, iotlb } = await connected({}, { onAccessFail: (iovaPfn) => failures.push(iovaPfn) });
    backEnd.ask(4, BigInt(IOVA), Access.write, true);
    await settle();
    expect(failures).toEqual([0x100]);
    expect(iotlb.statistics.accessFails).toBe(1);
    expect(backEnd.replies).toEqual([0n]);
  });

  it("replies to requests that want it, with a failure where the miss could not be answered", async () => {
    const { machine, backEnd } = await connected();
    machine.map(0x100, 5);
    backEnd.ask(1, BigInt(IOVA), Access.read, true);
    backEnd.ask(1, 0x5000n, Access.read, true);
    backEnd.ask(9, 0n, Access.read, true);
    await settle();
    expect(backEnd.replies).toEqual([0n, 1n, 1n]);
  });

  it("neither answers what is not in the memory table, nor before it is attached", async () => {
    const { machine, backEnd, iotlb } = await connected();
    machine.map(0x100, RAM_PAGES);
    backEnd.dmaRead(BigInt(IOVA), 4);
    await settle();
    expect(iotlb.statistics).toMatchObject({ outsideMemory: 1, updates: 0 });
    await machine.space.attachments[0]?.detach();
    machine.map(0x101, 5);
    backEnd.dmaRead(BigInt(IOVA) + 4096n, 4);
    await settle();
    expect(iotlb.statistics.updates).toBe(0);
  });

  it("takes everything back when it is detached", async () => {
    const { machine, backEnd } = await connected();
    machine.map(0x100, 5);
    backEnd.dmaRead(BigInt(IOVA), 4);
    await settle();
    await machine.space.attachments[0]?.detach();
    expect(backEnd.entries).toEqual([]);
  });

  it("is told nothing by the end of its attachment, not even of a page that was mapped since it asked", async () => {
    const { machine, backEnd, iotlb } = await connected();
    backEnd.dmaRead(BigInt(IOVA), 4);
    await settle();
    machine.map(0x100, 5);
    await machine.space.attachments[0]?.detach();
    await settle();
    expect(backEnd.entries).toEqual([]);
    expect(iotlb.statistics.updates).toBe(0);
  });

  it("answers when it is attached again what it could not answer before it was detached: it is never asked twice", async () => {
    const { machine, backEnd, iotlb } = await connected();
    machine.map(0xff, 4);
    for (const page of [0xff, 0x100]) backEnd.dmaRead(BigInt(page * 4096), 4);
    await settle();
    await machine.space.attachments[0]?.detach();
    machine.map(0x100, 5);
    expect(iotlb.retryMisses()).toBe(0);
    machine.space.attach(iotlb);
    await settle();
    expect(backEnd.dmaRead(BigInt(IOVA), 4)).toBeDefined();
    expect(iotlb.unansweredMisses).toBe(0);
  });

  it("is cut off when the back-end hangs: the guest goes on, the host hears of it and can end the process", async () => {
    const revoked: string[] = [];
    const { machine, backEnd, frontEnd } = await connected({}, { onRevoke: (error) => revoked.push(error.code) });
    machine.map(0x100, 5);
    backEnd.dmaRead(BigInt(IOVA), 4);
    await settle();
    backEnd.hung = true;
    let done = false;
    void machine.invalidate(0x100, 1)?.then(() => (done = true));
    machine.scheduler.advance(10_000);
    await settle();
    expect(done).toBe(true);
    expect(revoked).toEqual(["notifier-timeout"]);
    expect(machine.space.attachments[0]?.state).toBe("failed");
    expect(frontEnd.closed).toBeDefined();
  });

  it("bounds what a hostile device can make it remember", async () => {
    const { machine, backEnd, iotlb } = await connected({}, { missLimit: 4, entryLimit: 4 });
    for (let page = 0; page < 10; page++) backEnd.dmaRead(BigInt(page) * 4096n, 4);
    await settle();
    expect(iotlb.unansweredMisses).toBe(4);
    expect(iotlb.statistics.forgotten).toBe(6);
    for (let page = 20; page < 32; page++) {
      machine.map(page, page * 2);
      backEnd.dmaRead(BigInt(page) * 4096n, 4);
    }
    await settle();
    expect(backEnd.entries.length).toBeLessThanOrEqual(4);
  });

  it("property: the back-end never reads what was not right since the last completed invalidation", async () => {
    const step = fc.oneof(
      fc.record({ map: fc.nat({ max: 11 }), target: fc.nat({ max: 63 }), access: fc.constantFrom<Access>(1, 2, 3) }),
      fc.record({ unmap: fc.nat({ max: 11 }) }),
      fc.record({ invalidate: fc.nat({ max: 11 }), count: fc.integer({ min: 1, max: 12 }) }),
      fc.record({ read: fc.nat({ max: 11 }) }),
      fc.record({ write: fc.nat({ max: 11 }) }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
        const { machine, backEnd } = await connected();
        for (let pfn = 0; pfn < 64; pfn++) fill(machine, pfn, pfn);
        const valid = Array.from({ length: 12 }, () => new Set<number | undefined>([undefined]));
        const now = (page: number): number | undefined => machine.read(0x100 + page)?.gpaPfn;
        for (const each of steps) {
          if ("map" in each) {
            machine.map(0x100 + each.map, each.target, each.access);
            valid[each.map]?.add(each.target);
          } else if ("unmap" in each) {
            machine.unmap(0x100 + each.unmap);
            valid[each.unmap]?.add(undefined);
          } else if ("invalidate" in each) {
            await machine.invalidate(0x100 + each.invalidate, each.count);
            for (let page = each.invalidate; page < Math.min(12, each.invalidate + each.count); page++)
              valid[page] = new Set([now(page)]);
          } else {
            const page = "read" in each ? each.read : each.write;
            const bytes = "read" in each ? backEnd.dmaRead(BigInt(IOVA + page * 4096), 1) : undefined;
            if ("write" in each) backEnd.dmaWrite(BigInt(IOVA + page * 4096 + 8), Uint8Array.of(1));
            if (bytes !== undefined) expect(valid[page]?.has(bytes[0])).toBe(true);
            await settle();
          }
        }
        expect(backEnd.broken).toEqual([]);
      }),
      { numRuns: 100 },
    );
  });
});
