/**
 * Words of registers and structures.
 */

/** A word of an array in which it lies; 0 beyond its end. */
export function wordAt(words: Int32Array, index: number): number {
  return words[index] ?? 0;
}
