/**
 * How optional subpaths reach the parts of a unit without bundling the unit: by a key, not through the class.
 */

import type { Unit } from "./unit.js";

/** @internal Key under which a unit keeps its parts. */
export const PARTS: unique symbol = Symbol.for("@iommu-kit/iommu-vtd/parts");

/** @internal The parts of a unit. */
export function unitOf(iommu: { readonly [PARTS]: Unit }): Unit {
  return iommu[PARTS];
}
