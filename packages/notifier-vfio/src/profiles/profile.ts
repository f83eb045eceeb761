/**
 * The rules in which kinds of DMA containers differ, as data. A profile says nothing about who implements the
 * container: the in-memory container enforces it, and the notifier plans by it.
 *
 * `type1` and `type1v2` describe Linux 6.1 as measured; `iommufd` and `vfio-user` are read from public sources.
 */
import { type FrameRange, IommuError } from "@iommu-kit/iommu-core";
import type { ContainerRefusal } from "../container.js";

/** What a container answers to a map that touches a range already mapped. */
export interface OverlapRule {
  /** The very same range, target and rights once more. `accept`: ok, and nothing changes. */
  readonly identical: "accept" | ContainerRefusal;
  /** Any other overlap. */
  readonly other: ContainerRefusal;
}

/**
 * What a container does with an unmap whose ends cut an entry.
 * `invalid`, `no-entry`: refused with that cause, nothing is unmapped. `split`: the rest of the entry stays.
 * `whole-from-first`: entries are taken in ascending order, whole, as long as they begin inside the range; one that
 * begins before the range ends the call with what was removed so far.
 */
export type CutRule = "invalid" | "no-entry" | "split" | "whole-from-first";

/** What the dirty log of a container can do. */
export interface DirtyRules {
  /**
   * `all-mapped`: every frame mapped while logging is reported, at each reading (no device behind the container says
   * what it wrote). `written`: frames that a device wrote since the last reading. Otherwise the refusal of every call.
   */
  readonly log: "all-mapped" | "written" | "denied" | "unsupported";
  /** `whole`: a range that cuts an entry is `invalid`. `any`: no rule. */
  readonly range: "whole" | "any";
  /** Unmap and read as one step. */
  readonly withUnmap: boolean;
  /** Bytes of memory for which one bit stands. */
  readonly pageBytes: number;
}

/** Everything that a notifier must know about a kind of container before it plans its entries. */
export interface ContainerProfile {
  /** Name for people. */
  readonly name: string;
  /** `block`: only whole entries can be unmapped. */
  readonly granularity: "page" | "block";
  /** A map over what is mapped. */
  readonly overlap: OverlapRule;
  /** An unmap whose ends cut an entry. */
  readonly cut: CutRule;
  /** May one unmap remove several entries, holes between them included? */
  readonly unions: boolean;
  /** An unmap of a range without any entry: ok with 0 frames, or refused. */
  readonly hole: "nothing" | "no-entry";
  /** Entries, after which a map answers `no-space`. */
  readonly entryLimit: number;
  /** IOVA, length and target are multiples of it; 1 for no rule. */
  readonly alignmentBytes: number;
  /** A range beyond the 64-bit space. */
  readonly wrap: "invalid" | "overflow";
  /** Ascending; an entry must lie inside one of them, else `invalid`. */
  readonly usableRanges: readonly FrameRange[];
  /** What its log of written frames can do. */
  readonly dirty: DirtyRules;
}

/** First frame of the interrupt window 0xFEE00000-0xFEEFFFFF, which no DMA mapping may touch. */
const INTERRUPT_WINDOW_FIRST_PFN = 0xfee00;

/** First frame behind the interrupt window. */
const INTERRUPT_WINDOW_END_PFN = 0xfef00;

/**
 * The IOVA ranges usable with an aperture of the given width: all of it but the interrupt window.
 * @throws {IommuError} `bad-option` for another width.
 * @param addressBits Width of an IOVA, 32 to 64; 39 on the machine on which type1 was measured.
 */
export function usableRangesOf(addressBits: number): readonly FrameRange[] {
  if (!Number.isInteger(addressBits) || addressBits < 32 || addressBits > 64) {
    throw new IommuError(
      "bad-option",
      `usableRangesOf: expected an aperture of 32 to 64 address bits, got ${addressBits}`,
      {
        hint: "give the width of an IOVA: 39 or 48 on most hosts",
      },
    );
  }
  const endPfn = 2 ** (addressBits - 12);
  return [
    { firstPfn: 0, pageCount: INTERRUPT_WINDOW_FIRST_PFN },
    { firstPfn: INTERRUPT_WINDOW_END_PFN, pageCount: endPfn - INTERRUPT_WINDOW_END_PFN },
  ];
}
