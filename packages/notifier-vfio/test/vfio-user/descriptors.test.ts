/**
 * File descriptors over a real UNIX socket (SCM_RIGHTS): the server maps guest memory and reaches it past the client.
 */
import { fstatSync, readdirSync, readSync, writeSync } from "node:fs";
import { BackendIommu, BufferMemory, Access, sourceId } from "@iommu-kit/iommu-core";
import { SimpleBackend, SimpleDomain } from "@iommu-kit/iommu-core/testing";
import { type SharedMemory, VfioUserContainer, VfioUserDevice } from "@iommu-kit/notifier-vfio/vfio-user";
import { describe, expect, it, onTestFinished } from "vitest";
import { Cmd, FakeServer } from "./fake-server.js";
import { createFile, eventFd, mapFile } from "./native.js";
import { connectWithFds, Rig, type RigOptions, until } from "./rig.js";

const RW = Access.readWrite;
const RAM_PAGES = 256;

/** A machine whose RAM is a file, with a device that a server plays. */
class SharedMachine {
  readonly fd = createFile(RAM_PAGES * 4096);
  readonly ram = mapFile(this.fd, 0, RAM_PAGES * 4096);
  readonly backend = new SimpleBackend();
  readonly domain = new SimpleDomain("guest table");
  readonly server = new FakeServer();
  readonly space = new BackendIommu({
    backend: this.backend,
    memory: new BufferMemory([{ firstPfn: 0, bytes: this.ram }]),
  }).addressSpace(sourceId(0, 3, 0));

  static async start(file: Partial<SharedMemory> = {}): Promise<SharedMachine> {
    const machine = new SharedMachine();
    await machine.backend.assign(machine.space.sourceId, machine.domain);
    const memory = [{ firstPfn: 0, pageCount: RAM_PAGES, fd: machine.fd, offsetBytes: 0, ...file }];
    const open = () => Promise.resolve(connectWithFds(machine.server).transport);
    const device = new VfioUserDevice({ space: machine.space, memory, open });
    await device.connect();
    onTestFinished(async () => {
      await device.close();
      expect(machine.server.violations).toEqual([]);
    });
    return machine;
  }

  /** Maps a page, or takes it away, and tells the unit. */
  async map(iovaPfn: number, gpaPfn: number | undefined, access: Access = RW): Promise<void> {
    this.domain.unmap(iovaPfn, 1);
    if (gpaPfn !== undefined) this.domain.map(iovaPfn, 1, gpaPfn, access);
    await this.backend.invalidate(this.domain);
  }
}

async function start(options: RigOptions): Promise<Rig> {
  const rig = await Rig.start({ ...options, sendsFds: true });
  onTestFinished(async () => expect(await rig.stop()).toEqual([]));
  return rig;
}

describe("a server that gets the file of guest memory", () => {
  it("reaches a mapped page by itself, without a message", async () => {
    const machine = await SharedMachine.start();
    await machine.map(0x10, 0x42);
    const page = machine.server.fileBytes(0x10000n);
    machine.ram.fill(7, 0x42000, 0x43000);

    expect([...page.subarray(0, 3)]).toEqual([7, 7, 7]);
    page.set([1, 2, 3], 0xffd);

    expect([...machine.ram.subarray(0x42ffc, 0x43001)]).toEqual([7, 1, 2, 3, 0]);
    expect(page).toHaveLength(4096);
    expect(machine.server.seen.map(({ command }) => command)).toEqual([Cmd.VERSION, Cmd.MAP]);
  });

  it("has the new page after a remap, and lets go of the old one before the guest's invalidation is done", async () => {
    const machine = await SharedMachine.start();
    await machine.map(0x10, 0x42);
    await machine.map(0x10, 0x80);

    machine.server.fileBytes(0x10000n).fill(9);

    expect(machine.ram[0x80000]).toBe(9);
    expect(machine.ram[0x42000]).toBe(0);
    expect(machine.server.seen.map(({ command }) => command)).toEqual([Cmd.VERSION, Cmd.MAP, Cmd.UNMAP, Cmd.MAP]);
    await machine.map(0x10, undefined);
    expect(machine.server.regions.size).toBe(0);
  });

  it("is told which rights go with a page", async () => {
    const machine = await SharedMachine.start();
    await machine.map(0x10, 0x42, Access.read);

    const { flags, fd, offset } = machine.server.regions.get(0x10000n) ?? expect.unreachable();
    expect([flags, offset]).toEqual([1, 0x42000n]);
    expect(fd).toBeDefined();
  });

  it("reaches by messages what lies outside of the file, side by side with what lies in it", async () => {
    const machine = await SharedMachine.start({ pageCount: 0x80 });
    await machine.map(0x10, 0x42);
    await machine.map(0x11, 0x90);
    machine.ram.fill(5, 0x90000, 0x91000);

    expect(machine.server.regions.get(0x11000n)?.fd).toBeUndefined();
    expect(await machine.server.dmaRead(0x11000n, 2)).toEqual(Buffer.of(5, 5));
    expect(await machine.server.dmaWrite(0x10fffn, Uint8Array.of(1, 2))).toBe(0);
    expect([machine.server.fileBytes(0x10000n)[0xfff], machine.ram[0x90000]]).toEqual([1, 2]);
  });

  it("gets the right one of several files, with the offset, and none for what lies in two of them", async () => {
    const rig = await start({});
    const [first, second] = [createFile(0x10_8000), createFile(0x10_0000)];
    const memory = [
      { firstPfn: 0x100, pageCount: 0x100, fd: first, offsetBytes: 0x8000 },
      { firstPfn: 0x200, pageCount: 0x100, fd: second, offsetBytes: 0 },
    ];
    const container = new VfioUserContainer(await rig.client(), { memory });

    await Promise.all([
      container.map(0, 1, 0x102, RW),
      container.map(1, 4, 0x2fc, RW),
      container.map(5, 2, 0x1ff, RW),
      container.map(7, 2, 0x300, RW),
    ]);

    const inode = (fd: number | undefined): number | undefined => (fd === undefined ? undefined : fstatSync(fd).ino);
    expect([...rig.server.regions.values()].map(({ fd, offset }) => [inode(fd), offset])).toEqual([
      [inode(first), 0xa000n],
      [inode(second), 0xfc000n],
      [undefined, 0n],
      [undefined, 0n],
    ]);
  });
});

it("a thousand files wait for a server that does not read: none is lost, and the guest's wait completes after the last", async () => {
  const fd = createFile(0x1000_0000);
  const rig = await start({ device: { memory: [{ firstPfn: 0, pageCount: 0x10000, fd, offsetBytes: 0 }] } });
  const { attachment } = await rig.device.connect();
  const peer = rig.peer ?? expect.unreachable();
  peer.deaf = true;
  rig.guest.map(1, { iovaPfn: 0, pageCount: 1000, gpaPfn: 0x1000 });

  expect(rig.guest.invalidate.domain(1)).toBe(false);
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setTimeout(resolve, 1));
  expect(rig.server.regions.size).toBe(0);
  expect(rig.guest.queue.completed).toBe(false);
  peer.deaf = false;
  await until(() => rig.guest.queue.completed);

  const regions = [...rig.server.regions.values()];
  expect(regions.map(({ offset }) => offset)).toEqual(
    Array.from({ length: 1000 }, (_, page) => BigInt((0x1000 + page) * 4096)),
  );
  expect(regions.every((region) => region.fd !== undefined)).toBe(true);
  expect([attachment.state, attachment.heldPages]).toEqual(["active", 1000]);
});

it("an interrupt of the server reaches the descriptor that it was given", async () => {
  const rig = await start({});
  const client = await rig.client();
  const ours = eventFd();

  await client.setIrqs({ index: 1, action: "trigger", eventfds: [ours] });
  const [theirs] = rig.server.seen.at(-1)?.fds ?? [];
  writeSync(theirs ?? -1, Buffer.from(BigUint64Array.of(1n).buffer));

  const count = new BigUint64Array(1);
  readSync(ours, count);
  expect([...count]).toEqual([1n]);
});

it("descriptors stay the caller's: nothing of it is closed, and no copy is left open", async () => {
  const fd = createFile(0x10_0000);
  const { ino } = fstatSync(fd);
  const memory = [{ firstPfn: 0, pageCount: 0x100, fd, offsetBytes: 0 }];
  const rig = await Rig.start({ sendsFds: true, device: { memory } });
  rig.guest.map(1, { iovaPfn: 0, pageCount: 20, gpaPfn: 0x10 });
  await rig.device.connect();
  expect(descriptorsOf(ino)).toBe(21);

  expect(await rig.stop()).toEqual([]);
  await until(() => descriptorsOf(ino) === 1);

  expect(fstatSync(fd).size).toBe(0x10_0000);
});

/** Descriptors of this process for a file. */
function descriptorsOf(inode: number): number {
  return readdirSync("/proc/self/fd").filter((fd) => {
    try {
      return fstatSync(Number(fd)).ino === inode;
    } catch {
      // The descriptor that listed the directory.
      return false;
    }
  }).length;
}
