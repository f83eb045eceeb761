// Masks as a person writes them: "11:4 71 127:88". Shared by the tests of the tables.
import { expect } from "vitest";

/** Asserts that exactly the listed bits are set; ranges may be in any order. */
export function expectBits(words: Int32Array | undefined, ranges: string): void {
  expect(words).toBeInstanceOf(Int32Array);
  const given = words ?? new Int32Array();
  expect(rangesOf(given)).toBe(rangesOf(wordsOf(ranges, given.length)));
}

/** The words with exactly the listed bits set. A bit beyond the words is a mistake of the test. */
function wordsOf(ranges: string, wordCount: number): Int32Array {
  const words = new Int32Array(wordCount);
  for (const range of ranges.split(" ").filter((text) => text !== "")) {
    const [hi = 0, lo = hi] = range.split(":").map(Number);
    if (hi >= wordCount * 32) throw new RangeError(`expected a bit below ${wordCount * 32}, got ${range}`);
    for (let at = lo; at <= hi; at++) words[at >> 5] = (words[at >> 5] ?? 0) | (1 << (at % 32));
  }
  return words;
}

/** The set bits as ranges, lowest first. */
function rangesOf(words: Int32Array): string {
  const set = (at: number): boolean => (((words[at >> 5] ?? 0) >>> (at % 32)) & 1) === 1;
  const ranges: string[] = [];
  for (let lo = 0; lo < words.length * 32; lo++) {
    if (!set(lo)) continue;
    let hi = lo;
    while (set(hi + 1)) hi++;
    ranges.push(hi === lo ? `${lo}` : `${hi}:${lo}`);
    lo = hi;
  }
  return ranges.join(" ");
}
