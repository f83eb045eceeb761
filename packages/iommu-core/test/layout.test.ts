// Layouts: what a declared table accepts, and that everything derived from it agrees with plain bigint arithmetic.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { IommuError } from "../src/errors.js";
import {
  BitAccess,
  address,
  bit,
  bits,
  describeFields,
  fieldMask,
  ignored,
  layout,
  markBits,
  type Part,
  reserved,
  reservedMask,
  ro,
  ros,
  rw,
  rw1c,
  rw1cs,
  tableRows,
  type TextOf,
  wo,
} from "../src/layout.js";

const Entry = layout(128, {
  P: bit(0),
  TT: bits(3, 2),
  _1: reserved(1),
  _4: reserved(11, 4),
  PTR: address(63, 12),
  AW: bits(66, 64),
  _67: ignored(70, 67),
  _71: reserved(95, 71),
  PTR2: address(127, 108),
  _96: reserved(107, 96),
});

const Register = layout(64, {
  STATUS: ro(3, 0, 5),
  COMMAND: wo(7, 4),
  EVENT: rw1c(8),
  STICKY_EVENT: rw1cs(9),
  ERROR: ros(11, 10),
  _12: reserved(30, 12),
  MASK: rw(31, 31, 1),
  DATA: rw(63, 32),
});

const toBigint = (words: Int32Array, at: number, count: number): bigint => {
  let value = 0n;
  for (let i = count - 1; i >= 0; i--) value = (value << 32n) | BigInt((words[at + i] ?? 0) >>> 0);
  return value;
};

// Random tables: cut points in ascending order, each range a field or a gap.
const randomTable = fc
  .tuple(fc.integer({ min: 1, max: 16 }), fc.array(fc.tuple(fc.integer({ min: 1, max: 53 }), fc.boolean())), fc.nat())
  .map(([wordCount, cuts]) => {
    const table: Record<string, Part> = {};
    const width = wordCount * 32;
    let lo = 0;
    const add = (hi: number, field: boolean): void => {
      if (field) table[`F${lo}`] = bits(hi, lo);
      else table[`_${lo}`] = reserved(hi, lo);
      lo = hi + 1;
    };
    for (const [size, field] of cuts) if (lo < width) add(Math.min(lo + size, width) - 1, field);
    if (lo < width) add(width - 1, false);
    return { table, width };
  });

describe("layout()", () => {
  it("reads a field that lies within one word", () => {
    expect(Entry.fields.TT.get(Int32Array.of(0b1000, 0, 0, 0), 0)).toBe(2);
  });

  it("reads a structure that starts at any word", () => {
    expect(Entry.fields.AW.get(Int32Array.of(-1, 0, 0, 3, 0), 1)).toBe(3);
  });

  it("reads a page frame that crosses words exactly, up to 52 bits", () => {
    expect(Entry.fields.PTR.get(Int32Array.of(-1, -1, 0, 0), 0)).toBe(2 ** 52 - 1);
  });

  it("reads a 32-bit field as a non-negative number", () => {
    expect(Register.fields.DATA.get(Int32Array.of(0, -1), 0)).toBe(0xffff_ffff);
  });

  it("reads a field that crosses three words", () => {
    const wide = layout(96, { _0: reserved(30, 0), F: bits(83, 31), _84: reserved(95, 84) });
    const words = wide.pack({ F: 2 ** 53 - 1 });
    expect([...words]).toEqual([1 << 31, -1, 2 ** 20 - 1]);
    expect(wide.fields.F.get(words, 0)).toBe(2 ** 53 - 1);
  });

  it("exposes where a field lies in its word", () => {
    expect(Entry.fields.TT).toMatchObject({ hi: 3, lo: 2, word: 0, shift: 2, mask: 0b1100 });
    expect(Entry.fields.AW).toMatchObject({ word: 2, shift: 0, mask: 0b111 });
    expect(Entry.fields.PTR.mask).toBe(~0xfff);
  });

  it("leaves the other bits alone when it sets a field", () => {
    const words = Int32Array.of(-1, -1, -1, -1);
    Entry.fields.PTR.set(words, 0, 0);
    expect([...words]).toEqual([0xfff, 0, -1, -1]);
  });

  it("cuts a value that is wider than the field it sets", () => {
    const words = new Int32Array(4);
    Entry.fields.TT.set(words, 0, 7);
    expect([...words]).toEqual([0b1100, 0, 0, 0]);
  });

  it("packs the named fields and leaves the rest 0", () => {
    expect([...Entry.pack({ P: 1, PTR: 0x12345, AW: 2 })]).toEqual([0x12345001, 0, 2, 0]);
  });

  it("packs nothing for a field that is given as undefined", () => {
    expect([...Entry.pack({ P: 1, TT: undefined as never })]).toEqual([1, 0, 0, 0]);
  });

  it.each<[string, object]>([
    ["too large", { TT: 4 }],
    ["negative", { TT: -1 }],
    ["fractional", { TT: 0.5 }],
    ["unknown", { XX: 1 }],
  ])("refuses to pack a %s value", (_, values) => {
    expect(() => Entry.pack(values)).toThrow(IommuError);
  });

  it("agrees with bigint arithmetic on random tables, values and positions", () => {
    fc.assert(
      fc.property(randomTable, fc.nat(3), fc.infiniteStream(fc.maxSafeNat()), ({ table, width }, at, randoms) => {
        const random = layout(width, table);
        const words = new Int32Array(at + random.wordCount + 1).fill(-1);
        const expected = new Map<string, number>();
        for (const [name, field] of Object.entries(random.fields)) {
          const value = randoms.next().value % 2 ** (field.hi - field.lo + 1);
          expected.set(name, value);
          field.set(words, at, value);
        }
        const all = toBigint(words, at, random.wordCount);
        for (const [name, field] of Object.entries(random.fields)) {
          expect(field.get(words, at)).toBe(expected.get(name));
          expect((all >> BigInt(field.lo)) & ((1n << BigInt(field.hi - field.lo + 1)) - 1n)).toBe(
            BigInt(expected.get(name) ?? -1),
          );
        }
        // Gaps and neighbours keep their ones.
        for (const word of random.mask(BitAccess.RESERVED).entries()) {
          expect((words[at + word[0]] ?? 0) & word[1]).toBe(word[1]);
        }
        expect(words[at + random.wordCount]).toBe(-1);
        expect([...words.subarray(0, at)]).toEqual(Array.from({ length: at }, () => -1));
        expect(Object.fromEntries(expected)).toEqual(
          Object.fromEntries(
            Object.entries(random.fields).map(([name, field]) => [
              name,
              field.get(random.pack(Object.fromEntries(expected)), 0),
            ]),
          ),
        );
      }),
    );
  });
});

describe("layout() refuses", () => {
  it.each<[string, number, Record<string, Part>]>([
    ["overlapping fields", 32, { A: bits(7, 0), B: bits(31, 7) }],
    ["two declarations of the same bits", 32, { A: bits(31, 0), B: bits(31, 0) }],
    ["a gap at the start", 32, { A: bits(31, 1) }],
    ["a gap in the middle", 32, { A: bits(7, 0), B: bits(31, 9) }],
    ["a gap at the end", 32, { A: bits(30, 0) }],
    ["bits beyond the width", 32, { A: bits(32, 0) }],
    ["a field of 54 bits", 64, { A: bits(53, 0), _54: reserved(63, 54) }],
    ["exchanged bit numbers", 32, { A: bits(0, 31) }],
    ["a reserved range under a field's name", 32, { A: reserved(31, 0) }],
    ["a field under a gap's name", 32, { _0: bits(31, 0) }],
    ["a width that is not whole words", 16, { A: bits(15, 0) }],
  ])("%s", (_, width, table) => {
    expect(() => layout(width, table)).toThrow(IommuError);
  });

  it("names the expected bit and what it found", () => {
    expect(() => layout(32, { A: bits(7, 0), B: bits(31, 9) })).toThrow("layout: expected bit 8 of 32, got B 31:9");
  });

  it("nothing at the limits: a 53-bit field and a 512-bit structure", () => {
    const wide = layout(512, { A: bits(52, 0), _53: reserved(511, 53) });
    expect(wide.wordCount).toBe(16);
    expect(wide.fields.A.get(Int32Array.of(-1, -1), 0)).toBe(2 ** 53 - 1);
  });
});

describe("masks", () => {
  it("tell writable, write-1-to-clear, readable, sticky and reserved bits of a register apart", () => {
    expect([...Register.mask(BitAccess.WRITE)]).toEqual([(1 << 31) | 0xf0, -1]);
    expect([...Register.mask(BitAccess.W1C)]).toEqual([0x300, 0]);
    expect([...Register.mask(BitAccess.READ)]).toEqual([(1 << 31) | 0xf0f, -1]);
    expect([...Register.mask(BitAccess.STICKY)]).toEqual([0xe00, 0]);
    expect([...Register.mask(BitAccess.RESERVED)]).toEqual([0x7fff_f000, 0]);
  });

  it("cover each bit of any table exactly once over fields, reserved and ignored bits", () => {
    const every = [BitAccess.READ, BitAccess.RESERVED, BitAccess.IGNORED].map((access) => Entry.mask(access));
    for (let word = 0; word < Entry.wordCount; word++) {
      expect(every.reduce((sum, mask) => sum + ((mask[word] ?? 0) >>> 0), 0)).toBe(0xffff_ffff);
    }
  });

  it("hold the reset value of every register field", () => {
    expect([...Register.reset]).toEqual([(1 << 31) | 5, 0]);
  });

  it("reserve the address bits at and above the host address width, per quadword", () => {
    expect([...reservedMask(Entry, 39)]).toEqual([0xff2, -1 << 7, -1 << 7, -1]);
    expect([...reservedMask(Entry, 52)]).toEqual([0xff2, -1 << 20, -1 << 7, (-1 << 20) | 0xfff]);
    expect([...reservedMask(Entry, 64)]).toEqual([0xff2, 0, -1 << 7, 0xfff]);
  });

  it("reserve the fields of absent capabilities", () => {
    expect([...reservedMask(Entry, 64, [Entry.fields.TT, Entry.fields.AW])]).toEqual([0xffe, 0, (-1 << 7) | 7, 0xfff]);
  });

  it("cover exactly the named fields", () => {
    expect([...fieldMask(Entry, "TT", "PTR")]).toEqual([~0xfff | 0xc, -1, 0, 0]);
    expect([...fieldMask(Entry)]).toEqual([0, 0, 0, 0]);
  });

  it("mark any range of bits, and none when the range is empty", () => {
    expect([...markBits(new Int32Array(3), 64, 30)]).toEqual([-1 << 30, -1, 1]);
    expect([...markBits(new Int32Array(1), 3, 4)]).toEqual([0]);
  });
});

describe("text", () => {
  const text: TextOf<typeof Register> = {
    title: "Register",
    section: "§1.2",
    STATUS: "Status",
    COMMAND: "Command",
    EVENT: "Event",
    STICKY_EVENT: "Event that survives reset",
    ERROR: "Error code",
    MASK: "Interrupt mask",
    DATA: "Message data",
  };

  it("describes a structure field by field in ascending bit order", () => {
    const rows = describeFields(Register, Int32Array.of(9, 0x105, 7), 1, text);
    expect(rows[0]).toEqual({ name: "STATUS", bits: "3:0", value: 5, meaning: "Status" });
    expect(rows.map((row) => `${row.name}=${row.value}`).join(" ")).toBe(
      "STATUS=5 COMMAND=0 EVENT=1 STICKY_EVENT=0 ERROR=0 MASK=0 DATA=7",
    );
  });

  it("lists documentation rows with access and gaps", () => {
    expect(tableRows(Register, text).map((row) => `${row.bits} ${row.name} ${row.access}`)).toEqual([
      "3:0 STATUS RO",
      "7:4 COMMAND WO",
      "8 EVENT RW1C",
      "9 STICKY_EVENT RW1CS",
      "11:10 ERROR ROS",
      "30:12 reserved ",
      "31 MASK RW",
      "63:32 DATA RW",
    ]);
    expect(tableRows(Register, text)[6]).toMatchObject({ reset: 1, meaning: "Interrupt mask" });
    expect(tableRows(Register, text)[5]).toMatchObject({ reset: 0, meaning: "" });
    const gaps = layout(32, { A: bits(3, 0), _4: ignored(30, 4), _31: reserved(31) });
    expect(tableRows(gaps, { A: "a" }).map(({ bits: at, name, access }) => [at, name, access])).toEqual([
      ["3:0", "A", "RW"],
      ["30:4", "ignored", ""],
      ["31", "reserved", ""],
    ]);
  });
});
