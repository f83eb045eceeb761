export { VtdIommu, type VtdOptions } from "./vtd-iommu.js";
export { type AddressWidth, type ResolvedConfig, resolveConfig, type VtdConfig } from "./config.js";
export { MmioPort } from "./registers/mmio-port.js";
export type { RemapResult } from "./interrupt/interrupt-remap.js";
export { FaultReason, faultCode, isQualified } from "./spec/fault-reasons.js";
export { faultName } from "./fault/fault-name.js";
