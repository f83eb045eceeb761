/**
 * Domains as the hub knows them: one object for each combination of domain-id, first table and width, as long as somebody uses it (design D5).
 */

import type { Domain, FrameRange, MappingSink } from "@iommu-kit/iommu-core";
import { intersect } from "@iommu-kit/iommu-core";
import { INTERRUPT_WINDOW } from "../spec/interrupt-window.js";
import type { Binding } from "../translate/binding.js";
import type { PageScan } from "./page-scan.js";

/** A domain with the id by which invalidations name it; -1: named by none. */
export interface VtdDomain extends Domain {
  readonly domainId: number;
}

const HOLES: readonly FrameRange[] = [INTERRUPT_WINDOW];

/** Translation is off: every request passes. */
export const UNTRANSLATED: VtdDomain = {
  kind: "bypass",
  label: "translation off",
  domainId: -1,
  holes: HOLES,
  scan: nothing,
};
/** Every request is refused. */
export const BLOCKED: VtdDomain = { kind: "blocked", label: "blocked", domainId: -1, holes: HOLES, scan: nothing };

/** The domains of one unit, each made once. */
export class Domains {
  readonly #scan: PageScan;
  readonly #known = new Map<string, WeakRef<VtdDomain>>();
  #sweepAt = 64;

  constructor(scan: PageScan) {
    this.#scan = scan;
  }

  /** The domain that a binding leads to. */
  of(binding: Binding): VtdDomain {
    if (binding.kind === "refused") return BLOCKED;
    const { kind, domainId, rootPfn, levels, limitPfn } = binding;
    const key = `${kind}/${domainId}/${rootPfn}/${levels}/${limitPfn}`;
    const known = this.#known.get(key)?.deref();
    if (known !== undefined) return known;
    const domain = kind === "pass-through" ? passThrough(domainId) : this.#table(binding);
    this.#sweep();
    this.#known.set(key, new WeakRef(domain));
    return domain;
  }

  #table({ domainId, rootPfn, levels, limitPfn }: Binding): VtdDomain {
    const limit = { firstPfn: 0, pageCount: limitPfn };
    return {
      kind: "table",
      label: `domain ${domainId}, ${levels} levels`,
      domainId,
      holes: HOLES,
      scan: (range: FrameRange, sink: MappingSink) => this.#scan.scan(rootPfn, levels, intersect(range, limit), sink),
    };
  }

  /** A guest may make as many domains as it likes; those that nobody sees any more are forgotten. */
  #sweep(): void {
    if (this.#known.size < this.#sweepAt) return;
    for (const [key, domain] of this.#known) if (domain.deref() === undefined) this.#known.delete(key);
    this.#sweepAt = Math.max(64, this.#known.size * 2);
  }
}

function passThrough(domainId: number): VtdDomain {
  return { kind: "bypass", label: `pass-through, domain ${domainId}`, domainId, holes: HOLES, scan: nothing };
}

function nothing(): void {
  // Only a `table` domain is scanned.
}
