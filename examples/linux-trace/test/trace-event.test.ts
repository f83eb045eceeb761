import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseTraceEvent } from "../src/trace/trace-event.js";

describe("a line of a trace", () => {
  it("says what a device asked and got", () => {
    expect(parseTraceEvent('["T","30",1,"100234560","145600000","1fffff",3]', 2)).toEqual({
      kind: "dma",
      sourceId: 0x30,
      access: 1,
      iovaPfn: 0x100234,
      answer: { gpaPfn: 0x145600, pageCount: 512, access: 3 },
      repeat: 1,
    });
    expect(parseTraceEvent('["T","30",2,"ffffffffffffffff",{"x":3}]', 2)).toMatchObject({
      iovaPfn: 2 ** 52 - 1,
      answer: undefined,
      repeat: 3,
    });
  });

  it("says what a message became", () => {
    expect(parseTraceEvent('["I","-","fee00030","2","fee0100c","4030",{"x":97}]', 2)).toEqual({
      kind: "interrupt",
      sourceId: undefined,
      address: 0xfee0_0030,
      data: 2,
      answer: { address: 0xfee0_100c, data: 0x4030 },
      repeat: 97,
    });
    expect(parseTraceEvent('["I","18","fee00258","0"]', 2)).toMatchObject({ sourceId: 0x18, answer: undefined });
  });

  it("says what the driver did to registers and waited for", () => {
    expect(parseTraceEvent('["R","8",8,"d2008c222f0686"]', 2)).toEqual({
      kind: "read",
      offsetBytes: 8,
      byteLength: 8,
      value: 0xd2008c_222f0686n,
    });
    expect(parseTraceEvent('["W","18",4,"86000000"]', 2)).toMatchObject({
      kind: "write",
      offsetBytes: 0x18,
      value: 0x8600_0000n,
    });
    expect(parseTraceEvent('["X","1401be404","2"]', 2)).toEqual({ kind: "wait", gpa: 0x1_401b_e404, value: 2 });
    expect(parseTraceEvent('["Q","200000025","1401be404"]', 2)).toEqual({ kind: "descriptor", low: 0x2_0000_0025n });
  });

  it("gives every 64-bit word of memory as its two halves", () => {
    fc.assert(
      fc.property(
        fc.nat(2 ** 30),
        fc.array(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), { maxLength: 8 }),
        (gpa, words) => {
          const line = JSON.stringify(["M", gpa.toString(16), ...words.map((word) => word.toString(16))]);
          const halves = words.flatMap((word) => [
            Number(BigInt.asIntN(32, word)),
            Number(BigInt.asIntN(32, word >> 32n)),
          ]);
          expect(parseTraceEvent(line, 2)).toEqual({ kind: "memory", gpa, words: Int32Array.from(halves) });
        },
      ),
    );
  });
});
