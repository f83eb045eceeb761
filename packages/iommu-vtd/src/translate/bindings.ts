/**
 * From a requester to its binding, in the mode that the unit has latched (§3.4), through the context cache and the PASID cache.
 */

import type { GuestMemory, Requester } from "@iommu-kit/iommu-core";
import { pasidBits, type UnitCapabilities } from "../spec/capabilities.js";
import { TableMode } from "../spec/encodings.js";
import { FaultReason } from "../spec/fault-reasons.js";
import { ECAP } from "../spec/registers-capability.js";
import { type Binding, refusedBinding } from "./binding.js";
import { BindingCache } from "./binding-cache.js";
import { ContextLookup } from "./context-lookup.js";
import { PasidLookup } from "./pasid-lookup.js";
import type { RootPointer } from "./root-pointer.js";
import { type ScalableContext, ScalableContextLookup } from "./scalable-context-lookup.js";
import { ServedNames } from "./served-names.js";

/** Units of this major version and above refuse execute requests before they look at any table. */
const FIRST_WITHOUT_EXECUTE = 8;

/** What the look-ups work with. */
export interface BindingParts {
  readonly memory: GuestMemory;
  readonly capabilities: UnitCapabilities;
  readonly root: RootPointer;
  /** Architecture version of the unit. */
  readonly majorVersion: number;
  /** Entries of each cache; 0 for none. */
  readonly entryCount: number;
}

/** Bindings of one unit. */
export class Bindings {
  /** Legacy bindings by source-id. */
  readonly contexts: BindingCache<Binding>;
  /** Scalable-mode contexts by source-id. */
  readonly scalableContexts: BindingCache<ScalableContext>;
  /** Scalable-mode bindings by requester. */
  readonly pasids: BindingCache<Binding>;
  /** Beside the caches, which forget. */
  readonly served = new ServedNames();
  /** Requesters that are gone. The host may still ask what they would see: that is not what serves anybody. */
  readonly #gone = new WeakSet<Requester>();
  readonly #root: RootPointer;
  readonly #capabilities: UnitCapabilities;
  readonly #majorVersion: number;
  readonly #legacy: ContextLookup;
  readonly #scalable: ScalableContextLookup;
  readonly #pasidLookup: PasidLookup;

  constructor(parts: BindingParts) {
    const { memory, capabilities, entryCount } = parts;
    this.#root = parts.root;
    this.#capabilities = capabilities;
    this.#majorVersion = parts.majorVersion;
    this.contexts = new BindingCache(entryCount);
    this.scalableContexts = new BindingCache(entryCount);
    this.pasids = new BindingCache(entryCount);
    this.#legacy = new ContextLookup(memory, capabilities);
    this.#scalable = new ScalableContextLookup(memory, capabilities);
    this.#pasidLookup = new PasidLookup(memory, capabilities);
  }

  /** How untranslated requests of a requester are translated. */
  of(requester: Requester): Binding {
    const legacy = this.#root.mode === TableMode.LEGACY;
    // Most requests: nothing that the registers could refuse.
    if (legacy && requester.pasid === undefined && !requester.execute) return this.#legacyOf(requester);
    const refusal = this.refusalOfRegisters(requester);
    if (refusal !== 0) return refusedBinding(refusal);
    return legacy ? this.#legacyOf(requester) : this.#scalableOf(requester, true);
  }

  /** What a page request of a requester is judged by, in scalable mode: the same, before privilege and execute matter (§7.1.3). */
  ofPageRequest(requester: Requester): Binding {
    return this.#scalableOf(requester, false);
  }

  /** Why the latched table mode refuses a request before any table is read; 0 if it does not. */
  refusalOfRegisters(requester: Requester): number {
    const refusal = this.refusalOfMode();
    if (refusal !== 0) return refusal;
    if (requester.pasid !== undefined && this.#root.mode === TableMode.LEGACY) return FaultReason.RTA_2;
    return requester.execute && this.#majorVersion >= FIRST_WITHOUT_EXECUTE ? FaultReason.RTA_5 : 0;
  }

  /** Why the latched table mode refuses every request; 0 if it does not. */
  refusalOfMode(): number {
    const { mode } = this.#root;
    if (mode === TableMode.LEGACY) return 0;
    const { ADMS, SMTS } = ECAP.fields;
    const has = (field: typeof SMTS): boolean => field.get(this.#capabilities.ecap, 0) === 1;
    if (mode === TableMode.ABORT) return has(ADMS) ? FaultReason.RTA_4 : FaultReason.RTA_1_1;
    if (mode !== TableMode.SCALABLE) return FaultReason.RTA_1_2;
    return has(SMTS) ? 0 : FaultReason.RTA_1_3;
  }

  /** The scalable-mode context of a device. */
  contextOf(sourceId: number): ScalableContext {
    const cached = this.scalableContexts.lookup(sourceId);
    if (cached !== undefined) return cached;
    const context = this.#scalable.lookup(this.#root.rootPfn, sourceId);
    if (context.reason === 0) this.scalableContexts.fill(sourceId, context);
    return context;
  }

  /** Why a PASID may not be used with a context (§7.1.3 order); 0 if it may. */
  refusalOfPasid(context: ScalableContext, pasid: number): number {
    if (pasid >= 2 ** pasidBits(this.#capabilities.ecap)) return FaultReason.SGN_10;
    if (pasid >= context.pasidLimit) return FaultReason.SCT_7;
    return pasid === context.requestPasid ? FaultReason.SCT_9 : 0;
  }

  /** The PASID whose entry serves a requester in scalable mode: its own or RID_PASID; -1 where its context is refused. */
  pasidOf(requester: Requester): number {
    if (requester.pasid !== undefined) return requester.pasid;
    const context = this.contextOf(requester.sourceId);
    return context.reason === 0 ? context.requestPasid : -1;
  }

  /** A requester is gone. What serves the next one with its source-id or PASID is looked up anew, so that its names are known too. */
  unplugged(requester: Requester): void {
    this.#gone.add(requester);
    this.served.forget(requester);
    this.contexts.invalidate((sourceId) => sourceId === requester.sourceId);
    this.pasids.invalidate((key) => key === requester.key);
  }

  #legacyOf(requester: Requester): Binding {
    const { sourceId } = requester;
    const cached = this.contexts.lookup(sourceId);
    if (cached !== undefined) return cached;
    const binding = this.#legacy.lookup(this.#root.rootPfn, sourceId);
    if (binding.kind !== "refused") this.#serve(requester, this.contexts, sourceId, binding);
    return binding;
  }

  #scalableOf(requester: Requester, withAttributes: boolean): Binding {
    const { sourceId, pasid, key } = requester;
    const context = this.contextOf(sourceId);
    if (context.reason !== 0) return refusedBinding(context.reason, context.faultsDisabled);
    if (pasid !== undefined) {
      const refusal = context.pasidEnabled ? this.refusalOfPasid(context, pasid) : FaultReason.SCT_6;
      if (refusal !== 0) return refusedBinding(refusal, context.faultsDisabled);
    }
    const cached = this.pasids.lookup(key);
    if (cached !== undefined) return cached;
    const privileged = pasid === undefined ? context.requestPrivileged : requester.privileged;
    const binding = this.#pasidLookup.lookup(context, {
      pasid: pasid ?? context.requestPasid,
      privileged: withAttributes && privileged,
      execute: withAttributes && requester.execute,
    });
    if (withAttributes && binding.kind !== "refused") this.#serve(requester, this.pasids, key, binding);
    return binding;
  }

  #serve(requester: Requester, cache: BindingCache<Binding>, key: number, binding: Binding): void {
    if (this.#gone.has(requester)) return;
    cache.fill(key, binding);
    this.served.note(requester, binding);
  }
}
