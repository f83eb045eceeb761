/**
 * Which interrupt messages leave the unit, and as what (§5.1.2, §5.1.4, §9.9), remapped form only.
 */

import type { DeviationName, Traits } from "../deviations.js";
import type { SparseMemory } from "../machine/sparse-memory.js";

/** A message that leaves the unit. */
export interface Delivered {
  readonly address: number;
  readonly data: number;
}

/** What becomes of a message, and the trait without which it would be something else. */
export interface MessageAnswer {
  readonly delivered: Delivered | undefined;
  readonly cause: DeviationName | undefined;
}

/** See the file's header. */
export class ReferenceMessages {
  enabled = false;
  tablePfn = 0;
  entryCount = 0;
  readonly #traits: Traits;
  readonly #memory: SparseMemory;

  constructor(traits: Traits, memory: SparseMemory) {
    this.#traits = traits;
    this.#memory = memory;
  }

  /** `sourceId` is `undefined` for a message without requester-id. */
  answer(sourceId: number | undefined, address: number, data: number): MessageAnswer {
    const same = { address, data };
    if (!this.enabled) return { delivered: same, cause: undefined };
    if ((address & 0x10) === 0) {
      const passes = this.#traits.has("compatibility-interrupts-pass");
      return { delivered: passes ? same : undefined, cause: passes ? "compatibility-interrupts-pass" : undefined };
    }
    const handle = ((address >>> 5) & 0x7fff) + (((address >>> 2) & 1) << 15);
    const withSubhandle = (address & 8) !== 0;
    if (withSubhandle && data > 0xffff) return refused;
    const index = handle + (withSubhandle ? data : 0);
    if (index >= this.entryCount) return refused;
    return this.#entry(this.tablePfn * 4096 + index * 16, sourceId);
  }

  #entry(gpa: number, sourceId: number | undefined): MessageAnswer {
    const words = new Int32Array(4);
    if (!this.#memory.fetch(gpa, words)) return refused;
    const [low, destination, source, rest] = [...words].map((word) => word >>> 0) as [number, number, number, number];
    const mode = (low >>> 5) & 7;
    if ((low & 1) === 0 || (low & 0xff00_7000) !== 0 || mode === 3 || mode === 6) return refused;
    if (source >>> 20 !== 0 || rest !== 0) return refused;
    const stray = (destination & 0xffff_00ff) !== 0;
    if (stray && !this.#traits.has("destination-bits-unchecked")) return refused;
    const posted = (low & 0x8000) !== 0;
    if (posted && !this.#traits.has("posted-format-bit-ignored")) return refused;
    const validation = (source >>> 18) & 3;
    if (validation === 3) return refused;
    const { allowed, cause } = this.#allows(validation, source, sourceId);
    return {
      delivered: allowed ? message(low, destination) : undefined,
      cause: posted ? "posted-format-bit-ignored" : stray ? "destination-bits-unchecked" : cause,
    };
  }

  #allows(
    validation: number,
    source: number,
    requester: number | undefined,
  ): { readonly allowed: boolean; readonly cause: DeviationName | undefined } {
    const id = source & 0xffff;
    if (validation === 0 || requester === undefined) return { allowed: true, cause: undefined };
    if (validation === 1) {
      const ignored = [0, 4, 6, 7][(source >>> 16) & 3] ?? 0;
      return { allowed: ((id ^ requester) & ~ignored) === 0, cause: undefined };
    }
    const bus = requester >> 8;
    const allowed = bus >= id >> 8 && bus <= (id & 255);
    if (!this.#traits.has("bus-range-reversed")) return { allowed, cause: undefined };
    const reversed = bus >= (id & 255) && bus <= id >> 8;
    return { allowed: reversed, cause: reversed === allowed ? undefined : "bus-range-reversed" };
  }
}

const refused: MessageAnswer = { delivered: undefined, cause: undefined };

/** Trigger mode and level assert go to data bits 15 and 14. */
function message(low: number, destination: number): Delivered {
  const target = (destination >>> 8) & 0xff;
  const redirection = (low >>> 3) & 1;
  const logical = (low >>> 2) & 1;
  const data = ((low >>> 16) & 0xff) + (((low >>> 5) & 7) << 8) + (1 << 14) + (((low >>> 4) & 1) << 15);
  return { address: 0xfee0_0000 + target * 4096 + redirection * 8 + logical * 4, data };
}
