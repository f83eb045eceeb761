/**
 * The IOTLB (§6.2.4): set-associative, in typed arrays, no allocation on a hit.
 *
 * An entry caches one leaf (4 KiB, 2 MiB or 1 GiB) for one requester. Sets are chosen by the input frame alone, so that a page-selective invalidation finds the entries of every
 * requester of a domain. Superpages are cached whole and dropped whole if any part of them is invalidated.
 */

import type { Access, Translation } from "@iommu-kit/iommu-core";
import { offsetInBlock } from "./table-index.js";

const WAYS = 4;
const EMPTY = -1;
/** The golden ratio of 2^32: multiplying by it spreads numbers that are multiples of something. */
const SPREAD = 0x9e3779b1;
/** Page sizes, smallest first: 4 KiB, 2 MiB, 1 GiB. */
const SIZES: readonly number[] = [1, 2 ** 9, 2 ** 18];

/** What invalidations name an entry by, and how it was translated. */
export interface IotlbTag {
  readonly domainId: number;
  readonly pasid: number;
  /** First-stage and nested entries obey other invalidation rules than second-stage and pass-through ones. */
  readonly firstStage: boolean;
}

/** A leaf to cache. */
export interface IotlbLeaf {
  readonly gpaPfn: number;
  readonly access: Access;
  readonly pageCount: number;
  /** A dirty flag is still to be set: a write has to walk. */
  readonly dirtyPending: boolean;
}

// First word of the details: the leaf's rights in bits 1:0, those that need no further walk in bits 3:2, the stage, and the domain-id (16 bits) above.
const USABLE_SHIFT = 2;
const FIRST_STAGE = 16;
const DOMAIN_SHIFT = 8;

/** A cache of translations. With 0 entries every look-up misses. */
export class Iotlb {
  hits = 0;
  misses = 0;
  readonly #entryCount: number;
  readonly #setMask: number;
  // Sixteen bytes of an entry to find it by, sixteen that say what it holds: a hit and a miss touch two cache lines (with one array for each field, five).
  /** First frame, and owner * 4 + index of the size: the tags of a set are one cache line. `EMPTY` as the owner: no entry. */
  readonly #tags: Float64Array;
  /** Target of the first frame, and room for `#details`. */
  readonly #targets: Float64Array;
  /** The same bytes as words. Behind the target: rights and domain-id (`DOMAIN_SHIFT`), PASID. */
  readonly #details: Int32Array;
  /** Which way the next leaf replaces in a set that is full. */
  #victim = 0;
  // How many entries there are of each size, and of the first stage: what is not there is not looked for.
  readonly #bySize = new Int32Array(SIZES.length);
  #superpages = 0;
  #firstStageEntries = 0;

  constructor(entryCount: number) {
    let count = entryCount === 0 ? 0 : WAYS;
    while (count < entryCount) count *= 2;
    this.#entryCount = count;
    this.#setMask = count / WAYS - 1;
    this.#tags = new Float64Array(count * 2).fill(EMPTY);
    this.#targets = new Float64Array(count * 2);
    this.#details = new Int32Array(this.#targets.buffer);
  }

  /** Entries in use. */
  get size(): number {
    return this.#bySize.reduce((sum, count) => sum + count, 0);
  }

  /**
   * Answers a request for `access` (not 0) to a page of a requester (`owner`: any number below 2^50 that names one). `false`, with `out` unchanged, if no leaf that may be
   * used for that is cached: a leaf without the right, or one whose dirty flag a write has still to set, needs a walk.
   */
  lookup(owner: number, iovaPfn: number, access: Access, out: Translation): boolean {
    // `#find` for single frames, written out: engines that compile this while most requests miss leave calls in it as they are.
    const tags = this.#tags;
    const holder = owner * 4;
    const set = ((Math.imul(iovaPfn, SPREAD) >>> 10) & this.#setMask) * (WAYS * 2);
    for (let at = set; at < set + WAYS * 2; at += 2) {
      if (tags[at] !== iovaPfn || tags[at + 1] !== holder) continue;
      const rights = this.#details[at * 2 + 2] as number;
      if ((access & ~(rights >> USABLE_SHIFT)) !== 0) return this.#miss();
      this.hits += 1;
      out.allow(this.#targets[at] as number, 1, (rights & 3) as Access);
      return true;
    }
    return this.#superpages === 0 ? this.#miss() : this.#lookupSuperpage(owner, iovaPfn, access, out);
  }

  /** Caches a leaf. `iovaPfn` and `gpaPfn` are the requested page's; its size is 1, 512 or 2^18. */
  fill(owner: number, tag: IotlbTag, iovaPfn: number, leaf: IotlbLeaf): void {
    if (this.#entryCount === 0) return;
    const s = leaf.pageCount === 1 ? 0 : SIZES.indexOf(leaf.pageCount);
    const offset = offsetInBlock(iovaPfn, leaf.pageCount);
    const at = this.#room(owner, iovaPfn - offset, s);
    const replaced = this.#kindOf(at);
    const usable = leaf.dirtyPending ? leaf.access & 1 : leaf.access;
    this.#tags[at] = iovaPfn - offset;
    this.#tags[at + 1] = owner * 4 + s;
    this.#targets[at] = leaf.gpaPfn - offset;
    this.#details[at * 2 + 2] =
      leaf.access | (usable << USABLE_SHIFT) | (tag.firstStage ? FIRST_STAGE : 0) | (tag.domainId << DOMAIN_SHIFT);
    this.#details[at * 2 + 3] = tag.pasid;
    const kind = s | (tag.firstStage ? FIRST_STAGE : 0);
    if (kind === replaced) return;
    this.#count(replaced, -1);
    this.#count(kind, 1);
  }

  /** Drops everything. */
  invalidateAll(): void {
    if (this.size === 0) return;
    this.#tags.fill(EMPTY);
    this.#bySize.fill(0);
    this.#superpages = 0;
    this.#firstStageEntries = 0;
  }

  /** Drops everything of a domain. */
  invalidateDomain(domainId: number): void {
    this.#sweep((at) => this.#domainOf(at) === domainId);
  }

  /** Drops every leaf of a domain that has a frame in the range. */
  invalidatePages(domainId: number, firstPfn: number, pageCount: number): void {
    if (pageCount * WAYS * SIZES.length >= this.#entryCount) {
      this.#sweep((at) => this.#domainOf(at) === domainId && this.#touches(at, firstPfn, pageCount));
      return;
    }
    for (let s = 0; s < SIZES.length; s++) {
      if (this.#bySize[s] === 0) continue;
      const size = SIZES[s] as number;
      for (let first = firstPfn - offsetInBlock(firstPfn, size); first < firstPfn + pageCount; first += size) {
        this.#sweepSet(
          this.#setOf(first, s),
          (at) => this.#domainOf(at) === domainId && this.#touches(at, firstPfn, pageCount),
        );
      }
    }
  }

  /** Drops every leaf of a requester that has a frame in the range. */
  invalidateOwner(owner: number, firstPfn: number, pageCount: number): void {
    this.#sweep(
      (at) => Math.floor((this.#tags[at + 1] as number) / 4) === owner && this.#touches(at, firstPfn, pageCount),
    );
  }

  /** Drops first-stage and nested entries of a domain: what a page-selective invalidation of the domain does to them (§6.5.2.3). */
  invalidateFirstStage(domainId: number): void {
    if (this.#firstStageEntries === 0) return;
    this.#sweep((at) => this.#domainOf(at) === domainId && this.#isFirstStage(at));
  }

  /** Drops everything of a PASID in a domain. */
  invalidatePasid(domainId: number, pasid: number): void {
    this.#sweep((at) => this.#domainOf(at) === domainId && this.#details[at * 2 + 3] === pasid);
  }

  /** Drops first-stage and nested leaves of a PASID that have a frame in the range. Second-stage entries stay (§6.5.2.4). */
  invalidatePasidPages(domainId: number, pasid: number, firstPfn: number, pageCount: number): void {
    this.#sweep(
      (at) =>
        this.#domainOf(at) === domainId &&
        this.#details[at * 2 + 3] === pasid &&
        this.#isFirstStage(at) &&
        this.#touches(at, firstPfn, pageCount),
    );
  }

  #lookupSuperpage(owner: number, iovaPfn: number, access: Access, out: Translation): boolean {
    for (let s = 1; s < SIZES.length; s++) {
      if (this.#bySize[s] === 0) continue;
      const pageCount = SIZES[s] as number;
      const offset = offsetInBlock(iovaPfn, pageCount);
      const at = this.#find(owner, iovaPfn - offset, s);
      if (at < 0) continue;
      const rights = this.#details[at * 2 + 2] as number;
      if ((access & ~(rights >> USABLE_SHIFT)) !== 0) return this.#miss();
      this.hits += 1;
      out.allow((this.#targets[at] as number) + offset, pageCount, (rights & 3) as Access);
      return true;
    }
    return this.#miss();
  }

  #miss(): false {
    this.misses += 1;
    return false;
  }

  /** Drops what is picked of all entries. */
  #sweep(picks: (at: number) => boolean): void {
    if (this.size === 0) return;
    for (let set = 0; set < this.#tags.length; set += WAYS * 2) this.#sweepSet(set, picks);
  }

  #sweepSet(set: number, picks: (at: number) => boolean): void {
    for (let at = set; at < set + WAYS * 2; at += 2) if (this.#tags[at + 1] !== EMPTY && picks(at)) this.#drop(at);
  }

  /** Where a set begins in the arrays. */
  #setOf(firstPfn: number, s: number): number {
    // Frames 2^32 apart share a set.
    const mixed = Math.imul(s === 0 ? firstPfn : firstPfn / (SIZES[s] as number), SPREAD);
    return ((mixed >>> 10) & this.#setMask) * (WAYS * 2);
  }

  #find(owner: number, firstPfn: number, s: number): number {
    const tags = this.#tags;
    const holder = owner * 4 + s;
    const set = this.#setOf(firstPfn, s);
    for (let at = set; at < set + WAYS * 2; at += 2) {
      if (tags[at] === firstPfn && tags[at + 1] === holder) return at;
    }
    return -1;
  }

  /** Where a leaf goes: where it is already, a free entry, or over the next victim. */
  #room(owner: number, firstPfn: number, s: number): number {
    const tags = this.#tags;
    const set = this.#setOf(firstPfn, s);
    let free = -1;
    for (let at = set; at < set + WAYS * 2; at += 2) {
      const holder = tags[at + 1];
      if (holder === EMPTY) {
        if (free < 0) free = at;
      } else if (holder === owner * 4 + s && tags[at] === firstPfn) {
        return at;
      }
    }
    if (free >= 0) return free;
    this.#victim = (this.#victim + 2) % (WAYS * 2);
    return set + this.#victim;
  }

  #isFirstStage(at: number): boolean {
    return ((this.#details[at * 2 + 2] as number) & FIRST_STAGE) !== 0;
  }

  #domainOf(at: number): number {
    return (this.#details[at * 2 + 2] as number) >> DOMAIN_SHIFT;
  }

  #touches(at: number, firstPfn: number, pageCount: number): boolean {
    const first = this.#tags[at] as number;
    const size = SIZES[(this.#tags[at + 1] as number) & 3] as number;
    return first < firstPfn + pageCount && first + size > firstPfn;
  }

  #drop(at: number): void {
    this.#count(this.#kindOf(at), -1);
    this.#tags[at + 1] = EMPTY;
  }

  /** Index of an entry's size, and its stage; `EMPTY`: no entry. */
  #kindOf(at: number): number {
    const holder = this.#tags[at + 1] as number;
    return holder === EMPTY ? EMPTY : (holder & 3) | ((this.#details[at * 2 + 2] as number) & FIRST_STAGE);
  }

  #count(kind: number, by: number): void {
    if (kind === EMPTY) return;
    this.#bySize[kind & 3] = (this.#bySize[kind & 3] as number) + by;
    if ((kind & 3) !== 0) this.#superpages += by;
    if ((kind & FIRST_STAGE) !== 0) this.#firstStageEntries += by;
  }
}
