/**
 * The IOTLB (§6.2.4): set-associative, in typed arrays, no allocation on a hit.
 *
 * An entry caches one leaf (4 KiB, 2 MiB or 1 GiB) for one requester. Sets are chosen by the input frame alone, so that a page-selective invalidation finds the entries of every
 * requester of a domain. Superpages are cached whole and dropped whole if any part of them is invalidated.
 */

import type { Access } from "@iommu-kit/iommu-core";

const WAYS = 8;
const EMPTY = -1;
/** Page sizes, smallest first: 4 KiB, 2 MiB, 1 GiB. */
const SIZES: readonly number[] = [1, 512, 2 ** 18];

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

const FIRST_STAGE = 4;
const DIRTY_PENDING = 8;

/** A cache of translations. With 0 entries every look-up misses. */
export class Iotlb {
  /** Result of the last hit: target frame of the requested page. */
  gpaPfn = 0;
  /** Result of the last hit. */
  access: Access = 0;
  /** Result of the last hit: pages of the leaf. */
  pageCount = 1;
  /** Result of the last hit: rights that may be used without another walk. */
  usable: Access = 0;
  hits = 0;
  misses = 0;
  readonly #setMask: number;
  readonly #owners: Float64Array;
  readonly #frames: Float64Array;
  readonly #targets: Float64Array;
  readonly #rights: Uint8Array;
  readonly #sizes: Float64Array;
  readonly #domains: Int32Array;
  readonly #pasids: Int32Array;
  readonly #victims: Uint8Array;
  /** Entries of each size: sizes that are not cached are not looked for. */
  readonly #bySize: number[] = [0, 0, 0];

  constructor(entryCount: number) {
    let sets = entryCount === 0 ? 0 : 1;
    while (sets * WAYS < entryCount) sets *= 2;
    this.#setMask = sets - 1;
    this.#owners = new Float64Array(sets * WAYS).fill(EMPTY);
    this.#frames = new Float64Array(sets * WAYS);
    this.#targets = new Float64Array(sets * WAYS);
    this.#sizes = new Float64Array(sets * WAYS);
    this.#rights = new Uint8Array(sets * WAYS);
    this.#domains = new Int32Array(sets * WAYS);
    this.#pasids = new Int32Array(sets * WAYS);
    this.#victims = new Uint8Array(sets);
  }

  /** Entries in use. */
  get size(): number {
    return this.#bySize.reduce((sum, count) => sum + count, 0);
  }

  /** Looks up a page of a requester (`owner`: any number that names one). */
  lookup(owner: number, iovaPfn: number): boolean {
    // Sizes spelled out: a loop over them costs as much as the look-up (bench iotlb).
    let at = this.#bySize[0] === 0 ? -1 : this.#find(owner, iovaPfn, 1);
    if (at < 0 && this.#bySize[1] !== 0) at = this.#find(owner, iovaPfn - (iovaPfn % 512), 512);
    if (at < 0 && this.#bySize[2] !== 0) at = this.#find(owner, iovaPfn - (iovaPfn % 2 ** 18), 2 ** 18);
    if (at < 0) {
      this.misses += 1;
      return false;
    }
    const flags = this.#rights[at] ?? 0;
    this.gpaPfn = (this.#targets[at] ?? 0) + iovaPfn - (this.#frames[at] ?? 0);
    this.access = (flags & 3) as Access;
    this.usable = ((flags & DIRTY_PENDING) === 0 ? flags & 3 : flags & 1) as Access;
    this.pageCount = this.#sizes[at] ?? 1;
    this.hits += 1;
    return true;
  }

  /** Caches a leaf. `iovaPfn` and `gpaPfn` are the requested page's; `size` is 1, 512 or 2^18. */
  fill(owner: number, tag: IotlbTag, iovaPfn: number, leaf: IotlbLeaf): void {
    if (this.#victims.length === 0) return;
    const size = leaf.pageCount;
    const offset = iovaPfn % size;
    const first = iovaPfn - offset;
    let at = this.#find(owner, first, size);
    if (at < 0) at = this.#room(this.#setOf(first, size));
    else this.#drop(at);
    this.#owners[at] = owner;
    this.#frames[at] = first;
    this.#targets[at] = leaf.gpaPfn - offset;
    this.#rights[at] = leaf.access | (tag.firstStage ? FIRST_STAGE : 0) | (leaf.dirtyPending ? DIRTY_PENDING : 0);
    this.#sizes[at] = size;
    this.#domains[at] = tag.domainId;
    this.#pasids[at] = tag.pasid;
    this.#count(size, 1);
  }

  /** Drops everything. */
  invalidateAll(): void {
    if (this.size === 0) return;
    this.#owners.fill(EMPTY);
    this.#bySize.fill(0);
  }

  /** Drops everything of a domain. */
  invalidateDomain(domainId: number): void {
    if (this.size === 0) return;
    for (let at = 0; at < this.#owners.length; at++) {
      if (this.#owners[at] !== EMPTY && this.#domains[at] === domainId) this.#drop(at);
    }
  }

  /** Drops every leaf of a domain that has a frame in the range. */
  invalidatePages(domainId: number, firstPfn: number, pageCount: number): void {
    if (this.size === 0) return;
    if (pageCount * WAYS * SIZES.length >= this.#owners.length) {
      for (let at = 0; at < this.#owners.length; at++) this.#dropIfIn(at, domainId, firstPfn, pageCount);
      return;
    }
    for (let s = 0; s < SIZES.length; s++) {
      if (this.#bySize[s] === 0) continue;
      const size = SIZES[s] ?? 1;
      for (let first = firstPfn - (firstPfn % size); first < firstPfn + pageCount; first += size) {
        const set = this.#setOf(first, size);
        for (let at = set; at < set + WAYS; at++) this.#dropIfIn(at, domainId, firstPfn, pageCount);
      }
    }
  }

  /** Drops first-stage and nested entries of a domain: what a page-selective invalidation of the domain does to them (§6.5.2.3). */
  invalidateFirstStage(domainId: number): void {
    this.#sweep((at) => this.#domains[at] === domainId && ((this.#rights[at] ?? 0) & FIRST_STAGE) !== 0);
  }

  /** Drops everything of a PASID in a domain. */
  invalidatePasid(domainId: number, pasid: number): void {
    this.#sweep((at) => this.#domains[at] === domainId && this.#pasids[at] === pasid);
  }

  /** Drops first-stage and nested leaves of a PASID that have a frame in the range. Second-stage entries stay (§6.5.2.4). */
  invalidatePasidPages(domainId: number, pasid: number, firstPfn: number, pageCount: number): void {
    this.#sweep((at) => {
      if (this.#domains[at] !== domainId || this.#pasids[at] !== pasid) return false;
      if (((this.#rights[at] ?? 0) & FIRST_STAGE) === 0) return false;
      const first = this.#frames[at] ?? 0;
      return first < firstPfn + pageCount && first + (this.#sizes[at] ?? 0) > firstPfn;
    });
  }

  #sweep(picks: (at: number) => boolean): void {
    if (this.size === 0) return;
    for (let at = 0; at < this.#owners.length; at++) if (this.#owners[at] !== EMPTY && picks(at)) this.#drop(at);
  }

  #setOf(firstPfn: number, size: number): number {
    // Multiplying spreads superpages, whose frames are all multiples of 512.
    const mixed = Math.imul((firstPfn / size) | 0, 0x9e3779b1) ^ Math.floor(firstPfn / 2 ** 31);
    return ((mixed ^ (mixed >>> 15)) & this.#setMask) * WAYS;
  }

  #find(owner: number, firstPfn: number, size: number): number {
    if (this.#victims.length === 0) return -1;
    const set = this.#setOf(firstPfn, size);
    for (let at = set; at < set + WAYS; at++) {
      if (this.#frames[at] === firstPfn && this.#owners[at] === owner && this.#sizes[at] === size) return at;
    }
    return -1;
  }

  #room(set: number): number {
    for (let at = set; at < set + WAYS; at++) if (this.#owners[at] === EMPTY) return at;
    const index = set / WAYS;
    const victim = this.#victims[index] ?? 0;
    this.#victims[index] = (victim + 1) % WAYS;
    this.#drop(set + victim);
    return set + victim;
  }

  #dropIfIn(at: number, domainId: number, firstPfn: number, pageCount: number): void {
    if (this.#owners[at] === EMPTY || this.#domains[at] !== domainId) return;
    const first = this.#frames[at] ?? 0;
    if (first < firstPfn + pageCount && first + (this.#sizes[at] ?? 0) > firstPfn) this.#drop(at);
  }

  #drop(at: number): void {
    this.#owners[at] = EMPTY;
    this.#count(this.#sizes[at] ?? 1, -1);
  }

  #count(size: number, by: number): void {
    const s = SIZES.indexOf(size);
    this.#bySize[s] = (this.#bySize[s] ?? 0) + by;
  }
}
