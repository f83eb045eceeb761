/**
 * Capabilities that a recorded unit may have and ours cannot be given: what was recorded on such a unit is not covered.
 */

import type { Header } from "../files/header.js";
import { has } from "./unit-config.js";

const CAP_BITS: readonly (readonly [bit: number, what: string])[] = [[61, "enhanced commands"]];
const ECAP_BITS: readonly (readonly [bit: number, what: string])[] = [
  [25, "memory types"],
  [41, "device-TLB invalidation throttling"],
  [44, "virtual commands"],
  [50, "trust domains"],
  [51, "performance monitoring"],
  [55, "host permission tables"],
  [56, "translated requests with PASID"],
  [57, "second-stage rights in bits 61 and 62"],
  [60, "resource director"],
  [61, "extended interrupt mode required"],
  [62, "interrupt remapping required"],
];

/** What ours lacks of the unit that a header describes; empty for a unit like ours. */
export function missingCapabilities({ cap, ecap }: Header): string[] {
  const lacking = (pair: readonly [number, number], bits: typeof CAP_BITS): string[] =>
    bits.filter(([bit]) => has(pair, bit)).map(([, what]) => what);
  return [...lacking(cap, CAP_BITS), ...lacking(ecap, ECAP_BITS)];
}
