/**
 * A node of the IOVA tree above its leaves: 512 slots for superpages, and children that may stand in a slot's place; at level 2, where the children are leaves, a directory of them.
 */

import { accessOf, type Access } from "../access.js";
import { LeafDirectory } from "./leaf-directory.js";
import { FANOUT, slotHigh, slotLow, slotSpan, slotTarget } from "./slot.js";

const NO_SLOTS = new Int32Array(0);
/** Of the same length as others, so that looking at it is nothing special. Never written. */
const NO_CHILDREN: readonly (TreeNode | undefined)[] = new Array<TreeNode | undefined>(FANOUT).fill(undefined);
const NODE_ARRAY_BYTES = 4096;

/** @internal */
export class TreeNode {
  /** 2 or above. */
  readonly level: number;
  /** Empty until the first superpage. */
  slots = NO_SLOTS;
  /** Made for the first child: nodes of superpages alone do without. */
  children = NO_CHILDREN;
  #children: (TreeNode | undefined)[] | undefined = undefined;
  /** Level 2: made for the first leaf. */
  leaves: LeafDirectory | undefined = undefined;
  /** Slots in use plus children. */
  used = 0;

  constructor(level: number) {
    this.level = level;
  }

  /** Bytes of this node's arrays, children not counted. */
  get byteLength(): number {
    const children = this.children === NO_CHILDREN ? 0 : NODE_ARRAY_BYTES;
    return this.slots.byteLength + children + (this.leaves?.byteLength ?? 0);
  }

  /** The place of the leaf at `index`; 0 if there is none. */
  placeAt(index: number): number {
    return this.leaves?.places[index] ?? 0;
  }

  /** Puts a child where neither a slot nor a child stands. */
  adopt(index: number, child: TreeNode): void {
    if (this.#children === undefined)
      this.children = this.#children = new Array<TreeNode | undefined>(FANOUT).fill(undefined);
    this.#children[index] = child;
    this.used += 1;
  }

  /** Forgets a child. */
  drop(index: number): void {
    if (this.#children === undefined) return;
    this.#children[index] = undefined;
    this.used -= 1;
  }

  /** The same for a leaf at a place, with so many slots in use. */
  adoptLeaf(index: number, place: number, count: number): void {
    this.leaves ??= new LeafDirectory();
    this.leaves.places[index] = place;
    this.leaves.counts[index] = count;
    this.leaves.departs(index, undefined);
    this.leaves.forget();
    this.used += 1;
  }

  /** Forgets a leaf. */
  dropLeaf(index: number): void {
    if (this.leaves === undefined) return;
    this.leaves.places[index] = 0;
    this.leaves.counts[index] = 0;
    this.leaves.forget();
    this.used -= 1;
  }

  /** The index of the slot for `pfn`. */
  indexOf(pfn: number): number {
    return Math.floor(pfn / slotSpan(this.level)) % FANOUT;
  }

  /** Rights of the slot at `index`: 0 when it is free. */
  accessAt(index: number): Access {
    return accessOf(this.slots[index * 2] ?? 0);
  }

  /** Target of the slot's first frame. */
  targetAt(index: number): number {
    return slotTarget(this.slots[index * 2] ?? 0, this.slots[index * 2 + 1] ?? 0);
  }

  /** Fills a free slot, or overwrites one. */
  put(index: number, gpaPfn: number, access: Access): void {
    if (this.slots.length === 0) this.slots = new Int32Array(FANOUT * 2);
    if (this.accessAt(index) === 0) this.used += 1;
    this.leaves?.forget();
    this.slots[index * 2] = slotLow(gpaPfn, access);
    this.slots[index * 2 + 1] = slotHigh(gpaPfn);
  }

  /** Frees a slot in use. */
  clear(index: number): void {
    this.leaves?.forget();
    this.slots[index * 2] = 0;
    this.slots[index * 2 + 1] = 0;
    this.used -= 1;
  }

  /** A node one level down, 2 or above, that says what the superpage at `index` says. */
  split(index: number): TreeNode {
    const child = new TreeNode(this.level - 1);
    const gpaPfn = this.targetAt(index);
    const access = this.accessAt(index);
    const span = slotSpan(child.level);
    for (let i = 0; i < FANOUT; i++) child.put(i, gpaPfn + i * span, access);
    return child;
  }
}
