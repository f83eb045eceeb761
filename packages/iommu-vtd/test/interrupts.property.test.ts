/**
 * Cached interrupt entries against none: a unit that decodes an entry once and a unit that reads the table each time send the same messages and record the same faults.
 */

import type { MsiMessage } from "@iommu-kit/iommu-core";
import { GuestDriver, remappableMessage } from "@iommu-kit/iommu-vtd/testing";
import fc from "fast-check";
import { describe, expect, it } from "vitest";

const IRE = 0x0200_0000;
const CFI = 0x0080_0000;

/** Six functions of two devices, on both sides of a bus range. */
const requester = fc.constantFrom(undefined, 0x18, 0x19, 0x1c, 0x118, 0x218);
const index = fc.oneof(
  { weight: 6, arbitrary: fc.integer({ min: 0, max: 3 }) },
  { weight: 1, arbitrary: fc.constantFrom(4, 5, 0xff, 0x100, 0x8001, 0xffff) },
);
const entry = fc.record({
  V: fc.integer({ min: 16, max: 20 }),
  DST: fc.constantFrom(0x100, 0x700, 0x200, 0x300, 0x1_0000),
  DLM: fc.constantFrom(0, 0, 0, 0, 1, 1, 3),
  SVT: fc.constantFrom(0, 1, 1, 1, 2, 2, 2, 3),
  SQ: fc.integer({ min: 0, max: 3 }),
  SID: fc.constantFrom(0x18, 0x1c, 0x0102, 0x0101, 0x0000),
  FPD: fc.constantFrom(0, 0, 1),
});
const command = fc.oneof(
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant("write" as const),
      index,
      kind: fc.constantFrom("remapped", "remapped", "posted", "clear"),
      entry,
      wide: fc.boolean(),
    }),
  },
  {
    weight: 12,
    arbitrary: fc.record({
      do: fc.constant("send" as const),
      requester,
      index,
      subhandle: fc.constantFrom(undefined, undefined, 0, 1, 0x1_0001),
      high: fc.constantFrom(0, 0, 0, 1),
      compatible: fc.constantFrom(false, false, false, true),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant("table" as const),
      sizeOrder: fc.constantFrom(2, 7, 15),
      extended: fc.boolean(),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant("command" as const),
      bits: fc.constantFrom(0, IRE, IRE, IRE | CFI, IRE | CFI),
    }),
  },
);

function guestWith(interruptEntries: number): GuestDriver {
  const guest = new GuestDriver({ extendedInterruptMode: true, postedInterrupts: true, interruptEntries });
  guest.enableQueue();
  guest.enableInterruptRemapping({ sizeOrder: 7 });
  return guest;
}

describe("a cached interrupt entry", () => {
  it("answers every message of every requester as the table does, for as long as the driver invalidates what it writes", () => {
    const hits: [refused: number, accepted: number] = [0, 0];
    fc.assert(
      fc.property(
        fc.array(entry, { minLength: 4, maxLength: 4 }),
        fc.array(command, { minLength: 30, maxLength: 80 }),
        (first, commands) => {
          const cached = guestWith(4);
          const plain = guestWith(0);
          const both = [cached, plain];
          for (const guest of both)
            for (const [at, fields] of first.entries())
              write(guest, { index: at, kind: "remapped", entry: fields, wide: true });
          for (const step of commands) {
            if (step.do === "write") for (const guest of both) write(guest, step);
            else if (step.do === "table") for (const guest of both) guest.enableInterruptRemapping(step);
            else if (step.do === "command")
              for (const { unit } of both) unit.mmio.write32(0x18, 0x0400_0000 | step.bits);
            else {
              const { requester: who } = step;
              const message: MsiMessage = {
                address: remappableMessage(step.index).address & (step.compatible ? ~0x10 : -1),
                addressHigh: step.high,
                data: step.subhandle ?? 0xdead,
              };
              const sent: MsiMessage = {
                ...message,
                address: (step.subhandle === undefined ? message.address : message.address | 8) >>> 0,
              };
              cached.memory.resetCounters();
              const accepted = cached.unit.interrupt(who, sent);
              plain.memory.resetCounters();
              expect(accepted).toBe(plain.unit.interrupt(who, sent));
              if (cached.memory.counters.fetches < plain.memory.counters.fetches) hits[accepted ? 1 : 0] += 1;
              expect(cached.takeFaults()).toEqual(plain.takeFaults());
              expect(cached.messages).toEqual(plain.messages);
            }
          }
        },
      ),
      { numRuns: 100 },
    );
    expect(hits[0]).toBeGreaterThan(30);
    expect(hits[1]).toBeGreaterThan(50);
  });
});

function write(
  guest: GuestDriver,
  {
    index: at,
    kind,
    entry: fields,
    wide,
  }: {
    readonly index: number;
    readonly kind: string;
    readonly entry: Parameters<GuestDriver["interrupts"]["remapped"]>[1];
    readonly wide: boolean;
  },
): void {
  if (kind === "clear") guest.interrupts.clear(at);
  else if (kind === "remapped") guest.interrupts.remapped(at, fields);
  else {
    const { DST: _destination, DLM: _mode, ...posted } = fields;
    guest.interrupts.posted(at, guest.interrupts.postedDescriptor({ NV: 0x30, NDST: 0x100 }), posted);
  }
  if (wide) guest.invalidate.interrupts();
  else guest.invalidate.interrupt(at);
}
