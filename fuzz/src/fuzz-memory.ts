/**
 * Guest memory for a fuzzed guest: flat RAM with a hole, counters of everything the unit reads, and ambushes: words that change at the nth fetch.
 *
 * Whoever changes a word, guest, device or unit, `onChange` hears of the old value first: that is the history by which cached answers are judged.
 */

import type { FrameRange, GuestMemory, RamWindow } from "@iommu-kit/iommu-core";
import { RAM } from "./layout.js";
import type { Edit } from "./step.js";

interface Block {
  readonly first: number;
  readonly end: number;
  readonly words: Int32Array;
  readonly bytes: Uint8Array;
}

/** Words at the end of a frame that say its number: the last 128 bytes. */
const MARKED_WORDS = 32;

/** The memory of one guest. */
export class FuzzMemory implements GuestMemory {
  readonly ram: readonly FrameRange[] = RAM;
  readonly window?: (pfn: number) => RamWindow | undefined;
  /** Calls of `fetch` since `resetCounters`. */
  fetches = 0;
  /** 64-bit entries read by `fetch` since `resetCounters`. */
  entries = 0;
  /** Words that the unit wrote since `resetCounters`: [gpa, value]. */
  unitWrites: [number, number][] = [];
  /** Frames that devices wrote since `resetCounters`. */
  readonly deviceFrames = new Set<number>();
  /** Fires before a 64-bit word changes. */
  onChange: (gpa: number, old: bigint, byUnit: boolean) => void = () => undefined;
  /** Fires after an ambush. */
  onAmbush: () => void = () => undefined;
  #ambushes: { left: number; readonly edit: Edit }[] = [];
  readonly #blocks: readonly Block[] = RAM.map(({ firstPfn, pageCount }) => {
    const words = new Int32Array(pageCount * 1024);
    return { first: firstPfn * 4096, end: (firstPfn + pageCount) * 4096, words, bytes: new Uint8Array(words.buffer) };
  });

  constructor(windows: boolean) {
    this.#mark();
    if (!windows) return;
    const views = RAM.map((range, i): RamWindow => ({ ...range, words: this.#blocks[i]?.words ?? new Int32Array(0) }));
    this.window = (pfn) => {
      this.#spring();
      return views.find((view) => pfn >= view.firstPfn && pfn < view.firstPfn + view.pageCount);
    };
  }

  /** Ambushes that have not happened. */
  get armed(): number {
    return this.#ambushes.length;
  }

  /** Changes a word at the `after`th fetch from now on. */
  arm(after: number, edit: Edit): void {
    this.#ambushes.push({ left: after, edit });
  }

  /** Calls off what has not happened. */
  disarm(): void {
    this.#ambushes = [];
  }

  resetCounters(): void {
    this.fetches = 0;
    this.entries = 0;
    this.unitWrites = [];
    this.deviceFrames.clear();
  }

  /** The 64-bit word at a multiple of 8, or `undefined` outside RAM: for models, not counted. */
  peek(gpa: number): bigint | undefined {
    const block = this.#at(gpa, 8);
    if (block === undefined) return undefined;
    const at = (gpa - block.first) / 4;
    return (BigInt(block.words[at] ?? 0) & 0xffffffffn) | ((BigInt(block.words[at + 1] ?? 0) & 0xffffffffn) << 32n);
  }

  /** Whether a byte address is RAM. */
  has(gpa: number): boolean {
    return this.#at(gpa, 1) !== undefined;
  }

  /** The guest writes a 64-bit word; outside RAM nothing happens. */
  poke(gpa: number, value: bigint): void {
    const block = this.#at(gpa, 8);
    if (block === undefined) return;
    this.#changes(gpa, 8, false);
    const at = (gpa - block.first) / 4;
    block.words[at] = Number(BigInt.asIntN(32, value));
    block.words[at + 1] = Number(BigInt.asIntN(32, value >> 32n));
  }

  read(gpa: number, into: Uint8Array): boolean {
    const block = this.#at(gpa, into.length);
    if (block === undefined) return false;
    into.set(block.bytes.subarray(gpa - block.first, gpa - block.first + into.length));
    return true;
  }

  write(gpa: number, from: Uint8Array): boolean {
    const block = this.#at(gpa, from.length);
    if (block === undefined) return false;
    this.#changes(gpa, from.length, false);
    for (let at = gpa; at < gpa + from.length; at += 4096) this.deviceFrames.add(Math.floor(at / 4096));
    this.deviceFrames.add(Math.floor((gpa + from.length - 1) / 4096));
    block.bytes.set(from, gpa - block.first);
    return true;
  }

  fetch(gpa: number, into: Int32Array): boolean {
    this.#spring();
    this.fetches += 1;
    this.entries += into.length / 2;
    const block = this.#at(gpa, into.length * 4);
    if (block === undefined) return false;
    const at = (gpa - block.first) / 4;
    into.set(block.words.subarray(at, at + into.length));
    return true;
  }

  writeWord(gpa: number, word: number): boolean {
    const block = this.#at(gpa, 4);
    if (block === undefined) return false;
    this.unitWrites.push([gpa, word]);
    this.#changes(gpa, 4, true);
    block.words[(gpa - block.first) / 4] = word;
    return true;
  }

  compareExchange(gpa: number, expected: number, replacement: number): boolean {
    const block = this.#at(gpa, 4);
    if (block === undefined) return false;
    const at = (gpa - block.first) / 4;
    if (block.words[at] !== (expected | 0)) return false;
    this.unitWrites.push([gpa, replacement]);
    this.#changes(gpa, 4, true);
    block.words[at] = replacement;
    return true;
  }

  /** The end of each frame says which one it is, where transfers of the checks look. As table entries such words are not present. */
  #mark(): void {
    for (const { first, words } of this.#blocks) {
      for (let at = 0; at < words.length; at += 1024) {
        const number = ((first / 4096 + at / 1024) & 0xff) * 0x0101_0101;
        for (let i = at + 1024 - MARKED_WORDS; i < at + 1024; i += 2) {
          words[i] = number & ~0xffff;
          words[i + 1] = number;
        }
      }
    }
  }

  #at(gpa: number, byteLength: number): Block | undefined {
    return this.#blocks.find((block) => gpa >= block.first && gpa + byteLength <= block.end);
  }

  #changes(gpa: number, byteLength: number, byUnit: boolean): void {
    for (let at = gpa - (gpa % 8); at < gpa + byteLength; at += 8) this.onChange(at, this.peek(at) ?? 0n, byUnit);
  }

  #spring(): void {
    if (this.#ambushes.length === 0) return;
    const due = this.#ambushes.filter((ambush) => --ambush.left <= 0);
    if (due.length === 0) return;
    this.#ambushes = this.#ambushes.filter((ambush) => ambush.left > 0);
    for (const { edit } of due) this.poke(edit.frame * 4096 + edit.index * 8, BigInt(edit.value));
    this.onAmbush();
  }
}
