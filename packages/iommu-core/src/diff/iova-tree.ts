/**
 * The announced state of a view: which frames MAP notifiers have been told about, and where they go (design D4).
 *
 * A radix tree shaped like a page table: 512 slots a node, 8 bytes a slot, one slot a superpage. Contiguous runs are derived when asked for, never stored.
 * Invariants: a slot and a child never stand at the same index; no node but the root is empty.
 */

import type { Access } from "../access.js";
import { IommuError } from "../errors.js";
import { ALL_FRAMES, checkRange, endOf, type FrameRange } from "../range.js";
import { Leaf, NO_LEAVES } from "./leaf.js";
import type { LeafDirectory } from "./leaf-directory.js";
import { firstWordOf, LeafStore, type WrittenSlots } from "./leaf-store.js";
import type { EntryFormat, LeafTable } from "./leaf-table.js";
import { Mapping, type RunVisitor } from "./mapping.js";
import { FANOUT, slotSpan, isTarget } from "./slot.js";
import { TreeNode } from "./tree-node.js";

/** Superpages up to this level get a slot of their own: 2^27 frames, 512 GiB. */
const HIGHEST_SLOT_LEVEL = 4;

/** Frames below a node of level 2. */
const LEAF_PARENT_SPAN = FANOUT * FANOUT;

/** No frame lies in a leaf or below a node that begins here. */
const NOWHERE = -LEAF_PARENT_SPAN;

/** A map from frames (below 2^52) to targets (frames below 2^40) and rights. */
export class IovaTree {
  #root = new TreeNode(2);
  readonly #store = new LeafStore();
  #slotCount = 0;
  #pageCount = 0;
  /** Of the nodes. */
  #byteLength = this.#root.byteLength;
  // The leaf that was asked for last, and the directory used last: neighbouring look-ups skip the descent (bench: IOVA tree).
  readonly #leaf = new Leaf();
  #leafFirstPfn = NOWHERE;
  #directory = NO_LEAVES;
  #directoryFirstPfn = NOWHERE;

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
    return this.#byteLength + this.#store.byteLength;
  }

  /** Looks up one frame. `false`, with `out` unchanged, when it is not mapped. */
  find(pfn: number, out: Mapping): boolean {
    const place = this.#placeOf(pfn);
    if (place !== 0) return this.#store.read(place, pfn, out);
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
    if (isInLeaf(firstPfn, pageCount)) {
      const place = this.#placeOf(firstPfn);
      const index = (firstPfn - this.#directoryFirstPfn) >> 9;
      if (place !== 0 && (this.#directory.counts[index] ?? 0) > pageCount) {
        this.#clearFrames(place, this.#directory, index, firstPfn % FANOUT, pageCount);
        return;
      }
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
    this.#store.clear();
    this.#slotCount = 0;
    this.#pageCount = 0;
    this.#byteLength = this.#root.byteLength;
    this.#forgetPath();
  }

  /** @internal The leaf with the slot of this frame, if the frame has a slot of its own. */
  leafAt(pfn: number): Leaf | undefined {
    const leaf = this.#leaf;
    const offset = pfn - this.#leafFirstPfn;
    if (offset >= 0 && offset < FANOUT) return leaf;
    const place = this.#placeOf(pfn);
    if (place === 0) return undefined;
    leaf.words = this.#store.wordsOf(place);
    leaf.firstWord = firstWordOf(place);
    leaf.directory = this.#directory;
    leaf.index = (pfn - this.#directoryFirstPfn) >> 9;
    this.#leafFirstPfn = this.#directoryFirstPfn + leaf.index * FANOUT;
    return leaf;
  }

  /** @internal The directory that has this frame's leaf, or may have it. */
  leavesAt(pfn: number): LeafDirectory | undefined {
    return this.#useDirectory(pfn) ? this.#directory : undefined;
  }

  /**
   * @internal Writes slots of one leaf, whose first frame is `firstPfn`: words of this format. `whole`: the table whose contents all its slots are then.
   */
  writeSlots(firstPfn: number, slots: WrittenSlots, format: EntryFormat, whole: LeafTable | undefined): void {
    const more = this.#store.write(this.#placeFor(firstPfn), slots);
    const directory = this.#directory;
    const index = (firstPfn - this.#directoryFirstPfn) >> 9;
    if (this.#count(directory, index, more) === 0) this.remove(firstPfn, FANOUT);
    else if (whole !== undefined) this.#byteLength += directory.mirrors(index, whole);
    else if (slots.count > 0) directory.departs(index, format);
  }

  /** @internal Makes one slot of this level (above 1) map its frames, dropping whatever was below it. */
  setSlot(firstPfn: number, level: number, gpaPfn: number, access: Access): void {
    const node = this.#nodeAt(firstPfn, level);
    const index = node.indexOf(firstPfn);
    const span = slotSpan(level);
    if (node.children[index] !== undefined || node.placeAt(index) !== 0)
      this.#removeIn(node, firstPfn - index * span, firstPfn, firstPfn + span);
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

  /** The place of the leaf with the slot of this frame, 0 if the frame has none of its own. The directory used last is this frame's then. */
  #placeOf(pfn: number): number {
    const offset = pfn - this.#directoryFirstPfn;
    if (offset >= 0 && offset < LEAF_PARENT_SPAN) return this.#directory.places[offset >> 9] ?? 0;
    return this.#useDirectory(pfn) ? this.#placeOf(pfn) : 0;
  }

  /** The same; the leaf is made if need be. */
  #placeFor(pfn: number): number {
    return this.#placeOf(pfn) || this.#makeLeaf(this.#nodeAt(pfn, 2), Math.floor(pfn / FANOUT) % FANOUT, pfn);
  }

  /** Goes to the directory that this frame's leaf would be in. `false`: there is none. */
  #useDirectory(pfn: number): boolean {
    if (pfn >= this.#limit()) return false;
    let node: TreeNode | undefined = this.#root;
    while (node !== undefined && node.level > 2) node = node.children[node.indexOf(pfn)];
    if (node?.leaves === undefined) return false;
    this.#directory = node.leaves;
    this.#directoryFirstPfn = pfn - (pfn % LEAF_PARENT_SPAN);
    return true;
  }

  #forgetPath(): void {
    this.#leafFirstPfn = NOWHERE;
    this.#directoryFirstPfn = NOWHERE;
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

  #seekIn(node: TreeNode, nodeFirstPfn: number, pfn: number, out: Mapping): boolean {
    const span = slotSpan(node.level);
    const from = Math.max(pfn, nodeFirstPfn);
    const { children, slots } = node;
    for (let index = Math.floor((from - nodeFirstPfn) / span); index < FANOUT; index++) {
      const child = children[index];
      const place = node.placeAt(index);
      const first = Math.max(pfn, nodeFirstPfn + index * span);
      if (child !== undefined) {
        if (this.#seekIn(child, nodeFirstPfn + index * span, pfn, out)) return true;
      } else if (place !== 0) {
        if (this.#store.seek(place, first % FANOUT, nodeFirstPfn + index * span, out)) return true;
      } else if (slots.length > 0 && this.#read(node, first, index, out)) return true;
    }
    return false;
  }

  /** The node of `level`, above 1, that holds `firstPfn`, made if need be; superpages on the way are split. */
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

  /** A leaf below a node of level 2, for the frames around `pfn`; it says what the superpage there said. Answers its place. */
  #makeLeaf(node: TreeNode, index: number, pfn: number): number {
    const place = this.#store.take();
    const access = node.accessAt(index);
    if (access !== 0) {
      this.#store.fill(place, 0, FANOUT, node.targetAt(index), access);
      node.clear(index);
      this.#slotCount += FANOUT - 1;
    }
    this.#byteLength -= node.byteLength;
    node.adoptLeaf(index, place, access === 0 ? 0 : FANOUT);
    this.#byteLength += node.byteLength;
    // The arrays of others may have grown.
    this.#forgetPath();
    this.#useDirectory(pfn);
    return place;
  }

  #insertFrames(firstPfn: number, count: number, gpaPfn: number, access: Access): void {
    const more = this.#store.fill(this.#placeFor(firstPfn), firstPfn % FANOUT, count, gpaPfn, access);
    const index = (firstPfn - this.#directoryFirstPfn) >> 9;
    this.#count(this.#directory, index, more);
    this.#directory.departs(index, undefined);
  }

  /** Counts slots that a leaf has more, or fewer; answers how many it has. */
  #count(directory: LeafDirectory, index: number, more: number): number {
    const count = (directory.counts[index] ?? 0) + more;
    directory.counts[index] = count;
    this.#slotCount += more;
    this.#pageCount += more;
    return count;
  }

  /** Frees slots of a leaf; answers how many are left. */
  #clearFrames(place: number, directory: LeafDirectory, index: number, from: number, count: number): number {
    directory.departs(index, directory.formatOf(index));
    return this.#count(directory, index, -this.#store.clearSlots(place, from, count));
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
        if (node.level > 2) this.#makeChild(node, index);
        else this.#makeLeaf(node, index, slotFirst);
      }
      const child = node.children[index];
      if (child !== undefined) {
        this.#removeIn(child, slotFirst, first, end);
        if (child.used > 0) continue;
        node.drop(index);
        this.#byteLength -= child.byteLength;
      } else if (node.leaves !== undefined && node.placeAt(index) !== 0) {
        const from = Math.max(0, first - slotFirst);
        const count = Math.min(FANOUT, end - slotFirst) - from;
        if (this.#clearFrames(node.placeAt(index), node.leaves, index, from, count) === 0) {
          this.#store.release(node.placeAt(index));
          node.dropLeaf(index);
        }
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
  if (isTarget(gpaPfn, pageCount)) return;
  throw new IommuError(
    "bad-range",
    `IovaTree.insert: expected targets that are whole frames in [0, 2^40), got first ${gpaPfn}, count ${pageCount}`,
    { hint: "give frames of 4 KiB, not bytes: physical addresses have at most 52 bits" },
  );
}
