/**
 * Message-signalled interrupts into v86's local APIC. v86 has no such thing itself: the vector's bit is set in the APIC's request register, and the
 * processor is asked to look.
 *
 * v86 crashes if it is asked from inside an MMIO callback, which is where most messages come from: delivery waits until v86 has returned to the
 * event loop. A vector that is requested twice before it is taken is taken once, as in a real APIC.
 */

import type { MsiMessage, MsiSink } from "@iommu-kit/iommu-core";
import type { V86Cpu } from "./v86-internals.js";

/** Layout of the local APIC's state in v86 0.5.462, in 32-bit words. */
const REQUEST_WORDS = 16;
const TRIGGER_MODE_WORDS = 32;
const STATE_WORDS = 46;

const FIXED = 0;
const LOWEST_PRIORITY = 1;

/** Counts, for people. */
export interface MsiCounters {
  delivered: number;
  /** Delivery modes other than fixed and lowest priority, or vectors below 16: dropped, as v86 has no way to take them. */
  dropped: number;
}

/** A sink, its counters, and an end: after `close` nothing is delivered any more. */
export interface LocalApicMsi {
  readonly sink: MsiSink;
  readonly counters: MsiCounters;
  close(): void;
}

/** A sink for messages to the one processor of an emulator. `defer` runs a task later, never before it has returned. */
export function localApicMsi(cpu: V86Cpu, defer: (task: () => void) => void): LocalApicMsi {
  const counters: MsiCounters = { delivered: 0, dropped: 0 };
  let open = true;
  const deliver = (vector: number): void => {
    if (!open) return;
    const state = new Int32Array(cpu.wasm_memory.buffer, cpu.get_apic_addr(), STATE_WORDS);
    const word = vector >>> 5;
    const bit = 1 << (vector & 31);
    state[REQUEST_WORDS + word] = (state[REQUEST_WORDS + word] ?? 0) | bit;
    state[TRIGGER_MODE_WORDS + word] = (state[TRIGGER_MODE_WORDS + word] ?? 0) & ~bit;
    counters.delivered += 1;
    cpu.handle_irqs();
  };
  const sink = ({ data }: MsiMessage): void => {
    const vector = data & 0xff;
    const mode = (data >>> 8) & 7;
    if ((mode !== FIXED && mode !== LOWEST_PRIORITY) || vector < 16) counters.dropped += 1;
    else defer(() => deliver(vector));
  };
  return {
    sink,
    counters,
    close: () => {
      open = false;
    },
  };
}
