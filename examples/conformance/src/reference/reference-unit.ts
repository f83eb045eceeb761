/**
 * A second, naive unit: enough of the specification to say what a recorded step must answer, and, given traits, what the recorded system answers instead.
 *
 * It has its own memory, caches everything (as the oracles do), and shares no code with the packages. The runner asks it only where our unit and the oracle differ:
 * two of these, one with traits and one without, must then predict both answers.
 */

import type { DeviationName, Traits } from "../deviations.js";
import type { Header } from "../files/header.js";
import { has } from "../machine/unit-config.js";
import { SparseMemory } from "../machine/sparse-memory.js";
import { FaultRegisters } from "./fault-registers.js";
import { ReferenceQueue } from "./invalidation-queue.js";
import { ReferenceMessages } from "./messages.js";
import { TranslationCache } from "./translation-cache.js";
import { type Context, PASS_THROUGH, ReferenceWalk, type Root, rootOf } from "./walk.js";

/** How a request ends, and the trait without which it would end otherwise. */
export type ReferenceAnswer = { readonly cause: DeviationName | undefined } & (
  | { readonly kind: "passed" }
  | { readonly kind: "translated"; readonly gpaPfn: number; readonly pageCount: number; readonly access: number }
  | { readonly kind: "refused"; readonly reason: number; readonly recorded: boolean }
);

/** A value of a register, and the trait without which it would be another. */
export interface ReferenceValue {
  readonly value: number;
  readonly cause: DeviationName | undefined;
}

/** See the file's header. */
export class ReferenceUnit {
  readonly memory: SparseMemory;
  readonly faults: FaultRegisters;
  readonly queue: ReferenceQueue;
  readonly messages: ReferenceMessages;
  readonly #traits: Traits;
  readonly #walk: ReferenceWalk;
  readonly #cache: TranslationCache;
  readonly #contexts = new Map<number, Context>();
  readonly #maximumOrder: number;
  readonly #written = new Map<number, number>();
  #enabled = false;
  #root: Root = { pfn: 0, scalable: false };
  #status = 0;

  constructor(header: Header, traits: Traits) {
    this.#traits = traits;
    this.memory = new SparseMemory(header.ram);
    this.#walk = new ReferenceWalk(header, this.memory);
    this.#cache = new TranslationCache(traits);
    const widest = [57, 48, 39].find((bits) => has(header.cap, 8 + (bits - 30) / 9)) ?? 39;
    this.faults = new FaultRegisters(traits, widest);
    this.messages = new ReferenceMessages(traits, this.memory);
    this.#maximumOrder = (header.cap[1] >>> 16) & 63;
    this.queue = new ReferenceQueue(traits, {
      memory: this.memory,
      faults: this.faults,
      target: this,
      hostWidth: header.hostAddressWidth,
    });
  }

  /** A register write, word by word: the high word of 8 bytes last. `record` is the offset of the fault record. */
  write(offset: number, value: number, record: number): void {
    this.#written.set(offset, value);
    if (offset === 0x18) this.#command(value);
    else if (offset === 0x2c) this.#contextCommand(value);
    else if (offset === 0xfc) this.#translationCommand(value);
    else if (offset === 0x34 && this.faults.writeStatus(value)) this.queue.resume();
    else if (offset === 0x38) this.faults.writeControl(value);
    else if (offset === record + 12) this.faults.writeRecord(value);
    else if (offset === 0x88) {
      this.queue.tail = value & 0x7_fff0;
      this.queue.run();
    } else if (offset === 0x90 || offset === 0x94) this.#queueAddress();
    else if (offset === 0x9c && (value & 1) === 1) this.queue.waited = false;
  }

  /** A register's value; `undefined` for those that this unit does not know. */
  read(offset: number): ReferenceValue | undefined {
    const { faults, queue } = this;
    const queueOrFault = queue.cause ?? faults.cause;
    if (offset === 0x1c) return { value: this.#status, cause: undefined };
    if (offset === 0x34) return { value: faults.status, cause: queueOrFault };
    if (offset === 0x38)
      return {
        value: (faults.masked ? 0x8000_0000 : 0) + (faults.pending ? 0x4000_0000 : 0),
        cause: faults.pendingCause ?? queueOrFault,
      };
    if (offset === 0x80) return { value: queue.head, cause: queue.cause };
    if (offset === 0x88) return { value: queue.tail, cause: queue.cause };
    if (offset === 0x9c) return { value: queue.waited ? 1 : 0, cause: queue.cause };
    return undefined;
  }

  /** One request, recorded if it is refused. */
  request(sourceId: number, iovaPfn: number, write: boolean): ReferenceAnswer {
    const answer = this.#answer(sourceId, iovaPfn, write);
    if (answer.kind === "refused" && answer.recorded)
      this.faults.add({ reason: answer.reason, sourceId, iovaPfn, write }, answer.cause);
    return answer;
  }

  #answer(sourceId: number, iovaPfn: number, write: boolean): ReferenceAnswer {
    if (!this.#enabled) return { kind: "passed", cause: undefined };
    const access = write ? 2 : 1;
    const cached = this.#cache.find(sourceId, iovaPfn);
    const loss = this.#cache.lossOf(sourceId, iovaPfn);
    if (cached !== undefined && (cached.access & access) !== 0)
      return { kind: "translated", ...placed(cached, iovaPfn), cause: loss };
    const context = this.#contextOf(sourceId);
    if (!context.valid) return this.#refuse(context.reason, context, loss);
    if (context.levels === PASS_THROUGH) {
      const beyond = iovaPfn >= 2 ** (this.#walk.hostWidth - 12);
      if (!beyond) return { kind: "passed", cause: loss };
      if (this.#traits.has("pass-through-beyond-width")) return { kind: "passed", cause: "pass-through-beyond-width" };
      return this.#refuse(0x04, context, undefined);
    }
    const block = this.#walk.walk(context, iovaPfn, access);
    if (typeof block === "number") return this.#refuse(block, context, loss);
    this.#cache.add(sourceId, context.domainId, block);
    return { kind: "translated", ...placed(block, iovaPfn), cause: loss };
  }

  #refuse(reason: number, context: Context, cause: DeviationName | undefined): ReferenceAnswer {
    const qualified = ![0x01, 0x08, 0x09, 0x0a].includes(reason);
    const silent = qualified && context.faultsDisabled;
    const despite = silent && reason === 0x0b && this.#traits.has("context-reserved-bits-recorded-despite-fpd");
    return {
      kind: "refused",
      reason,
      recorded: !silent || despite,
      cause: despite ? "context-reserved-bits-recorded-despite-fpd" : cause,
    };
  }

  #contextOf(sourceId: number): Context {
    const known = this.#contexts.get(sourceId);
    if (known !== undefined) return known;
    const context = this.#walk.context(this.#root, sourceId);
    if (context.valid) this.#contexts.set(sourceId, context);
    return context;
  }

  // The two halves of QueueTarget; a domain-selective invalidation of contexts is carried out as a global one.

  invalidateContexts(granularity: number, sourceId: number, functionMask: number): void {
    if (granularity !== 3) return this.#contexts.clear();
    const ignored = [0, 4, 6, 7][functionMask] ?? 0;
    for (const known of this.#contexts.keys()) if (((known ^ sourceId) & ~ignored) === 0) this.#contexts.delete(known);
  }

  invalidateTranslations(granularity: number, domainId: number, pfn: number, order: number): boolean {
    if (granularity === 1) this.#cache.dropAll();
    else if (granularity === 2) this.#cache.dropDomain(domainId);
    else if (order > this.#maximumOrder) return false;
    else this.#cache.dropPages(domainId, pfn, order);
    return true;
  }

  #command(value: number): void {
    const one = (bit: number): boolean => (value & (1 << bit)) !== 0;
    if (one(26) !== this.queue.enabled) this.queue.enable(one(26));
    if (one(30)) {
      this.#root = rootOf(this.#word(0x20), this.#word(0x24));
      this.#flush();
      this.#status |= 1 << 30;
    }
    if (one(24)) this.#latchInterrupts();
    this.messages.enabled = one(25);
    if (one(31) !== this.#enabled) this.#flush();
    this.#enabled = one(31);
    const kept = this.#status & ((1 << 30) | (1 << 24));
    this.#status = (kept | (value & ((1 << 31) | (1 << 26) | (1 << 25)))) >>> 0;
  }

  #latchInterrupts(): void {
    this.messages.tablePfn = this.#pfnAt(0xb8);
    this.messages.entryCount = 2 ** ((this.#word(0xb8) & 15) + 1);
    this.#status |= 1 << 24;
  }

  #contextCommand(high: number): void {
    if (high >>> 31 === 0 || this.queue.enabled) return;
    const granularity = (high >>> 29) & 3;
    if (granularity !== 0) this.invalidateContexts(granularity, this.#word(0x28) >>> 16, high & 3);
  }

  #translationCommand(high: number): void {
    if (high >>> 31 === 0 || this.queue.enabled) return;
    const granularity = (high >>> 28) & 3;
    if (granularity !== 0)
      this.invalidateTranslations(granularity, high & 0xffff, this.#pfnAt(0xf0), this.#word(0xf0) & 63);
  }

  #queueAddress(): void {
    const low = this.#word(0x90);
    this.queue.base = this.#pfnAt(0x90) * 4096;
    this.queue.size = 4096 * 2 ** (low & 7);
  }

  #flush(): void {
    this.#contexts.clear();
    this.#cache.dropAll();
  }

  #word(offset: number): number {
    return this.#written.get(offset) ?? 0;
  }

  #pfnAt(offset: number): number {
    return this.#word(offset + 4) * 2 ** 20 + (this.#word(offset) >>> 12);
  }
}

function placed(
  block: { readonly firstPfn: number; readonly pageCount: number; readonly gpaPfn: number; readonly access: number },
  iovaPfn: number,
) {
  return { gpaPfn: block.gpaPfn + iovaPfn - block.firstPfn, pageCount: block.pageCount, access: block.access };
}
