import { describe, expect, it } from "vitest";
import { RecordingNotifier } from "../src/testing/index.js";
import { Machine } from "./support/machine.js";

describe("consumers of small blocks under superpages", () => {
  for (const granularity of ["page", "block"] as const) {
    it(`are told no more of a superpage in one call than a slice allows, as ${granularity} consumers`, async () => {
      const machine = new Machine({ limits: { mappingsPerSlice: 100 } });
      const notifier = new RecordingNotifier({ granularity, largestBlock: 16 });
      machine.nicSpace.attach(notifier);
      machine.tables.map(2 ** 18, 2 ** 18, 0x100000);
      const perCall: number[] = [];
      const note = (): void => void perCall.push(notifier.calls.splice(0).length);
      void machine.invalidate();
      note();
      for (; machine.scheduler.turn() > 0; note());
      expect(notifier.pageCount).toBe(2 ** 18);
      machine.tables.unmap(2 ** 18, 2 ** 18);
      machine.unit.hub.queue.beginSlice();
      void machine.invalidate();
      note();
      for (; machine.scheduler.turn() > 0; note());
      await machine.scheduler.idle();
      expect(notifier.pageCount).toBe(0);
      // A table of 512 frames is finished once it is begun.
      expect(Math.max(...perCall)).toBeLessThanOrEqual(100 + 512 + 2);
      notifier.check();
    });
  }
});
