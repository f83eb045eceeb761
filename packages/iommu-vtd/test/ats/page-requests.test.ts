import { parseSourceId } from "@iommu-kit/iommu-core";
import { RecordingFlushNotifier, RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { describe, expect, it } from "vitest";
import type { GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import { FaultReason, type PageResponse } from "@iommu-kit/iommu-vtd";
import { PageGroupResponse, PageRequest } from "../../src/spec/page-request.js";
import { deviceTlb, legacyGuest, NIC, scalableGuest } from "./ats-guest.js";

const SID = parseSourceId(NIC);
const PQH = 0xc0;
const PQT = 0xc8;
const PQA = 0xd0;
const PRS = 0xdc;
const PECTL = 0xe0;
const PPR = 1;
const PRO = 2;
const IQE = 0x10;

/** A guest with a page request queue of 128 entries, whose event is unmasked. */
class PagingGuest {
  readonly guest: GuestDriver;
  readonly queuePfn: number;

  constructor(guest = scalableGuest()) {
    this.guest = guest;
    this.queuePfn = guest.newFrame();
    const { mmio } = guest.unit;
    mmio.write64(PQA, BigInt(this.queuePfn) * 4096n);
    mmio.write32(0xe4, 0x41);
    mmio.write32(0xe8, 0xfee00000);
    mmio.write32(PECTL, 0);
  }

  get status(): number {
    return this.guest.unit.mmio.read32(PRS);
  }

  get tail(): number {
    return this.guest.unit.mmio.read32(PQT) / 32;
  }

  /** The fields of an entry. */
  entry(index: number): Record<string, number> {
    const words = Int32Array.from({ length: 8 }, (_, i) =>
      this.guest.memory.peek(this.queuePfn * 4096 + index * 32 + i * 4),
    );
    return Object.fromEntries(Object.entries(PageRequest.fields).map(([name, field]) => [name, field.get(words, 0)]));
  }

  /** Takes everything out of the queue. */
  drain(): void {
    this.guest.unit.mmio.write32(PQH, this.tail * 32);
    this.guest.unit.mmio.write32(PRS, PPR | PRO);
  }
}

/** Type 9. */
function response(given: Parameters<typeof PageGroupResponse.pack>[0]): Int32Array {
  return PageGroupResponse.pack({ TYPE: 9, RID: SID, ...given });
}

async function now(promise: Promise<PageResponse>): Promise<PageResponse | "waiting"> {
  return Promise.race([
    promise,
    Promise.resolve()
      .then(() => Promise.resolve())
      .then(() => "waiting" as const),
  ]);
}

describe("a page request", () => {
  it("is written to the queue; tail, PPR and event follow; the guest's response reaches the device", async () => {
    const paging = new PagingGuest();
    const { guest } = paging;
    const ats = guest.unit.ats(guest.device(NIC, { pasid: 5 }));
    guest.pasid(NIC, 5, { did: 2, type: "pass-through" });
    const answer = ats.requestPage({ iovaPfn: 0x1234, write: true, read: true, group: 7 });
    expect(paging.entry(0)).toMatchObject({
      TYPE: 1,
      PP: 1,
      RID: SID,
      PASID: 5,
      RDR: 1,
      WRR: 1,
      EXR: 0,
      PMR: 0,
      LPIG: 1,
      PRGI: 7,
      ADDR: 0x1234,
    });
    expect(paging.tail).toBe(1);
    expect(paging.status).toBe(PPR);
    expect(guest.messages).toMatchObject([{ address: 0xfee00000, data: 0x41 }]);
    expect(await now(answer)).toBe("waiting");
    guest.queue.run(response({ PP: 1, PASID: 5, PRGI: 7 }));
    expect(await answer).toBe("success");
  });

  it("says that it is for a privileged task and for code", () => {
    const paging = new PagingGuest();
    const { guest } = paging;
    guest.pasid(NIC, 5, { did: 2, type: "pass-through", fields: { SRE: 1 } });
    const ats = guest.unit.ats(guest.device(NIC, { pasid: 5, privileged: true }));
    void ats.requestPage({ iovaPfn: 0x1234, read: true, execute: true });
    expect(paging.entry(0)).toMatchObject({ PASID: 5, RDR: 1, EXR: 1, PMR: 1 });
  });

  it("leaves its event pending while one of PPR and PRO is left", () => {
    const paging = new PagingGuest();
    const { guest } = paging;
    guest.unit.mmio.write32(PECTL, 0x8000_0000);
    void guest.unit.ats(guest.device(NIC)).requestPage({ iovaPfn: 0x10 });
    guest.unit.mmio.write32(PRS, PRO);
    expect(guest.unit.mmio.read32(PECTL) >>> 0).toBe(0xc000_0000);
    guest.unit.mmio.write32(PRS, PPR);
    expect(guest.unit.mmio.read32(PECTL) >>> 0).toBe(0x8000_0000);
  });

  it("is refused while the table mode is reserved", async () => {
    const { guest } = new PagingGuest();
    const ats = guest.unit.ats(guest.device(NIC));
    guest.setRoot("reserved");
    expect(await ats.requestPage({ iovaPfn: 0x10 })).toBe("invalid");
    expect(guest.faults()).toMatchObject([{ reason: 0x30 }]);
  });

  it("without PASID is legal in scalable mode", async () => {
    const paging = new PagingGuest();
    const answer = paging.guest.unit.ats(paging.guest.device(NIC)).requestPage({ iovaPfn: 0x10 });
    expect(paging.entry(0)).toMatchObject({ PP: 0, RDR: 1, WRR: 0, LPIG: 1 });
    paging.guest.queue.run(response({ PRGI: 0 }));
    expect(await answer).toBe("success");
  });

  it.each([
    [0, "success"],
    [1, "invalid"],
    [15, "failure"],
    [7, "failure"],
  ] as const)("that is answered with code %i is told %s", async (RC, expected) => {
    const { guest } = new PagingGuest();
    const answer = guest.unit.ats(guest.device(NIC)).requestPage({ iovaPfn: 0x10 });
    guest.queue.run(response({ RC }));
    expect(await answer).toBe(expected);
  });

  it("waits for the response of its own requester, PASID and group", async () => {
    const { guest } = new PagingGuest();
    const answer = guest.unit.ats(guest.device(NIC)).requestPage({ iovaPfn: 0x10, group: 3 });
    guest.queue.run(response({ PRGI: 4 }), response({ PRGI: 3, RID: SID + 1 }), response({ PRGI: 3, PP: 1, PASID: 0 }));
    expect(await now(answer)).toBe("waiting");
    guest.queue.run(response({ PRGI: 3 }));
    expect(await answer).toBe("success");
  });

  it("that is not the last of its group is queued and not answered", async () => {
    const paging = new PagingGuest();
    const ats = paging.guest.unit.ats(paging.guest.device(NIC));
    expect(await ats.requestPage({ iovaPfn: 0x10, last: false })).toBe("queued");
    expect(paging.entry(0)).toMatchObject({ LPIG: 0 });
    expect(paging.status).toBe(PPR);
  });

  it("raises no second event while PPR stands, and one again after it was cleared", () => {
    const paging = new PagingGuest();
    const ats = paging.guest.unit.ats(paging.guest.device(NIC));
    void ats.requestPage({ iovaPfn: 0x10, group: 1 });
    void ats.requestPage({ iovaPfn: 0x11, group: 2 });
    expect(paging.guest.messages).toHaveLength(1);
    paging.drain();
    void ats.requestPage({ iovaPfn: 0x12, group: 3 });
    expect(paging.guest.messages).toHaveLength(2);
  });

  it("waits as pending event while PECTL masks it, which it does after reset", () => {
    const guest = scalableGuest();
    expect(guest.unit.mmio.read32(PECTL)).toBe(0x8000_0000);
    const paging = new PagingGuest(guest);
    guest.unit.mmio.write32(PECTL, 0x8000_0000);
    void guest.unit.ats(guest.device(NIC)).requestPage({ iovaPfn: 0x10 });
    expect(guest.unit.mmio.read32(PECTL)).toBe(0xc000_0000);
    expect(guest.messages).toEqual([]);
    guest.unit.mmio.write32(PECTL, 0);
    expect(guest.messages).toHaveLength(1);
    void paging;
  });

  it("that finds the queue full is answered in the guest's place, sets PRO, and is not recorded", async () => {
    const paging = new PagingGuest();
    const { guest } = paging;
    const ats = guest.unit.ats(guest.device(NIC));
    for (let i = 0; i < 127; i++) void ats.requestPage({ iovaPfn: i, last: false });
    expect(paging.tail).toBe(127);
    expect(paging.status).toBe(PPR);
    expect(await ats.requestPage({ iovaPfn: 200, last: false })).toBe("dropped");
    expect(paging.status).toBe(PPR | PRO);
    expect(await ats.requestPage({ iovaPfn: 201 })).toBe("success");
    guest.unit.mmio.write32(PQH, 127 * 32);
    expect(await ats.requestPage({ iovaPfn: 202 })).toBe("success");
    expect(paging.tail).toBe(127);
    expect(guest.messages).toHaveLength(1);
    paging.drain();
    void ats.requestPage({ iovaPfn: 203 });
    expect(paging.tail).toBe(0);
    expect(paging.entry(127)).toMatchObject({ ADDR: 203 });
    expect(guest.faults()).toEqual([]);
  });

  it("raises the event for PRO alone when the guest had cleared PPR", async () => {
    const paging = new PagingGuest();
    const { guest } = paging;
    const ats = guest.unit.ats(guest.device(NIC));
    for (let i = 0; i < 127; i++) void ats.requestPage({ iovaPfn: i, last: false });
    guest.unit.mmio.write32(PRS, PPR);
    expect(await ats.requestPage({ iovaPfn: 200 })).toBe("success");
    expect(paging.status).toBe(PRO);
    expect(guest.messages).toHaveLength(2);
  });

  it.each([
    ["SCT_8", { DTE: 1, PRE: 0 }],
    ["SCT_4_1", { DTE: 0, PRE: 1 }],
  ] as const)("that meets %s is answered invalid, and recorded as a page request", async (name, fields) => {
    const { guest } = new PagingGuest();
    guest.scalableContext(NIC, { pasids: true, fields });
    guest.invalidate.contexts();
    expect(await guest.unit.ats(guest.device(NIC)).requestPage({ iovaPfn: 0x10 })).toBe("invalid");
    expect(guest.faults()).toMatchObject([{ reason: FaultReason[name] & 0xff, page: 0x10, type: 1 }]);
  });

  it("that meets SCT.8 is recorded, whatever the PASID entry says of faults: it is not read", async () => {
    const { guest } = new PagingGuest();
    guest.pasid(NIC, 0, { did: 1, type: "pass-through", fields: { FPD: 1 } });
    guest.scalableContext(NIC, { pasids: true, fields: { DTE: 1, PRE: 0 } });
    guest.invalidate.contexts();
    expect(await guest.unit.ats(guest.device(NIC)).requestPage({ iovaPfn: 0x10 })).toBe("invalid");
    expect(guest.faults()).toMatchObject([{ reason: FaultReason.SCT_8 }]);
  });

  it("of a privileged or executing device is queued with PMR and EXR: both matter only when a page is translated", async () => {
    const paging = new PagingGuest();
    const { guest } = paging;
    guest.pasid(NIC, 5, { did: 2, type: "pass-through" });
    void guest.unit.ats(guest.device(NIC, { pasid: 5, privileged: true })).requestPage({ iovaPfn: 0x10, group: 1 });
    void guest.unit.ats(guest.device(NIC, { pasid: 5, execute: true })).requestPage({ iovaPfn: 0x11, group: 2 });
    void guest.unit.ats(guest.device(NIC, { pasid: 5 })).requestPage({ iovaPfn: 0x12, group: 3, execute: true });
    expect([0, 1, 2].map((index) => paging.entry(index))).toMatchObject([
      { PMR: 1, EXR: 0 },
      { PMR: 0, EXR: 1 },
      { PMR: 0, EXR: 1 },
    ]);
    const refused = guest.unit.ats(guest.device(NIC, { pasid: 900, privileged: true }));
    expect(await refused.requestPage({ iovaPfn: 0x13, execute: true })).toBe("invalid");
    expect(guest.faults()).toMatchObject([{ reason: FaultReason.SPD_2, privileged: true, execute: true, type: 1 }]);
  });

  it("asks to execute only with a PASID and for reading: EXR needs PP and RDR, in the queue and in a fault record", async () => {
    const paging = new PagingGuest();
    const { guest } = paging;
    guest.pasid(NIC, 5, { did: 2, type: "pass-through" });
    const [plain, withPasid] = [guest.device(NIC), guest.device(NIC, { pasid: 5, execute: true })].map((space) =>
      guest.unit.ats(space),
    );
    void plain?.requestPage({ iovaPfn: 0x10, group: 1, execute: true });
    void withPasid?.requestPage({ iovaPfn: 0x10, group: 2, write: true });
    void withPasid?.requestPage({ iovaPfn: 0x10, group: 3, write: true, execute: true });
    void withPasid?.requestPage({ iovaPfn: 0x10, group: 4, read: true, write: true });
    withPasid?.stopMarker();
    expect([0, 1, 2, 3, 4].map((index) => paging.entry(index))).toMatchObject([
      { PP: 0, RDR: 1, EXR: 0 },
      { PP: 1, RDR: 0, WRR: 1, EXR: 0 },
      { PP: 1, RDR: 0, WRR: 1, EXR: 0 },
      { PP: 1, RDR: 1, WRR: 1, EXR: 1 },
      { PP: 1, RDR: 0, WRR: 0, EXR: 0 },
    ]);
    const refused = guest.unit.ats(guest.device(NIC, { pasid: 900, execute: true }));
    expect(await refused.requestPage({ iovaPfn: 0x10, write: true })).toBe("invalid");
    expect(guest.takeFaults()).toMatchObject([{ type: 1, execute: false }]);
    expect(await refused.requestPage({ iovaPfn: 0x10, read: true })).toBe("invalid");
    expect(guest.takeFaults()).toMatchObject([{ type: 1, execute: true }]);
    refused.stopMarker();
    expect(guest.takeFaults()).toMatchObject([{ type: 1, execute: false }]);
  });

  it("may come from a device that is being told to drop its translations", async () => {
    const paging = new PagingGuest();
    const { guest } = paging;
    const space = guest.device(NIC);
    const ats = guest.unit.ats(space);
    const mirror = new RecordingFlushNotifier();
    space.attach(mirror);
    mirror.take();
    let answer: Promise<PageResponse> | undefined;
    space.attach({
      kind: "device-tlb",
      invalidate: (iovaPfn) => {
        answer = ats.requestPage({ iovaPfn });
        return undefined;
      },
    });
    expect(guest.queue.run(deviceTlb(SID, 0x10))).toBe(true);
    expect(paging.tail).toBe(1);
    expect(mirror.take()).toEqual([{ firstPfn: 0x10, pageCount: 1 }]);
    guest.queue.run(response({ PRGI: 0 }));
    expect(await answer).toBe("success");
  });

  it("for a PASID without entry is answered invalid, dropped when it is not the last", async () => {
    const { guest } = new PagingGuest();
    const ats = guest.unit.ats(guest.device(NIC, { pasid: 9 }));
    expect(await ats.requestPage({ iovaPfn: 0x10 })).toBe("invalid");
    expect(await ats.requestPage({ iovaPfn: 0x10, last: false })).toBe("dropped");
    expect(guest.faults()).toMatchObject([{ reason: 0x59, pasid: 9, type: 1 }]);
  });

  it("is never queued in legacy mode, and recorded there; unknown to a unit without page requests or translation", async () => {
    const guest = scalableGuest();
    guest.setRoot("legacy");
    expect(await guest.unit.ats(guest.device(NIC)).requestPage({ iovaPfn: 0x10 })).toBe("invalid");
    expect(guest.faults()).toMatchObject([{ reason: 0x32, type: 1 }]);
    const { guest: old, ats } = legacyGuest();
    expect(await ats.requestPage({ iovaPfn: 0x10 })).toBe("invalid");
    old.disable();
    expect(await ats.requestPage({ iovaPfn: 0x10 })).toBe("invalid");
    expect(old.faults()).toEqual([]);
  });

  it("is told failure when the unit is reset, or the index is used again, or the device is gone", async () => {
    const { guest } = new PagingGuest();
    const ats = guest.unit.ats(guest.device(NIC));
    const [first, second] = [ats.requestPage({ iovaPfn: 1 }), ats.requestPage({ iovaPfn: 2 })];
    expect(await first).toBe("failure");
    void guest.unit.reset();
    expect(await second).toBe("failure");
    void guest.device(NIC).unplug();
    expect(await ats.requestPage({ iovaPfn: 3 })).toBe("failure");
  });

  it("that waits when its device is unplugged is told failure; those of others go on waiting, and the index is free again", async () => {
    const { guest } = new PagingGuest();
    guest.pasid(NIC, 5, { did: 1, type: "second-stage" });
    const [gone, stays] = [guest.device(NIC), guest.device(NIC, { pasid: 5 })];
    const answers: string[] = [];
    void guest.unit
      .ats(gone)
      .requestPage({ iovaPfn: 1, group: 7 })
      .then((answer) => answers.push(`gone: ${answer}`));
    void guest.unit
      .ats(stays)
      .requestPage({ iovaPfn: 1, group: 7 })
      .then((answer) => answers.push(`stays: ${answer}`));
    void gone.unplug();
    await guest.scheduler.idle();
    expect(answers).toEqual(["gone: failure"]);
    const again = guest.unit.ats(guest.device(NIC)).requestPage({ iovaPfn: 2, group: 7 });
    guest.queue.run(response({ PRGI: 7 }));
    expect(await again).toBe("success");
    guest.queue.run(response({ PP: 1, PASID: 5, PRGI: 7 }));
    await guest.scheduler.idle();
    expect(answers).toEqual(["gone: failure", "stays: success"]);
  });

  it("for nothing, or with a group out of range, is a mistake of the device model", () => {
    const { guest } = new PagingGuest();
    const ats = guest.unit.ats(guest.device(NIC));
    expect(() => ats.requestPage({ iovaPfn: 1, read: false })).toThrow("stop marker");
    expect(() => ats.requestPage({ iovaPfn: 1, group: 512 })).toThrow("group");
    for (const iovaPfn of [-1, 0.5, Number.NaN, 2 ** 52])
      expect(() => ats.requestPage({ iovaPfn })).toThrow(/page request: expected iovaPfn as a frame in .*, got/);
  });
});

describe("an accepted page request", () => {
  it("drops what is cached for its page, so that what the guest adds needs no invalidation", async () => {
    const paging = new PagingGuest();
    const { guest } = paging;
    const tables = guest.newFirstStageTables();
    tables.map(0x10, 1, 0x1000, { writable: false });
    guest.pasid(NIC, 5, { did: 2, type: "first-stage", firstRootPfn: tables.rootPfn });
    const space = guest.device(NIC, { pasid: 5 });
    expect(space.dma.read(0x10 * 4096, new Uint8Array(1))).toBe(true);
    tables.map(0x10, 1, 0x2000);
    expect(space.dma.read(0x10 * 4096, new Uint8Array(1))).toBe(true);
    guest.memory.poke(0x2000 * 4096, 0x55);
    const answer = guest.unit.ats(space).requestPage({ iovaPfn: 0x10, write: true });
    const into = new Uint8Array(1);
    expect(space.dma.read(0x10 * 4096, into)).toBe(true);
    expect(into[0]).toBe(0x55);
    guest.queue.run(response({ PP: 1, PASID: 5 }));
    await answer;
  });

  it.each([
    ["second-stage", { firstPfn: 0x10, pageCount: 1 }],
    ["pass-through", { firstPfn: 0x10, pageCount: 1 }],
    ["first-stage", { firstPfn: 0x10, pageCount: 1 }],
    ["nested", { firstPfn: 0, pageCount: 2 ** 52 }],
  ] as const)("of a %s PASID tells caching notifiers of the range that §6.5.3 names", (type, range) => {
    const { guest } = new PagingGuest();
    const tables = guest.newFirstStageTables();
    const firstRootPfn = type === "first-stage" || type === "nested" ? tables.rootPfn : 0;
    guest.pasid(NIC, 5, { did: 2, type, firstRootPfn });
    const cache = new RecordingFlushNotifier();
    const space = guest.device(NIC, { pasid: 5 });
    space.attach(cache);
    cache.take();
    void guest.unit.ats(space).requestPage({ iovaPfn: 0x10 });
    expect(cache.take()).toEqual([range]);
  });
});

describe("what a guest makes present for a page request", () => {
  /** A mirror and a cache behind a first stage, with one page mapped, and a device that can ask for more. */
  function paged(answers: "sync" | "manual" = "sync") {
    const { guest } = new PagingGuest(scalableGuest({ cachingMode: true }));
    const tables = guest.newFirstStageTables();
    tables.map(0x10, 1, 0x1000);
    for (const pasid of [5, 6])
      guest.pasid(NIC, pasid, { did: 2, type: "first-stage", firstRootPfn: tables.rootPfn, fields: { PWSNP: 1 } });
    const [space, sibling] = [guest.device(NIC, { pasid: 5 }), guest.device(NIC, { pasid: 6 })];
    const [mirror, other] = [new RecordingNotifier({ granularity: "page", answers }), new RecordingFlushNotifier()];
    sibling.attach(other);
    space.attach(mirror);
    mirror.answers.settle();
    other.take();
    return { guest, tables, space, mirror, other, ats: guest.unit.ats(space) };
  }

  it("is mirrored when the response is Success, page by page of the group, and only for that requester", async () => {
    const { guest, tables, mirror, other, ats } = paged();
    const stranger = new RecordingFlushNotifier();
    guest.scalableContext("00:04.0", { pasids: true });
    guest.pasid("00:04.0", 5, { did: 3, type: "first-stage", firstRootPfn: tables.rootPfn, fields: { PWSNP: 1 } });
    guest.device("00:04.0", { pasid: 5 }).attach(stranger);
    stranger.take();
    await ats.requestPage({ iovaPfn: 0x20, group: 3, last: false });
    await ats.requestPage({ iovaPfn: 0x21, group: 3, last: false });
    const answer = ats.requestPage({ iovaPfn: 0x30, group: 3 });
    for (const [page, target] of [
      [0x20, 0x2000],
      [0x21, 0x2100],
      [0x30, 0x3000],
      [0x40, 0x4000],
    ] as const)
      tables.map(page, 1, target);
    expect([0x20, 0x21, 0x30].map((page) => mirror.lookup(page))).toEqual([undefined, undefined, undefined]);
    mirror.calls.length = 0;
    guest.queue.run(response({ PP: 1, PASID: 5, PRGI: 3 }));
    expect(await answer).toBe("success");
    expect([0x10, 0x20, 0x21, 0x30, 0x40].map((page) => mirror.lookup(page)?.gpaPfn)).toEqual([
      0x1000,
      0x2000,
      0x2100,
      0x3000,
      undefined,
    ]);
    expect(mirror.calls.filter((call) => call.type === "unmap")).toEqual([]);
    expect([...other.take(), ...stranger.take()]).toEqual([]);
    mirror.check();
  });

  it("is not looked at when the response is another, or nobody asked", async () => {
    const { guest, tables, mirror, ats } = paged();
    const answer = ats.requestPage({ iovaPfn: 0x20 });
    tables.map(0x20, 1, 0x2000);
    guest.queue.run(response({ PP: 1, PASID: 5, PRGI: 1 }));
    guest.queue.run(response({ PP: 1, PASID: 5, RC: 1 }));
    expect(await answer).toBe("invalid");
    guest.queue.run(response({ PP: 1, PASID: 5 }));
    expect(mirror.lookup(0x20)).toBeUndefined();
  });

  it("is mirrored before the device is told, and before a wait behind the response completes", async () => {
    const { guest, tables, mirror, ats } = paged("manual");
    const answer = ats.requestPage({ iovaPfn: 0x20 });
    tables.map(0x20, 1, 0x2000);
    expect(guest.queue.run(response({ PP: 1, PASID: 5 }))).toBe(false);
    await guest.scheduler.idle();
    expect(await now(answer)).toBe("waiting");
    expect(guest.queue.completed).toBe(false);
    mirror.answers.settle();
    expect(await answer).toBe("success");
    await guest.scheduler.idle();
    expect(guest.queue.completed).toBe(true);
  });

  it("is told failure, not success, to a device whose unit is reset while mirrors hear of its pages", async () => {
    const { guest, tables, mirror, ats } = paged("manual");
    const answer = ats.requestPage({ iovaPfn: 0x20 });
    tables.map(0x20, 1, 0x2000);
    guest.queue.run(response({ PP: 1, PASID: 5 }));
    void guest.unit.reset();
    mirror.answers.settle();
    expect(await answer).toBe("failure");
  });

  it("of more scattered pages than are told apart is everything between them", async () => {
    const { guest, tables, mirror, ats } = paged();
    for (let page = 0; page < 200; page += 2) await ats.requestPage({ iovaPfn: 0x100 + page, last: false });
    const answer = ats.requestPage({ iovaPfn: 0x80 });
    tables.map(0x80, 0x80 + 199, 0x5000);
    guest.queue.run(response({ PP: 1, PASID: 5 }));
    expect(await answer).toBe("success");
    for (let page = 0; page < 200; page += 2) expect(mirror.lookup(0x100 + page)?.gpaPfn).toBe(0x5080 + page);
  });

  it("without a page request reaches a mirror when the host looks again", () => {
    const { tables, mirror, space } = paged();
    tables.map(0x20, 1, 0x2000);
    expect(mirror.lookup(0x20)).toBeUndefined();
    void space.resync({ firstPfn: 0x20, pageCount: 1 });
    expect(mirror.lookup(0x20)).toEqual({ gpaPfn: 0x2000, access: 3 });
  });
});

describe("a stop marker", () => {
  it("is queued with PASID, LPIG and neither right", () => {
    const paging = new PagingGuest();
    const { guest } = paging;
    guest.pasid(NIC, 5, { did: 2, type: "pass-through" });
    guest.unit.ats(guest.device(NIC, { pasid: 5 })).stopMarker();
    expect(paging.entry(0)).toMatchObject({ PP: 1, PASID: 5, RDR: 0, WRR: 0, LPIG: 1 });
    guest.unit.ats(guest.device(NIC)).stopMarker();
    expect(paging.tail).toBe(1);
  });

  it("that is refused is recorded as any page request, and never answered", () => {
    const paging = new PagingGuest();
    const { guest } = paging;
    guest.unit.ats(guest.device(NIC, { pasid: 900 })).stopMarker();
    expect(paging.tail).toBe(0);
    expect(guest.faults()).toMatchObject([{ reason: FaultReason.SPD_2, pasid: 900, type: 1 }]);
  });

  it("that finds the queue full leaves no trace", () => {
    const paging = new PagingGuest();
    const { guest } = paging;
    guest.pasid(NIC, 5, { did: 2, type: "pass-through" });
    const ats = guest.unit.ats(guest.device(NIC));
    for (let i = 0; i < 127; i++) void ats.requestPage({ iovaPfn: i, last: false });
    guest.unit.ats(guest.device(NIC, { pasid: 5 })).stopMarker();
    expect([paging.status, paging.tail]).toEqual([PPR, 127]);
  });
});

describe("a page group response", () => {
  it("is an invalid descriptor on a unit without page requests, and has two ignored bits", async () => {
    const { guest: without } = { guest: scalableGuest({ pageRequests: false }) };
    without.scalableContext(NIC, { pasids: true, fields: { DTE: 1 } });
    without.queue.submit(response({}));
    expect(without.faultStatus & IQE).toBe(IQE);
    const { guest } = new PagingGuest();
    const answer = guest.unit.ats(guest.device(NIC)).requestPage({ iovaPfn: 0x10 });
    const words = response({});
    words[0] = (words[0] ?? 0) | (1 << 5);
    words[2] = (words[2] ?? 0) | (1 << 2);
    words[5] = -1;
    guest.queue.run(words);
    expect(guest.faultStatus).toBe(0);
    expect(await answer).toBe("success");
  });
});

describe("a wait that drains page requests", () => {
  it("completes with everything that was asked before it in the queue, and is a reserved bit without the capability", () => {
    const paging = new PagingGuest();
    const { guest } = paging;
    void guest.unit.ats(guest.device(NIC)).requestPage({ iovaPfn: 0x10 });
    const drain = (status: number): Int32Array => {
      const words = guest.queue.waitFor(status);
      words[0] = (words[0] ?? 0) | (1 << 7);
      return words;
    };
    guest.queue.submit(drain(9));
    expect(guest.memory.peek(guest.queue.statusGpa)).toBe(9);
    expect(paging.tail).toBe(1);
    const without = scalableGuest({ pageRequestDraining: false });
    without.queue.submit(drain(9));
    expect(without.faultStatus & IQE).toBe(IQE);
    expect(Number(without.unit.mmio.read64(0xb0) & 0xfn)).toBe(4);
  });
});
