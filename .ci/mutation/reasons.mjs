/**
 * Why mutants may survive: groups with the reason, and what belongs to them by the text around the mutant.
 */

/** @typedef {{ file: string, mutator: string, original: string, replacement: string, context: string, covered: boolean }} Candidate */

/** @type {readonly { id: string, why: string, holds: (mutant: Candidate) => boolean }[]} */
export const reasons = [
  {
    id: "behind-the-last",
    why: "one step too many: reads the word behind the last fault record, where no register of a tested unit has that bit set",
    holds: ({ file, mutator, replacement }) =>
      file.endsWith("fault-log.ts") && mutator === "EqualityOperator" && replacement.includes("<= this.#recordCount"),
  },
  {
    id: "tested-since",
    why: "a test was written after this run: the fault event is not sent again for a queue error that comes while a fault stands",
    holds: ({ file, context }) => file.endsWith("fault-log.ts") && context === "if (quiet) this.event.raise();",
  },
  {
    id: "text",
    why: "words of an error, a hint or a label: tests check the code of an error and what it names, not how a sentence is put",
    holds: ({ mutator, context }) => mutator === "StringLiteral" && /hint|cause|`|Error|label|expected/.test(context),
  },
];
