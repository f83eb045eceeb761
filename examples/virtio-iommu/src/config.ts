/**
 * What a host decides about the device, checked, and the configuration space made of it (virtio 1.3, §5.13.4).
 */

import { ALL_FRAMES, contains, endOf, type FrameRange, IommuError, intersect, PAGE_BYTES } from "@iommu-kit/iommu-core";
import type { EndpointOptions } from "./endpoint.js";
import { CONFIG, IommuFeature, RESV_MEM_LENGTH } from "./spec/iommu.js";

/** Decisions; each has a default. */
export interface VirtioIommuConfig {
  /** The devices behind the unit. Everybody else is refused. */
  readonly endpoints: readonly EndpointOptions[];
  /** Page sizes in bytes, powers of two from 4096 on; the smallest is the granularity of mappings. Default: 4 KiB, 2 MiB, 1 GiB. */
  readonly pageSizes?: readonly number[];
  /** Frames that can be mapped. Default: 48 bits of address. */
  readonly inputRange?: FrameRange;
  /** Domain numbers, both inclusive. Default: all of 32 bits. */
  readonly domainRange?: { readonly first: number; readonly last: number };
  /** Whether endpoints that are not attached reach everything as it is, at first. Default: yes, as firmware expects. */
  readonly bypass?: boolean;
  /** Bits of guest-physical addresses. 32 to 52; default 48. */
  readonly targetBits?: number;
  /** MAP requests that can be held at once. Default: 2^18. */
  readonly mappingLimit?: number;
}

/** The decisions, defaults filled in. */
export interface ResolvedConfig {
  readonly features: bigint;
  readonly pageSizeMask: bigint;
  readonly granulePages: number;
  readonly inputRange: FrameRange;
  readonly domainRange: { readonly first: number; readonly last: number };
  readonly bypass: boolean;
  readonly probeSize: number;
  readonly targetLimit: number;
  readonly mappingLimit: number;
}

const DEFAULT_PAGE_SIZES = [PAGE_BYTES, 2 ** 21, 2 ** 30];

/** @throws {IommuError} `bad-option` or `bad-range`. */
export function resolveConfig(options: VirtioIommuConfig): ResolvedConfig {
  const { endpoints, pageSizes = DEFAULT_PAGE_SIZES, bypass = true, targetBits = 48, mappingLimit = 2 ** 18 } = options;
  const { inputRange = { firstPfn: 0, pageCount: 2 ** 36 }, domainRange = { first: 0, last: 0xffff_ffff } } = options;
  for (const size of pageSizes) {
    expect(Number.isInteger(Math.log2(size)) && size >= PAGE_BYTES, "a page size of a power of two from 4096 on", size);
  }
  expect(pageSizes.length > 0, "at least one page size", "none");
  expect(targetBits >= 32 && targetBits <= 52, "targetBits of 32 to 52", targetBits);
  expect(intersect(inputRange, ALL_FRAMES).pageCount === inputRange.pageCount, "an inputRange in 2^52 frames", "more");
  expect(domainRange.first <= domainRange.last, "a domainRange that is not empty", "an empty one");
  for (const endpoint of endpoints) checkReserved(endpoint);
  // One property more than the longest list keeps the list's end visible.
  const mostProperties = Math.max(0, ...endpoints.map(({ reserved = [] }) => reserved.length));
  return {
    features: Object.values(IommuFeature).reduce((all, feature) => all | feature, 0n),
    pageSizeMask: pageSizes.reduce((mask, size) => mask | BigInt(size), 0n),
    granulePages: Math.min(...pageSizes) / PAGE_BYTES,
    inputRange,
    domainRange,
    bypass,
    probeSize: (mostProperties + 1) * (RESV_MEM_LENGTH + 4),
    targetLimit: 2 ** (targetBits - 12),
    mappingLimit,
  };
}

/** The configuration space as the driver reads it at first. */
export function configBytes(config: ResolvedConfig): Uint8Array {
  const { pageSizeMask, inputRange, domainRange, probeSize, bypass } = config;
  const words = CONFIG.pack({
    PAGE_SIZE_MASK_LOW: Number(pageSizeMask & 0xffff_ffffn),
    PAGE_SIZE_MASK_HIGH: Number(pageSizeMask >> 32n),
    INPUT_START_PFN: inputRange.firstPfn,
    INPUT_END_OFFSET: 0xfff,
    INPUT_END_PFN: endOf(inputRange) - 1,
    DOMAIN_START: domainRange.first,
    DOMAIN_END: domainRange.last,
    PROBE_SIZE: probeSize,
    BYPASS: bypass ? 1 : 0,
  });
  return new Uint8Array(words.buffer);
}

/** §5.13.6.6: reserved ranges do not overlap, and at most one is for interrupts. */
function checkReserved({ sourceId, reserved = [] }: EndpointOptions): void {
  for (const [i, range] of reserved.entries()) {
    const overlaps = reserved
      .slice(0, i)
      .some((other) => contains(other, range.firstPfn) || contains(range, other.firstPfn));
    expect(!overlaps, `disjoint reserved ranges of endpoint ${sourceId}`, `one at frame ${range.firstPfn} twice`);
  }
  const doorbells = reserved.filter(({ kind }) => kind === "msi").length;
  expect(doorbells <= 1, `at most one range for messages of endpoint ${sourceId}`, doorbells);
}

function expect(condition: boolean, expected: string, got: string | number): void {
  if (condition) return;
  throw new IommuError("bad-option", `virtio-iommu: expected ${expected}, got ${got}`, {
    hint: "see VirtioIommuConfig",
  });
}
