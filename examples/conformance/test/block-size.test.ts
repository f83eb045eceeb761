import { describe, expect, it } from "vitest";
import { coversMapping } from "../src/formats/block-size.js";

describe("coversMapping()", () => {
  const answer = (iovaPfn: number, gpaPfn: number, pageCount: number) => ({ iovaPfn, gpaPfn, pageCount });

  it("wants the size of the mapping", () => {
    expect(coversMapping(answer(0x200, 0x400, 512), 512)).toBe(true);
    expect(coversMapping(answer(0x200, 0x400, 1), 512)).toBe(false);
    expect(coversMapping(answer(0x200, 0x400, 512), 1)).toBe(false);
  });

  it("lets an answer be smaller where the mapping contains the interrupt window, as input or as target", () => {
    expect(coversMapping(answer(0xd23ce, 0x1123ce, 1), 2 ** 18)).toBe(true);
    expect(coversMapping(answer(0x1023ce, 0xd23ce, 1), 2 ** 18)).toBe(true);
    expect(coversMapping(answer(0x1023ce, 0x1523ce, 1), 2 ** 18)).toBe(false);
    expect(coversMapping(answer(0xfec01, 0x10001, 1), 512)).toBe(false);
    expect(coversMapping(answer(0xfee01, 0x10001, 1), 512)).toBe(true);
  });

  it("never lets it be larger", () => {
    expect(coversMapping(answer(0xfee01, 0x10001, 2 ** 18), 512)).toBe(false);
  });
});
