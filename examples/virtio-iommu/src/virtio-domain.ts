/**
 * What endpoints see: the mappings of a domain, everything as it is, or nothing.
 */

import type { Domain, FrameRange, MappingSink } from "@iommu-kit/iommu-core";
import type { Endpoint, ReservedRange } from "./endpoint.js";
import { MappingTable } from "./mapping-table.js";

/** A domain that ATTACH made (§5.13.6.1). It ends with its last endpoint. */
export class VirtioDomain implements Domain {
  readonly kind = "table";
  readonly label: string;
  /** None: a reserved range is never mapped. */
  readonly holes = [];
  readonly id: number;
  /** Made with the BYPASS flag: its endpoints reach everything as it is, and nothing can be mapped. */
  readonly bypass: boolean;
  readonly endpoints = new Set<Endpoint>();
  readonly mappings = new MappingTable();

  constructor(id: number, bypass: boolean) {
    this.id = id;
    this.bypass = bypass;
    this.label = `domain ${id}`;
  }

  scan({ firstPfn, pageCount }: FrameRange, sink: MappingSink): void {
    const end = firstPfn + pageCount;
    let mapping = this.mappings.firstFrom(firstPfn);
    while (mapping !== undefined && mapping.firstPfn < end) {
      const first = Math.max(firstPfn, mapping.firstPfn);
      const behind = mapping.firstPfn + mapping.pageCount;
      const count = Math.min(end, behind) - first;
      // How many mappings there are is the guest's choice: each counts as a table entry against the slice.
      if (!sink.reach(first, 1)) return;
      const target = mapping.gpaPfn + (first - mapping.firstPfn);
      if (mapping.access !== 0 && !sink.run(first, count, target, mapping.access)) return;
      mapping = this.mappings.firstFrom(behind);
    }
  }
}

/** Nothing: an endpoint that is not attached, without bypass, or a requester that is no endpoint. */
export const BLOCKED: Domain = { kind: "blocked", label: "not attached", holes: [], scan: () => undefined };

/** Everything as it is, but for what is reserved. Endpoints that reserve the same share one object, so they share a view and may share a container. */
export class BypassDomains {
  readonly #byHoles = new Map<string, Domain>();

  of(reserved: readonly ReservedRange[]): Domain {
    const holes = reserved.map(({ firstPfn, pageCount }) => ({ firstPfn, pageCount }));
    const key = JSON.stringify(holes);
    const known = this.#byHoles.get(key);
    if (known !== undefined) return known;
    const domain: Domain = { kind: "bypass", label: "bypass", holes, scan: () => undefined };
    this.#byHoles.set(key, domain);
    return domain;
  }
}
