import { Access, BufferMemory, PAGE_BYTES } from "@iommu-kit/iommu-core";
import { VtdIommu } from "@iommu-kit/iommu-vtd";
import { describe, expect, it } from "vitest";
import { compareDump, parseDriverDump } from "../src/judge/driver-dump.js";
import { FreshWalk } from "../src/judge/fresh-walk.js";
import { ShadowJudge } from "../src/judge/shadow-judge.js";

const DEVICE = 0xf0;
const ROOT_TABLE = 0x1000;
const CONTEXT_TABLE = 0x2000;
const LEAF_TABLE = 0x5000;

/** A guest with three levels of tables for one device; `map` writes an entry of the last level, without telling the unit. */
class Guest {
  readonly memory = new BufferMemory([{ firstPfn: 0, bytes: new Uint8Array(64 * PAGE_BYTES) }]);
  readonly walk = new FreshWalk(this.memory);
  readonly judge = new ShadowJudge(this.walk);
  readonly unit = new VtdIommu({
    memory: this.memory,
    msi: () => undefined,
    addressWidths: [39],
    cachingMode: true,
    queuedInvalidation: false,
    interruptRemapping: false,
  });

  constructor() {
    this.memory.writeWord(ROOT_TABLE, CONTEXT_TABLE | 1);
    this.memory.writeWord(CONTEXT_TABLE + DEVICE * 16, 0x3000 | 1);
    this.memory.writeWord(CONTEXT_TABLE + DEVICE * 16 + 8, 0x101);
    this.memory.writeWord(0x3000, 0x4000 | 3);
    this.memory.writeWord(0x4000, LEAF_TABLE | 3);
  }

  follow(): this {
    this.judge.follow(this.unit.addressSpace(DEVICE));
    return this;
  }

  enable(): this {
    return this.write(0x20, ROOT_TABLE).write(0x18, 0x40000000).write(0x18, 0x80000000);
  }

  map(iovaPfn: number, gpaPfn: number, access: Access): this {
    this.memory.writeWord(LEAF_TABLE + iovaPfn * 8, gpaPfn * PAGE_BYTES + access);
    return this;
  }

  /** A global invalidation through the IOTLB registers. */
  invalidate(): this {
    return this.write(0xf8, 0).write(0xfc, 0x90000000);
  }

  private write(offsetBytes: number, value: number): this {
    this.walk.onRegisterWrite(offsetBytes, value);
    this.unit.mmio.write32(offsetBytes, value);
    return this;
  }
}

describe("FreshWalk", () => {
  it("reads identity before translation is on, and the tables afterwards", () => {
    const guest = new Guest().map(7, 9, Access.read);
    expect(guest.walk.reach(DEVICE, 7)).toEqual({ gpaPfn: 7, access: Access.readWrite });
    expect(guest.walk.reach(DEVICE, 1_000)).toBeUndefined();
    guest.enable();
    expect(guest.walk.reach(DEVICE, 7)).toEqual({ gpaPfn: 9, access: Access.read });
    expect(guest.walk.reach(DEVICE, 8)).toBeUndefined();
    expect(guest.walk.reach(DEVICE + 1, 7)).toBeUndefined();
  });

  it("follows a superpage to the page within it", () => {
    const guest = new Guest().enable();
    guest.memory.writeWord(0x4000 + 8, 0x200000 | 0x80 | 3);
    expect(guest.walk.reach(DEVICE, 512 + 5)).toEqual({ gpaPfn: 512 + 5, access: Access.readWrite });
  });
});

describe("ShadowJudge", () => {
  it("agrees with the unit through mappings, changes and removals", () => {
    const guest = new Guest().follow().enable().map(7, 9, Access.readWrite).invalidate();
    guest.judge.observer(DEVICE, 7 * PAGE_BYTES, 4);
    guest.map(7, 10, Access.readWrite).map(8, 11, Access.read).invalidate();
    guest.judge.observer(DEVICE, 7 * PAGE_BYTES + 100, PAGE_BYTES);
    guest.map(7, 0, Access.none).invalidate();
    guest.judge.observer(DEVICE, 7 * PAGE_BYTES, 4);
    expect(guest.judge.counters).toMatchObject({ checks: 4, mismatches: 0, vanished: 0, contractBreaches: 0 });
    expect([...guest.judge.heldBy(DEVICE)]).toEqual([[8, { gpaPfn: 11, access: Access.read }]]);
  });

  it("finds a guest that changed its tables and did not say so", () => {
    const guest = new Guest().follow().enable().map(7, 9, Access.readWrite);
    guest.judge.observer(DEVICE, 7 * PAGE_BYTES, 4);
    expect(guest.judge.counters.mismatches).toBe(1);
    expect(guest.judge.examples[0]).toContain("frame 0x7: shadow nothing, tables frame 0x9 rights 3");
  });

  it("finds a page that is unmapped although the tables still map it", async () => {
    const guest = new Guest().follow().enable().map(7, 9, Access.readWrite).invalidate();
    await guest.unit.addressSpace(DEVICE).unplug();
    expect(guest.judge.counters.vanished).toBe(1);
  });
});

describe("the driver's dump", () => {
  const entry = (pfn: string, ...entries: string[]): string =>
    `0x${pfn.padStart(13, "0")} |\t${entries.map((value) => `0x${value.padStart(16, "0")}`).join("\t")}`;
  const dump = [
    "Device 0000:00:1e.0 @0x297000",
    "IOVA_PFN\t\tPML5E\t\t\tPML4E\t\t\tPDPE\t\t\tPDE\t\t\tPTE",
    entry("ffffe", "0", "0", "3ab003", "3ac003", "3ad001"),
    entry("200", "0", "0", "3ab003", "400083"),
    "",
  ];

  it("is decoded to pages with the rights of the whole walk, superpages included", () => {
    const { devices, unreadable } = parseDriverDump(dump);
    const pages = devices.get(DEVICE);
    expect(unreadable).toBe(0);
    expect(pages?.get(0xffffe)).toEqual({ gpaPfn: 0x3ad, access: Access.read });
    expect(pages?.get(0x200 + 511)).toEqual({ gpaPfn: 0x400 + 511, access: Access.readWrite });
    expect(pages?.size).toBe(513);
  });

  it("differs when a page is missing on either side or goes elsewhere", () => {
    const { devices } = parseDriverDump(dump);
    const ours = new Map([...devices].map(([sourceId, pages]) => [sourceId, new Map(pages)]));
    expect(compareDump(dump, ours)).toMatchObject({ devices: 1, pages: 513, different: 0, unreadable: 0 });
    ours.get(DEVICE)?.delete(0xffffe);
    ours.get(DEVICE)?.set(0x5, { gpaPfn: 1, access: Access.read });
    ours.get(DEVICE)?.set(0x200, { gpaPfn: 1, access: Access.readWrite });
    expect(compareDump(dump, ours)).toMatchObject({ different: 3 });
  });

  it("counts lines that something else wrote into", () => {
    const disturbed = [...dump, "0x00000000fffff |\t0x0000000000000000[ 12.3] random: done"];
    expect(compareDump(disturbed, new Map())).toMatchObject({ unreadable: 1 });
  });
});
