/** Remapping of interrupts whose entries are cached. */

import assert from "node:assert/strict";
import type { MsiMessage } from "@iommu-kit/iommu-core";
import type { Group } from "../group.js";
import { timeRow } from "../group.js";
import { BenchGuest, DEVICE, shuffled } from "../guest.js";
import { compare, inProcess } from "../ratio.js";
import { atMost } from "../row.js";

const ENTRIES = 256;
const ROUNDS = 16;

/** See the file's header. */
export const interruptGroup: Group = {
  name: "interrupt",
  async measure(size, report) {
    // In a typed array: a number beyond 31 bits would be an object, made anew for each interrupt.
    const delivered = new Int32Array(1);
    const deliveredSoFar = (): number => delivered[0] as number;
    const guest = new BenchGuest({
      pages: 512,
      config: { interruptRemapping: true },
      msi: (message) => {
        delivered[0] = (delivered[0] as number) + (message.data & 0xff);
      },
    });
    const vectorOf = (index: number): number => 32 + (index % 200);
    for (let index = 0; index < ENTRIES; index++) guest.setInterrupt(index, DEVICE, vectorOf(index), index & 7);
    guest.start();
    guest.startInterrupts();
    const { unit } = guest;
    // Remappable format: handle in bits 19:5, format in bit 4.
    const messages: MsiMessage[] = Array.from(shuffled(ENTRIES), (index) => ({
      address: 0xfee0_0010 + index * 32,
      addressHigh: 0,
      data: 0,
    }));
    let sum = 0;
    for (let index = 0; index < ENTRIES; index++) sum += vectorOf(index) * ROUNDS;
    const remap = inProcess(() => {
      const before = deliveredSoFar();
      for (let round = 0; round < ROUNDS; round++) {
        for (let i = 0; i < ENTRIES; i++) unit.interrupt(DEVICE, messages[i] as MsiMessage);
      }
      return (deliveredSoFar() - before) | 0;
    });
    const sources = new Int32Array(ENTRIES).fill(DEVICE);
    const addresses = Int32Array.from({ length: ENTRIES }, (_, index) => (0xfee0_0000 + ((index & 7) << 12)) | 0);
    const data = Int32Array.from({ length: ENTRIES }, (_, index) => 0x4000 + vectorOf(index));
    const lookup = inProcess(() => {
      let vectors = 0;
      for (let round = 0; round < ROUNDS; round++) {
        for (let i = 0; i < ENTRIES; i++) {
          const index = ((messages[i] as MsiMessage).address >>> 5) & 0x7fff;
          if (sources[index] === DEVICE && (addresses[index] as number) !== 0)
            vectors += (data[index] as number) & 0xff;
        }
      }
      return vectors;
    });
    assert.equal(unit.interrupt(DEVICE + 1, messages[0] as MsiMessage), false, "another device may not use the entry");
    report(
      timeRow(
        {
          what: "interrupt remapped and delivered, entry cached",
          against: "look-up of the entry in typed arrays",
          per: "interrupt",
          goal: atMost(3),
        },
        await compare(remap, lookup, { units: ENTRIES * ROUNDS, pairs: size.pairs, check: sum }),
      ),
    );
  },
};
