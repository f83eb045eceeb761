/**
 * The DMAR table of a q35 machine with interrupt remapping and a device TLB: 0x78 bytes, written out by hand.
 */

import type { DmarTable } from "../../src/acpi/index.js";

/** The machine: one unit that names each of five devices on the root bus and the I/O APIC; ATS on all root ports. */
export const q35Table: DmarTable = {
  hostAddressWidth: 48,
  interruptRemapping: true,
  oem: { oemId: "BOCHS", oemTableId: "BXPC", oemRevision: 1, creatorId: "BXPC", creatorRevision: 1 },
  units: [
    {
      registerGpa: 0xfed90000,
      scopes: [
        { type: "io-apic", ioApicId: 0, path: "ff:00.0" },
        { type: "endpoint", path: "00:00.0" },
        { type: "endpoint", path: "00:01.0" },
        { type: "endpoint", path: "00:1f.0" },
        { type: "endpoint", path: "00:1f.2" },
        { type: "endpoint", path: "00:1f.3" },
      ],
    },
  ],
  atsRootPorts: [{ allPorts: true }],
};

/** Its bytes, with the checksum at 9 left 0. */
export const q35BytesWithoutChecksum: Uint8Array = fromHex(`
  44 4d 41 52  78 00 00 00  01  00  42 4f 43 48 53 20
  42 58 50 43 20 20 20 20  01 00 00 00  42 58 50 43
  01 00 00 00  2f  01  00 00 00 00 00 00 00 00 00 00
  00 00 40 00  00 00 00 00  00 00 d9 fe 00 00 00 00
  03 08 00 00 00 ff 00 00
  01 08 00 00 00 00 00 00
  01 08 00 00 00 00 01 00
  01 08 00 00 00 00 1f 00
  01 08 00 00 00 00 1f 02
  01 08 00 00 00 00 1f 03
  02 00 08 00  01 00 00 00
`);

/** Bytes from pairs of hexadecimal digits; white space is ignored. */
export function fromHex(text: string): Uint8Array {
  const digits = text.replace(/\s+/g, "");
  return Uint8Array.from({ length: digits.length / 2 }, (_, index) =>
    Number.parseInt(digits.slice(2 * index, 2 * index + 2), 16),
  );
}
