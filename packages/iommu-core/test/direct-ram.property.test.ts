/**
 * Transfers that go straight to RAM, to pages that are known from earlier ones, against the plain port: whatever the host shows, hides, loses or replaces and the guest maps
 * and unmaps meanwhile, both leave the same bytes and the same answers.
 */

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  type Access,
  BackendIommu,
  type GuestMemory,
  type RamWindow,
  type Requester,
  type Translation,
} from "../src/index.js";
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

/** Answers in blocks of four pages where four pages are one block, counts what it is asked, and may promise that its answers hold. */
class CountingBackend extends SimpleBackend {
  readonly keepsAnswers: boolean;
  asked = 0;

  constructor(keepsAnswers: boolean) {
    super();
    this.keepsAnswers = keepsAnswers;
  }

  override translate(requester: Requester, iovaPfn: number, access: Access, out: Translation): void {
    this.asked += 1;
    const domain = this.domainOf(requester);
    super.translate(requester, iovaPfn, access, out);
    const first = iovaPfn - (iovaPfn % 4);
    const pages = [0, 1, 2, 3].map((i) => domain.lookup(first + i));
    const [start] = pages;
    if (start === undefined || start.gpaPfn % 4 !== 0 || out.reason !== 0) return;
    if (pages.every((page, i) => page?.gpaPfn === start.gpaPfn + i && page.access === start.access)) out.pageCount = 4;
  }
}

interface Side {
  readonly memory: ShiftingMemory;
  readonly unit: BackendIommu;
  readonly backend: CountingBackend;
  readonly tables: SimpleDomain;
  readonly dirty: string[];
}

const mapping = fc.record({
  iova: fc.nat(11),
  gpa: fc.nat(FRAMES + 1),
  pages: fc.constantFrom(1, 1, 2, 4),
  access: fc.constantFrom<Access>(1, 2, 3, 3, 3),
});

const command = fc.oneof(
  {
    weight: 20,
    arbitrary: fc.record({
      do: fc.constant("transfer" as const),
      isWrite: fc.boolean(),
      device: fc.constantFrom(0, 0, 0, 1),
      iova: fc.oneof(
        fc.integer({ min: 0, max: 12 * 4096 - 1 }),
        fc.integer({ min: 0, max: 12 * 4096 - 1 }).map(BigInt),
        fc.nat(3).map((page) => page * 4096),
      ),
      length: fc.oneof(
        { weight: 3, arbitrary: fc.integer({ min: 1, max: 64 }) },
        { weight: 1, arbitrary: fc.integer({ min: 1, max: 3 * 4096 }) },
      ),
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
  { weight: 1, arbitrary: fc.record({ do: fc.constant("track" as const), tracked: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("map" as const), mapping }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("unmap" as const), iova: fc.nat(11) }) },
);

describe("a transfer straight to RAM", () => {
  it("leaves the bytes, answers and written pages of a transfer through the port, whatever the host does to its windows", () => {
    let saved = 0;
    let spared = 0;
    fc.assert(
      fc.property(
        fc.array(mapping, { minLength: 8, maxLength: 16 }),
        fc.array(command, { minLength: 15, maxLength: 60 }),
        (mappings, commands) => {
          const direct = sideOf(Object.assign(new ShiftingMemory(true), { directWrites: true }), mappings, true);
          const plain = sideOf(new ShiftingMemory(false), mappings, false);
          for (const step of commands) {
            if (step.do === "show") direct.memory.show(step.first, step.shown);
            else if (step.do === "move") direct.memory.move(step.detach);
            else if (step.do === "directWrites") direct.memory.directWrites = step.allowed;
            else if (step.do === "track") for (const side of [direct, plain]) track(side, step.tracked);
            else if (step.do === "map") for (const side of [direct, plain]) map(side, step.mapping);
            else if (step.do === "unmap") for (const side of [direct, plain]) unmap(side, step.iova);
            else {
              const [quick, slow] = [transfer(direct, step), transfer(plain, step)];
              expect(quick.answer).toEqual(slow.answer);
              expect(Buffer.compare(quick.whole, slow.whole)).toBe(0);
            }
          }
          expect(Buffer.compare(direct.memory.bytes, plain.memory.bytes)).toBe(0);
          expect(direct.dirty).toEqual(plain.dirty);
          saved += plain.memory.writes - direct.memory.writes;
          spared += plain.backend.asked - direct.backend.asked;
        },
      ),
      { numRuns: 100 },
    );
    expect(saved).toBeGreaterThan(50);
    expect(spared).toBeGreaterThan(100);
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

  it("is no write past such a host in transfers over several known pages either", () => {
    const mappings = [1, 3, 2].map((gpa, iova) => ({ iova, gpa, pages: 1 as const, access: 3 as const }));
    const { memory, unit } = sideOf(Object.assign(new ShiftingMemory(true), { directWrites: true }), mappings, true);
    const { dma } = unit.addressSpace(1);
    const writes = (value: number): number => {
      const before = memory.writes;
      expect(dma.write(100, new Uint8Array(2 * 4096).fill(value))).toBe(true);
      return memory.writes - before;
    };
    expect([writes(1), writes(2)]).toEqual([0, 0]);
    memory.directWrites = false;
    expect(writes(3)).toBe(3);
    const values = [4096 + 99, 4096 + 100, 3 * 4096, 2 * 4096 + 99, 2 * 4096 + 100].map((at) => memory.bytes[at]);
    expect(values).toEqual([0, 3, 3, 3, 0]);
  });

  it("over several known pages goes to the window as it is now, not to the words that it had", () => {
    const mappings = [5, 7, 6].map((gpa, iova) => ({ iova, gpa, pages: 1 as const, access: 3 as const }));
    const { memory, unit } = sideOf(Object.assign(new ShiftingMemory(true), { directWrites: true }), mappings, true);
    const { dma } = unit.addressSpace(1);
    const long = new Uint8Array(3 * 4096).map((_, i) => i % 251);
    const read = (): number => {
      const into = new Uint8Array(long.length);
      expect(dma.read(0, into)).toBe(true);
      return Buffer.compare(into, long);
    };
    expect([dma.write(0, long), read(), read()]).toEqual([true, 0, 0]);
    memory.move(false);
    expect(read()).toBe(0);
    memory.bytes.fill(0);
    expect(dma.write(0, long)).toBe(true);
    memory.move(false);
    memory.bytes.fill(0);
    expect([dma.write(0, long), read()]).toEqual([true, 0]);
    for (const [iova, gpa] of [5, 7, 6].entries())
      expect(
        Buffer.compare(
          memory.bytes.subarray(gpa * 4096, (gpa + 1) * 4096),
          long.subarray(iova * 4096, (iova + 1) * 4096),
        ),
      ).toBe(0);
  });

  it("ends at known pages that are no memory, below the window used last as above it", () => {
    for (const [ram, hole] of [
      [7, 8],
      [12, 11],
    ] as const) {
      const mappings = [ram, hole].map((gpa, iova) => ({ iova, gpa, pages: 1 as const, access: 3 as const }));
      const { memory, unit } = sideOf(Object.assign(new ShiftingMemory(true), { directWrites: true }), mappings, true);
      const { dma } = unit.addressSpace(1);
      const failure = { iovaPfn: 1, reason: 0, cause: "no memory at the target" };
      for (let i = 0; i < 3; i++) {
        expect([dma.read(0, new Uint8Array(2 * 4096)), dma.failure]).toEqual([false, failure]);
        expect(dma.read(0, new Uint8Array(4))).toBe(true);
        expect([dma.read(4096, new Uint8Array(4)), dma.failure]).toEqual([false, failure]);
        expect([dma.write(0, new Uint8Array(2 * 4096).fill(i + 1)), dma.failure]).toEqual([false, failure]);
        expect([ram, hole].map((pfn) => memory.bytes[pfn * 4096])).toEqual([i + 1, 0]);
      }
    }
  });
});

type Mapping = typeof mapping extends fc.Arbitrary<infer T> ? T : never;

function sideOf(memory: ShiftingMemory, mappings: readonly Mapping[], keepsAnswers = false): Side {
  const backend = new CountingBackend(keepsAnswers);
  const tables = new SimpleDomain("tables");
  const side: Side = { memory, unit: new BackendIommu({ backend, memory }), backend, tables, dirty: [] };
  for (const device of [0, 1]) void backend.assign(device, tables);
  for (const one of mappings) map(side, one);
  track(side, true);
  return side;
}

/** Edits the tables and invalidates, as a driver does. */
function map({ backend, tables }: Side, { iova, gpa, pages, access }: Mapping): void {
  tables.map(iova, pages, gpa, access);
  void backend.invalidate(tables, range(iova, pages));
}

function unmap({ backend, tables }: Side, iova: number): void {
  tables.unmap(iova, 1);
  void backend.invalidate(tables, range(iova, 1));
}

function track({ unit, dirty }: Side, tracked: boolean): void {
  unit.addressSpace(0).onWrite = tracked
    ? (iovaPfn, gpaPfn, pageCount) => dirty.push(`${iovaPfn} ${gpaPfn}+${pageCount}`)
    : undefined;
}

function transfer(
  side: Side,
  request: {
    readonly device: number;
    readonly isWrite: boolean;
    readonly iova: number | bigint;
    readonly length: number;
    readonly offset: number;
    readonly seed: number;
  },
): { readonly answer: unknown; readonly whole: Uint8Array } {
  const { device, isWrite, iova, length, offset, seed } = request;
  const whole = new Uint8Array(length + offset * 2).fill(seed);
  for (let i = 0; i < whole.length; i += 61) whole[i] = i;
  const bytes = whole.subarray(offset, offset + length);
  const { dma } = side.unit.addressSpace(device);
  const done = isWrite ? dma.write(iova, bytes) : dma.read(iova, bytes);
  return { answer: [done, done ? undefined : dma.failure], whole };
}
