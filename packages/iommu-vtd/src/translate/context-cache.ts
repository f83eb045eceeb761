/**
 * The context cache (§6.2.2): bindings by source-id. Only bindings without a fault are kept, so an entry that becomes present needs no invalidation.
 */

import { ignoredFunctionBits } from "../spec/invalidation.js";
import type { Binding } from "./binding.js";

/** A cache of at most `entryCount` bindings. With 0 every look-up misses. */
export class ContextCache {
  hits = 0;
  misses = 0;
  readonly #entryCount: number;
  readonly #bindings = new Map<number, Binding>();

  constructor(entryCount: number) {
    this.#entryCount = entryCount;
  }

  /** Entries in use. */
  get size(): number {
    return this.#bindings.size;
  }

  lookup(sourceId: number): Binding | undefined {
    const binding = this.#bindings.get(sourceId);
    if (binding === undefined) this.misses += 1;
    else this.hits += 1;
    return binding;
  }

  fill(sourceId: number, binding: Binding): void {
    if (this.#entryCount === 0 || binding.kind === "refused") return;
    if (this.#bindings.size >= this.#entryCount) {
      // A Map remembers insertion order: the oldest goes.
      for (const oldest of this.#bindings.keys()) {
        this.#bindings.delete(oldest);
        break;
      }
    }
    this.#bindings.set(sourceId, binding);
  }

  invalidateAll(): void {
    this.#bindings.clear();
  }

  invalidateDomain(domainId: number): void {
    for (const [sourceId, binding] of this.#bindings)
      if (binding.domainId === domainId) this.#bindings.delete(sourceId);
  }

  /** Drops a device's entries; `functionMask` (0 to 3) makes it all functions that differ only in the masked bits. */
  invalidateDevice(sourceId: number, functionMask: number): void {
    for (const known of this.#bindings.keys())
      if (matchesSource(known, sourceId, functionMask)) this.#bindings.delete(known);
  }
}

/** Whether two source-ids are equal but for the bits that FM excludes (§6.5.2.1). */
export function matchesSource(one: number, other: number, functionMask: number): boolean {
  return ((one ^ other) & ~ignoredFunctionBits(functionMask)) === 0;
}
