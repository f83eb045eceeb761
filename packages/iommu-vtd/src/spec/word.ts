/**
 * Words of registers and structures.
 */

/** A word of an array in which it lies; 0 beyond its end. */
export function wordAt(words: Int32Array, index: number): number {
  return words[index] ?? 0;
}

/** The frame in the two words of a table entry of either stage, bits 51:12. */
export function entryFrame(low: number, high: number): number {
  return (high & 0xfffff) * 0x100000 + (low >>> 12);
}

/** Whether an entry has any bit of a mask. */
export function anyBit(words: Int32Array, mask: Int32Array): boolean {
  for (let i = 0; i < mask.length; i++) if (((words[i] ?? 0) & (mask[i] ?? 0)) !== 0) return true;
  return false;
}
