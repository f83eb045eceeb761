/** What a device may reach again without the backend being asked, and when it is asked again. */

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { KnownPages } from "../src/dma/known-pages.js";
import {
  Access,
  BackendIommu,
  BufferMemory,
  type GuestMemory,
  type Requester,
  type Translation,
} from "../src/index.js";
import { SimpleBackend, SimpleDomain } from "../src/testing/index.js";
import { range } from "./support/machine.js";

const RAM_PAGES = 4096;

/** Promises that its answers hold until it announces, and notes what it is asked. */
class KeepingBackend extends SimpleBackend {
  readonly keepsAnswers: boolean;
  readonly asked: string[] = [];

  constructor(keepsAnswers = true) {
    super();
    this.keepsAnswers = keepsAnswers;
  }

  override translate(requester: Requester, iovaPfn: number, access: Access, out: Translation): void {
    this.asked.push(`${requester.sourceId} ${iovaPfn} ${access}`);
    super.translate(requester, iovaPfn, access, out);
  }
}

function machine(backend = new KeepingBackend(), makeMemory = (memory: BufferMemory): GuestMemory => memory) {
  const bytes = new Uint8Array(RAM_PAGES * 4096);
  const memory = makeMemory(new BufferMemory([{ firstPfn: 0, bytes }], { directWrites: true }));
  const unit = new BackendIommu({ backend, memory });
  const tables = new SimpleDomain("tables");
  const other = new SimpleDomain("other");
  for (const device of [1, 2]) void backend.assign(device, tables);
  void backend.assign(3, other);
  tables.map(0, 2048, 2048);
  /** What the backend is asked while this happens. */
  const askedFor = (work: () => void): readonly string[] => {
    backend.asked.length = 0;
    work();
    return [...backend.asked];
  };
  return { bytes, unit, backend, tables, other, askedFor, dma: unit.addressSpace(1).dma };
}

const word = (): Uint8Array => Uint8Array.of(1, 2, 3, 4);

describe("a page that a device was allowed to reach", () => {
  it("is not asked about again, for the same device and the same kind of access, until an announcement", () => {
    const { unit, backend, tables, askedFor, dma } = machine();
    expect(askedFor(() => dma.read(8, word()))).toEqual(["1 0 1"]);
    expect(askedFor(() => dma.read(4092, word()))).toEqual([]);
    expect(askedFor(() => dma.write(8, word()))).toEqual(["1 0 2"]);
    expect(askedFor(() => dma.write(16, word()))).toEqual([]);
    expect(askedFor(() => unit.addressSpace(2).dma.read(8, word()))).toEqual(["2 0 1"]);
    void backend.invalidate(tables, range(500, 1));
    expect(askedFor(() => dma.read(8, word()))).toEqual(["1 0 1"]);
    expect(askedFor(() => dma.write(8, word()))).toEqual(["1 0 2"]);
    expect(askedFor(() => dma.read(8, word()))).toEqual([]);
  });

  it("is reached at every byte of it where it was reached at the first", () => {
    const { bytes, askedFor, dma } = machine();
    const page = 2048 * 4096;
    bytes.set([5, 8, 9], page + 7);
    const into = [8, 9].map(() => new Uint8Array(1));
    dma.read(0, new Uint8Array(1));
    expect(askedFor(() => into.map((byte, i) => dma.read(8 + i, byte)))).toEqual([]);
    expect(into.map(([byte]) => byte)).toEqual([8, 9]);
    expect(askedFor(() => into.map((byte, i) => dma.read(BigInt(7 + i), byte)))).toEqual([]);
    expect(into.map(([byte]) => byte)).toEqual([5, 8]);
    dma.write(0, Uint8Array.of(1));
    const written: boolean[] = [];
    expect(askedFor(() => [8, 9].forEach((at) => written.push(dma.write(at, Uint8Array.of(at - 2)))))).toEqual([]);
    expect(written).toEqual([true, true]);
    expect([...bytes.subarray(page + 7, page + 11)]).toEqual([5, 6, 7, 0]);
  });

  it("is not taken for the one whose number is as much as a byte's address times 4096", () => {
    // Page 4096 lies as far behind page 0 in memory as in the window, so that the confusion would end in RAM.
    const low = new Uint8Array(2 * 4096);
    const regions = [
      { firstPfn: 0, bytes: low },
      { firstPfn: 4096, bytes: new Uint8Array(4096) },
    ];
    const { tables, dma } = machine(new KeepingBackend(), () => new BufferMemory(regions, { directWrites: true }));
    tables.map(4096, 1, 4096);
    tables.map(0, 1, 1);
    tables.map(1, 1, 0);
    for (const pfn of [4096, 1])
      expect([dma.read(pfn * 4096, word()), dma.write(pfn * 4096 + 100, word())]).toEqual([true, true]);
    low.set([5, 6], 4096 + 1);
    const into = new Uint8Array(2);
    expect(dma.read(1, into)).toBe(true);
    expect([...into]).toEqual([5, 6]);
    expect(dma.write(1, Uint8Array.of(9))).toBe(true);
    expect([low[1], low[4096 + 1]]).toEqual([0, 9]);
  });

  it("is copied with others from where it lies in memory that does not begin at frame 0", () => {
    const regions = [
      { firstPfn: 0, bytes: new Uint8Array(4096) },
      { firstPfn: 1, bytes: new Uint8Array(8 * 4096).map((_, i) => i % 253) },
    ];
    const { tables, dma } = machine(new KeepingBackend(), () => new BufferMemory(regions, { directWrites: true }));
    for (const [iova, gpa] of [0, 5, 3].entries()) tables.map(iova, 1, gpa);
    const expected = Buffer.concat(
      [0, 4, 2].map((page, i) =>
        i === 0 ? Buffer.alloc(4096) : regions[1]!.bytes.subarray(page * 4096, (page + 1) * 4096),
      ),
    );
    const into = new Uint8Array(3 * 4096);
    for (let i = 0; i < 3; i++) {
      into.fill(0xee);
      expect(dma.read(0, into)).toBe(true);
      expect(Buffer.compare(into, expected)).toBe(0);
      expect(dma.read(4096, into.subarray(4096).fill(0xee))).toBe(true);
      expect(Buffer.compare(into, expected)).toBe(0);
    }
  });

  it("whose writes are tracked is named for each of them, also where it is known, and no more once nobody tracks", () => {
    const { unit, bytes, dma } = machine();
    const space = unit.addressSpace(1);
    const dirty: string[] = [];
    dma.write(0, word());
    dma.write(0, word());
    space.onWrite = (iovaPfn, gpaPfn, pageCount) => dirty.push(`${iovaPfn} ${gpaPfn}+${pageCount}`);
    for (const at of [0, 8]) expect(dma.write(at, word())).toBe(true);
    expect(dirty).toEqual(["0 2048+1", "0 2048+1"]);
    space.onWrite = undefined;
    expect(dma.write(4, word())).toBe(true);
    expect(dirty).toHaveLength(2);
    expect([...bytes.subarray(2048 * 4096, 2048 * 4096 + 8)]).toEqual([1, 2, 3, 4, 1, 2, 3, 4]);
  });

  it("is asked about again after an announcement that concerns nobody who attached anything, or another domain", () => {
    const { backend, other, askedFor, dma } = machine();
    dma.read(0, word());
    void backend.invalidate(other, range(0, 1));
    expect(askedFor(() => dma.read(0, word()))).toEqual(["1 0 1"]);
  });

  it("goes where the tables say after the guest has changed and invalidated them, and nowhere when they say nothing", () => {
    const { bytes, backend, tables, dma } = machine();
    dma.write(0, word());
    tables.map(0, 1, 3000);
    void backend.invalidate(tables, range(0, 1));
    expect(dma.write(0, Uint8Array.of(9))).toBe(true);
    expect([bytes[2048 * 4096], bytes[3000 * 4096]]).toEqual([1, 9]);
    tables.unmap(0, 1);
    void backend.invalidate(tables, range(0, 1));
    expect(dma.write(0, Uint8Array.of(7))).toBe(false);
    expect(dma.failure?.cause).toBe("not mapped");
    expect(bytes[3000 * 4096]).toBe(9);
  });

  it("is refused once the device is unplugged", () => {
    const { unit, dma } = machine();
    dma.read(0, word());
    void unit.addressSpace(1).unplug();
    expect(dma.read(0, word())).toBe(false);
    expect(dma.failure?.cause).toBe("unplugged");
  });

  it("is asked about page by page where a transfer is longer than a page, each once", () => {
    const { askedFor, dma } = machine();
    const long = new Uint8Array(3 * 4096);
    expect(askedFor(() => dma.read(4000, long))).toEqual(["1 0 1", "1 1 1", "1 2 1", "1 3 1"]);
    expect(askedFor(() => dma.read(4000, long))).toEqual([]);
    expect(askedFor(() => dma.read(2 * 4096, long))).toEqual(["1 4 1"]);
  });

  it("is asked about again while a transfer is under way that makes the guest change its tables", () => {
    let written = (): void => undefined;
    const { backend, tables, bytes, askedFor, dma } = machine(new KeepingBackend(), (memory) => {
      memory.directWrites = false;
      const write = memory.write.bind(memory);
      memory.write = (gpa, from) => {
        const done = write(gpa, from);
        written();
        return done;
      };
      return memory;
    });
    const data = new Uint8Array(2 * 4096).fill(5);
    dma.write(0, data);
    written = () => {
      written = () => undefined;
      tables.map(1, 1, 3000);
      void backend.invalidate(tables, range(1, 1));
    };
    expect(askedFor(() => dma.write(0, data))).toEqual(["1 1 2"]);
    expect(bytes[3000 * 4096]).toBe(5);
    expect(askedFor(() => dma.write(0, data))).toEqual(["1 0 2", "1 1 2"]);
  });

  it("does not stand for a zero-length read, an exchange or a lease: these are asked about every time", () => {
    const { askedFor, dma } = machine();
    dma.read(0, word());
    dma.write(0, word());
    expect(askedFor(() => dma.read(0, new Uint8Array(0)))).toEqual(["1 0 0"]);
    expect(askedFor(() => dma.compareExchange(0, 0, 1))).toEqual(["1 0 3"]);
    expect(askedFor(() => dma.segments(0, 4, Access.read)?.release())).toEqual(["1 0 1"]);
  });

  it("is asked about every time where the backend promises nothing", () => {
    const { askedFor, dma } = machine(new KeepingBackend(false));
    expect(askedFor(() => [1, 2].forEach(() => dma.read(0, word())))).toEqual(["1 0 1", "1 0 1"]);
  });

  it("is copied in one piece with the rest of its block, whether it was known or not", () => {
    const backend = new KeepingBackend();
    const translate = backend.translate.bind(backend);
    backend.translate = (requester, iovaPfn, access, out) => {
      translate(requester, iovaPfn, access, out);
      out.pageCount = 4;
    };
    const lengths: number[] = [];
    const { dma } = machine(backend, (memory) => {
      memory.directWrites = false;
      const write = memory.write.bind(memory);
      memory.write = (gpa, from) => {
        lengths.push(from.length);
        return write(gpa, from);
      };
      return memory;
    });
    const long = new Uint8Array(4 * 4096);
    dma.write(4100, long);
    dma.write(4100, long);
    expect(lengths).toEqual([3 * 4096 - 4, 4096 + 4, 3 * 4096 - 4, 4096 + 4]);
  });

  it("is copied with the rest of its block, and asked about once for all of it, where the port writes straight to RAM", () => {
    const backend = new KeepingBackend();
    const translate = backend.translate.bind(backend);
    backend.translate = (requester, iovaPfn, access, out) => {
      translate(requester, iovaPfn, access, out);
      out.pageCount = iovaPfn < 4 ? 1 : 4;
    };
    const { bytes, askedFor, dma } = machine(backend);
    const long = new Uint8Array(6 * 4096).map((_, i) => i % 251);
    expect(askedFor(() => dma.write(2 * 4096 + 5, long))).toEqual(["1 2 2", "1 3 2", "1 4 2", "1 8 2"]);
    bytes.fill(0);
    expect(askedFor(() => dma.write(2 * 4096 + 5, long))).toEqual([]);
    expect(askedFor(() => dma.write(4 * 4096 + 5, long.subarray(2 * 4096, 4 * 4096)))).toEqual([]);
    expect(Buffer.compare(bytes.subarray(2050 * 4096 + 5, 2056 * 4096 + 5), long)).toBe(0);
  });

  it("stays known while as many pages as the ports remember are in use, and may be forgotten beyond", () => {
    const { askedFor, dma } = machine();
    const all = (): void => Array.from({ length: 2048 }, (_, page) => dma.write(page * 4096, word())).forEach(Boolean);
    expect(askedFor(all).length).toBe(2048);
    expect(askedFor(all)).toEqual([]);
  });
});

describe("known pages", () => {
  const step = fc.oneof(
    {
      weight: 10,
      arbitrary: fc.record({
        do: fc.constant("note" as const),
        holder: fc.nat(3),
        pfn: fc.oneof(
          fc.nat(5),
          fc.nat(3).map((n) => n * 2048),
          fc.constantFrom(2 ** 31, 2 ** 40 + 1, 2 ** 52 - 1),
        ),
        gpaPfn: fc.nat(2 ** 20),
        block: fc.constantFrom(1, 512, 2 ** 18),
      }),
    },
    { weight: 1, arbitrary: fc.record({ do: fc.constant("forget" as const) }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant("stamps" as const), count: fc.nat(3000) }) },
  );

  it("answer what was noted last for this page under this stamp, or that they do not know", () => {
    let answers = 0;
    fc.assert(
      fc.property(fc.array(step, { minLength: 10, maxLength: 60 }), (steps) => {
        const known = new KnownPages();
        let stamps = [0, 0, 0, 0];
        const model = new Map<string, string>();
        for (const one of steps) {
          if (one.do === "forget") {
            known.forget();
            model.clear();
          } else if (one.do === "stamps") {
            // Other ports take some: stamps far apart share places.
            for (let i = 0; i < one.count; i++) known.stamp();
          } else {
            stamps = stamps.map((stamp) => (known.holds(stamp) ? stamp : known.stamp()));
            const stamp = stamps[one.holder] ?? 0;
            known.note(one.pfn, stamp, one.gpaPfn * 4096, one.block);
            model.set(`${one.pfn} ${stamp}`, `${one.gpaPfn * 4096} ${one.block}`);
            expect(known.find(one.pfn, stamp)).toBeGreaterThanOrEqual(0);
          }
          for (const pfn of [0, 1, 2, 3, 4, 5, 2048, 4096, 6144, 2 ** 31, 2 ** 40 + 1, 2 ** 52 - 1]) {
            for (const stamp of stamps) {
              const record = known.find(pfn, stamp);
              if (record < 0) continue;
              answers += 1;
              expect(`${known.gpaOf(record)} ${known.blockOf(record)}`).toBe(model.get(`${pfn} ${stamp}`));
            }
          }
        }
      }),
      { numRuns: 100 },
    );
    expect(answers).toBeGreaterThan(400);
  });
});

it("knows a page under one stamp, also where another one leads to the same place", () => {
  const known = new KnownPages();
  const stamps = Array.from({ length: 2049 }, () => known.stamp());
  known.note(5, stamps[0]!, 4096, 1);
  expect(known.find(5, stamps[0]!)).toBeGreaterThanOrEqual(0);
  for (const stamp of stamps.slice(1)) expect(known.find(5, stamp)).toBe(-1);
});
