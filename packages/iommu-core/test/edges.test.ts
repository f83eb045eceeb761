// Exact answers at the edges of small parts: what a layout accepts, default budgets, bytes in the middle of a buffer.
import { describe, expect, it } from "vitest";
import { DirectRam } from "../src/dma/direct-ram.js";
import { BackendIommu, bits, BufferMemory, layout, reserved, reservedMask } from "../src/index.js";
import { FakeMemory, SimpleBackend } from "../src/testing/index.js";

describe("a layout", () => {
  it("takes its parts in any order, and gives them in ascending order", () => {
    const built = layout(64, { C: bits(63, 32), A: bits(3, 0), _4: reserved(15, 4), B: bits(31, 16) });
    expect(built.parts.map(([name]) => name)).toEqual(["A", "_4", "B", "C"]);
  });

  it("refuses a part that ends before it begins", () => {
    const empty = { ...bits(16, 16), hi: 15 };
    expect(() => layout(32, { A: bits(15, 0), EMPTY: empty, B: bits(31, 16) })).toThrow("EMPTY 15:16");
  });

  it("packs zeros, and refuses what does not fit as a bad range", () => {
    const { pack } = layout(32, { A: bits(3, 0), B: bits(31, 4) });
    expect(pack({ A: 0, B: 1 })).toEqual(Int32Array.of(16));
    expect(() => pack({ A: 16 })).toThrow(expect.objectContaining({ code: "bad-range" }) as Error);
  });

  it("reserves bits above the host's addresses in addresses only", () => {
    expect(reservedMask(layout(64, { A: bits(63, 32), _0: reserved(31, 0) }), 40)).toEqual(Int32Array.of(-1, 0));
  });

  it("has fields of whole words, which are no negative numbers", () => {
    const { A } = layout(64, { A: bits(31, 0), B: bits(63, 32) }).fields;
    const words = Int32Array.of(-1, 0);
    expect(A.get(words, 0)).toBe(2 ** 32 - 1);
    A.set(words, 0, 2 ** 31);
    expect(words).toEqual(Int32Array.of(-(2 ** 31), 0));
  });
});

describe("default budgets of a view", () => {
  const limitsOf = (pageCount: number): BackendIommu["limits"] =>
    new BackendIommu({ backend: new SimpleBackend(), memory: new FakeMemory({ ram: [{ firstPfn: 0, pageCount }] }) })
      .limits;

  it("grow with RAM", () => {
    expect(limitsOf(2 ** 23)).toMatchObject({ bytesPerView: 2 ** 29, tablesPerView: 2 ** 24 });
  });

  it("have a floor for small machines", () => {
    expect(limitsOf(16)).toMatchObject({ bytesPerView: 2 ** 26, tablesPerView: 2 ** 18 });
  });
});

describe("RAM in the middle of a buffer, and of memory", () => {
  const buffer = new Uint8Array(3 * 4096);
  const memoryOf = (directWrites: boolean): BufferMemory & { writes: number } => {
    const memory = new BufferMemory([{ firstPfn: 16, bytes: buffer.subarray(4096, 8192) }], { directWrites });
    const write = memory.write.bind(memory);
    const counted = Object.assign(memory, { writes: 0 });
    memory.write = (gpa, from) => {
      counted.writes += 1;
      return write(gpa, from);
    };
    return counted;
  };

  it("is read where it lies", () => {
    buffer.fill(0);
    buffer[4096 + 5] = 7;
    const ram = new DirectRam(memoryOf(false));
    const into = new Uint8Array(2);
    expect(ram.read(16 * 4096 + 5, into, 1, 1)).toBe(true);
    expect(into).toEqual(Uint8Array.of(0, 7));
  });

  it.each([
    [true, 0],
    [false, 2],
  ])("is written where it lies, directly: %s", (directWrites, writes) => {
    buffer.fill(0);
    const memory = memoryOf(directWrites);
    const ram = new DirectRam(memory);
    for (const at of [5, 6]) expect(ram.write(16 * 4096 + at, Uint8Array.of(at))).toBe(true);
    expect(buffer.subarray(4096 + 4, 4096 + 8)).toEqual(Uint8Array.of(0, 5, 6, 0));
    expect(buffer.reduce((sum, byte) => sum + byte)).toBe(11);
    expect(memory.writes).toBe(writes);
  });
});
