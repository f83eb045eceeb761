/** What a guest's driver does about invalidations: the queue, and the registers. */

import { descriptorWords } from "./descriptors.js";
import { Frames } from "./layout.js";
import { type Machine, Offset } from "./machine.js";
import type { Invalidation, StepOf } from "./step.js";

/** GCMD and GSTS: the queue is enabled. */
export const QIE = 0x0400_0000;

/** The driver of one machine. */
export class Driver {
  /** What the last wait that a check made writes. */
  status = 0x1000;
  readonly #machine: Machine;

  constructor(machine: Machine) {
    this.#machine = machine;
  }

  queue(step: StepOf<"queue">): void {
    const machine = this.#machine;
    machine.command(QIE, false);
    if (!step.on) return;
    machine.write(Offset.FSTS, 4, 0x70n);
    machine.write(Offset.IQT, 8, 0n);
    machine.write(Offset.IQA, 8, BigInt(Frames.queue) * 4096n + BigInt(step.order) + (step.wide ? 0x800n : 0n));
    machine.command(QIE, true);
  }

  /** Switches the queue off and on, in the mode that is latched. */
  open(): void {
    this.queue({ do: "queue", on: true, wide: this.#machine.latched.mode === 1, order: 0 });
  }

  submit(list: readonly Invalidation[]): void {
    const machine = this.#machine;
    const address = machine.read64(Offset.IQA);
    const base = Number(address >> 12n) * 4096;
    const wide = (address & 0x800n) !== 0n;
    const slot = wide ? 32 : 16;
    const size = 4096 * 2 ** Number(address & 7n);
    let tail = machine.read32(Offset.IQT);
    for (const it of list) {
      const words = descriptorWords(it, slot / 4);
      for (let i = 0; i < words.length; i += 2) {
        const low = BigInt.asUintN(32, BigInt(words[i] ?? 0));
        const word = (BigInt.asUintN(32, BigInt(words[i + 1] ?? 0)) << 32n) | low;
        if (base + tail + i * 4 < 2 ** 52) machine.memory.poke(base + tail + i * 4, word);
      }
      tail = (tail + slot) % size;
    }
    machine.write(Offset.IQT, 4, BigInt(tail));
  }

  registers(it: Invalidation): void {
    const machine = this.#machine;
    const { did = 0, source = 0, pfn = 0, order = 0 } = it;
    const valid = 1n << 63n;
    const contexts = (kind: bigint): void =>
      machine.write(Offset.CCMD, 8, valid | (kind << 61n) | (BigInt(source) << 16n) | BigInt(did));
    const translations = (kind: bigint): void =>
      machine.write(Offset.IOTLB, 8, valid | (kind << 60n) | (BigInt(did) << 32n));
    if (it.what === "contexts") contexts(1n);
    else if (it.what === "contextsOfDomain") contexts(2n);
    else if (it.what === "contextsOfDevice") contexts(3n);
    else if (it.what === "all") translations(1n);
    else if (it.what === "domain") translations(2n);
    else {
      machine.write(Offset.IVA, 8, BigInt.asUintN(64, BigInt(pfn) << 12n) | BigInt(order));
      translations(3n);
    }
  }
}
