/**
 * Several devices behind one container: an IOMMU group, or a container that is shared for other reasons. All of it on a VT-d unit, whose guest writes context entries.
 */
import { describe, expect, it } from "vitest";
import { type Attachment, IommuError } from "@iommu-kit/iommu-core";
import { GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import { MemoryContainer, type1v2, VfioNotifier } from "@iommu-kit/notifier-vfio";
import { entriesOf, pagesOf, PlainContainer } from "./containers.js";

const NIC = "00:03.0";
const DISK = "00:04.0";
const SOUND = "00:05.0";

/** A guest with three devices in domain 1, which maps pages 0x10 to 0x13; domain 2 maps 0x12 to 0x15, to the same targets where both map. */
function machine() {
  const guest = new GuestDriver({ cachingMode: true });
  guest.map(1, { iovaPfn: 0x10, pageCount: 4, gpaPfn: 0x1000 });
  guest.map(2, { iovaPfn: 0x12, pageCount: 4, gpaPfn: 0x1002 });
  for (const device of [NIC, DISK, SOUND]) guest.context(device, { did: 1 });
  guest.start();
  const plain = new PlainContainer(new MemoryContainer(type1v2));
  const notifier = new VfioNotifier(plain, { name: "group 7" });
  const attach = (device: string): Attachment => notifier.attachTo(guest.device(device));
  /** The guest puts a device into another domain. */
  const move = (device: string, did: number): void => {
    guest.context(device, { did });
    guest.invalidate.context(device, did);
    guest.invalidate.all();
  };
  return { guest, plain, notifier, attach, move };
}

/** The calls that a container has seen since the last time. */
function taken(plain: PlainContainer): string[] {
  return plain.calls.splice(0);
}

describe("devices in one container that see the same domain", () => {
  it("share what is mapped: the second and third device cause no call at all", () => {
    const { plain, attach } = machine();

    attach(NIC);
    expect(taken(plain)).toEqual(["map 16+1", "map 17+1", "map 18+1", "map 19+1"]);
    attach(DISK);
    attach(SOUND);

    expect(taken(plain)).toEqual([]);
    expect(plain.entriesHeld).toBe(4);
  });

  it("cause one call for each change, however many they are", () => {
    const { guest, plain, attach } = machine();
    for (const device of [NIC, DISK, SOUND]) attach(device);
    taken(plain);

    guest.unmap(1, 0x11);
    guest.map(1, { iovaPfn: 0x20, gpaPfn: 0x2000 });
    guest.invalidate.domain(1);

    expect(taken(plain)).toEqual(["unmap 17+1", "map 32+1"]);
  });

  it("keep everything mapped until the last of them is detached", () => {
    const { plain, attach } = machine();
    const attachments = [NIC, DISK, SOUND].map(attach);
    taken(plain);

    void attachments[0]?.detach();
    void attachments[2]?.detach();
    expect(taken(plain)).toEqual([]);
    expect(plain.entriesHeld).toBe(4);

    void attachments[1]?.detach();
    expect(plain.entriesHeld).toBe(0);
  });

  it("fail together: a container that is gone cuts off the attachment of each, once", () => {
    const { guest, plain, attach } = machine();
    const attachments = [NIC, DISK].map(attach);
    const failed: string[] = [];
    guest.unit.events.on("failed", ({ space }) => failed.push(space.label));
    plain.map = () => ({ ok: false, cause: "gone" });

    guest.map(1, { iovaPfn: 0x20, gpaPfn: 0x2000 });
    expect(guest.invalidate.domain(1)).toBe(true);

    expect(attachments.map(({ state }) => state)).toEqual(["failed", "failed"]);
    expect(failed.toSorted()).toEqual([NIC, DISK]);
    expect(plain.entriesHeld).toBe(0);
  });
});

describe("a device that sees another table", () => {
  it("is refused, by an error that names both devices and what they see, and changes nothing", () => {
    const { guest, plain, attach, move } = machine();
    attach(NIC);
    move(DISK, 2);
    taken(plain);
    let error: unknown;

    try {
      attach(DISK);
    } catch (thrown) {
      error = thrown;
    }

    expect(error).toBeInstanceOf(IommuError);
    expect(error).toMatchObject({ code: "different-view", hint: expect.stringMatching(/./) as string });
    expect(String(error)).toContain("group 7");
    expect(String(error)).toContain(NIC);
    expect(String(error)).toContain(DISK);
    expect(guest.device(DISK).attachments).toEqual([]);
    expect(taken(plain)).toEqual([]);
    expect(guest.device(NIC).attachments.map(({ state }) => state)).toEqual(["active"]);
  });

  it("is taken once the guest has put it into the same domain", () => {
    const { attach, move } = machine();
    attach(NIC);
    move(DISK, 2);
    expect(() => attach(DISK)).toThrow(/sees/);

    move(DISK, 1);

    expect(attach(DISK).state).toBe("active");
  });

  it("has a container of its own beside the first: neither knows of the other's pages", () => {
    const { guest, plain, attach, move } = machine();
    attach(NIC);
    move(DISK, 2);
    const own = new MemoryContainer(type1v2);
    new VfioNotifier(own).attachTo(guest.device(DISK));

    expect(entriesOf(plain.inner)).toEqual(["16+1", "17+1", "18+1", "19+1"]);
    expect(entriesOf(own)).toEqual(["18+1", "19+1", "20+1", "21+1"]);
  });
});

describe("devices of one container that the guest moves apart", () => {
  it("are parked: the container is emptied, as no table is right for both", () => {
    const { plain, attach, move } = machine();
    const attachments = [NIC, DISK].map(attach);

    move(DISK, 2);

    expect(attachments.map(({ state }) => state)).toEqual(["parked", "parked"]);
    expect(plain.entriesHeld).toBe(0);
  });

  it("hear nothing while they are parked, and are replayed what is there when they agree again", () => {
    const { guest, plain, attach, move } = machine();
    const attachments = [NIC, DISK].map(attach);
    move(DISK, 2);
    taken(plain);

    guest.unmap(2, 0x12);
    guest.map(1, { iovaPfn: 0x30, gpaPfn: 0x3000 });
    guest.invalidate.all();
    expect(taken(plain)).toEqual([]);

    move(NIC, 2);
    expect(attachments.map(({ state }) => state)).toEqual(["active", "active"]);
    expect(pagesOf(plain.inner)).toEqual(["19:4099:3", "20:4100:3", "21:4101:3"]);
    guest.unmap(2, 0x13);
    guest.invalidate.domain(2);
    expect(pagesOf(plain.inner)).toEqual(["20:4100:3", "21:4101:3"]);
  });

  it("are served again when the one that left is detached", () => {
    const { plain, attach, move } = machine();
    const [nic, disk] = [attach(NIC), attach(DISK)];
    move(DISK, 2);

    void disk.detach();

    expect(nic.state).toBe("active");
    expect(entriesOf(plain.inner)).toEqual(["16+1", "17+1", "18+1", "19+1"]);
  });

  it("all of them, one after the other, end in the new domain by a replay", () => {
    const { plain, attach, move } = machine();
    const attachments = [NIC, DISK, SOUND].map(attach);

    for (const device of [NIC, DISK, SOUND]) move(device, 2);

    expect(attachments.map(({ state }) => state)).toEqual(["active", "active", "active"]);
    expect(entriesOf(plain.inner)).toEqual(["18+1", "19+1", "20+1", "21+1"]);
  });
});
