/**
 * The port `GuestMemory` over the RAM of v86.
 *
 * Reads look at the WebAssembly memory directly. Writes go through v86, which must forget code that was compiled from the bytes. The window between
 * 640 KiB and 768 KiB is the display's and not RAM.
 */

import { type FrameRange, type GuestMemory, PAGE_BYTES, type RamWindow } from "@iommu-kit/iommu-core";
import type { V86Cpu } from "./v86-internals.js";

const DISPLAY_BEGIN = 0xa0000;
const DISPLAY_END = 0xc0000;

/** RAM of one emulator. May be shared by everything in it that reaches memory. */
export class V86GuestMemory implements GuestMemory {
  readonly ram: readonly FrameRange[];
  readonly #cpu: V86Cpu;
  readonly #byteLength: number;
  readonly #scratch = new Int32Array(1);
  readonly #scratchBytes = new Uint8Array(this.#scratch.buffer);
  #bytes = new Uint8Array(0);
  #words = new Int32Array(0);
  #windows: readonly RamWindow[] = [];

  constructor(cpu: V86Cpu) {
    this.#cpu = cpu;
    this.#byteLength = cpu.memory_size[0] ?? 0;
    this.ram = [
      { firstPfn: 0, pageCount: DISPLAY_BEGIN / PAGE_BYTES },
      { firstPfn: DISPLAY_END / PAGE_BYTES, pageCount: (this.#byteLength - DISPLAY_END) / PAGE_BYTES },
    ];
    this.#refresh();
  }

  read(gpa: number, into: Uint8Array): boolean {
    if (!this.#isRam(gpa, into.length)) return false;
    this.#refresh();
    into.set(this.#bytes.subarray(gpa, gpa + into.length));
    return true;
  }

  write(gpa: number, from: Uint8Array): boolean {
    if (!this.#isRam(gpa, from.length)) return false;
    this.#refresh();
    this.#cpu.jit_dirty_cache(gpa, gpa + from.length);
    this.#bytes.set(from, gpa);
    return true;
  }

  fetch(gpa: number, into: Int32Array): boolean {
    if (!this.#isRam(gpa, into.length * 4)) return false;
    this.#refresh();
    const first = gpa / 4;
    for (let i = 0; i < into.length; i += 1) into[i] = this.#words[first + i] ?? 0;
    return true;
  }

  writeWord(gpa: number, word: number): boolean {
    this.#scratch[0] = word;
    return this.write(gpa, this.#scratchBytes);
  }

  compareExchange(gpa: number, expected: number, replacement: number): boolean {
    if (!this.#isRam(gpa, 4)) return false;
    this.#refresh();
    // Nothing else runs between the look and the write: the processor is interpreted on this thread.
    return this.#words[gpa / 4] === (expected | 0) && this.writeWord(gpa, replacement);
  }

  window(pfn: number): RamWindow | undefined {
    this.#refresh();
    return this.#windows.find((window) => pfn >= window.firstPfn && pfn < window.firstPfn + window.pageCount);
  }

  #isRam(gpa: number, byteLength: number): boolean {
    const end = gpa + byteLength;
    return gpa >= 0 && end <= this.#byteLength && (end <= DISPLAY_BEGIN || gpa >= DISPLAY_END);
  }

  /** WebAssembly memory that grows leaves its old buffer empty: look whether it did. */
  #refresh(): void {
    const { buffer } = this.#cpu.wasm_memory;
    if (this.#bytes.buffer === buffer) return;
    const offset = this.#cpu.mem8.byteOffset;
    this.#bytes = new Uint8Array(buffer, offset, this.#byteLength);
    this.#words = new Int32Array(buffer, offset, this.#byteLength / 4);
    this.#windows = this.ram.map(({ firstPfn, pageCount }) => ({
      firstPfn,
      pageCount,
      words: new Int32Array(buffer, offset + firstPfn * PAGE_BYTES, pageCount * (PAGE_BYTES / 4)),
    }));
  }
}
