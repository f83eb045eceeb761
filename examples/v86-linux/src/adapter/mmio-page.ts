/**
 * One page of registers in v86's address space. v86 hands out blocks of 128 KiB: the rest of the block reads as ones, as where nobody answers.
 */

import type { MmioRead, MmioWrite, V86Cpu } from "./v86-internals.js";

const BLOCK_BYTES = 0x20000;

/** Registers as seen from the bus: offsets are bytes, multiples of 4; values are unsigned 32-bit numbers. */
export interface RegisterBlock {
  readonly byteLength: number;
  read32(offsetBytes: number): number;
  write32(offsetBytes: number, value: number): void;
}

/**
 * Puts `registers` at `gpa`. Answers how to take them away again.
 * Accesses of 8 bits read the byte of the register; 8-bit writes are dropped, as the devices here have no registers narrower than 32 bits.
 */
export function mapRegisters(cpu: V86Cpu, gpa: number, registers: RegisterBlock): () => void {
  const blockGpa = gpa - (gpa % BLOCK_BYTES);
  const offsetOf = (address: number): number => (address >>> 0) - gpa;
  const inside = (offset: number): boolean => offset >= 0 && offset < registers.byteLength;
  const read8: MmioRead = (address) => {
    const offset = offsetOf(address);
    if (!inside(offset)) return 0xff;
    const low = offset % 4;
    return (registers.read32(offset - low) >>> (low * 8)) & 0xff;
  };
  const read32: MmioRead = (address) => {
    const offset = offsetOf(address);
    return inside(offset) ? registers.read32(offset) | 0 : -1;
  };
  const write8: MmioWrite = () => undefined;
  const write32: MmioWrite = (address, value) => {
    const offset = offsetOf(address);
    if (inside(offset)) registers.write32(offset, value >>> 0);
  };
  const block = blockGpa / BLOCK_BYTES;
  const { memory_map_read8, memory_map_write8, memory_map_read32, memory_map_write32 } = cpu;
  const reads = [memory_map_read8, memory_map_read32].map((map) => ({ map, before: map[block] }));
  const writes = [memory_map_write8, memory_map_write32].map((map) => ({ map, before: map[block] }));
  cpu.io.mmap_register(blockGpa, BLOCK_BYTES, read8, write8, read32, write32);
  return () => {
    for (const { map, before } of reads) map[block] = before;
    for (const { map, before } of writes) map[block] = before;
  };
}
