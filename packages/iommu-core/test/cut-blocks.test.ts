import { describe, expect, it } from "vitest";
import { BackendIommu, sourceId } from "../src/index.js";
import { FakeMemory, ManualScheduler, PageTables, RecordingNotifier } from "../src/testing/index.js";
import { Machine, range, run } from "./support/machine.js";
import { TableBackend, TableDomain } from "./support/table-backend.js";

const GIB = 2 ** 18;
const DEVICE = sourceId(0, 1, 0);
const OTHER = sourceId(0, 2, 0);
/** Of a cut block, so many mappings are put back each as it is: three tables of them. */
const EACH = 3 * 512;

/** A block consumer that holds 1 GiB as one block, although its tables now map it in smaller leaves that say the same. */
async function blockOverSmallLeaves(pages: readonly number[]) {
  const memory = new FakeMemory();
  const large = new PageTables(memory);
  const small = new PageTables(memory, { firstTablePfn: 0x8000 });
  large.map(0, GIB, GIB, 3, GIB);
  small.map(0, GIB, GIB, 3, GIB);
  for (const first of pages) small.map(first, 512, GIB + first);
  const there = new TableDomain("large", large);
  const here = new TableDomain("small", small);
  const backend = new TableBackend(here);
  const scheduler = new ManualScheduler();
  const unit = new BackendIommu({ backend, memory, scheduler });
  // Keeps the view of the small leaves alive.
  unit.addressSpace(OTHER).attach(new RecordingNotifier());
  void backend.assign(DEVICE, there);
  const space = unit.addressSpace(DEVICE);
  const notifier = new RecordingNotifier({ granularity: "block" });
  space.attach(notifier);
  void backend.assign(DEVICE, here);
  await scheduler.idle();
  expect(notifier.take()).toEqual([`map 0x0+${GIB} -> 0x40000 rw`]);
  const windows: string[] = [];
  space.events.on("window", ({ iovaPfn, pageCount }) => windows.push(`${iovaPfn}+${pageCount}`));
  const cut = async (pfn: number): Promise<number> => {
    small.unmap(pfn, 1);
    void backend.invalidate(range(pfn, 1));
    await scheduler.idle();
    notifier.check();
    expect(notifier.held()).toEqual([run(0, pfn, GIB), run(pfn + 1, GIB - pfn - 1, GIB + pfn + 1)]);
    expect(windows).toEqual([`0+${pfn}`, `${pfn + 1}+${GIB - pfn - 1}`]);
    return notifier.take().length - 1;
  };
  return { cut };
}

describe("a block that came from other tables than those that cut it", () => {
  it("is put back as these map it, where that is not too many calls", async () => {
    const { cut } = await blockOverSmallLeaves([1024, 2048]);
    // 510 leaves of 2 MiB, and the pages of two.
    expect(await cut(1100)).toBe(510 + 1024 - 1);
  });

  it.each([1, 1537, 2500])(
    "is put back in blocks as large as can be behind so many mappings: cut at %d",
    async (at) => {
      const { cut } = await blockOverSmallLeaves([0, 512, 1024, 1536, 2048, 2560]);
      const calls = await cut(at);
      expect(calls).toBeGreaterThanOrEqual(EACH);
      // Each of the two sides ends in runs, whose blocks are of ascending and descending size.
      expect(calls).toBeLessThanOrEqual(EACH + 2 * 2 * 18);
    },
  );
});

describe("frames that a block consumer refused", () => {
  const even = (gpaPfn: number): boolean => gpaPfn % 2 === 0;

  it("are offered with their new targets when they change, wherever they lie among those it holds", () => {
    for (const replace of [false, true]) {
      for (const refused of [[], [0], [1], [3], [0, 3], [1, 2], [0, 1, 2, 3]]) {
        const machine = new Machine();
        for (let pfn = 0; pfn < 4; pfn++) machine.tables.map(pfn, 1, 100 + pfn * 10 + (refused.includes(pfn) ? 1 : 0));
        const notifier = new RecordingNotifier({ granularity: "block", replace, supports: even });
        const attachment = machine.nicSpace.attach(notifier);
        const seen = machine.watch("window", "refused");
        expect([attachment.heldPages, attachment.refusedPages]).toEqual([4 - refused.length, refused.length]);
        for (let pfn = 0; pfn < 4; pfn++) machine.tables.map(pfn, 1, 200 + pfn * 10);
        void machine.invalidate();
        expect(notifier.held()).toEqual([0, 1, 2, 3].map((pfn) => run(pfn, 1, 200 + pfn * 10)));
        expect([attachment.heldPages, attachment.refusedPages]).toEqual([4, 0]);
        // What it did not hold was not taken from it.
        const held = [0, 1, 2, 3].filter((pfn) => !refused.includes(pfn));
        const windows = held.map((pfn) => `window iovaPfn=${pfn} pageCount=1`);
        expect(seen).toEqual(replace ? [] : windows);
        attachment.retry();
        expect(notifier.pageCount).toBe(4);
        notifier.check();
      }
    }
  });

  it("stay refused where they do not change", () => {
    const machine = new Machine();
    for (const pfn of [8, 10, 20, 30]) machine.tables.map(pfn, 1, 101 + pfn);
    const notifier = new RecordingNotifier({ granularity: "block", supports: even });
    const attachment = machine.nicSpace.attach(notifier);
    expect(attachment.refusedPages).toBe(4);
    machine.tables.map(10, 1, 51);
    void machine.invalidate();
    expect([attachment.heldPages, attachment.refusedPages]).toEqual([0, 4]);
    machine.tables.map(10, 1, 50);
    void machine.invalidate();
    expect([attachment.heldPages, attachment.refusedPages]).toEqual([1, 3]);
  });
});
