/**
 * The announced state of a view: which frames MAP notifiers have been told about, and where they go (design D4).
 *
 * A radix tree shaped like a page table: 512 slots a node, 8 bytes a slot, one slot a superpage. Contiguous runs are derived when asked for, never stored.
 * Invariants: a slot and a child never stand at the same index; no node but the root is empty.
 */

import { type Access, accessOf } from "../access.js";
import { IommuError } from "../errors.js";
import { ALL_FRAMES, checkRange, endOf, type FrameRange } from "../range.js";
import { FANOUT, slotSpan, slotTarget } from "./slot.js";
import { TreeNode } from "./tree-node.js";

/** A reusable answer of `find` and `seek`. */
export class Mapping {
  /** First frame of the slot. */
  firstPfn = 0;
  /** Frames in the slot: 1, or 512, 2^18 ... for a superpage. */
  pageCount = 0;
  /** Target of the frame that was asked for; of the slot's first frame when that lies above it. */
  gpaPfn = 0;
  access: Access = 0;
}

/** Told a maximal run of frames with consecutive targets and equal rights. `false` ends the iteration. */
export type RunVisitor = (
  firstPfn: number,
  pageCount: number,
  gpaPfn: number,
  access: Access,
) => boolean | undefined | void;

/** Superpages up to this level get a slot of their own: 2^27 frames, 512 GiB. */
const HIGHEST_SLOT_LEVEL = 4;

/** Frames below a node of level 2. */
const LEAF_PARENT_SPAN = FANOUT * FANOUT;

/** Targets are below this frame. */
const TARGET_LIMIT = 2 ** 40;

/** A map from frames (below 2^52) to targets (frames below 2^40) and rights. */
export class IovaTree {
  #root = new TreeNode(2);
  #slotCount = 0;
  #pageCount = 0;
  #byteLength = this.#root.byteLength;
  // The leaf used last and its parent: neighbouring look-ups skip the descent (bench: IOVA tree).
  #leaf: TreeNode | undefined;
  #leafFirstPfn = -1;
  #parent: TreeNode | undefined;
  #parentFirstPfn = -1;

  /** Mappings held, a superpage counting as one. */
  get slotCount(): number {
    return this.#slotCount;
  }

  /** Frames mapped. */
  get pageCount(): number {
    return this.#pageCount;
  }

  /** Bytes retained by the nodes' arrays. */
  get byteLength(): number {
    return this.#byteLength;
  }

  /** Looks up one frame. `false`, with `out` unchanged, when it is not mapped. */
  find(pfn: number, out: Mapping): boolean {
    const leaf = this.leafAt(pfn);
    if (leaf !== undefined) return this.#readFrame(leaf, pfn, out);
    if (pfn >= this.#limit()) return false;
    let node = this.#root;
    for (let child = node.children[node.indexOf(pfn)]; child !== undefined; child = node.children[node.indexOf(pfn)])
      node = child;
    return this.#read(node, pfn, node.indexOf(pfn), out);
  }

  /** Finds the slot that contains `pfn`, or the next one above. `false` when there is none. */
  seek(pfn: number, out: Mapping): boolean {
    return pfn < this.#limit() && this.#seekIn(this.#root, 0, pfn, out);
  }

  /**
   * Maps `pageCount` frames to consecutive targets, replacing what was there. Aligned parts become superpage slots. Without rights it is a removal, whatever `gpaPfn` is.
   * @throws {IommuError} `bad-range` for a range that is empty or not whole frames, or whose targets are not below 2^40.
   */
  insert(firstPfn: number, pageCount: number, gpaPfn: number, access: Access): void {
    if (access === 0) {
      this.remove(firstPfn, pageCount);
      return;
    }
    checkRange({ firstPfn, pageCount }, "IovaTree.insert");
    checkTarget(gpaPfn, pageCount);
    if (isInLeaf(firstPfn, pageCount)) {
      this.#insertFrames(firstPfn, pageCount, gpaPfn, access);
      return;
    }
    const end = firstPfn + pageCount;
    for (let at = firstPfn; at < end;) {
      const level = slotLevel(at, end - at);
      if (level === 1) {
        const count = Math.min(end, at - (at % FANOUT) + FANOUT) - at;
        this.#insertFrames(at, count, gpaPfn + (at - firstPfn), access);
        at += count;
      } else {
        this.setSlot(at, level, gpaPfn + (at - firstPfn), access);
        at += slotSpan(level);
      }
    }
  }

  /**
   * Unmaps these frames; superpages that reach beyond the range are cut.
   * @throws {IommuError} `bad-range` for a range that is empty or not whole frames.
   */
  remove(firstPfn: number, pageCount: number): void {
    checkRange({ firstPfn, pageCount }, "IovaTree.remove");
    const leaf = isInLeaf(firstPfn, pageCount) ? this.leafAt(firstPfn) : undefined;
    if (leaf !== undefined && leaf.used > pageCount) {
      this.#clearFrames(leaf, firstPfn, pageCount);
      return;
    }
    this.#removeIn(this.#root, 0, firstPfn, Math.min(firstPfn + pageCount, this.#limit()));
    this.#forgetPath();
  }

  /** Visits the mapped runs of `range` in ascending order; a run that crosses the range's edge is clipped, its target advanced by as much. */
  runs(visit: RunVisitor, range: FrameRange = ALL_FRAMES): void {
    const cursor = new Mapping();
    const end = endOf(range);
    let first = 0;
    let count = 0;
    let target = 0;
    let access: Access = 0;
    for (
      let at = range.firstPfn;
      at < end && this.seek(at, cursor);
      at = Math.max(at, cursor.firstPfn) + cursor.pageCount
    ) {
      const start = Math.max(at, cursor.firstPfn);
      const left = Math.min(end, cursor.firstPfn + cursor.pageCount) - start;
      if (left <= 0) break;
      if (count > 0 && start === first + count && cursor.gpaPfn === target + count && cursor.access === access) {
        count += left;
      } else {
        if (count > 0 && visit(first, count, target, access) === false) return;
        first = start;
        count = left;
        target = cursor.gpaPfn;
        access = cursor.access;
      }
      cursor.pageCount = left;
    }
    if (count > 0) visit(first, count, target, access);
  }

  /** Forgets everything. */
  clear(): void {
    this.#root = new TreeNode(2);
    this.#slotCount = 0;
    this.#pageCount = 0;
    this.#byteLength = this.#root.byteLength;
    this.#forgetPath();
  }

  /** @internal The leaf with the slot of this frame, if the frame has a slot of its own. Valid until the tree changes. */
  leafAt(pfn: number): TreeNode | undefined {
    const offset = pfn - this.#leafFirstPfn;
    if (offset >= 0 && offset < FANOUT && this.#leaf !== undefined) return this.#leaf;
    const parent = this.#parentAt(pfn);
    if (parent === undefined) return undefined;
    const index = (pfn - this.#parentFirstPfn) >> 9;
    const leaf = parent.children[index];
    if (leaf === undefined) return undefined;
    this.#leaf = leaf;
    this.#leafFirstPfn = this.#parentFirstPfn + index * FANOUT;
    return leaf;
  }

  /** @internal Writes single-frame slots of one leaf, whose first frame is `firstPfn`: slot `index[k]` gets the pair of words at `2 * k`. Answers the leaf, if anything is left of it. */
  writeSlots(firstPfn: number, index: Int32Array, words: Int32Array, count: number): TreeNode | undefined {
    const leaf = this.leafAt(firstPfn) ?? this.#nodeAt(firstPfn, 1);
    const { slots } = leaf;
    let more = 0;
    for (let k = 0; k < count; k++) {
      const at = (index[k] ?? 0) * 2;
      const low = words[k * 2] ?? 0;
      if ((low & 3) !== 0) more += 1;
      if (((slots[at] ?? 0) & 3) !== 0) more -= 1;
      slots[at] = low;
      slots[at + 1] = words[k * 2 + 1] ?? 0;
    }
    leaf.used += more;
    this.#slotCount += more;
    this.#pageCount += more;
    if (leaf.used > 0) return leaf;
    this.remove(firstPfn, FANOUT);
    return undefined;
  }

  /** @internal Makes one slot of this level (above 1) map its frames, dropping whatever was below it. */
  setSlot(firstPfn: number, level: number, gpaPfn: number, access: Access): void {
    const node = this.#nodeAt(firstPfn, level);
    const index = node.indexOf(firstPfn);
    const span = slotSpan(level);
    if (node.children[index] !== undefined) this.#removeIn(node, firstPfn - index * span, firstPfn, firstPfn + span);
    this.#forgetPath();
    if (node.slots.length === 0) this.#byteLength += FANOUT * 8;
    if (node.accessAt(index) === 0) {
      this.#slotCount += 1;
      this.#pageCount += span;
    }
    node.put(index, gpaPfn, access);
  }

  #limit(): number {
    return slotSpan(this.#root.level + 1);
  }

  /** The node of level 2 above this frame. */
  #parentAt(pfn: number): TreeNode | undefined {
    const offset = pfn - this.#parentFirstPfn;
    if (offset >= 0 && offset < LEAF_PARENT_SPAN && this.#parent !== undefined) return this.#parent;
    if (pfn >= this.#limit()) return undefined;
    let node: TreeNode | undefined = this.#root;
    while (node !== undefined && node.level > 2) node = node.children[node.indexOf(pfn)];
    if (node === undefined) return undefined;
    this.#parent = node;
    this.#parentFirstPfn = pfn - (pfn % LEAF_PARENT_SPAN);
    return node;
  }

  #forgetPath(): void {
    this.#leaf = undefined;
    this.#parent = undefined;
  }

  #read(node: TreeNode, pfn: number, index: number, out: Mapping): boolean {
    const access = node.accessAt(index);
    if (access === 0) return false;
    const span = slotSpan(node.level);
    const offset = pfn % span;
    out.firstPfn = pfn - offset;
    out.pageCount = span;
    out.gpaPfn = node.targetAt(index) + offset;
    out.access = access;
    return true;
  }

  /** The frame has a slot of its own in this leaf. */
  #readFrame(leaf: TreeNode, pfn: number, out: Mapping): boolean {
    const at = (pfn - this.#leafFirstPfn) * 2;
    const low = leaf.slots[at] ?? 0;
    const access = accessOf(low);
    if (access === 0) return false;
    out.firstPfn = pfn;
    out.pageCount = 1;
    out.gpaPfn = slotTarget(low, leaf.slots[at + 1] ?? 0);
    out.access = access;
    return true;
  }

  #seekIn(node: TreeNode, nodeFirstPfn: number, pfn: number, out: Mapping): boolean {
    const span = slotSpan(node.level);
    const from = Math.max(pfn, nodeFirstPfn);
    const { children, slots } = node;
    for (let index = Math.floor((from - nodeFirstPfn) / span); index < FANOUT; index++) {
      const child = children[index];
      if (child === undefined && slots.length === 0) continue;
      const first = nodeFirstPfn + index * span;
      if (child === undefined) {
        if (this.#read(node, Math.max(pfn, first), index, out)) return true;
      } else if (this.#seekIn(child, first, pfn, out)) {
        return true;
      }
    }
    return false;
  }

  /** The node of `level` that holds `firstPfn`, made if need be; superpages on the way are split. */
  #nodeAt(firstPfn: number, level: number): TreeNode {
    while (firstPfn >= this.#limit() || this.#root.level < level) this.#growRoot();
    let node = this.#root;
    while (node.level > level) {
      const index = node.indexOf(firstPfn);
      node = node.children[index] ?? this.#makeChild(node, index);
    }
    return node;
  }

  #growRoot(): void {
    const root = new TreeNode(this.#root.level + 1);
    if (this.#root.used > 0) root.adopt(0, this.#root);
    else this.#byteLength -= this.#root.byteLength;
    this.#byteLength += root.byteLength;
    this.#root = root;
    this.#forgetPath();
  }

  #makeChild(node: TreeNode, index: number): TreeNode {
    const wasSlot = node.accessAt(index) !== 0;
    const child = wasSlot ? node.split(index) : new TreeNode(node.level - 1);
    if (wasSlot) {
      node.clear(index);
      this.#slotCount += FANOUT - 1;
    }
    this.#byteLength += child.byteLength - node.byteLength;
    node.adopt(index, child);
    this.#byteLength += node.byteLength;
    return child;
  }

  #insertFrames(firstPfn: number, count: number, gpaPfn: number, access: Access): void {
    const leaf = this.leafAt(firstPfn) ?? this.#nodeAt(firstPfn, 1);
    const before = leaf.used;
    const index = firstPfn % FANOUT;
    for (let i = 0; i < count; i++) leaf.put(index + i, gpaPfn + i, access);
    this.#slotCount += leaf.used - before;
    this.#pageCount += leaf.used - before;
  }

  /** Frees slots of a leaf that others are left of. */
  #clearFrames(leaf: TreeNode, firstPfn: number, count: number): void {
    const before = leaf.used;
    const index = firstPfn - this.#leafFirstPfn;
    for (let i = index; i < index + count; i++) if (leaf.accessAt(i) !== 0) leaf.clear(i);
    this.#slotCount += leaf.used - before;
    this.#pageCount += leaf.used - before;
  }

  #removeIn(node: TreeNode, nodeFirstPfn: number, first: number, end: number): void {
    const span = slotSpan(node.level);
    const to = Math.min(FANOUT, Math.ceil((end - nodeFirstPfn) / span));
    for (let index = Math.max(0, Math.floor((first - nodeFirstPfn) / span)); index < to; index++) {
      const slotFirst = nodeFirstPfn + index * span;
      const whole = first <= slotFirst && end >= slotFirst + span;
      if (node.accessAt(index) !== 0) {
        if (whole) {
          node.clear(index);
          this.#slotCount -= 1;
          this.#pageCount -= span;
          continue;
        }
        this.#makeChild(node, index);
      }
      const child = node.children[index];
      if (child === undefined) continue;
      this.#removeIn(child, slotFirst, first, end);
      if (child.used === 0) {
        node.drop(index);
        this.#byteLength -= child.byteLength;
      }
    }
  }
}

/** Whether all frames lie in one leaf, and are not all of it. */
function isInLeaf(firstPfn: number, pageCount: number): boolean {
  return pageCount < FANOUT && (firstPfn % FANOUT) + pageCount <= FANOUT;
}

/** The largest level whose slot starts at `pfn` and fits into `pageCount` frames. */
function slotLevel(pfn: number, pageCount: number): number {
  let level = HIGHEST_SLOT_LEVEL;
  while (level > 1 && (pfn % slotSpan(level) !== 0 || pageCount < slotSpan(level))) level -= 1;
  return level;
}

function checkTarget(gpaPfn: number, pageCount: number): void {
  if (Number.isSafeInteger(gpaPfn) && gpaPfn >= 0 && gpaPfn + pageCount <= TARGET_LIMIT) return;
  throw new IommuError(
    "bad-range",
    `IovaTree.insert: expected targets that are whole frames in [0, 2^40), got first ${gpaPfn}, count ${pageCount}`,
    { hint: "give frames of 4 KiB, not bytes: physical addresses have at most 52 bits" },
  );
}
