/**
 * A device behind the unit: its number, which is its source-id, the ranges that it cannot use as others, and where it is attached.
 */

import { type FrameRange, intersect, type SourceId } from "@iommu-kit/iommu-core";
import { RESV_MEM, RESV_MEM_LENGTH, RESV_MEM_TYPE, ReservedKind } from "./spec/iommu.js";
import type { VirtioDomain } from "./virtio-domain.js";

/** Virtual addresses that a driver cannot map for an endpoint (§5.13.6.6). */
export interface ReservedRange extends FrameRange {
  /** `"msi"`: writes there are interrupts, whatever the endpoint is attached to. At most one for each endpoint. */
  readonly kind: "reserved" | "msi";
}

/** What a host says of an endpoint. */
export interface EndpointOptions {
  readonly sourceId: SourceId;
  /** Disjoint. Default: none; the driver then maps the doorbell of the interrupt controller itself. */
  readonly reserved?: readonly ReservedRange[];
}

/** See the file's header. */
export class Endpoint {
  readonly id: SourceId;
  /** Ascending. */
  readonly reserved: readonly ReservedRange[];
  /** Where it is attached now. */
  domain: VirtioDomain | undefined;

  constructor({ sourceId, reserved = [] }: EndpointOptions) {
    this.id = sourceId;
    this.reserved = [...reserved].sort((a, b) => a.firstPfn - b.firstPfn);
  }

  /** Whether a range touches one that is reserved. */
  reserves(range: FrameRange): boolean {
    return this.reserved.some((reserved) => intersect(reserved, range).pageCount > 0);
  }

  /** Its properties, as PROBE answers them. */
  properties(): Uint8Array {
    const words = this.reserved.flatMap(({ kind, firstPfn, pageCount }) => [
      ...RESV_MEM.pack({
        TYPE: RESV_MEM_TYPE,
        LENGTH: RESV_MEM_LENGTH,
        SUBTYPE: kind === "msi" ? ReservedKind.MSI : ReservedKind.RESERVED,
        START_PFN: firstPfn,
        END_OFFSET: 0xfff,
        END_PFN: firstPfn + pageCount - 1,
      }),
    ]);
    return new Uint8Array(Int32Array.from(words).buffer);
  }
}
