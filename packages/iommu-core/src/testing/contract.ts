/**
 * What the contract suites have in common: cases with names, run by any test framework or by none.
 */

import type { Access } from "../access.js";

/** One rule of a contract. `run` rejects with an error that says what was broken. */
export interface ContractCase {
  /** What is required, as a sentence. */
  readonly name: string;
  /** Rejects where the requirement is not met. */
  run(): Promise<void>;
}

/** The two functions of a test framework that a suite needs: those of vitest, jest, mocha and `node:test` fit. */
export interface TestApi {
  readonly describe: (name: string, body: () => void) => unknown;
  readonly it: (name: string, body: () => Promise<void>) => unknown;
}

/** Hands the cases to a test framework. */
export function describeCases(api: TestApi, title: string, cases: readonly ContractCase[]): void {
  api.describe(title, () => {
    for (const rule of cases) api.it(rule.name, () => rule.run());
  });
}

/** Runs the cases without a test framework. Answers the names of those that failed, with what was broken. */
export async function runCases(
  cases: readonly ContractCase[],
): Promise<{ readonly name: string; readonly cause: unknown }[]> {
  const failures: { name: string; cause: unknown }[] = [];
  for (const rule of cases) {
    try {
      await rule.run();
    } catch (cause) {
      failures.push({ name: rule.name, cause });
    }
  }
  return failures;
}

/** Where a frame goes, or `undefined`. */
export type Target = { readonly gpaPfn: number; readonly access: Access } | undefined;

/** @throws {Error} unless both say the same. */
export function checkTarget(what: string, iovaPfn: number, got: Target, expected: Target): void {
  if (got?.gpaPfn === expected?.gpaPfn && got?.access === expected?.access) return;
  throw new Error(`${what}: frame ${hex(iovaPfn)}: expected ${formatTarget(expected)}, got ${formatTarget(got)}`);
}

/** @throws {Error} with this text unless the condition holds. */
export function check(condition: boolean, text: string): asserts condition {
  if (!condition) throw new Error(text);
}

/** Numbers below `limit` in an order that is the same in every run. */
export class Dice {
  #state: number;

  constructor(seed: number) {
    this.#state = seed;
  }

  below(limit: number): number {
    this.#state = (Math.imul(this.#state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((this.#state / 2 ** 32) * limit);
  }
}

function formatTarget(target: Target): string {
  return target === undefined ? "nothing" : `${hex(target.gpaPfn)} with rights ${target.access}`;
}

function hex(pfn: number): string {
  return `0x${pfn.toString(16)}`;
}
