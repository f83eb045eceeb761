/**
 * What was proved, with counts and latencies, as a table; and whether anything was not.
 */

/** Width of the column of claims. */
const CLAIM_WIDTH = 80;
/** A median of fewer is chance. */
const LEAST_SAMPLES = 100;

/**
 * The calls whose latency every partner has to show, as columns of the table at the end. Where nothing is ever missed, since all that is mapped is told ahead, the
 * first is from the guest's map to the end of the first use.
 */
export const CALLS = ["miss to use", "invalidate, acknowledged", "map", "unmap"] as const;

/** One of them. */
export type Call = (typeof CALLS)[number];

/** Collects the claims of one partner, and prints each as soon as it is settled. */
export class Proof {
  readonly #partner: string;
  readonly #latencies = new Map<string, readonly number[]>();
  #firstUse = "not measured";
  #claims = 0;
  #failures = 0;
  #uses = 0;

  /** @param partner The program, for the table. @param title What it is here. */
  constructor(partner: string, title: string) {
    this.#partner = partner;
    console.log(`${partner}: ${title}`);
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

  /** So many packets or copies arrived with every byte right. */
  used(count: number): void {
    this.#uses += count;
  }

  /** Durations of one of the calls, or of something else that is worth knowing. */
  latency(call: Call, what: string, microseconds: readonly number[]): void;
  latency(call: undefined, what: string, microseconds: readonly number[]): void;
  latency(call: Call | undefined, what: string, microseconds: readonly number[]): void {
    const sorted = microseconds.toSorted((a, b) => a - b);
    this.#latencies.set(call ?? what, sorted);
    if (call === "miss to use") this.#firstUse = what;
    console.log(`  latency     ${what.padEnd(CLAIM_WIDTH)}  ${percentiles(sorted)}, ${sorted.length} times`);
  }

  /** A claim that no latency is missing: the last one. */
  checkLatencies(): void {
    const measured = CALLS.filter((call) => (this.#latencies.get(call)?.length ?? 0) >= LEAST_SAMPLES);
    this.check("latencies of every call", CALLS.join("; "), measured.join("; "), measured.length === CALLS.length);
  }

  /** What its first column of latencies is, for a line below the table. */
  get footnote(): string {
    return `miss to use, ${this.#partner}: ${this.#firstUse}`;
  }

  /** Its row of the table. */
  row(): readonly string[] {
    const latencies = CALLS.map((call) => percentiles(this.#latencies.get(call) ?? []));
    return [
      this.#partner,
      `${this.#claims - this.#failures} of ${this.#claims}`,
      this.#uses.toLocaleString("en"),
      ...latencies,
    ];
  }
}

/** The table at the end: one row for each partner, and below it what the first use is for each. */
export function table(proofs: readonly Proof[]): readonly string[] {
  const head = ["p50 / p95", "claims proved", "uses checked", ...CALLS];
  const rows = [head, ...proofs.map((proof) => proof.row())];
  const widths = head.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  const lines = rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join("  ")
      .trimEnd(),
  );
  return [...lines, ...proofs.map(({ footnote }) => footnote)];
}

function percentiles(sorted: readonly number[]): string {
  const at = (share: number): string => (sorted[Math.floor(sorted.length * share)] ?? 0).toFixed(0);
  return sorted.length === 0 ? "not measured" : `${at(0.5)} / ${at(0.95)} us`;
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
