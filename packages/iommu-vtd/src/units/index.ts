/**
 * `@iommu-kit/iommu-vtd/units`: several units in one machine. Which unit serves which device, under which requester-id, and what firmware says about it.
 *
 * @packageDocumentation
 */

export type { Bridge } from "./bridges.js";
export { type InterruptSource, type PlacedUnit, VtdUnits, type VtdUnitsOptions } from "./vtd-units.js";
