/**
 * What was proved, with counts and latencies, as a table; and whether anything was not.
 */

/** Width of the column of claims. */
const CLAIM_WIDTH = 80;

/** Collects the claims of one partner, and prints each as soon as it is settled. */
export class Proof {
  readonly #latencies: { readonly what: string; readonly microseconds: readonly number[] }[] = [];
  #claims = 0;
  #failures = 0;

  constructor(partner: string) {
    console.log(partner);
  }

  /** Whether everything was proved, and anything at all. */
  get complete(): boolean {
    return this.#claims > 0 && this.#failures === 0;
  }

  /** A claim: what was expected, and what came. */
  check(what: string, expected: string, got: string | number, proved: boolean): void {
    this.#claims += 1;
    if (!proved) this.#failures += 1;
    console.log(
      `  ${proved ? "proved    " : "NOT PROVED"}  ${what.padEnd(CLAIM_WIDTH)}  ${got}${proved ? "" : ` (expected ${expected})`}`,
    );
  }

  /** A claim that a count equals another. */
  equal(what: string, expected: number, got: number): void {
    this.check(what, String(expected), got, got === expected);
  }

  /** A claim that a count is at least another. */
  atLeast(what: string, least: number, got: number): void {
    this.check(what, `>= ${least}`, got, got >= least);
  }

  /** A claim that a count is at most another. */
  atMost(what: string, most: number, got: number): void {
    this.check(what, `<= ${most}`, got, got <= most);
  }

  /** Something worth knowing that proves nothing. */
  note(what: string, got: string | number): void {
    console.log(`  seen        ${what.padEnd(CLAIM_WIDTH)}  ${got}`);
  }

  /** Durations of one kind, for the end of the table. */
  latency(what: string, microseconds: readonly number[]): void {
    this.#latencies.push({ what, microseconds: microseconds.toSorted((a, b) => a - b) });
  }

  /** Prints the durations. */
  printLatencies(): void {
    for (const { what, microseconds } of this.#latencies) {
      const at = (share: number): string => (microseconds[Math.floor(microseconds.length * share)] ?? 0).toFixed(0);
      console.log(
        `  latency     ${what.padEnd(CLAIM_WIDTH)}  p50 ${at(0.5)} us, p95 ${at(0.95)} us, ${microseconds.length} times`,
      );
    }
  }
}

/** Microseconds that `work` took. */
export async function timed(work: () => Promise<void> | undefined | void): Promise<number> {
  const from = process.hrtime.bigint();
  await work();
  return Number(process.hrtime.bigint() - from) / 1e3;
}

/** Waits one turn of the event loop. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Waits until `done`, at most `milliseconds`. */
export async function until(done: () => boolean, milliseconds: number): Promise<boolean> {
  for (const end = Date.now() + milliseconds; !done(); await turn()) if (Date.now() > end) return false;
  return true;
}

/** Waits. */
export function sleep(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
