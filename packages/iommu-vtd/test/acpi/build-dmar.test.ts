import { IommuError } from "@iommu-kit/iommu-core";
import { describe, expect, it } from "vitest";

import { buildDmar } from "../../src/acpi/index.js";
import type { DmarTable } from "../../src/acpi/index.js";
import { fullTable } from "./full-table.js";
import { fromHex, q35BytesWithoutChecksum, q35Table } from "./golden-q35.js";

const oneUnit: DmarTable = { hostAddressWidth: 39, units: [{ registerGpa: 0xfed90000, includeAll: true }] };

describe("the DMAR table of a q35 machine", () => {
  it("has the 0x78 bytes that q35 firmware is known to get", () => {
    const bytes = buildDmar(q35Table, { ioApicIds: [0], maximumGuestAddressWidth: 48 });

    const expected = q35BytesWithoutChecksum.slice();
    expected[9] = 0x100 - (expected.reduce((sum, byte) => sum + byte, 0) % 0x100);
    expect(bytes.length).toBe(0x78);
    expect(hexOf(bytes)).toBe(hexOf(expected));
  });
});

describe("the header", () => {
  it("sums to 0 with all bytes of the table", () => {
    for (const table of [oneUnit, q35Table, fullTable]) {
      expect(buildDmar(table).reduce((sum, byte) => sum + byte, 0) % 0x100).toBe(0);
    }
  });

  it("holds the length of the table and revision 1", () => {
    const bytes = buildDmar(fullTable);
    expect(new DataView(bytes.buffer).getUint32(4, true)).toBe(bytes.length);
    expect(bytes[8]).toBe(1);
  });

  it("holds the host address width less one", () => {
    expect(buildDmar(oneUnit)[36]).toBe(38);
    expect(buildDmar({ ...oneUnit, hostAddressWidth: 64 })[36]).toBe(63);
  });

  it.each([
    [{}, 0],
    [{ interruptRemapping: true }, 1],
    [{ interruptRemapping: true, x2apicOptOut: true }, 3],
    [{ dmaControlOptIn: true }, 4],
  ])("turns %j into flags %i", (options, flags) => {
    expect(buildDmar({ ...oneUnit, ...options })[37]).toBe(flags);
  });
});

describe("each structure", () => {
  it("stands in ascending order of its type, whatever the order of the options", () => {
    const reversed = Object.fromEntries(Object.entries(fullTable).toReversed()) as unknown as DmarTable;

    expect(structures(buildDmar(reversed)).map((structure) => structure.type)).toEqual([
      0, 0, 0, 1, 2, 2, 3, 4, 5, 5, 6,
    ]);
  });

  it("keeps the order of its list", () => {
    const units = structures(buildDmar(fullTable)).filter((structure) => structure.type === 0);

    expect(units.map(({ bytes }) => bytes.slice(8, 16))).toEqual([
      fromHex("0000d9fe00000000"),
      fromHex("0000f0ff3f000000"),
      fromHex("0010d9fe00000000"),
    ]);
  });

  it.each([
    ["DRHD of one device", 0, "00001800 00 00 0000 0000d9fe00000000  01080000 00 00 0200"],
    [
      "DRHD with 16 pages of registers and a path of three steps",
      1,
      "00001c00 00 04 0100 0000f0ff3f000000  020c0000 00 40 0100 0203 1f07",
    ],
    [
      "include-all DRHD with I/O APIC, HPET and namespace device",
      2,
      "00002800 01 00 0000 0010d9fe00000000  03080000 02 f0 1f00  04080000 01 00 1e06  05080000 07 f0 1600",
    ],
    ["RMRR, its limit inclusive", 3, "01002000 0000 0000 0000807b00000000 ffffff7f00000000  01080000 00 00 0200"],
    ["ATSR of one root port", 4, "02001000 00 00 0000  02080000 00 00 0100"],
    ["ATSR of all ports", 5, "02000800 01 00 0100"],
    ["RHSA", 6, "03001400 00000000 0000f0ff3f000000 03000000"],
    ["ANDD with its name ended by NUL", 7, `04001700 000000 07 ${asciiHex("\\_SB.PCI0.I2C1")} 00`],
    ["SATC that requires ATC", 8, "05001000 01 00 0000  01080000 00 00 0200"],
    ["SATC that does not", 9, "05001000 00 00 0000  01080000 00 00 0a00"],
    ["SIDP with flags in its scopes", 10, "06001800 0000 0000  01081100 00 00 0200  05080000 07 f0 1600"],
  ])("encodes a %s", (_name, index, hex) => {
    expect(hexOf(structures(buildDmar(fullTable))[index]!.bytes)).toBe(hexOf(fromHex(hex)));
  });
});

describe("the builder", () => {
  it("refuses a broken rule with the place, what was expected, a fix and the whole list", () => {
    const table: DmarTable = {
      ...oneUnit,
      units: [{ registerGpa: 0xfed90800, includeAll: true }],
      affinities: [{ registerGpa: 1, proximityDomain: 0 }],
    };

    const error = errorOf(() => buildDmar(table));
    expect(error).toBeInstanceOf(IommuError);
    expect(error.message).toContain(
      "DMAR units[0].registerGpa: expected a multiple of 0x1000, got 0xfed90800 - and 1 more",
    );
    expect(error).toMatchObject({
      code: "bad-option",
      hint: "use 0xfed90000 or 0xfed91000",
      cause: [{ code: "alignment" }, { code: "no-unit" }],
    });
  });

  it("leaves its options as they are", () => {
    const before = structuredClone(fullTable);
    buildDmar(fullTable);
    expect(fullTable).toEqual(before);
  });
});

function errorOf(action: () => unknown): Error {
  try {
    action();
  } catch (error) {
    if (error instanceof Error) return error;
  }
  throw new Error("expected an error, got none");
}

/** The structures behind the header, told apart by type and length only. */
function structures(table: Uint8Array): { type: number; bytes: Uint8Array }[] {
  const view = new DataView(table.buffer);
  const found = [];
  for (let offset = 48; offset < table.length; offset += view.getUint16(offset + 2, true)) {
    const length = view.getUint16(offset + 2, true);
    found.push({ type: view.getUint16(offset, true), bytes: table.slice(offset, offset + length) });
  }
  return found;
}

function hexOf(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(" ");
}

function asciiHex(text: string): string {
  return Array.from(text, (char) => char.charCodeAt(0).toString(16).padStart(2, "0")).join("");
}
