/**
 * A device that reaches another device's BAR: the guest maps IOVAs to frames that are not RAM. Consumers that can take such a target get it, the others say so and go on.
 */
import { describe, expect, it } from "vitest";
import { Access, type RefusedEvent } from "@iommu-kit/iommu-core";
import { GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import {
  MemoryContainer,
  type RefusalEvent,
  shadowBlock,
  type1v2,
  VfioNotifier,
  vfioUser,
} from "@iommu-kit/notifier-vfio";
import { pagesOf, PlainContainer } from "./containers.js";

const GPU = "00:03.0";
/** A peer's BAR: 16 pages above the guest's RAM. */
const BAR_PFN = 0xe0000;
const BAR_PAGES = 16;
const isRam = (gpaPfn: number, pageCount: number): boolean => gpaPfn + pageCount <= 0x40000;

/** A container of a kind that finds out by itself that it has no memory at a target. */
class RamOnlyContainer extends PlainContainer {
  override map(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access) {
    if (isRam(gpaPfn, pageCount)) return super.map(iovaPfn, pageCount, gpaPfn, access);
    return { ok: false, cause: "bad-target" } as const;
  }
}

/** A guest that maps RAM at 0x10 and a peer's BAR at 0x20, with three consumers on one device. */
function machine() {
  const guest = new GuestDriver({ cachingMode: true });
  guest.map(1, { iovaPfn: 0x10, pageCount: 2, gpaPfn: 0x1000 });
  guest.map(1, { iovaPfn: 0x20, pageCount: 2, gpaPfn: BAR_PFN });
  guest.context(GPU, { did: 1 });
  guest.start();
  const space = guest.device(GPU);
  const reported: RefusedEvent[] = [];
  space.events.on("refused", (event) => reported.push(event));
  const accepting = new MemoryContainer(type1v2);
  const choosy = new MemoryContainer(vfioUser);
  const ramOnly = new MemoryContainer(type1v2);
  const notifiers = {
    accepting: new VfioNotifier(accepting, { name: "accepting" }),
    choosy: new VfioNotifier(choosy, { name: "choosy", acceptsTarget: isRam }),
    ramOnly: new VfioNotifier(new RamOnlyContainer(ramOnly), { name: "RAM only" }),
  };
  const refusals: RefusalEvent[] = [];
  notifiers.choosy.events.on("refused", (event) => refusals.push(event));
  const attachments = Object.values(notifiers).map((notifier) => notifier.attachTo(space));
  return { guest, space, accepting, choosy, ramOnly, notifiers, attachments, reported, refusals };
}

describe("a mapping to a peer's BAR", () => {
  it("reaches consumers that accept it", () => {
    const { accepting, attachments } = machine();

    expect(pagesOf(accepting)).toEqual(["16:4096:3", "17:4097:3", "32:917504:3", "33:917505:3"]);
    expect(attachments[0]).toMatchObject({ state: "active", heldPages: 4, refusedPages: 0 });
  });

  it("is reported, not failed, for those that do not, whoever finds out", () => {
    const { choosy, ramOnly, attachments, reported, refusals } = machine();

    for (const container of [choosy, ramOnly]) expect(pagesOf(container)).toEqual(["16:4096:3", "17:4097:3"]);
    for (const attachment of attachments.slice(1)) {
      expect(attachment).toMatchObject({ state: "active", failure: undefined, heldPages: 2, refusedPages: 2 });
    }
    const texts = reported.map((event) => {
      const { attachment, iovaPfn, pageCount, gpaPfn, answer } = event;
      return `${attachment.notifier.name}: ${iovaPfn}+${pageCount} to ${gpaPfn} ${answer}`;
    });
    expect(texts).toEqual([
      "choosy: 32+1 to 917504 unsupported",
      "choosy: 33+1 to 917505 unsupported",
      "RAM only: 32+1 to 917504 unsupported",
      "RAM only: 33+1 to 917505 unsupported",
    ]);
    expect(refusals.map(({ cause }) => cause)).toEqual(["bad-target", "bad-target"]);
  });

  it("does not hold up the guest or what comes after it", () => {
    const { guest, choosy, ramOnly } = machine();

    guest.map(1, { iovaPfn: 0x22, gpaPfn: BAR_PFN + 2 });
    guest.map(1, { iovaPfn: 0x30, gpaPfn: 0x2000 });

    expect(guest.invalidate.domain(1)).toBe(true);
    for (const container of [choosy, ramOnly]) expect(pagesOf(container)).toContain("48:8192:3");
  });

  it("that is taken away is not missed by those that never held it", () => {
    const { guest, accepting, choosy, attachments } = machine();

    guest.unmap(1, 0x20, 2);
    guest.invalidate.domain(1);

    expect(attachments.map(({ state, refusedPages }) => [state, refusedPages])).toEqual([
      ["active", 0],
      ["active", 0],
      ["active", 0],
    ]);
    expect(pagesOf(accepting)).toEqual(pagesOf(choosy));
  });

  it("is not offered again and again: what a consumer cannot hold stays left out until the guest changes it", () => {
    const { attachments, reported } = machine();
    reported.length = 0;

    for (const attachment of attachments) attachment.retry();

    expect(reported).toEqual([]);
  });
});

describe("a page that the guest moves", () => {
  it("from RAM to a BAR leaves those that do not accept it with nothing there, and nothing stale", () => {
    const { guest, accepting, choosy, ramOnly } = machine();

    guest.map(1, { iovaPfn: 0x10, gpaPfn: BAR_PFN + 5 });
    guest.invalidate.page(1, 0x10);

    expect(pagesOf(accepting)).toContain("16:917509:3");
    for (const container of [choosy, ramOnly]) expect(pagesOf(container)).toEqual(["17:4097:3"]);
  });

  it("from a BAR to RAM is mapped for everybody", () => {
    const { guest, accepting, choosy, ramOnly, attachments } = machine();

    guest.map(1, { iovaPfn: 0x20, gpaPfn: 0x3000 });
    guest.invalidate.page(1, 0x20);

    for (const container of [accepting, choosy, ramOnly]) expect(pagesOf(container)).toContain("32:12288:3");
    expect(attachments.map(({ refusedPages }) => refusedPages)).toEqual([0, 1, 1]);
  });
});

describe("merged entries", () => {
  it.each(["aligned", "free"] as const)("do not lose RAM next to a BAR with the %s policy", async (coalescing) => {
    const guest = new GuestDriver({ cachingMode: true });
    guest.map(1, { iovaPfn: 0x10, pageCount: 8, gpaPfn: 0x1000 });
    guest.map(1, { iovaPfn: 0x18, pageCount: BAR_PAGES, gpaPfn: BAR_PFN });
    guest.map(1, { iovaPfn: 0x28, pageCount: 8, gpaPfn: 0x1008 });
    guest.context(GPU, { did: 1 });
    guest.start();
    const container = new MemoryContainer(type1v2);
    const attachment = new VfioNotifier(container, { coalescing, acceptsTarget: isRam }).attachTo(guest.device(GPU));
    await attachment.ready;

    const out = shadowBlock();
    const reached = Array.from({ length: 0x20 }, (_, i) => container.translate(0x10 + i, Access.read, out));
    expect(reached.map((yes) => (yes ? "x" : ".")).join("")).toBe(`${"x".repeat(8)}${".".repeat(16)}${"x".repeat(8)}`);
    expect(attachment).toMatchObject({ state: "active", refusedPages: BAR_PAGES });
  });
});
