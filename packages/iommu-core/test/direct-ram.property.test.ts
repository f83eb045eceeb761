/**
 * Transfers that go straight to RAM against the plain port: whatever the host shows, hides, loses or replaces meanwhile, both leave the same bytes and the same answers.
 */

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Access, BackendIommu, type GuestMemory, type RamWindow } from "../src/index.js";
import { SimpleBackend, SimpleDomain } from "../src/testing/index.js";
import { range } from "./support/machine.js";

/** Frames of RAM: two windows of four frames that touch, then a hole, then one more. */
const WINDOWS = [0, 4, 12] as const;
const WINDOW_PAGES = 4;
const FRAMES = 16;

/** Memory whose windows end and begin again while its bytes stay, with a switch for each way a host can be. */
class ShiftingMemory implements GuestMemory {
  readonly ram = [range(0, 8), range(12, 4)];
  bytes = new Uint8Array(FRAMES * 4096);
  directWrites = false;
  writes = 0;
  readonly window?: (pfn: number) => RamWindow | undefined;
  readonly #hidden = new Set<number>();
  readonly #windows = new Map<number, { firstPfn: number; pageCount: number; words: Int32Array }>();

  constructor(shows: boolean) {
    if (shows) this.window = (pfn) => this.#windowOf(pfn);
  }

  read(gpa: number, into: Uint8Array): boolean {
    if (!this.#isRam(gpa, into.length)) return false;
    into.set(this.bytes.subarray(gpa, gpa + into.length));
    return true;
  }

  write(gpa: number, from: Uint8Array): boolean {
    this.writes += 1;
    if (!this.#isRam(gpa, from.length)) return false;
    this.bytes.set(from, gpa);
    return true;
  }

  fetch(): boolean {
    return false;
  }

  writeWord(): boolean {
    return false;
  }

  compareExchange(): boolean {
    return false;
  }

  /** The host no longer shows a window, or shows it again. */
  show(first: number, shown: boolean): void {
    if (shown) this.#hidden.delete(first);
    else this.#hidden.add(first);
    this.#end(first);
  }

  /** RAM moves to another buffer, as WebAssembly memory that grows. `detach`: holders find the old words empty; else they find other words in the window. */
  move(detach: boolean): void {
    const old = this.bytes;
    this.bytes = old.slice();
    for (const window of this.#windows.values()) {
      if (!detach) window.words = new Int32Array(this.bytes.buffer, window.firstPfn * 4096, WINDOW_PAGES * 1024);
    }
    if (detach) {
      structuredClone(old.buffer, { transfer: [old.buffer] });
      this.#windows.clear();
    } else old.fill(0xee);
  }

  #end(first: number): void {
    const window = this.#windows.get(first);
    if (window !== undefined) window.words = new Int32Array(0);
    this.#windows.delete(first);
  }

  #windowOf(pfn: number): RamWindow | undefined {
    const firstPfn = WINDOWS.find((first) => pfn >= first && pfn < first + WINDOW_PAGES);
    if (firstPfn === undefined || this.#hidden.has(firstPfn)) return undefined;
    const words = new Int32Array(this.bytes.buffer, firstPfn * 4096, WINDOW_PAGES * 1024);
    const window = this.#windows.get(firstPfn) ?? { firstPfn, pageCount: WINDOW_PAGES, words };
    this.#windows.set(firstPfn, window);
    return window;
  }

  #isRam(gpa: number, byteLength: number): boolean {
    return (
      gpa >= 0 &&
      this.ram.some(({ firstPfn, pageCount }) => {
        const first = firstPfn * 4096;
        return gpa >= first && gpa + byteLength <= first + pageCount * 4096;
      })
    );
  }
}

interface Side {
  readonly memory: ShiftingMemory;
  readonly unit: BackendIommu;
  readonly dirty: string[];
}

const command = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant("transfer" as const),
      isWrite: fc.boolean(),
      iova: fc.integer({ min: 0, max: 12 * 4096 - 1 }),
      length: fc.oneof(fc.integer({ min: 1, max: 64 }), fc.integer({ min: 1, max: 3 * 4096 })),
      // A part of a larger buffer, as rings and packet buffers are.
      offset: fc.integer({ min: 0, max: 9 }),
      seed: fc.nat(255),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant("show" as const), first: fc.constantFrom(...WINDOWS), shown: fc.boolean() }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("move" as const), detach: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("directWrites" as const), allowed: fc.boolean() }) },
);

const mapping = fc.record({
  iova: fc.nat(11),
  gpa: fc.nat(FRAMES + 1),
  pages: fc.constantFrom(1, 1, 2, 4),
  access: fc.constantFrom<Access>(1, 2, 3, 3, 3),
});

describe("a transfer straight to RAM", () => {
  it("leaves the bytes, answers and written pages of a transfer through the port, whatever the host does to its windows", () => {
    let saved = 0;
    fc.assert(
      fc.property(
        fc.array(mapping, { minLength: 6, maxLength: 14 }),
        fc.array(command, { minLength: 5, maxLength: 30 }),
        (mappings, commands) => {
          const direct = sideOf(Object.assign(new ShiftingMemory(true), { directWrites: true }), mappings);
          const plain = sideOf(new ShiftingMemory(false), mappings);
          for (const step of commands) {
            if (step.do === "show") direct.memory.show(step.first, step.shown);
            else if (step.do === "move") direct.memory.move(step.detach);
            else if (step.do === "directWrites") direct.memory.directWrites = step.allowed;
            else {
              const [quick, slow] = [transfer(direct, step), transfer(plain, step)];
              expect(quick.answer).toEqual(slow.answer);
              expect(Buffer.compare(quick.whole, slow.whole)).toBe(0);
            }
          }
          expect(Buffer.compare(direct.memory.bytes, plain.memory.bytes)).toBe(0);
          expect(direct.dirty).toEqual(plain.dirty);
          saved += plain.memory.writes - direct.memory.writes;
        },
      ),
      { numRuns: 60 },
    );
    expect(saved).toBeGreaterThan(50);
  });

  it("is no write past a host that wants to see writes, or that counts changes", () => {
    const silent = sideOf(new ShiftingMemory(true), [{ iova: 0, gpa: 1, pages: 1, access: 3 }]);
    const { memory } = silent;
    const { dma } = silent.unit.addressSpace(0);
    dma.write(0, Uint8Array.of(1));
    expect(memory.writes).toBe(1);
    memory.directWrites = true;
    dma.write(0, Uint8Array.of(2));
    expect(memory.writes).toBe(1);
    expect(memory.bytes[4096]).toBe(2);
    memory.directWrites = false;
    dma.write(0, Uint8Array.of(3));
    expect(memory.writes).toBe(2);
    const counted = sideOf(Object.assign(new ShiftingMemory(true), { generation: () => 0, directWrites: true }), [
      { iova: 0, gpa: 1, pages: 1, access: 3 },
    ]);
    counted.unit.addressSpace(0).dma.write(0, Uint8Array.of(4));
    expect(counted.memory.writes).toBe(1);
  });
});

function sideOf(
  memory: ShiftingMemory,
  mappings: readonly { readonly iova: number; readonly gpa: number; readonly pages: number; readonly access: Access }[],
): Side {
  const backend = new SimpleBackend();
  const tables = new SimpleDomain("tables");
  const unit = new BackendIommu({ backend, memory });
  void backend.assign(0, tables);
  for (const { iova, gpa, pages, access } of mappings) tables.map(iova, pages, gpa, access);
  const dirty: string[] = [];
  unit.addressSpace(0).onWrite = (iovaPfn, gpaPfn, pageCount) => dirty.push(`${iovaPfn} ${gpaPfn}+${pageCount}`);
  return { memory, unit, dirty };
}

function transfer(
  side: Side,
  request: {
    readonly isWrite: boolean;
    readonly iova: number;
    readonly length: number;
    readonly offset: number;
    readonly seed: number;
  },
): { readonly answer: unknown; readonly whole: Uint8Array } {
  const { isWrite, iova, length, offset, seed } = request;
  const whole = new Uint8Array(length + offset * 2).fill(seed);
  for (let i = 0; i < whole.length; i += 61) whole[i] = i;
  const bytes = whole.subarray(offset, offset + length);
  const { dma } = side.unit.addressSpace(0);
  const done = isWrite ? dma.write(iova, bytes) : dma.read(iova, bytes);
  return { answer: [done, done ? undefined : dma.failure], whole };
}
