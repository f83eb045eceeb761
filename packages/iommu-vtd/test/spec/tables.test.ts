// Every table of spec/: complete, described, and readable whatever the values.
import { readdirSync } from "node:fs";
import { BitAccess, describeFields, type Layout, tableRows } from "@iommu-kit/iommu-core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { registerTables, structureTables } from "../../src/spec/tables.js";

const tables = [...new Map([...structureTables, ...registerTables].map((table) => [table.layout, table])).values()];

const bigintOf = (words: Int32Array): bigint =>
  words.reduceRight((value, word) => (value << 32n) | BigInt(word >>> 0), 0n);

const ones = (hi: number, lo: number): bigint => ((1n << BigInt(hi - lo + 1)) - 1n) << BigInt(lo);

const randomValues = (layout: Layout): fc.Arbitrary<Record<string, number>> =>
  fc.record(
    Object.fromEntries(
      Object.entries(layout.fields).map(([name, { hi, lo }]) => [
        name,
        fc.oneof(
          fc.constant(2 ** (hi - lo + 1) - 1),
          fc.nat(1),
          fc.maxSafeNat().map((n) => n % 2 ** (hi - lo + 1)),
        ),
      ]),
    ),
  );

describe("the list of tables", () => {
  it("holds every layout that a file of spec/ exports, with its text", async () => {
    const directory = new URL("../../src/spec/", import.meta.url);
    const listed = new Set(tables.map((table) => table.layout));
    const exported: string[] = [];
    for (const file of readdirSync(directory)) {
      const module = (await import(new URL(file, directory).href)) as Record<string, unknown>;
      for (const [name, value] of Object.entries(module)) {
        if (typeof value !== "object" || value === null || !("wordCount" in value)) continue;
        exported.push(name);
        expect(listed, `${file} ${name}`).toContain(value);
      }
    }
    expect(exported.length).toBeGreaterThan(60);
    // Descriptor, the header that all descriptors share, is one of them.
    expect(exported).toContain("Descriptor");
  });

  it("has no two registers at one place", () => {
    const placed = registerTables.filter(({ name }) => !["IVA", "IOTLB", "FRCD"].includes(name));
    const bytes = placed.flatMap(({ offsetBytes, count, strideBytes, layout, name }) =>
      Array.from({ length: count }, (_, index) => index * strideBytes + offsetBytes).flatMap((start) =>
        Array.from({ length: layout.wordCount }, (_, word) => `${start + word * 4} ${name}`),
      ),
    );
    const words = bytes.map((text) => text.split(" ")[0]);
    expect(new Set(words).size).toBe(words.length);
  });

  it("aligns every register to its size", () => {
    for (const { offsetBytes, layout } of registerTables) expect(offsetBytes % (layout.wordCount * 4)).toBe(0);
  });
});

describe.each(tables.map((table) => [table.text.title, table] as const))("%s", (_, { layout, text }) => {
  it("reads back every value that was packed, and no other bit is touched", () => {
    fc.assert(
      fc.property(randomValues(layout), fc.nat(3), (values, at) => {
        const packed = layout.pack(values);
        const words = new Int32Array(at + layout.wordCount + 1);
        words.set(packed, at);
        let all = 0n;
        for (const [name, field] of Object.entries(layout.fields)) {
          expect(field.get(words, at)).toBe(values[name]);
          all |= BigInt(values[name] ?? -1) << BigInt(field.lo);
        }
        expect(bigintOf(packed)).toBe(all);
      }),
      { numRuns: 30 },
    );
  });

  it("sets a field without touching its neighbours", () => {
    fc.assert(
      fc.property(fc.constantFrom("", ...Object.keys(layout.fields)), fc.maxSafeNat(), (name, random) => {
        const field = layout.fields[name];
        if (field === undefined) return;
        const words = new Int32Array(layout.wordCount).fill(-1);
        const before = bigintOf(words);
        const value = random % 2 ** (field.hi - field.lo + 1);
        field.set(words, 0, value);
        expect(bigintOf(words)).toBe((before & ~ones(field.hi, field.lo)) | (BigInt(value) << BigInt(field.lo)));
      }),
      { numRuns: 30 },
    );
  });

  it("declares every bit once: fields, reserved and ignored bits make up the whole", () => {
    let all = 0n;
    for (const [, { hi, lo }] of layout.parts) {
      expect(all & ones(hi, lo)).toBe(0n);
      all |= ones(hi, lo);
    }
    expect(all).toBe(ones(layout.wordCount * 32 - 1, 0));
  });

  it("keeps reserved bits out of every other mask", () => {
    const { READ, WRITE, W1C, STICKY, RESERVED, IGNORED } = BitAccess;
    const reserved = bigintOf(layout.mask(RESERVED));
    expect(bigintOf(layout.mask(READ | WRITE | W1C | STICKY | IGNORED)) & reserved).toBe(0n);
    expect(bigintOf(layout.mask(WRITE)) & bigintOf(layout.mask(W1C))).toBe(0n);
    expect(bigintOf(layout.reset) & ~bigintOf(layout.mask(READ))).toBe(0n);
  });

  it("says what each field means and where it is specified", () => {
    expect(text.section).toMatch(/^§\d+(\.\d+)+$/);
    expect(Object.keys(text).toSorted()).toEqual([...Object.keys(layout.fields), "section", "title"].toSorted());
    for (const meaning of Object.values(text)) expect(meaning).toMatch(/^\S.{0,79}$/);
    expect(tableRows(layout, text)).toHaveLength(layout.parts.length);
    const described = describeFields(layout, layout.reset, 0, text);
    expect(described.map(({ name, value }) => [name, value])).toEqual(
      Object.entries(layout.fields).map(([name, field]) => [name, field.reset]),
    );
  });
});
