import { describe, expect, it } from "vitest";
import { Machine } from "../src/machine/machine.js";
import { CachedAnswers } from "../src/view/cached-answers.js";

const HEADER = {
  format: "vtd-linux-trace",
  ver: 0x10,
  cap: [0x222f0686, 0xd2008c],
  ecap: [0xf00f4a, 0],
  hostAddressWidth: 48,
  scalable: false,
  ram: [{ firstPfn: 0, pageCount: 0x1000 }],
  sourceIds: [0x18],
} as const;

describe("CachedAnswers", () => {
  it("calls an answer stale that differs from one that nobody has invalidated", () => {
    const cached = new CachedAnswers(new Machine(HEADER), [0x18]);
    expect(cached.take(0x18, 5, { gpaPfn: 7, access: 3 })).toBe("new");
    expect(cached.take(0x18, 5, { gpaPfn: 7, access: 3 })).toBe("kept");
    expect(cached.take(0x18, 5, { gpaPfn: 8, access: 3 })).toBe("stale");
    expect(cached.take(0x18, 5, { gpaPfn: 8, access: 1 })).toBe("stale");
  });

  it("forgets what the unit tells it to drop", () => {
    const machine = new Machine(HEADER);
    const cached = new CachedAnswers(machine, [0x18]);
    cached.take(0x18, 5, { gpaPfn: 7, access: 3 });
    machine.writeRegister(0x18, 4, "40000000");
    expect(cached.take(0x18, 5, { gpaPfn: 8, access: 3 })).toBe("new");
  });
});
