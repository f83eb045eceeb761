import { describe, expect, it } from "vitest";
import type { Access, MapAnswer } from "../src/index.js";
import { RecordingNotifier, SimpleDomain } from "../src/testing/index.js";
import { CountedShadow } from "./support/counted-shadow.js";
import { Machine, range } from "./support/machine.js";

const GIB = 2 ** 18;
const BLOCK = 32;
const SLICE = 100;
/** Begins and ends within a block. */
const RANGE = range(1000, 2 ** 15 + 500);

/** Takes every other block only, by where it goes. */
class PickyShadow extends CountedShadow {
  odd = false;

  override map(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): MapAnswer {
    const answer = super.map(iovaPfn, pageCount, gpaPfn, access);
    if ((Math.floor(gpaPfn / BLOCK) % 2 === 1) === this.odd) return answer;
    void super.unmap(iovaPfn, pageCount);
    return "unsupported";
  }
}

describe("a consumer that refuses every other block of a superpage", () => {
  for (const granularity of ["page", "block"] as const) {
    it(`is told in slices, neither longer nor many more than it takes, that all of it changes and goes (${granularity})`, async () => {
      const machine = new Machine({ limits: { mappingsPerSlice: SLICE } });
      const shadow = new PickyShadow({ granularity, largestBlock: BLOCK }, GIB);
      const turns = async (act: () => unknown): Promise<number[]> => {
        machine.unit.hub.queue.beginSlice();
        act();
        const calls = [shadow.takeCalls()];
        while (machine.scheduler.turn() > 0) calls.push(shadow.takeCalls());
        await machine.scheduler.idle();
        return calls;
      };
      const held = (target: number): number => {
        let pages = 0;
        for (let pfn = 0; pfn < GIB; pfn++) {
          const inRange = pfn >= RANGE.firstPfn && pfn < RANGE.firstPfn + RANGE.pageCount;
          const isTaken = (Math.floor((target + pfn) / BLOCK) % 2 === 1) === shadow.odd;
          const wanted = inRange && isTaken ? (target + pfn) * 4 + 3 : 0;
          if (wanted !== 0) pages += 1;
          if (shadow.pages[pfn] !== wanted) return -pfn;
        }
        return pages;
      };
      machine.tables.map(0, GIB, GIB);
      let attachment = machine.nicSpace.attachments[0];
      await turns(() => (attachment = machine.nicSpace.attach(shadow, { range: RANGE })));
      expect(held(GIB)).toBe(attachment?.heldPages);
      expect(attachment?.refusedPages).toBe(RANGE.pageCount - shadow.heldPages);

      // What was refused is offered, and the other half is refused: those it holds go one by one, and so do those it gets.
      shadow.odd = true;
      machine.tables.map(0, GIB, 2 * GIB);
      const changed = await turns(() => machine.invalidate());
      expect(held(2 * GIB)).toBe(attachment?.heldPages);
      expect(Math.max(...changed)).toBeLessThanOrEqual(SLICE + 4 * 512);

      machine.tables.unmap(0, GIB);
      const gone = await turns(() => machine.invalidate());
      expect([shadow.heldPages, attachment?.heldPages, attachment?.refusedPages]).toEqual([0, 0, 0]);
      expect(Math.max(...gone)).toBeLessThanOrEqual(SLICE + 512);
      // Half a thousand blocks go, a hundred or more in each turn.
      expect(gone.filter((calls) => calls > 0).length).toBeLessThanOrEqual(8);
      expect(shadow.breaches).toEqual([]);
    });
  }
});

describe("a consumer that refused every other page of what is a superpage in another domain", () => {
  it("is told in slices that the superpage goes elsewhere, and that it goes", async () => {
    const PAGES = 1100;
    const machine = new Machine({ limits: { mappingsPerSlice: 10 } });
    const small = new SimpleDomain("small");
    machine.tables.map(0, GIB, GIB);
    // Keeps the view of the superpage alive.
    machine.diskSpace.attach(new RecordingNotifier());
    await machine.backend.assign(machine.nic, small);
    const picky = new RecordingNotifier({ supports: (gpaPfn) => gpaPfn % 2 === 1 || gpaPfn >= GIB + PAGES });
    const attachment = machine.nicSpace.attach(picky);
    for (let pfn = 0; pfn < PAGES; pfn++) {
      small.map(pfn, 1, GIB + pfn);
      void machine.backend.invalidate(small, range(pfn, 1));
    }
    await machine.scheduler.idle();
    await Promise.all([machine.backend.assign(machine.nic, machine.tables), machine.scheduler.idle()]);
    expect([attachment.heldPages, attachment.refusedPages]).toEqual([GIB - PAGES / 2, PAGES / 2]);
    picky.take();
    machine.tables.unmap(0, GIB);
    machine.unit.hub.queue.beginSlice();
    void machine.invalidate();
    const calls = [picky.take().length];
    while (machine.scheduler.turn() > 0) calls.push(picky.take().length);
    await machine.scheduler.idle();
    picky.check();
    expect([picky.pageCount, attachment.heldPages, attachment.refusedPages]).toEqual([0, 0, 0]);
    const turns = calls.filter((count) => count > 0);
    // Half of a table's refused runs, and what is held between them, are one step.
    expect(Math.max(...turns)).toBeLessThanOrEqual(256 + 10);
    expect(turns.length).toBeLessThanOrEqual(60);
  });
});
