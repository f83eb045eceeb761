// Address widths and what the capability registers say in numbers.
import { describe, expect, it } from "vitest";
import { domainIdBits, guestAddressBits, pasidBits } from "../../src/spec/capabilities.js";
import { addressBitsOf, levelsOf, supportsAddressWidth, widestAddressWidth } from "../../src/spec/encodings.js";
import { CAP, ECAP } from "../../src/spec/registers-capability.js";

describe("address widths", () => {
  it("mean 39, 48 and 57 bits in 3, 4 and 5 levels", () => {
    expect([1, 2, 3].map((aw) => [addressBitsOf(aw), levelsOf(aw)])).toEqual([
      [39, 3],
      [48, 4],
      [57, 5],
    ]);
  });

  it("are supported when SAGAW says so, and never when reserved", () => {
    expect([0, 1, 2, 3, 4, 5, 6, 7].filter((aw) => supportsAddressWidth(0b00110, aw))).toEqual([1, 2]);
    expect([0, 1, 2, 3, 4, 5, 6, 7].filter((aw) => supportsAddressWidth(0b11111, aw))).toEqual([1, 2, 3]);
  });

  it("have a widest one", () => {
    expect([0b00010, 0b00110, 0b01110, 0b10001].map(widestAddressWidth)).toEqual([1, 2, 3, 0]);
  });
});

describe("capabilities in numbers", () => {
  it("give the widths of domain-ids, guest addresses and PASIDs", () => {
    expect([0, 2, 6].map((ND) => domainIdBits(CAP.pack({ ND })))).toEqual([4, 8, 16]);
    expect(guestAddressBits(CAP.pack({ MGAW: 47 }))).toBe(48);
    expect(pasidBits(ECAP.pack({ PSS: 19 }))).toBe(20);
  });
});
