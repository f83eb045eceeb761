/**
 * A node of the IOVA tree: 512 slots, and above level 1 children that may stand in a slot's place.
 */

import { accessOf, type Access } from "../access.js";
import type { EntryFormat, LeafTable } from "./leaf-table.js";
import { FANOUT, fillSlots, slotHigh, slotLow, slotSpan, slotTarget } from "./slot.js";

const NO_SLOTS = new Int32Array(0);
/** Of the same length as others, so that looking at it is nothing special. Never written. */
const NO_CHILDREN: readonly (TreeNode | undefined)[] = new Array<TreeNode | undefined>(FANOUT).fill(undefined);
const NODE_ARRAY_BYTES = 4096;

/** @internal */
export class TreeNode {
  readonly level: number;
  /** 512 pairs of words at level 1; above, empty until the first superpage. */
  slots: Int32Array;
  /** Made for the first child: leaves, and nodes of superpages alone, do without. */
  children = NO_CHILDREN;
  #children: (TreeNode | undefined)[] | undefined = undefined;
  /** Slots in use plus children. */
  used = 0;
  /** Level 1: what the words of every slot mean, other bits included; `undefined` if that is not known. Equal words in this format are told already. */
  format: EntryFormat | undefined = undefined;
  /** Level 1: the table whose contents the slots are, and since when; -1 if they are not. */
  #tablePfn = -1;
  #generation = -1;

  constructor(level: number) {
    this.level = level;
    this.slots = level === 1 ? new Int32Array(FANOUT * 2) : NO_SLOTS;
  }

  /** Bytes of this node's arrays, children not counted. */
  get byteLength(): number {
    return this.slots.byteLength + (this.children === NO_CHILDREN ? 0 : NODE_ARRAY_BYTES);
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

  /** Whether the host vouches that a table still says what the slots say. */
  isProved(table: LeafTable): boolean {
    return (
      this.#generation !== -1 &&
      this.#generation === table.generation &&
      this.#tablePfn === table.pfn &&
      this.format === table.format
    );
  }

  /** All slots are the contents of this table now. */
  mirrors(table: LeafTable): void {
    this.format = table.format;
    this.#tablePfn = table.pfn;
    this.#generation = table.generation;
  }

  /** Some slots were written in this format. */
  departs(format: EntryFormat | undefined): void {
    if (this.format !== format) this.format = undefined;
    this.#generation = -1;
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
    this.slots[index * 2] = slotLow(gpaPfn, access);
    this.slots[index * 2 + 1] = slotHigh(gpaPfn);
    this.departs(undefined);
  }

  /** Frees a slot in use. */
  clear(index: number): void {
    this.slots[index * 2] = 0;
    this.slots[index * 2 + 1] = 0;
    this.used -= 1;
    this.departs(this.format);
  }

  /** A node one level down that says what the superpage at `index` says. */
  split(index: number): TreeNode {
    const child = new TreeNode(this.level - 1);
    const gpaPfn = this.targetAt(index);
    const access = this.accessAt(index);
    if (child.level === 1) {
      fillSlots(child.slots, 0, FANOUT, gpaPfn, access);
      child.used = FANOUT;
    } else {
      const span = slotSpan(child.level);
      for (let i = 0; i < FANOUT; i++) child.put(i, gpaPfn + i * span, access);
    }
    return child;
  }
}
