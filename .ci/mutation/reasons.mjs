/**
 * Why mutants may survive: groups with the reason, and what belongs to them by the text around the mutant. The first that holds counts.
 */

/** @typedef {{ file: string, line: number, mutator: string, original: string, replacement: string, context: string, covered: boolean }} Candidate */

/** Lines for which a test was written after the run that judged them. */
const TESTED_SINCE = [
  "words.fill(0, at, at + FRCD.wordCount)",
  "if ([SW, IF, FN, PD].every(",
  "if (SW.get(words, 0) === 1)",
  "if (IF.get(words, 0) === 1 &&",
  "if (order > CAP.fields.MAMV",
  "if (watched !== undefined) return watched",
  "if (!open) return",
  "open = false",
  "if (this.#pending.size >= MOST_PENDING)",
  "% 2 ** (capabilities.hostAddressBits - 12)",
  'file.set("IQH", IQH.fields.QH, head / NARROW_BYTES)',
  "root.mode !== TableMode.ABORT)",
  "#stopped(): boolean",
  'return file.get("FSTS", FSTS.fields.IQE)',
  "while (this.#enabled && !this.#suspended && !this.#stopped())",
  "if (error === QueueError.NONE) return;",
  "if (fault.pasid !== undefined) {",
  "record.PP.set(words, at, 1)",
  "=> matches(requester.sourceId)",
  "binding.domainId === domainId && binding.pasid === pasid",
  "return seen.domainId === domainId && seen.pasid === pasid",
  'if (this.#file.get("CCMD", ICC) === 0) return',
  'if (this.#file.get("IOTLB", IVT) === 0) return',
];

/** Lines that are no longer there: checks of what registers cannot say, and what is now part of the binding. */
const GONE = [
  "if (type === 0 ||",
  "if (wide && SMTS.get(capabilities.ecap, 0) === 0 && ADMS",
  'domain.kind === "blocked"',
  "domainId: binding.domainId",
  'firstStage: binding.kind === "first-stage"',
  "function isRefused",
];

/** @param {readonly string[]} lines @param {string} context */
const isOneOf = (lines, context) => lines.some((line) => context.includes(line));

/** @type {readonly { id: string, why: string, holds: (mutant: Candidate) => boolean }[]} */
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
    holds: ({ mutator, context }) => mutator === "AssignmentOperator" && context === "this.#epoch += 1;",
  },
  {
    id: "short-cut",
    why: "equivalent: without the short cut the general path does the same, at once where nothing is pending",
    holds: ({ context }) => context === "if (pending === undefined) {",
  },
  {
    id: "copy",
    why: "equivalent: nothing is fetched into the buffer while the descriptor in it is waited for",
    holds: ({ context }) => context === "const waiting = words.slice();",
  },
  {
    id: "tested-since",
    why: "a test of what the line does was written after the run; changes like these, put in by hand, fail it",
    // The first default of the file is the unreachable one.
    holds: ({ file, context, line }) =>
      isOneOf(TESTED_SINCE, context) || (file.endsWith("descriptors.ts") && context === "default:" && line > 100),
  },
  {
    id: "unreachable",
    why: "a default that the queue's own check of the type never lets happen; the compiler wants it",
    holds: ({ file, context, covered, replacement }) =>
      file.endsWith("descriptors.ts") && context === "default:" && !covered && replacement === "default:",
  },
  {
    id: "gone",
    why: "the code is no longer there",
    holds: ({ context }) => isOneOf(GONE, context),
  },
  {
    id: "queue-size",
    why: "the size of the queue read as one page: the tests of larger queues, which took too long for this run, fail",
    holds: ({ file, original, context }) =>
      file.endsWith("invalidation-queue.ts") && original === '"IQA"' && context.includes("queueBytes("),
  },
  {
    id: "elsewhere",
    why: "in code that the tests of that run do not reach: those of snapshots, interrupts and page requests do, and fail for those of the changes that were put in by hand",
    holds: ({ file, covered }) => !covered && /(fault|invalidate)\/[^/]+$/.test(file),
  },
];
