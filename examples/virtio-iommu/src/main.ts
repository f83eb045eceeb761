/**
 * A machine with a virtio-iommu instead of VT-d, and the project's two notifiers on it as they are. Everything that is printed is asserted.
 */

import { deepEqual, equal } from "node:assert/strict";
import { Access, BufferMemory, parseSourceId, Translation } from "@iommu-kit/iommu-core";
import { CacheNotifier } from "@iommu-kit/notifier-cache";
import { MemoryContainer, type1v2, VfioNotifier } from "@iommu-kit/notifier-vfio";
import { GuestDriver } from "./guest/guest-driver.js";
import { MapFlag, RequestStatus } from "./spec/iommu.js";
import { VirtioIommu } from "./virtio-iommu.js";

const NIC = parseSourceId("00:03.0");
const GPU = parseSourceId("00:04.0");
/** The doorbell of this machine's interrupt controller: a page that is not RAM. */
const DOORBELL = 0x0802_0000;

/** Memory of a board: RAM, and one device register. */
class BoardMemory extends BufferMemory {
  readonly messages: number[] = [];

  override write(gpa: number, from: Uint8Array): boolean {
    if (gpa !== DOORBELL) return super.write(gpa, from);
    this.messages.push(new DataView(from.buffer, from.byteOffset).getUint32(0, true));
    return true;
  }
}

function show(what: string, got: unknown, expected: unknown): void {
  deepEqual(got, expected, what);
  console.log(`${what.padEnd(62)} ${typeof got === "string" ? got : JSON.stringify(got)}`);
}

// The host: 64 MiB of memory, the device, a NIC that a container mirrors, and a GPU with a cache.
const ram = new Uint8Array(64 * 2 ** 20);
const memory = new BoardMemory([{ firstPfn: 0, bytes: ram }]);
const device = new VirtioIommu({
  memory,
  endpoints: [
    { sourceId: NIC, reserved: [{ kind: "msi", firstPfn: 0xfee00, pageCount: 0x100 }] },
    { sourceId: GPU }, // no range for messages: its driver maps the doorbell
  ],
  bypass: false,
  msi: ({ data }) => memory.messages.push(data),
  interrupt: () => undefined, // this driver polls
});
const nic = device.addressSpace(NIC);
const gpu = device.addressSpace(GPU);
const container = new MemoryContainer(type1v2);
const mirror = new VfioNotifier(container);
const cache = new CacheNotifier(gpu);
nic.attach(mirror);
gpu.attach(cache);
const unmapped: number[] = [];
nic.events.on("unmap", ({ iovaPfn, pageCount }) => unmapped.push(iovaPfn, pageCount));

// The guest: its driver brings the device up, asks what the NIC reserves, and makes two domains.
const driver = new GuestDriver(memory, device.mmio, 0x3000);
driver.boot();
const { regions } = await driver.probe(NIC);
show("PROBE: the NIC's doorbell", `0x${regions[0]?.start.toString(16)}`, "0xfee00000");
equal(await driver.attach(1, NIC), RequestStatus.OK);
equal(await driver.attach(2, GPU), RequestStatus.OK);
equal(await driver.map(1, { iovaPfn: 4, pageCount: 2, gpaPfn: 0x900, access: Access.readWrite }), RequestStatus.OK);
equal(await driver.map(1, { iovaPfn: 6, pageCount: 1, gpaPfn: 0x902, access: Access.readWrite }), RequestStatus.OK);
const pages = [...container.entries()].map(({ iovaPfn, pageCount }) => [iovaPfn, pageCount]);
show("MAP: the container mirrors (page, count)", pages, [
  [4, 2],
  [6, 1],
]);
show("the NIC writes through it", nic.dma.write(0x4010, new TextEncoder().encode("hello")), true);
equal(new TextDecoder().decode(ram.subarray(0x90_0010, 0x90_0015)), "hello");

// A refused request is reported on the event queue, to the byte.
show("the NIC writes beside it", nic.dma.write(0x8123, Uint8Array.of(1)), false);
const [fault] = driver.faults();
show(
  "the driver reads the fault report",
  `reason ${fault?.reason} at 0x${fault?.address.toString(16)}`,
  "reason 2 at 0x8123",
);

// The NIC moves to another domain, which maps two of its three pages alike: those are never unmapped, not even briefly.
equal(await driver.map(2, { iovaPfn: 4, pageCount: 2, gpaPfn: 0x900, access: Access.readWrite }), RequestStatus.OK);
equal(await driver.attach(2, NIC), RequestStatus.OK);
show("ATTACH to another domain: unmapped on the way", unmapped, [6, 1]);

// The GPU's cache fills on demand, and is flushed by UNMAP.
show("the GPU reads through its cache", cache.translate(5, Access.read, new Translation()), true);
equal(await driver.unmap(2, 4, 2), RequestStatus.OK);
show("UNMAP: what container and cache hold", [container.entriesHeld, cache.entryCount], [0, 0]);

// Interrupts: past the domain where the endpoint has a doorbell, through it where it has not.
equal(nic.dma.write(0xfee0_0000, Uint8Array.of(0x41, 0, 0, 0)), true);
const doorbell = { iovaPfn: 0xd000, pageCount: 1, gpaPfn: DOORBELL / 4096, access: Access.write, flags: MapFlag.MMIO };
equal(await driver.map(2, doorbell), RequestStatus.OK);
equal(gpu.dma.write(0xd000 * 4096, Uint8Array.of(0x42, 0, 0, 0)), true);
show("messages of the NIC and the GPU", memory.messages, [0x41, 0x42]);

// Bypass, by a domain and for whoever is not attached.
equal(await driver.detach(2, NIC), RequestStatus.OK);
show("DETACH: the NIC reaches", nic.domain.label, "not attached");
driver.setBypass(true);
show("bypass in the configuration: the NIC reaches", nic.domain.label, "bypass");
show("and the container mirrors pages", mirror.pagesHeld, 64 * 256);
