import { describe, expect, it } from "vitest";
import { type AddressSpaceOptions, BackendIommu, type BackendIommuOptions, sourceId } from "../src/index.js";
import { FakeMemory, ManualScheduler, SimpleBackend } from "../src/testing/index.js";
import { range } from "./support/machine.js";

function unitOn(options: Partial<BackendIommuOptions> = {}): BackendIommu {
  return new BackendIommu({
    backend: new SimpleBackend(),
    memory: new FakeMemory(),
    scheduler: new ManualScheduler(),
    ...options,
  });
}

describe("address spaces of a unit", () => {
  it("are one for each source-id, PASID and kind of request, and the same one each time", () => {
    const unit = unitOn();
    const options: AddressSpaceOptions[] = [{}];
    for (const pasid of [0, 1, 2, 3, 0xffffe, 0xfffff])
      for (const privileged of [false, true])
        for (const execute of [false, true]) options.push({ pasid, privileged, execute });
    const ids = [sourceId(0, 0, 0), sourceId(0, 0, 1), sourceId(0, 0, 2), sourceId(0, 1, 0), sourceId(255, 31, 7)];
    const all = ids.flatMap((id) => options.map((each) => unit.addressSpace(id, each)));
    expect(new Set(all).size).toBe(ids.length * options.length);
    expect(new Set(all.map(({ key }) => key)).size).toBe(all.length);
    expect(all.every(({ key }) => Number.isSafeInteger(key))).toBe(true);
    expect(ids.flatMap((id) => options.map((each) => unit.addressSpace(id, each)))).toEqual(all);
    expect(unit.addressSpaces).toEqual(all);
  });

  it("are refused for what no request can carry", () => {
    const unit = unitOn();
    for (const options of [{ pasid: -1 }, { pasid: 2 ** 20 }, { pasid: 0.5 }, { privileged: true }, { execute: true }])
      expect(() => unit.addressSpace(0, options)).toThrow(expect.objectContaining({ code: "bad-option" }));
    expect(unit.addressSpaces).toEqual([]);
  });
});

describe("a unit", () => {
  it("needs a backend and memory", () => {
    const backend = new SimpleBackend();
    for (const options of [undefined, null, 5, {}, { backend }, { memory: new FakeMemory() }, { backend, memory: 5 }])
      expect(() => new BackendIommu(options as never)).toThrow(
        expect.objectContaining({
          code: "bad-option",
          message: expect.stringMatching(/expected an object/) as unknown,
        }),
      );
  });

  it("allows 4 mappings for each frame of RAM, or of the regions that devices reach untranslated", () => {
    const memory = new FakeMemory({ ram: [range(0, 2 ** 20)] });
    const small = unitOn({ memory, regions: [range(0, 16)] });
    expect(small.limits.mappingsPerView).toBe(2 ** 22);
    const large = unitOn({ memory, regions: [range(0, 2 ** 20), range(2 ** 30, 2 ** 20)] });
    expect(large.limits.mappingsPerView).toBe(2 ** 23);
  });

  it("refuses a backend of another contract, and regions that are not in order", () => {
    const backend = Object.assign(new SimpleBackend(), { contract: 99 as never });
    expect(() => unitOn({ backend })).toThrow(expect.objectContaining({ code: "backend-contract" }));
    expect(() => unitOn({ regions: [range(5, 5), range(9, 1)] })).toThrow(
      expect.objectContaining({ code: "bad-range" }),
    );
    expect(unitOn({ regions: [range(5, 5), range(10, 1)] }).addressSpaces).toEqual([]);
  });
});
