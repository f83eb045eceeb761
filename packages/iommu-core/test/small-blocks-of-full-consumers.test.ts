import { describe, expect, it } from "vitest";
import { RecordingNotifier } from "../src/testing/index.js";
import { Machine } from "./support/machine.js";

const GIB = 2 ** 18;

describe.each(["page", "block"] as const)("a consumer of small blocks under superpages (%s)", (granularity) => {
  it("that is full is offered one block of each superpage, not all of them", async () => {
    for (const capacity of [0, 3]) {
      const machine = new Machine();
      machine.tables.map(0, 64 * GIB, 0);
      const notifier = new RecordingNotifier({ granularity, largestBlock: 512, capacity });
      const attachment = machine.nicSpace.attach(notifier);
      await machine.scheduler.idle();
      expect(notifier.pageCount).toBe(capacity * 512);
      expect(attachment.refusedPages).toBe(64 * GIB - capacity * 512);
      expect(notifier.calls.filter(({ type }) => type === "map").length).toBeLessThanOrEqual(capacity + 64);
      notifier.check();
    }
  });

  it("is offered what it refused once it has room, block by block", async () => {
    const machine = new Machine();
    machine.tables.map(0, GIB, 0);
    const notifier = new RecordingNotifier({ granularity, largestBlock: 512, capacity: 3 });
    const attachment = machine.nicSpace.attach(notifier);
    await machine.scheduler.idle();
    notifier.capacity = Infinity;
    attachment.retry();
    await machine.scheduler.idle();
    expect(notifier.pageCount).toBe(GIB);
    expect(attachment.refusedPages).toBe(0);
    notifier.check();
  });

  it("holds no more blocks than a view may have mappings: the rest counts as refused, and an unmap makes room for it", async () => {
    for (const answers of ["sync", "microtask"] as const) {
      const machine = new Machine({ limits: { mappingsPerView: 100 } });
      machine.tables.map(0, 64 * 512, 0);
      const notifier = new RecordingNotifier({ granularity, largestBlock: 4, answers });
      const refused = machine.watch("refused");
      const attachment = machine.nicSpace.attach(notifier);
      await machine.scheduler.idle();
      expect(notifier.pageCount).toBe(400);
      expect(attachment.refusedPages).toBe(64 * 512 - 400);
      expect(notifier.calls.filter(({ type }) => type === "map")).toHaveLength(100);
      expect(refused.length).toBeLessThanOrEqual(64);
      machine.tables.unmap(0, 64 * 512);
      machine.tables.map(2 ** 20, 8, 7);
      void machine.invalidate();
      await machine.scheduler.idle();
      expect(notifier.held()).toEqual([{ iovaPfn: 2 ** 20, pageCount: 8, gpaPfn: 7, access: 3 }]);
      expect(attachment.refusedPages).toBe(0);
      notifier.check();
    }
  });
});
