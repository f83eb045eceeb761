import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { buildDmar, checkDmar, completeDmar, decodeDmar } from "../../src/acpi/index.js";
import { arbitraryDmar } from "./arbitrary-dmar.js";
import { fullTable } from "./full-table.js";
import { fromHex, q35Table } from "./golden-q35.js";

/** The bytes of a table after a change, with the length and the checksum made right again. */
function changed(bytes: Uint8Array, change: (bytes: Uint8Array) => Uint8Array | void): Uint8Array {
  const copy = bytes.slice();
  const result = change(copy) ?? copy;
  new DataView(result.buffer).setUint32(4, result.length, true);
  result[9] = 0;
  result[9] = 0x100 - (result.reduce((sum, byte) => sum + byte, 0) % 0x100);
  return result;
}

function append(bytes: Uint8Array, hex: string): Uint8Array {
  return Uint8Array.from([...bytes, ...fromHex(hex)]);
}

/** The problems of some bytes, as "code where @offset". */
function problemsOf(bytes: Uint8Array): string[] {
  return decodeDmar(bytes).problems.map((problem) => `${problem.code} ${problem.where} @${problem.offsetBytes}`);
}

describe("decoding what was built", () => {
  it("gives the q35 table back", () => {
    expect(decodeDmar(buildDmar(q35Table))).toEqual({ table: completeDmar(q35Table), problems: [], skipped: [] });
  });

  it("gives a table with every structure type back", () => {
    expect(decodeDmar(buildDmar(fullTable))).toEqual({ table: completeDmar(fullTable), problems: [], skipped: [] });
  });

  it("gives any valid table back, and building that gives the same bytes", () => {
    fc.assert(
      fc.property(arbitraryDmar, (table) => {
        const bytes = buildDmar(table);
        const decoded = decodeDmar(bytes);
        expect(decoded).toEqual({ table, problems: [], skipped: [] });
        expect(buildDmar(decoded.table!)).toEqual(bytes);
      }),
    );
  });

  it("agrees with a naive walk by type and length over any valid table", () => {
    fc.assert(
      fc.property(arbitraryDmar, (table) => {
        const bytes = Array.from(buildDmar(table));
        const counts = [0, 0, 0, 0, 0, 0, 0];
        const types: number[] = [];
        let rest = bytes.slice(48);
        while (rest.length > 0) {
          const [type, , lengthLow, lengthHigh] = rest;
          types.push(type!);
          counts[type!]!++;
          rest = rest.slice(lengthLow! + 256 * lengthHigh!);
        }
        expect(types).toEqual(types.toSorted((a, b) => a - b));
        expect(counts).toEqual([
          table.units.length,
          table.reservedRegions.length,
          table.atsRootPorts.length,
          table.affinities.length,
          table.namespaceDevices.length,
          table.integratedAtcs.length,
          table.deviceProperties.length,
        ]);
        expect(bytes.reduce((sum, byte) => sum + byte, 0) % 256).toBe(0);
      }),
    );
  });

  it("reads bytes in the middle of a larger buffer", () => {
    const bytes = buildDmar(fullTable);
    const larger = new Uint8Array(bytes.length + 20).fill(0xee);
    larger.set(bytes, 7);
    expect(decodeDmar(larger.subarray(7, 7 + bytes.length)).problems).toEqual([]);
  });
});

describe("decoding garbage", () => {
  it("never throws on random bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        expect(decodeDmar(bytes).problems.length).toBeGreaterThan(0);
      }),
    );
  });

  it("never throws on random bytes behind a good header, and reports what it could not build again", () => {
    const header = buildDmar(q35Table).slice(0, 48);
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (tail) => {
        const bytes = changed(header, (head) => Uint8Array.from([...head, ...tail]));
        const { table, problems, skipped } = decodeDmar(bytes);
        expect(table).toBeDefined();
        if (problems.length === 0 && skipped.length === 0) expect(buildDmar(table!)).toEqual(bytes);
      }),
    );
  });

  it("reports every damaged byte of a table: each changed bit is a problem or changes the table", () => {
    const good = buildDmar(fullTable);
    const original = decodeDmar(good).table;
    for (let bit = 0; bit < 8 * good.length; bit++) {
      const damaged = good.slice();
      damaged[bit >> 3]! ^= 1 << (bit & 7);
      const { problems } = decodeDmar(damaged);
      expect(problems.length, `bit ${bit}`).toBeGreaterThan(0);

      const repaired = changed(good, (bytes) => void (bytes[bit >> 3]! ^= 1 << (bit & 7)));
      if (repaired.every((byte, index) => byte === good[index])) continue;
      const again = decodeDmar(repaired);
      const seen = again.problems.length + again.skipped.length > 0;
      if (!seen) expect(again.table, `bit ${bit}`).not.toEqual(original);
    }
  });

  it("never throws on a table cut anywhere", () => {
    const good = buildDmar(fullTable);
    for (let length = 0; length < good.length; length++) {
      expect(decodeDmar(good.slice(0, length)).problems.map((problem) => problem.code)).toContain("truncated");
    }
  });

  it("copes with a table of 10,000 units at one address", () => {
    const header = buildDmar(q35Table).slice(0, 48);
    const unit = "00001000 00 00 0000 0000d9fe00000000";
    const { table, problems } = decodeDmar(changed(header, (bytes) => append(bytes, unit.repeat(10_000))));
    expect(table!.units).toHaveLength(10_000);
    expect(problems.filter((problem) => problem.code === "overlap")).toHaveLength(9_999);
  });
});

describe("what the decoder reports of the bytes", () => {
  const good = buildDmar(fullTable);

  it("is a table too short for its header, and then no table", () => {
    expect(problemsOf(good.slice(0, 47))).toEqual(["truncated  @0"]);
    expect(decodeDmar(new Uint8Array()).table).toBeUndefined();
  });

  it("is a wrong signature, and then no table", () => {
    const facp = changed(good, (bytes) => bytes.set([0x46, 0x41, 0x43, 0x50]));
    expect(problemsOf(facp)).toEqual(["signature  @0"]);
    expect(decodeDmar(facp).table).toBeUndefined();
  });

  it("is a wrong checksum, with the right one", () => {
    const bytes = good.slice();
    bytes[9] = (bytes[9]! + 1) & 0xff;
    const [problem] = decodeDmar(bytes).problems;
    expect(problem).toMatchObject({
      code: "checksum",
      offsetBytes: 9,
      message: `expected checksum 0x${good[9]!.toString(16)}, got 0x${bytes[9].toString(16)}`,
    });
  });

  it("is a revision other than 1", () => {
    expect(problemsOf(changed(good, (bytes) => void (bytes[8] = 2)))).toEqual(["revision  @8"]);
  });

  it("is a length that differs from that of the bytes", () => {
    expect(problemsOf(append(good, "00"))).toEqual(["length  @4"]);
    expect(decodeDmar(append(good, "00")).table).toEqual(completeDmar(fullTable));
    const short = good.slice();
    short[4] = 47;
    short[5] = 0;
    expect(problemsOf(short)).toEqual(["length  @4"]);
  });

  it("is a structure out of order, which is read all the same", () => {
    const q35 = buildDmar(q35Table);
    const bytes = changed(q35, (table) => append(table, "00001000 01 00 0000 0010d9fe00000000"));
    expect(problemsOf(bytes)).toEqual([`type-order  @${q35.length}`]);
    expect(decodeDmar(bytes).table!.units).toHaveLength(2);
  });

  it("is not a structure of an unknown type: that is skipped by its length", () => {
    const bytes = changed(good, (table) => append(table, "07000600 abcd 34120400"));
    expect(decodeDmar(bytes)).toEqual({
      table: completeDmar(fullTable),
      problems: [],
      skipped: [
        { type: 7, offsetBytes: good.length, byteLength: 6 },
        { type: 0x1234, offsetBytes: good.length + 6, byteLength: 4 },
      ],
    });
  });

  it.each([
    ["no room for its type and length", "060008", "truncated"],
    ["a length of less than 4", "06000300", "length"],
    ["a length beyond the table", "06000900 0000 0000", "length"],
  ])("is a structure with %s, and what is before it is read", (_name, hex, code) => {
    const bytes = changed(good, (table) => append(table, hex));
    expect(problemsOf(bytes)).toEqual([`${code}  @${good.length}`]);
    expect(decodeDmar(bytes).table).toEqual(completeDmar(fullTable));
  });

  it("is a structure too short for its type, which is left out", () => {
    expect(problemsOf(changed(good, (table) => append(table, "06000600 0000")))).toEqual([
      `length deviceProperties @${good.length}`,
    ]);
  });

  it.each([
    ["the header", 38, 0x01, "reserved-bits  @38"],
    ["the header's flags", 37, 0x08, "reserved-bits  @37"],
    ["the flags of a unit", 0x34, 0x80, "reserved-bits units[0] @52"],
    ["the register set size of a unit", 0x35, 0x10, "reserved-bits units[0] @53"],
    ["a scope", 0x43, 0x01, "reserved-bits units[0].scopes[0] @67"],
    ["a scope's flags outside SIDP", 0x42, 0x01, "reserved-bits units[0].scopes[0] @66"],
    ["the enumeration id of an endpoint", 0x44, 0x01, "reserved-bits units[0].scopes[0] @68"],
  ])("is a reserved bit set in %s", (_name, offset, mask, problem) => {
    expect(problemsOf(changed(good, (bytes) => void (bytes[offset]! |= mask)))).toEqual([problem]);
  });

  it.each([
    ["of unknown type", "06001800 0000 0000  09080000 00 00 0300  01080000 00 00 0400", "unknown-scope", 1],
    ["of odd length", "06001100 0000 0000  01090000 00 00 0400 00", "length", 0],
    ["of a length below 6", "06001000 0000 0000  01040000 00 00 0400", "length", 0],
    ["longer than its structure", "06001000 0000 0000  010a0000 00 00 0400", "length", 0],
    ["without room for itself", "06001300 0000 0000  01080000 00 00 0400 010800", "truncated", 1],
  ])("is a scope %s", (_name, hex, code, scopeCount) => {
    const decoded = decodeDmar(changed(good, (table) => append(table, hex)));
    expect(decoded.problems[0]).toMatchObject({ code });
    expect(decoded.table!.deviceProperties[1]!.scopes).toHaveLength(scopeCount);
  });

  it("is a name without NUL, or with something behind it; padding with zeroes is none", () => {
    const andd = (hex: string): Uint8Array =>
      changed(buildDmar(q35Table), (table) => append(table, `04000c00 000000 01 ${hex}`));
    expect(problemsOf(andd("5c414243"))).toEqual(["name namespaceDevices[0] @132"]);
    expect(problemsOf(andd("5c410042"))).toEqual(["name namespaceDevices[0] @131"]);
    expect(problemsOf(andd("5c410000"))).toEqual([]);
  });
});

describe("what the decoder reports of the contents", () => {
  it("is what checkDmar says of the table, with the place in the bytes", () => {
    const q35 = buildDmar(q35Table);
    const rmrr = "01002000 0000 0000 0000000100000000 ff0f000000000000 01080000 00 00 0200";
    const bytes = changed(q35, (table) => append(table.slice(0, -8), rmrr));

    const { table, problems } = decodeDmar(bytes);
    expect(problems).toMatchObject([
      {
        code: "range",
        where: "reservedRegions[0].byteLength",
        offsetBytes: 112,
        message: "expected an integer in 1..9007199254740991, got -16773120",
      },
    ]);
    expect(checkDmar(table!)).toEqual([expect.objectContaining({ where: "reservedRegions[0].byteLength" })]);
    expect(problems).toMatchObject(checkDmar(table!));
  });

  it("is an address that a machine cannot have, rounded where a number cannot hold it", () => {
    const bytes = changed(buildDmar(q35Table), (table) => table.fill(0xff, 0x38, 0x40));
    expect(problemsOf(bytes)).toEqual(["range units[0].registerGpa @48"]);
  });

  it("shows a path that no device can have as it is", () => {
    const bytes = changed(buildDmar(q35Table), (table) => table.set([0xfe, 0xab], 0x46));
    const { table, problems } = decodeDmar(bytes);
    expect(table!.units[0]!.scopes[0]!.path).toBe("ff:fe.ab");
    expect(problems).toMatchObject([{ code: "path", where: "units[0].scopes[0].path", offsetBytes: 0x40 }]);
  });
});
