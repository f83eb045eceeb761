/** How much of the tests judges a mutant. */

/** Most runs of a property. */
export const MOST_RUNS = Number(process.env["MUTATION_RUNS"] ?? 12);
/** Milliseconds of processor time: a mutant that has survived that long is said to survive. */
export const MOST_MS = Number(process.env["MUTATION_MS"] ?? 400);
/** `SLOWEST_MS` where nothing else is asked for. */
export const USUAL_SLOWEST_MS = 1000;
/** Milliseconds of processor time: a test that takes longer judges no mutant. */
export const SLOWEST_MS = Number(process.env["MUTATION_SLOWEST"] ?? USUAL_SLOWEST_MS);
/** Test files that are used, of those that may be. */
export const TESTS = process.env["MUTATION_TESTS"] ?? "";

/** Why words of an error are not mutated. */
export const ERROR_TEXT = "words of an error";
