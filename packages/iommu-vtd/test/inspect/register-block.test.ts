import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { inspect, inspectRegisterBlock } from "../../src/inspect/index.js";
import { GuestDriver } from "../../src/testing/index.js";

function dumpOf(guest: GuestDriver): Int32Array {
  const { mmio } = guest.unit;
  return Int32Array.from({ length: mmio.byteLength / 4 }, (_, word) => mmio.read32(word * 4));
}

describe("a register block without its unit", () => {
  it("says the same of a dump as of the unit that it was taken from", () => {
    const guest = new GuestDriver({ cachingMode: true, addressWidths: [39, 48] });
    guest.context("00:03.0", { did: 5 });
    guest.start();
    guest.device("00:03.0").dma.read(0x5000, new Uint8Array(4));
    const { registers, faults } = inspect(guest.unit);
    expect(faults).toHaveLength(1);
    expect(inspectRegisterBlock(dumpOf(guest))).toEqual({ registers, faults });
  });

  it("property: decodes any words of any length, and leaves them alone", () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }), { maxLength: 160 }), (values) => {
        const words = Int32Array.from(values);
        const { registers } = inspectRegisterBlock(words);
        expect(registers.find(({ name }) => name === "GSTS")?.value).toBe(`0x${((words[7] ?? 0) >>> 0).toString(16)}`);
        expect([...words]).toEqual(values.map((value) => value | 0));
      }),
      { numRuns: 100 },
    );
  });
});
