/**
 * Why mutants may survive: groups with the reason, and what belongs to them by the text around the mutant. The first that holds counts.
 */

/** @typedef {{ file: string, line: number, mutator: string, original: string, replacement: string, context: string, covered: boolean }} Candidate */

/** Says what the next judgement of a file will show: ends with it. */
export const FOUND_SINCE = "found-since";

/** Lines of the IOTLB that choose between ways to the same entries, or that skip what would find nothing. */
const SHORT_WAYS = new Set([
  "while (count < entryCount) count *= 2;",
  "if (this.#entryCount === 0) return;",
  "const s = leaf.pageCount === 1 ? 0 : SIZES.indexOf(leaf.pageCount);",
  "if (this.size === 0) return;",
  "if (pageCount * WAYS * SIZES.length >= this.#entryCount) {",
  "if (this.#bySize[s] === 0) continue;",
  "if (this.#firstStageEntries === 0) return;",
]);
/** Loops over a set, or over the sizes of entries. */
const SETS = new Set([
  "for (let at = set; at < set + WAYS * 2; at += 2) {",
  "for (let s = 0; s < SIZES.length; s++) {",
  "for (let s = 1; s < SIZES.length; s++) {",
]);

/**
 * Names one survivor of a file by the text of its line, which moves with the code: which of the equal lines it is, and which of the equal changes to that line.
 * How many there are belongs to the name: with one more, somebody has to look again.
 * @param {{ context: string, original: string, replacement: string, nth?: string, change?: string }} mutant
 */
export function nameOf({ context, original, replacement, nth, change }) {
  const line = nth === undefined ? context : `${context} (line ${nth})`;
  return `${line} | ${original} => ${replacement}${change === undefined ? "" : ` (${change})`}`;
}

/**
 * Groups that belong together by a rule say so themselves (`holds`); the others are lists of single survivors in explained.json, each looked at.
 * @type {readonly { id: string, why: string, holds?: (mutant: Candidate) => boolean }[]}
 */
export const reasons = [
  {
    id: "behind-the-last",
    why: "one step too many: reads the word behind the last fault record, where no register of a tested unit has that bit set",
    holds: ({ file, mutator, replacement }) =>
      file.endsWith("fault-log.ts") && mutator === "EqualityOperator" && replacement.includes("<= this.#recordCount"),
  },
  {
    id: "epoch",
    why: "equivalent: a counter that is only compared for being another one may as well count down",
    holds: ({ file, mutator, context }) =>
      file.includes("/invalidate/") && mutator === "AssignmentOperator" && context === "this.#epoch += 1;",
  },
  {
    id: "short-cut",
    why: "equivalent: without the short cut the general path does the same, at once where nothing is pending",
    holds: ({ file, context }) => file.endsWith("invalidation-queue.ts") && context === "if (pending === undefined) {",
  },
  {
    id: "copy",
    why: "equivalent: nothing is fetched into the buffer while the descriptor in it is waited for",
    holds: ({ file, context }) =>
      file.endsWith("invalidation-queue.ts") && context === "const waiting = words.slice();",
  },
  {
    id: "unreachable",
    why: "a default that the queue's own check of the type never lets happen; the compiler wants it",
    holds: ({ file, context, covered, replacement }) =>
      file.endsWith("descriptors.ts") && context === "default:" && !covered && replacement === "default:",
  },
  {
    id: "speed",
    why: "equivalent but for the time: without the short way, or with it at another size, the same entries are found and dropped",
    holds: ({ file, context }) => file.endsWith("iotlb.ts") && SHORT_WAYS.has(context),
  },
  {
    id: "next-set",
    why: "one step too many: no key of a set, and no size, is found in the place behind it",
    holds: ({ file, context, replacement }) =>
      file.endsWith("iotlb.ts") && SETS.has(context) && replacement.includes("<="),
  },
  {
    id: "hash",
    why: "another function from frames to sets, the same wherever it is used: it spreads entries less well",
    holds: ({ file, context }) => file.endsWith("iotlb.ts") && context.startsWith("const mixed = Math.imul("),
  },
  {
    id: "victim",
    why: "another entry makes room for a new one: which are cached is not promised",
    holds: ({ file, context }) =>
      file.endsWith("iotlb.ts") && ["if (free < 0) free = at;", "if (free >= 0) return free;"].includes(context),
  },
  {
    id: "initial",
    why: "an initial value that every walk overwrites before it is read",
    holds: ({ file, context, mutator }) =>
      mutator === "BooleanLiteral" && file.includes("/translate/") && /^#?\w+ = false;$/.test(context),
  },
  {
    id: "retry",
    why: "one more try for an entry that another processor goes on changing",
    holds: ({ file, context, replacement }) =>
      file.endsWith("-stage-walk.ts") && context.startsWith("for (let attempt") && replacement.includes("<="),
  },
  {
    id: "quick-way",
    why: "equivalent but for the time: without the quick way, or where it is taken less often, the general one comes to the same",
  },
  {
    id: "nothing-to-do",
    why: "equivalent: what is skipped, or done once more, is over an empty range, an empty list or equal values, and changes nothing",
  },
  {
    id: "guarded-again",
    why: "equivalent: what this check keeps out, the next one or the callee keeps out as well; it ends early, or satisfies the compiler",
  },
  {
    id: "cannot-be",
    why: "equivalent: the value or the absence that is asked for cannot be at this place; the compiler cannot know",
  },
  {
    id: "same-at-the-edge",
    why: "equivalent: where both sides are equal, both branches give the same",
  },
  {
    id: "behind-the-end",
    why: "equivalent: the place behind the end of an array takes nothing, and what is read for it is dropped",
  },
  {
    id: FOUND_SINCE,
    why: "found by a test that came after this file was judged, or that was not in that run: put in by hand, it makes the test fail; the claim ends with the next judgement of the file: killed, or open",
  },
  {
    id: "not-read",
    why: "a value that nobody reads in this state: it is overwritten first, or says something of what is refused",
  },
  {
    id: "only-compared",
    why: "equivalent: a number that is only compared for being another one may be any other",
  },
  {
    id: "memory",
    why: "equivalent but for the memory: what is kept longer, or in a larger or smaller array, is never looked at again",
  },
  {
    id: "slice-size",
    why: "a slice or a step ends a little earlier or later: only an upper bound is promised",
  },
  {
    id: "nobody-listens",
    why: "equivalent: an event without listeners is made and told to nobody",
  },
  {
    id: "words",
    why: "words for people that are no part of the contract",
  },
  {
    id: "stopped-elsewhere",
    why: "seen only by tests that judge no mutants here: those that need a second thread, a long time, or what the run leaves out",
  },
];
