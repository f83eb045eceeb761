/**
 * Domains as the hub knows them: one object for each combination of domain-id, tables and rules, as long as somebody uses it (design D5).
 */

import { type Domain, type FrameRange, intersect, type MappingSink } from "@iommu-kit/iommu-core";
import { INTERRUPT_WINDOW } from "../spec/interrupt-window.js";
import type { Binding } from "../translate/binding.js";
import type { OutputFilter } from "../translate/output-filter.js";
import type { FirstStageScan } from "./first-stage-scan.js";
import type { SecondStageScan } from "./second-stage-scan.js";

/** A domain with what invalidations name it by. */
export interface VtdDomain extends Domain {
  /** -1: named by none. */
  readonly domainId: number;
  /** The PASID of its entry; 0 in legacy mode. */
  readonly pasid: number;
  /** First-stage or nested: page-selective invalidations of the domain reach all of it (§6.5.2.3). */
  readonly firstStage: boolean;
}

const WINDOW: readonly FrameRange[] = [INTERRUPT_WINDOW];
const NO_HOLES: readonly FrameRange[] = [];

/** Forgets domains that nobody sees any more when there are twice as many as last time. */
const LEAST_SWEEP = 64;

/** The domains of one unit, each made once. */
export class Domains {
  /** Translation is off: every request passes. */
  readonly untranslated: VtdDomain;
  readonly #blocked: VtdDomain = {
    kind: "blocked",
    label: "blocked",
    holes: NO_HOLES,
    domainId: -1,
    pasid: 0,
    firstStage: false,
    scan: nothing,
  };
  readonly #filter: OutputFilter;
  readonly #secondStage: SecondStageScan;
  readonly #firstStage: FirstStageScan;
  readonly #known = new Map<string, WeakRef<VtdDomain>>();
  /** Bindings are cached objects: the same one leads to the same domain without a key. Without and with PASID. */
  readonly #byBinding = [new WeakMap<Binding, VtdDomain>(), new WeakMap<Binding, VtdDomain>()] as const;
  #sweepAt = LEAST_SWEEP;

  constructor(secondStage: SecondStageScan, firstStage: FirstStageScan, filter: OutputFilter) {
    this.#filter = filter;
    this.untranslated = this.#bypass("translation off", -1, 0);
    this.#secondStage = secondStage;
    this.#firstStage = firstStage;
  }

  /** The domain that a binding leads to, for requests with or without PASID. */
  of(binding: Binding, withPasid: boolean): VtdDomain {
    if (binding.kind === "refused") return this.#blocked;
    const byBinding = this.#byBinding[withPasid ? 1 : 0];
    const quick = byBinding.get(binding);
    if (quick !== undefined) return quick;
    const domain = this.#find(binding, withPasid);
    byBinding.set(binding, domain);
    return domain;
  }

  #find(binding: Binding, withPasid: boolean): VtdDomain {
    const key = keyOf(binding, withPasid);
    const known = this.#known.get(key)?.deref();
    if (known !== undefined) return known;
    const domain = this.#make(binding, withPasid ? NO_HOLES : WINDOW);
    this.#sweep();
    this.#known.set(key, new WeakRef(domain));
    return domain;
  }

  #make(binding: Binding, holes: readonly FrameRange[]): VtdDomain {
    const { kind, domainId, pasid, rootPfn, levels, limitPfn } = binding;
    const firstStage = kind === "first-stage" || kind === "nested";
    const label = `domain ${domainId}, ${kind}${binding.scalable ? `, PASID ${pasid}` : ""}`;
    const limit = { firstPfn: 0, pageCount: limitPfn };
    const scan = firstStage
      ? (range: FrameRange, sink: MappingSink) => this.#firstStage.scan(binding, range, sink)
      : (range: FrameRange, sink: MappingSink) =>
          this.#secondStage.scan(rootPfn, levels, intersect(range, limit), sink);
    if (kind === "pass-through") return this.#bypass(label, domainId, pasid);
    const setsFlags = firstStage || binding.secondStageFlags;
    return { kind: "table", label, holes, domainId, pasid, firstStage, setsFlags, scan };
  }

  /** Input is output: what may not be reached is a hole, and protected regions come and go. */
  #bypass(label: string, domainId: number, pasid: number): VtdDomain {
    const filter = this.#filter;
    return {
      kind: "bypass",
      label,
      get holes() {
        return filter.blocked;
      },
      domainId,
      pasid,
      firstStage: false,
      scan: nothing,
    };
  }

  /** A guest may make as many domains as it likes; those that nobody sees any more are forgotten. */
  #sweep(): void {
    if (this.#known.size < this.#sweepAt) return;
    for (const [key, domain] of this.#known) if (domain.deref() === undefined) this.#known.delete(key);
    this.#sweepAt = Math.max(LEAST_SWEEP, this.#known.size * 2);
  }
}

/** Two bindings with the same key translate alike and are invalidated alike. */
function keyOf(binding: Binding, withPasid: boolean): string {
  const {
    kind,
    domainId,
    pasid,
    privileged,
    rootPfn,
    levels,
    limitPfn,
    firstRootPfn,
    firstLevels,
    writeProtect,
    secondStageFlags,
  } = binding;
  return [
    kind,
    withPasid,
    domainId,
    pasid,
    privileged,
    rootPfn,
    levels,
    limitPfn,
    firstRootPfn,
    firstLevels,
    writeProtect,
    secondStageFlags,
  ].join("/");
}

function nothing(): void {
  // Only a `table` domain is scanned.
}
