/**
 * Numbers as hexadecimal text, exact for 64 bits and more.
 */

/** The byte address of a frame. */
export function hexGpa(pfn: number): string {
  return `0x${(BigInt(pfn) * 4096n).toString(16)}`;
}

/** The range of bytes of some frames, both ends included. */
export function hexBytes(firstPfn: number, pageCount: number): string {
  return `${hexGpa(firstPfn)}-0x${(BigInt(firstPfn + pageCount) * 4096n - 1n).toString(16)}`;
}

/** Little-endian words as one number. */
export function hexWords(words: Int32Array): string {
  return `0x${[...words].reduceRight((value, word) => (value << 32n) | BigInt(word >>> 0), 0n).toString(16)}`;
}
