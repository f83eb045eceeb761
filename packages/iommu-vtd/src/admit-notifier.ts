/**
 * Which notifiers a unit can serve: a MAP notifier needs a guest that announces what it maps, a device TLB a unit that knows device TLBs.
 */

import { formatSourceId, IommuError, type Requester } from "@iommu-kit/iommu-core";
import type { ResolvedConfig } from "./config.js";

/** @throws {IommuError} `caching-mode-required` or `not-supported`. */
export function admitNotifier(
  requester: Requester,
  kind: "map" | "unmap" | "device-tlb",
  config: ResolvedConfig,
): void {
  const who = formatSourceId(requester.sourceId);
  if (kind === "map" && !config.cachingMode) {
    throw new IommuError(
      "caching-mode-required",
      `map notifier on ${who}: expected a unit with caching mode, got one without`,
      {
        hint: "pass cachingMode: true, or the guest need not announce what it maps",
      },
    );
  }
  if (kind === "device-tlb" && !config.deviceTlb) {
    throw new IommuError(
      "not-supported",
      `device-TLB notifier on ${who}: expected a unit with device TLBs, got one without`,
      {
        hint: "pass deviceTlb: true",
      },
    );
  }
}
