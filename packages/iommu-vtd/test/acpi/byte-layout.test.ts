import fc from "fast-check";
import { describe, expect, it } from "vitest";

import {
  byteLayout,
  readField,
  readText,
  reservedBitsSet,
  text,
  u16,
  u32,
  u8,
  writeField,
  writeText,
} from "../../src/acpi/byte-layout.js";
import { DEVICE_SCOPE, DMAR_HEADER, PATH_PAIR, STRUCTURES } from "../../src/acpi/dmar-spec.js";

const layouts = [
  ["header", DMAR_HEADER],
  ["device scope", DEVICE_SCOPE],
  ["path pair", PATH_PAIR],
  ...Object.values(STRUCTURES).map(({ mnemonic, layout }) => [mnemonic, layout] as const),
] as const;

describe("a layout", () => {
  it("refuses fields that overlap", () => {
    expect(() => byteLayout(8, { A: u32(0), B: u16(3) })).toThrow("B overlaps A at byte 3");
  });

  it("refuses a field beyond its end", () => {
    expect(() => byteLayout(4, { A: u16(3) })).toThrow("A ends at byte 5 of a structure of 4");
  });

  it("takes bytes without a field as reserved, and bits outside the mask of one", () => {
    const layout = byteLayout(4, { A: u8(1, 0x0f), B: u8(3) });
    const bits = (bytes: number[]): number[] => reservedBitsSet(new DataView(Uint8Array.from(bytes).buffer), 0, layout);
    expect(bits([0, 0x0f, 0, 0xff])).toEqual([]);
    expect(bits([1, 0x10, 0x80, 0xff])).toEqual([0, 2, 1]);
  });

  it("pads a text with spaces and reads it without them", () => {
    const field = text(1, 4);
    const bytes = new Uint8Array(6);
    const view = new DataView(bytes.buffer);
    writeText(view, 0, field, "AB");
    expect(Array.from(bytes)).toEqual([0, 0x41, 0x42, 0x20, 0x20, 0]);
    expect(readText(view, 0, field)).toBe("AB");
  });
});

describe.each(layouts)("the %s", (_name, layout) => {
  const fields = Object.values(layout.fields).filter(({ byteLength }) => [1, 2, 4, 8].includes(byteLength));

  it("holds any value in each field, apart from all others and from the reserved bits", () => {
    const valueOf = (field: (typeof fields)[number]): fc.Arbitrary<number> =>
      field.byteLength === 8
        ? fc.maxSafeNat()
        : fc
            .nat({ max: 256 ** field.byteLength - 1 })
            .map((value) => value & (field.definedMask ?? -1))
            .map((value) => value >>> 0);
    fc.assert(
      fc.property(fc.tuple(...fields.map(valueOf)), fc.nat({ max: 7 }), (values, baseBytes) => {
        const view = new DataView(new ArrayBuffer(baseBytes + layout.byteLength));
        for (const [index, field] of fields.entries()) writeField(view, baseBytes, field, values[index]!);
        expect(fields.map((field) => readField(view, baseBytes, field))).toEqual(values);
        expect(reservedBitsSet(view, baseBytes, layout)).toEqual([]);
      }),
    );
  });
});
