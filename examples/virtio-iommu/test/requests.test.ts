import { describe, expect, it } from "vitest";
import { encode } from "../src/guest/requests.js";
import { IommuFeature, RequestStatus } from "../src/spec/iommu.js";
import { DISK, DOORBELL, GPU, Machine, NIC, RESERVED } from "./machine.js";

const { OK, UNSUPP, INVAL, RANGE, NOENT, FAULT, NOMEM } = RequestStatus;
const STRANGER = 0x7777;
/** No answer: the buffer comes back unwritten. */
const UNWRITTEN = -1;

/** A request of raw 32-bit words. */
function raw(...words: readonly number[]): Uint8Array {
  return new Uint8Array(Uint32Array.from(words).buffer);
}

/** The NIC in domain 1, which maps pages 4 to 7. */
async function machine(options: ConstructorParameters<typeof Machine>[0] = {}, features?: bigint): Promise<Machine> {
  const made = Machine.booted(options, features);
  expect(await made.driver.attach(1, NIC)).toBe(OK);
  expect(await made.driver.map(1, { iovaPfn: 4, pageCount: 4, gpaPfn: 0x100, access: 3 })).toBe(OK);
  return made;
}

describe("ATTACH", () => {
  it("rejects reserved bits and unknown flags as INVAL, a stranger as NOENT, a domain out of range as RANGE", async () => {
    const { driver } = await machine({ domainRange: { first: 1, last: 9 } });
    expect(await driver.status(raw(1, 2, NIC, 0, 1))).toBe(INVAL);
    expect(await driver.status(encode.attach(2, NIC, 2))).toBe(INVAL);
    expect(await driver.attach(2, STRANGER)).toBe(NOENT);
    expect(await driver.attach(0, NIC)).toBe(RANGE);
    expect(await driver.attach(10, NIC)).toBe(RANGE);
  });

  it("ignores the reserved bytes of the head", async () => {
    const { driver } = await machine();
    expect(await driver.status(raw(0xffff_ff01, 2, NIC, 0, 0))).toBe(OK);
  });

  it("rejects BYPASS for a domain without it, the reverse, and the flag of a feature that was not accepted", async () => {
    const { driver } = await machine();
    expect(await driver.attach(1, DISK, { bypass: true })).toBe(INVAL);
    expect(await driver.attach(2, DISK, { bypass: true })).toBe(OK);
    expect(await driver.attach(2, NIC)).toBe(INVAL);
    const without = await machine({}, IommuFeature.MAP_UNMAP);
    expect(await without.driver.attach(2, DISK, { bypass: true })).toBe(INVAL);
  });

  it("answers UNSUPP where the domain maps what the endpoint reserves", async () => {
    const { driver } = await machine();
    expect(await driver.map(1, { iovaPfn: RESERVED.firstPfn, pageCount: 1, gpaPfn: 0, access: 3 })).toBe(OK);
    expect(await driver.attach(1, GPU)).toBe(UNSUPP);
    expect(await driver.unmap(1, RESERVED.firstPfn, 1)).toBe(OK);
    expect(await driver.attach(1, GPU)).toBe(OK);
  });

  it("moves an endpoint from its domain, which ends with its last endpoint", async () => {
    const { driver, device } = await machine();
    expect(await driver.attach(2, NIC)).toBe(OK);
    expect(device.addressSpace(NIC).dma.read(0x4000, new Uint8Array(1))).toBe(false);
    expect(await driver.map(1, { iovaPfn: 1, pageCount: 1, gpaPfn: 1, access: 3 })).toBe(NOENT);
    expect(await driver.attach(1, DISK)).toBe(OK);
    expect(device.addressSpace(DISK).dma.read(0x4000, new Uint8Array(1))).toBe(false);
  });

  it("leaves everything as it is when the endpoint is there already", async () => {
    const { driver, device } = await machine();
    expect(await driver.attach(1, NIC)).toBe(OK);
    expect(device.addressSpace(NIC).dma.read(0x4000, new Uint8Array(1))).toBe(true);
  });
});

describe("DETACH", () => {
  it("answers NOENT for a stranger, INVAL for another domain, and ignores reserved bytes", async () => {
    const { driver, device } = await machine();
    expect(await driver.detach(1, STRANGER)).toBe(NOENT);
    expect(await driver.detach(2, NIC)).toBe(INVAL);
    expect(await driver.detach(1, DISK)).toBe(INVAL);
    expect(await driver.status(raw(2, 1, NIC, 7, 7))).toBe(OK);
    expect(device.addressSpace(NIC).dma.read(0x4000, new Uint8Array(1))).toBe(false);
  });
});

describe("MAP", () => {
  const page = { start: 0x9000n, end: 0x9fffn, target: 0x100000n, flags: 3 };

  it.each([
    ["a page", {}, OK],
    ["write-only", { flags: 2 }, OK],
    ["device registers", { flags: 7 }, OK],
    ["an unknown flag", { flags: 8 }, INVAL],
    ["a start in a page", { start: 0x9001n }, RANGE],
    ["an end in a page", { end: 0x9ffen }, RANGE],
    ["a target in a page", { target: 0x100800n }, RANGE],
    ["an end before the start", { start: 0xa000n, end: 0x8fffn }, INVAL],
    ["the last page of the input range", { start: 0xffff_ffff_f000n, end: 0xffff_ffff_ffffn }, OK],
    ["a page beyond the input range", { start: 0x1_0000_0000_0000n, end: 0x1_0000_0000_0fffn }, RANGE],
    ["the last page of guest-physical addresses", { target: 0xffff_ffff_f000n }, OK],
    ["a page beyond them", { target: 0x1_0000_0000_0000n }, FAULT],
    ["over a mapping", { start: 0x7000n }, INVAL],
    ["right behind a mapping", { start: 0x8000n }, OK],
  ] as const)("of %s", async (_what, change, status) => {
    const { driver } = await machine();
    expect(await driver.status(encode.map(1, { ...page, ...change }))).toBe(status);
  });

  it("answers NOENT without the domain, INVAL for a bypass domain", async () => {
    const { driver } = await machine();
    expect(await driver.status(encode.map(3, page))).toBe(NOENT);
    expect(await driver.attach(2, DISK, { bypass: true })).toBe(OK);
    expect(await driver.status(encode.map(2, page))).toBe(INVAL);
  });

  it("rejects what an endpoint of the domain reserves", async () => {
    const { driver } = await machine();
    expect(await driver.attach(1, GPU)).toBe(OK);
    for (const { firstPfn } of [RESERVED, DOORBELL])
      expect(await driver.map(1, { iovaPfn: firstPfn, pageCount: 1, gpaPfn: 0, access: 3 })).toBe(INVAL);
    expect(await driver.detach(1, GPU)).toBe(OK);
    expect(await driver.map(1, { iovaPfn: RESERVED.firstPfn, pageCount: 1, gpaPfn: 0, access: 3 })).toBe(OK);
  });

  it("answers NOMEM when the device is full, and takes mappings again as they go, by UNMAP or with their domain", async () => {
    const { driver } = await machine({ mappingLimit: 2 });
    const map = (iovaPfn: number): Promise<number> => driver.map(1, { iovaPfn, pageCount: 1, gpaPfn: 0, access: 3 });
    expect(await map(20)).toBe(OK);
    expect(await map(21)).toBe(NOMEM);
    expect(await driver.unmap(1, 4, 4)).toBe(OK);
    expect(await map(21)).toBe(OK);
    expect(await driver.detach(1, NIC)).toBe(OK);
    expect(await driver.attach(1, NIC)).toBe(OK);
    expect([await map(20), await map(21), await map(22)]).toEqual([OK, OK, NOMEM]);
  });

  it("keeps to a larger granularity when the host wants one", async () => {
    const { driver } = await machine({ pageSizes: [4096, 2 ** 21] });
    const coarse = Machine.booted({ pageSizes: [2 ** 14] });
    await coarse.driver.attach(1, NIC);
    expect(await driver.map(1, { iovaPfn: 1, pageCount: 1, gpaPfn: 1, access: 3 })).toBe(OK);
    expect(await coarse.driver.map(1, { iovaPfn: 4, pageCount: 1, gpaPfn: 4, access: 3 })).toBe(RANGE);
    expect(await coarse.driver.map(1, { iovaPfn: 4, pageCount: 4, gpaPfn: 8, access: 3 })).toBe(OK);
  });

  it("is not recognized by a device whose driver has not accepted it", async () => {
    const { driver } = Machine.booted({}, IommuFeature.BYPASS_CONFIG);
    expect(await driver.attach(1, NIC)).toBe(OK);
    expect(await driver.status(encode.map(1, page))).toBe(UNWRITTEN);
    expect(await driver.status(encode.unmap(1, 0n, 0xfffn))).toBe(UNWRITTEN);
  });
});

describe("UNMAP", () => {
  /** The examples of §5.13.6.4, with pages for bytes. */
  it.each([
    ["nothing", [], [0, 4], OK, []],
    ["a mapping", [[0, 9]], [0, 9], OK, []],
    [
      "two mappings",
      [
        [0, 4],
        [5, 9],
      ],
      [0, 9],
      OK,
      [],
    ],
    ["a part of a mapping", [[0, 9]], [0, 4], RANGE, [0, 9]],
    [
      "the first of two",
      [
        [0, 4],
        [5, 9],
      ],
      [0, 4],
      OK,
      [5, 9],
    ],
    ["a mapping and beyond", [[0, 4]], [0, 9], OK, []],
    [
      "two mappings and the hole between them",
      [
        [0, 4],
        [10, 14],
      ],
      [0, 14],
      OK,
      [],
    ],
    [
      "the end of one and all of another",
      [
        [0, 4],
        [5, 9],
      ],
      [2, 9],
      RANGE,
      [0, 4, 5, 9],
    ],
    [
      "all of one and the start of another",
      [
        [0, 4],
        [5, 9],
      ],
      [0, 7],
      RANGE,
      [0, 4, 5, 9],
    ],
  ] as const)("of %s", async (_what, mapped, [first, last], status, left) => {
    const { driver, device } = Machine.booted();
    await driver.attach(1, NIC);
    for (const [from, to] of mapped)
      expect(await driver.map(1, { iovaPfn: from, pageCount: to - from + 1, gpaPfn: 0x100, access: 3 })).toBe(OK);
    expect(await driver.unmap(1, first, last - first + 1)).toBe(status);
    const reaches = (pfn: number): boolean => device.addressSpace(NIC).dma.read(pfn * 4096, new Uint8Array(1));
    for (const pfn of left) expect(reaches(pfn), `page ${pfn}`).toBe(true);
    for (const pfn of left.length === 0 ? [0, 4, 9, 14] : []) expect(reaches(pfn), `page ${pfn}`).toBe(false);
  });

  it("counts in bytes: one byte less is a part", async () => {
    const { driver } = await machine();
    expect(await driver.status(encode.unmap(1, 0x4001n, 0x7fffn))).toBe(RANGE);
    expect(await driver.status(encode.unmap(1, 0x4000n, 0x7ffen))).toBe(RANGE);
    expect(await driver.status(encode.unmap(1, 0x3fffn, 0x8000n))).toBe(OK);
  });

  it("answers NOENT without the domain, INVAL for a bypass domain, reserved bits and an end before the start", async () => {
    const { driver } = await machine();
    expect(await driver.unmap(3, 0, 1)).toBe(NOENT);
    expect(await driver.attach(2, DISK, { bypass: true })).toBe(OK);
    expect(await driver.unmap(2, 0, 1)).toBe(INVAL);
    expect(await driver.status(raw(4, 1, 0, 0, 0xfff, 0, 1))).toBe(INVAL);
    expect(await driver.status(encode.unmap(1, 0x8000n, 0x7000n))).toBe(INVAL);
    expect(await driver.status(encode.unmap(1, 0n, 0xffff_ffff_ffff_ffffn))).toBe(OK);
  });
});

describe("PROBE", () => {
  it("lists what an endpoint reserves, lowest first, and nothing for one that reserves nothing", async () => {
    const { driver } = await machine();
    expect(await driver.probe(GPU)).toEqual({
      status: OK,
      regions: [
        { subtype: 0, start: 0x20_0000n, end: 0x20_ffffn },
        { subtype: 1, start: 0xfee0_0000n, end: 0xfeef_ffffn },
      ],
    });
    expect(await driver.probe(NIC)).toEqual({ status: OK, regions: [] });
  });

  it("answers NOENT for a stranger, INVAL for a list that is too small, and fills both with zeros", async () => {
    const { driver } = await machine();
    expect(await driver.probe(STRANGER)).toEqual({ status: NOENT, regions: [] });
    const { length, bytes } = await driver.send(encode.probe(GPU), 20);
    expect([length, [...bytes]]).toEqual([20, [...new Uint8Array(16), INVAL, 0, 0, 0]]);
  });

  it("is available to drivers that have not accepted it: it is offered", async () => {
    const { driver } = await machine({}, IommuFeature.MAP_UNMAP);
    expect((await driver.probe(NIC)).status).toBe(OK);
  });
});

describe("a request that cannot be read as one", () => {
  it.each([
    ["of an unknown type", raw(9, 1, NIC, 0, 0), 4],
    ["of type 0", raw(0, 1, NIC, 0, 0), 4],
    ["that is too short", encode.attach(1, NIC).subarray(0, 19), 4],
    ["of no bytes", new Uint8Array(0), 4],
    ["without room for a tail", encode.attach(1, NIC), 3],
  ])("%s comes back unwritten", async (_what, bytes, writableLength) => {
    const { driver } = await machine();
    expect((await driver.send(bytes, writableLength)).length).toBe(0);
    expect(await driver.attach(1, NIC)).toBe(OK);
  });

  it("is not one with more bytes than needed", async () => {
    const { driver } = await machine();
    const long = new Uint8Array(300);
    long.set(encode.attach(2, NIC));
    expect((await driver.send(long, 8)).length).toBe(4);
  });
});
