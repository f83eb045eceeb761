import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Access, type Backend, BackendIommu, type MessageWindow, type Requester, Translation } from "../src/index.js";
import { FakeMemory, PageTables } from "../src/testing/index.js";
import { Machine, range } from "./support/machine.js";
import { TableBackend, TableDomain } from "./support/table-backend.js";

function bytes(length: number, seed = 1): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (i * 31 + seed) & 0xff);
}

describe("the DMA port", () => {
  it("reads and writes across pages that lie apart in guest memory", () => {
    const machine = new Machine();
    machine.tables.map(0, 1, 50);
    machine.tables.map(1, 1, 10);
    machine.tables.map(2, 1, 99);
    const { dma } = machine.nicSpace;
    const data = bytes(9000);
    expect(dma.write(100, data)).toBe(true);
    const first = new Uint8Array(3996);
    machine.memory.read(50 * 4096 + 100, first);
    expect(first).toEqual(data.subarray(0, 3996));
    const second = new Uint8Array(4096);
    machine.memory.read(10 * 4096, second);
    expect(second).toEqual(data.subarray(3996, 8092));
    const all = new Uint8Array(9000);
    expect(dma.read(100n, all)).toBe(true);
    expect(all).toEqual(data);
    expect(dma.failure).toBeUndefined();
  });

  it("equals a copy of single bytes, each translated on its own", () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.record({ iova: fc.nat(7), gpa: fc.integer({ min: 8, max: 30 }), access: fc.constantFrom(1, 2, 3) }),
        ),
        fc.array(
          fc.record({
            at: fc.nat(32_000),
            length: fc.integer({ min: 1, max: 9000 }),
            seed: fc.nat(255),
            isWrite: fc.boolean(),
          }),
          { maxLength: 5 },
        ),
        fc.boolean(),
        (maps, requests, windows) => {
          const machine = new Machine({ memory: new FakeMemory({ windows }) });
          const page = new Map<number, { gpa: number; access: number }>();
          for (const { iova, gpa, access } of maps) {
            machine.tables.map(iova, 1, gpa, access);
            page.set(iova, { gpa, access });
          }
          const model = new Uint8Array(31 * 4096);
          const { dma } = machine.nicSpace;
          for (const { at, length, seed, isWrite } of requests) {
            const data = bytes(length, seed);
            const expected = data.slice();
            let done = true;
            for (let i = 0; i < length && done; i++) {
              const target = page.get(Math.floor((at + i) / 4096));
              done = target !== undefined && (target.access & (isWrite ? 2 : 1)) !== 0;
              if (!done || target === undefined) break;
              const gpa = target.gpa * 4096 + ((at + i) % 4096);
              if (isWrite) model[gpa] = data[i]!;
              else expected[i] = model[gpa]!;
            }
            expect(isWrite ? dma.write(at, data) : dma.read(at, data)).toBe(done);
            if (!isWrite && done) expect(Buffer.compare(data, expected)).toBe(0);
          }
          const memory = new Uint8Array(31 * 4096);
          machine.memory.read(0, memory);
          expect(Buffer.compare(memory, model)).toBe(0);
        },
      ),
      { numRuns: 60 },
    );
  });

  it("asks once for a large page, from wherever in it the transfer starts, and again behind its end", () => {
    const memory = new FakeMemory();
    const tables = new PageTables(memory);
    tables.map(512, 512, 1024, 3, 512);
    tables.map(1024, 1, 5);
    const backend = new TableBackend(new TableDomain("tables", tables));
    const { dma } = new BackendIommu({ backend, memory }).addressSpace(0);
    let translations = 0;
    const translate = backend.translate.bind(backend);
    backend.translate = (...request) => {
      translations += 1;
      translate(...request);
    };
    const data = bytes(3 * 4096);
    expect(dma.write(1022 * 4096, data)).toBe(true);
    expect(translations).toBe(2);
    const written = new Uint8Array(2 * 4096);
    memory.read((1024 + 510) * 4096, written);
    expect(Buffer.compare(written, data.subarray(0, 2 * 4096))).toBe(0);
    const behind = new Uint8Array(4096);
    memory.read(5 * 4096, behind);
    expect(Buffer.compare(behind, data.subarray(2 * 4096))).toBe(0);
  });

  it("ends a copy of a larger page's frames at the message window within it, and goes on behind the window", () => {
    const memory = new FakeMemory({ ram: [range(0, 2 ** 20)] });
    const tables = new PageTables(memory);
    // 1 GiB, with the addresses of messages in its last part.
    tables.map(0xc0000, 2 ** 18, 0x40000, 3, 2 ** 18);
    const messages: string[] = [];
    const window: MessageWindow = {
      range: range(0xfee00, 0x100),
      write: (_requester, address, data) => messages.push(`${address.toString(16)}+${data.length}`) > 0,
      read: () => false,
    };
    const backend = Object.assign(new TableBackend(new TableDomain("tables", tables)), {
      messageWindowOf: () => window,
    });
    const { dma } = new BackendIommu({ backend, memory }).addressSpace(0);
    const written = (pfn: number): Uint8Array => {
      const page = new Uint8Array(4096);
      memory.read((pfn - 0xc0000 + 0x40000) * 4096, page);
      return page;
    };
    const data = bytes(3 * 4096);
    expect(dma.write(0xfedfe * 4096, data)).toBe(true);
    expect(messages.splice(0)).toEqual(["fee00000+4096"]);
    expect([0xfedfe, 0xfedff, 0xfee00].map((pfn) => Buffer.compare(written(pfn), new Uint8Array(4096)))).toEqual([
      1, 1, 0,
    ]);
    expect(Buffer.compare(written(0xfedff), data.subarray(4096, 2 * 4096))).toBe(0);
    expect(dma.write(0xfef00 * 4096, data)).toBe(true);
    for (const i of [0, 1, 2])
      expect(Buffer.compare(written(0xfef00 + i), data.subarray(i * 4096, (i + 1) * 4096))).toBe(0);
    expect(messages).toEqual([]);
  });

  it("takes a negative address, as bit operations on a high one make it, for a mistake of the device model: nothing is asked, and the error says what to write", () => {
    const machine = new Machine();
    const { nicSpace } = machine;
    machine.tables.map(0, 4, 0x10);
    const { dma } = nicSpace;
    const mistake = expect.objectContaining({
      code: "bad-range",
      message: expect.stringContaining("00:03.0") as string,
      hint: expect.stringContaining(">>> 0") as string,
    }) as Error;
    for (const iova of [-1, -4096, 0xfee0_0000 | 0, Number.NaN, Number.NEGATIVE_INFINITY]) {
      expect(() => dma.read(iova, new Uint8Array(4))).toThrow(mistake);
      expect(() => dma.read(iova, new Uint8Array(0))).toThrow(mistake);
      expect(() => dma.write(iova, new Uint8Array(4))).toThrow(mistake);
      expect(() => dma.segments(iova, 64, Access.read)).toThrow(mistake);
      expect(() => nicSpace.translate(Math.floor(iova / 4096), Access.read, new Translation())).toThrow(mistake);
    }
    expect(() => dma.compareExchange(-4096, 0, 1)).toThrow(mistake);
    expect(dma.failure).toBeUndefined();
  });

  it("refuses what lies beyond the 64-bit space: a guest's buffer may end there", () => {
    const machine = new Machine();
    const { dma } = machine.nicSpace;
    machine.tables.map(2 ** 52 - 1, 1, 0x10);
    expect(dma.write(2n ** 64n - 16n, new Uint8Array(16))).toBe(true);
    expect(dma.write(2n ** 64n - 16n, new Uint8Array(32))).toBe(false);
    expect(dma.failure?.iovaPfn).toBe(2 ** 52);
    expect(dma.read(2 ** 64, new Uint8Array(4))).toBe(false);
  });

  it("tells the backend the byte where a request begins, and of further pages only the page", () => {
    const machine = new Machine();
    machine.tables.map(0, 2, 50);
    const seen: unknown[] = [];
    const backend: Backend = machine.backend;
    const translate = backend.translate.bind(backend);
    backend.translate = (requester, iovaPfn, access, out, address) => {
      seen.push([iovaPfn, address]);
      translate(requester, iovaPfn, access, out);
    };
    machine.nicSpace.dma.read(4090, bytes(10));
    machine.nicSpace.dma.read(4100n, bytes(0));
    machine.nicSpace.translate(1, Access.read, new Translation());
    machine.nicSpace.dma.segments(10, 4096, Access.read)?.release();
    expect(seen).toEqual([
      [0, 4090],
      [1, undefined],
      [1, 4100n],
      [1, undefined],
      [0, 10],
      [1, undefined],
    ]);
  });

  it("writes the pages before the one that is refused, and says which that is", () => {
    const machine = new Machine();
    machine.tables.map(0, 1, 50);
    machine.tables.map(1, 1, 51, Access.read);
    const { dma } = machine.nicSpace;
    expect(dma.write(4090, bytes(10))).toBe(false);
    expect(dma.failure).toEqual({ iovaPfn: 1, reason: 3, cause: "no right" });
    const written = new Uint8Array(6);
    machine.memory.read(50 * 4096 + 4090, written);
    expect(written).toEqual(bytes(6));
  });

  it("answers false where a good translation ends outside RAM", () => {
    const machine = new Machine({ memory: new FakeMemory({ ram: [range(0, 100)] }) });
    machine.tables.map(0, 2, 99);
    const { dma } = machine.nicSpace;
    expect(dma.read(4000, new Uint8Array(200))).toBe(false);
    expect(dma.failure).toEqual({ iovaPfn: 1, reason: 0, cause: "no memory at the target" });
  });

  it("asks for no right in a zero-length read, and reaches no memory", () => {
    const machine = new Machine();
    machine.tables.map(0, 1, 50, Access.write);
    machine.memory.resetCounters();
    const { dma } = machine.nicSpace;
    expect(dma.read(0, new Uint8Array(0))).toBe(true);
    expect(dma.failure).toBeUndefined();
    expect(dma.read(4096, new Uint8Array(0))).toBe(false);
    expect(dma.failure).toMatchObject({ iovaPfn: 1 });
    expect(dma.write(4096, new Uint8Array(0))).toBe(true);
    expect(machine.memory.counters.reads).toBe(0);
  });

  it("handles scatter lists up to the first piece that is refused", () => {
    const machine = new Machine();
    machine.tables.map(0, 1, 50);
    const { dma } = machine.nicSpace;
    const pieces = [
      { iova: 10, bytes: bytes(4, 1) },
      { iova: 8192, bytes: bytes(4, 2) },
      { iova: 30n, bytes: bytes(4, 3) },
    ];
    expect(dma.writeScattered(pieces)).toBe(false);
    expect(dma.writeScattered([pieces[0]!, pieces[2]!])).toBe(true);
    const back = [
      { iova: 10, bytes: new Uint8Array(4) },
      { iova: 30, bytes: new Uint8Array(4) },
    ];
    expect(dma.readScattered(back)).toBe(true);
    expect(back.map((piece) => piece.bytes)).toEqual([bytes(4, 1), bytes(4, 3)]);
  });

  it("compares and exchanges a word only with both rights", () => {
    const machine = new Machine();
    machine.tables.map(0, 1, 50);
    machine.tables.map(1, 1, 51, Access.read);
    machine.tables.map(2, 1, 52, Access.write);
    machine.memory.poke(50 * 4096 + 8, 7);
    const { dma } = machine.nicSpace;
    expect(dma.compareExchange(8, 7, 9)).toBe(true);
    expect(dma.compareExchange(8, 7, 11)).toBe(false);
    expect(machine.memory.peek(50 * 4096 + 8)).toBe(9);
    expect(dma.compareExchange(4096, 0, 1)).toBeUndefined();
    expect(dma.compareExchange(8192, 0, 1)).toBeUndefined();
    expect(dma.failure).toMatchObject({ iovaPfn: 2 });
  });

  it("takes words signed or unsigned, and gives memory signed ones", () => {
    const machine = new Machine();
    machine.tables.map(0, 1, 50);
    machine.memory.poke(50 * 4096, -7);
    const given: number[] = [];
    const exchange = machine.memory.compareExchange.bind(machine.memory);
    machine.memory.compareExchange = (gpa, expected, replacement) => {
      given.push(expected, replacement);
      return exchange(gpa, expected, replacement);
    };
    const { dma } = machine.nicSpace;
    expect(dma.compareExchange(0, -7 >>> 0, 0x8000_0000)).toBe(true);
    expect(dma.compareExchange(0, -(2 ** 31), 3)).toBe(true);
    expect(given).toEqual([-7, -(2 ** 31), -(2 ** 31), 3]);
  });

  it("refuses to exchange what is no aligned word of memory, and says so: it is not a mismatch", () => {
    const machine = new Machine({ memory: new FakeMemory({ ram: [range(0, 100)] }) });
    const window: MessageWindow = { range: range(0xfee00, 0x100), write: () => true, read: () => true };
    Object.assign(machine.backend, { messageWindowOf: () => window });
    machine.tables.map(0, 1, 50);
    machine.tables.map(1, 1, 5000);
    machine.memory.poke(50 * 4096 + 8, 7);
    const { dma } = machine.nicSpace;
    for (const iova of [9, 10, 11, 10n, 4094]) {
      expect(dma.compareExchange(iova, 7, 9), String(iova)).toBeUndefined();
      expect(dma.failure).toEqual({ iovaPfn: 0, reason: 0, cause: "not aligned" });
    }
    expect(machine.memory.peek(50 * 4096 + 8)).toBe(7);
    expect(dma.compareExchange(4096, 0, 1)).toBeUndefined();
    expect(dma.failure).toEqual({ iovaPfn: 1, reason: 0, cause: "no memory at the target" });
    expect(dma.compareExchange(0xfee00000, 0, 1)).toBeUndefined();
    expect(dma.failure).toEqual({ iovaPfn: 0xfee00, reason: 0, cause: "messages cannot be exchanged" });
    expect(dma.compareExchange(8, 8, 9)).toBe(false);
    expect(dma.compareExchange(8, 7, 9)).toBe(true);
  });

  it("tells who tracks dirty pages of every page written, compare and exchange included", () => {
    const machine = new Machine();
    machine.tables.map(0, 4, 50);
    const dirty: string[] = [];
    const space = machine.nicSpace;
    space.onWrite = (iovaPfn, gpaPfn, pageCount) => dirty.push(`${iovaPfn} ${gpaPfn}+${pageCount}`);
    space.dma.write(4090, bytes(10));
    expect(dirty.splice(0)).toEqual(["0 50+1", "1 51+1"]);
    space.dma.read(0, bytes(10));
    expect(dirty).toEqual([]);
    space.dma.compareExchange(8192, 0, 1);
    expect(dirty.splice(0)).toEqual(["2 52+1"]);
    space.dma.compareExchange(8192, 0, 1);
    expect(dirty).toEqual([]);
  });

  it("joins the pieces of a lease that touch, and splits it at message addresses", () => {
    const machine = new Machine();
    machine.tables.map(0, 2, 50);
    machine.tables.map(2, 1, 10);
    const lease = machine.nicSpace.dma.segments(0xffe, 0x1004, Access.read)!;
    expect(lease.segments).toEqual([
      { gpa: 50 * 4096 + 0xffe, byteLength: 0x1002 },
      { gpa: 10 * 4096, byteLength: 2 },
    ]);
    lease.release();
    expect(machine.nicSpace.dma.segments(0, 0, Access.read)?.segments).toEqual([]);
    for (const length of [-5, Number.NaN, 0.5, Infinity])
      expect(() => machine.nicSpace.dma.segments(0x1000, length, Access.read)).toThrow(/number of bytes .*, got/);
    expect(() => machine.nicSpace.dma.segments(0x1000, 4, Access.none)).toThrow(/got Access.none/);
  });
});

describe("a read of RAM that the host shows", () => {
  it("does not go through the memory port, and sees what is there now", () => {
    const memory = new FakeMemory({ windows: true });
    const machine = new Machine({ memory });
    machine.tables.map(0, 2, 40);
    machine.tables.map(2, 1, 3);
    const { dma } = machine.nicSpace;
    dma.write(0, bytes(3 * 4096));
    const into = new Uint8Array(5000);
    memory.resetCounters();
    expect(dma.read(4000, into)).toBe(true);
    expect(into).toEqual(bytes(3 * 4096).subarray(4000, 9000));
    expect(memory.counters.reads).toBe(0);
    dma.write(4000, bytes(10, 77));
    expect(dma.read(4000, into) && into.subarray(0, 10)).toEqual(bytes(10, 77));
  });

  it("goes through the port again when the host has taken the window back", () => {
    const memory = new FakeMemory({ windows: true });
    const machine = new Machine({ memory });
    machine.tables.map(0, 2, 40);
    const { dma } = machine.nicSpace;
    dma.write(0, bytes(8192));
    const into = new Uint8Array(4);
    expect(dma.read(0, into)).toBe(true);
    memory.poison(40);
    expect(dma.read(0, into)).toBe(false);
    expect(dma.failure).toMatchObject({ iovaPfn: 0, cause: "no memory at the target" });
    expect(dma.read(4096, into) && into).toEqual(bytes(8192).subarray(4096, 4100));
    memory.heal(40);
    expect(dma.read(0, into) && into).toEqual(bytes(4));
  });

  it("that runs over the end of RAM is refused", () => {
    const memory = new FakeMemory({ windows: true, ram: [range(0, 32)] });
    const machine = new Machine({ memory });
    machine.tables.map(0, 4, 30);
    const { dma } = machine.nicSpace;
    expect(dma.read(0, new Uint8Array(8192))).toBe(true);
    expect(dma.read(4096, new Uint8Array(4097))).toBe(false);
    expect(dma.failure?.iovaPfn).toBe(2);
  });
});

describe("a message window", () => {
  it("takes the requests of those who have it to its range, splits transfers at its edge, and is never leased", () => {
    const seen: string[] = [];
    const messageWindow: MessageWindow = {
      range: range(0xfee00, 0x100),
      write: (requester, address, data) => {
        seen.push(`${requester.sourceId} ${address.toString(16)} ${data.join(",")}`);
        return data.length === 4;
      },
      read: () => false,
    };
    const machine = new Machine();
    Object.assign(machine.backend, {
      messageWindowOf: ({ pasid }: Requester) => (pasid === undefined ? messageWindow : undefined),
    });
    machine.tables.map(0xfedff, 2, 0x1000);
    const { dma } = machine.nicSpace;
    expect(dma.write(0xfee00000, Uint8Array.of(1, 2, 3, 4))).toBe(true);
    expect(dma.write(0xfedffffe, Uint8Array.of(1, 2, 3, 4, 5, 6))).toBe(true);
    expect(seen).toEqual(["24 fee00000 1,2,3,4", "24 fee00000 3,4,5,6"]);
    expect(dma.write(0xfee00000, Uint8Array.of(1))).toBe(false);
    expect(dma.failure).toMatchObject({ reason: 0, cause: "message refused" });
    expect(dma.read(0xfee00000, new Uint8Array(4))).toBe(false);
    expect(dma.segments(0xfee00000, 4, Access.read)).toBeUndefined();
    expect(machine.unit.addressSpace(machine.nic, { pasid: 1 }).dma.read(0xfee00000, new Uint8Array(1))).toBe(true);
    expect(dma.write(0xfeeffffc, Uint8Array.of(5, 6, 7, 8))).toBe(true);
    expect(seen.at(-1)).toBe("24 feeffffc 5,6,7,8");
    seen.length = 0;
    // The page behind it is memory again.
    machine.tables.map(0xfef00, 1, 0x1002);
    expect(dma.write(0xfef00000, Uint8Array.of(1, 2, 3, 4))).toBe(true);
    expect(seen).toEqual([]);
  });

  it("asks for no right in a zero-length read, and refuses what is not a message", () => {
    const machine = new Machine();
    const read: number[] = [];
    Object.assign(machine.backend, {
      messageWindowOf: () => ({
        range: range(0xfee00, 0x100),
        write: () => false,
        read: (_requester: Requester, address: number, into: Uint8Array) => {
          read.push(address);
          return into.length === 4;
        },
      }),
    });
    const { dma } = machine.nicSpace;
    expect(dma.read(0xfee00000, new Uint8Array(0))).toBe(true);
    expect(read).toEqual([]);
    expect(dma.read(0xfee00010, new Uint8Array(4))).toBe(true);
    expect(read).toEqual([0xfee00010]);
    expect(dma.compareExchange(0xfee00000, 0, 1)).toBeUndefined();
    expect(dma.failure).toEqual({ iovaPfn: 0xfee00, reason: 0, cause: "message refused" });
    expect(dma.segments(0xfedff000, 8192, Access.read)).toBeUndefined();
    machine.tables.map(0xfedff, 1, 1);
    expect(dma.segments(0xfedff000, 8192, Access.read)).toBeUndefined();
    expect(dma.failure).toEqual({ iovaPfn: 0xfee00, reason: 0, cause: "messages cannot be leased" });
  });
});

describe("a listener of faults", () => {
  it("may make requests of its own, through the same port or with the same answer: the refusal stays what it was", () => {
    const machine = new Machine();
    machine.tables.map(0, 2, 50, Access.read);
    const { nicSpace: space } = machine;
    const out = new Translation();
    const seen: unknown[] = [];
    space.events.on("fault", ({ access }) => {
      if (access !== Access.write) return;
      seen.push(space.dma.read(0, new Uint8Array(4)), space.dma.read(9 * 4096, new Uint8Array(4)));
      seen.push(space.dma.failure?.iovaPfn, space.translate(1, Access.read, out));
    });
    expect(space.dma.write(4096, bytes(4))).toBe(false);
    expect(space.dma.failure).toEqual({ iovaPfn: 1, reason: 3, cause: "no right" });
    expect(space.dma.segments(4096, 4, Access.write)).toBeUndefined();
    expect(space.dma.failure).toEqual({ iovaPfn: 1, reason: 3, cause: "no right" });
    expect(space.translate(1, Access.write, out)).toBe(false);
    expect(out).toMatchObject({ reason: 3, cause: "no right", access: Access.none });
    expect(seen.slice(0, 4)).toEqual([true, false, 9, true]);
  });
});
