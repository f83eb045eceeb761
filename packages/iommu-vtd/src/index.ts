/**
 * An Intel VT-d remapping unit: registers, tables, caches, invalidation, faults, interrupts, ATS and page requests. `VtdIommu` is all of it; route the guest's accesses to
 * its register block to `mmio`, and give devices `addressSpace(...).dma`.
 *
 * @packageDocumentation
 */

export { VtdIommu } from "./vtd-iommu.js";
export type { VtdOptions } from "./vtd-options.js";
export { type AddressWidth, type ResolvedConfig, resolveConfig, type VtdConfig } from "./config.js";
export { MmioPort } from "./registers/mmio-port.js";
export type { ChangedRoutes, RemapResult } from "./interrupt/interrupt-remap.js";
export { DeviceAts } from "./ats/device-ats.js";
export type { CompletionStatus, TranslationCompletion, TranslationRequestOptions } from "./ats/translation-request.js";
export type { PageRequestOptions, PageResponse } from "./page-request/page-request-queue.js";
export type { UnitCapabilities } from "./spec/capabilities.js";
export { FaultReason, faultCode, isQualified } from "./spec/fault-reasons.js";
export { PROTECTED_MEMORY } from "./translate/translate.js";
export { faultName } from "./fault/fault-name.js";
