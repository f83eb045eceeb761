/**
 * RAM that other threads may write, as entries of 64 bits: one load each, so that nobody sees half of what a guest's CPU stored.
 *
 * Read from two words, an entry can be seen half-way. `Atomics.load` of a 64-bit element is whole by the language, at 8 ns; a plain element is one load of the processor in every
 * engine for 64-bit machines, at 0.5 ns, and no slower than two words (docs/adr/0013). Where memory is not shared nothing changes during a read, and words will do.
 */

import { IommuError } from "./errors.js";

/**
 * The same memory as `words`, as elements of 64 bits, if it is shared between threads; `undefined` if it is not. Copy an element into a `BigInt64Array` of one's own and take it apart there.
 * @throws {IommuError} `bad-range` for shared words that do not begin at a multiple of 8 bytes.
 */
export function sharedEntries(words: Int32Array): BigInt64Array | undefined {
  const { buffer, byteOffset } = words;
  // By name: the constructor is hidden where a page may not make one, and differs between realms.
  if (buffer[Symbol.toStringTag] !== "SharedArrayBuffer") return undefined;
  if (byteOffset % 8 === 0) return new BigInt64Array(buffer, byteOffset, Math.floor(words.length / 2));
  throw new IommuError(
    "bad-range",
    `expected a window of shared RAM at a multiple of 8 bytes, got one at ${byteOffset}`,
    {
      hint: "begin the window at a page of the guest, in a buffer whose offset is aligned",
    },
  );
}
