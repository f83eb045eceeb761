/** A row of the table: what was measured, against what, and how that compares with the goal. */

/** What is wanted of the judged number. */
export interface Goal {
  readonly bound: "at most" | "at least";
  readonly value: number;
}

/** What every row says. */
interface RowTitle {
  readonly what: string;
  readonly against: string;
  readonly goal?: Goal;
}

/** A row with a result. */
export interface MeasuredRow extends RowTitle {
  /** The number that the goal is about. */
  readonly result: number;
  /** Of the number: `x` for ratios, `%` for throughput, or a unit. */
  readonly unit: "x" | "%" | "B" | "kB" | "slots";
  /** Lower and upper quartile, where the number is a median. */
  readonly quartiles?: readonly [number, number];
  /** Nanoseconds for each unit of work of both sides: for orientation. */
  readonly nanoseconds?: { readonly subject: number; readonly baseline: number; readonly per: string };
}

/** A row whose baseline is not there. */
export interface UnmeasuredRow extends RowTitle {
  /** Why, and what to install. */
  readonly notMeasured: string;
}

/** Either. */
export type Row = MeasuredRow | UnmeasuredRow;

/** At most this. */
export function atMost(value: number): Goal {
  return { bound: "at most", value };
}

/** At least this. */
export function atLeast(value: number): Goal {
  return { bound: "at least", value };
}

/** `met`, `missed: 1.8 times the goal`, `missed: 0.7 of the goal`, or nothing for a row without a goal. */
export function verdict(row: Row): string {
  if (row.goal === undefined) return "";
  if ("notMeasured" in row) return "not measured";
  const share = row.result / row.goal.value;
  if (row.goal.bound === "at most") return share <= 1 ? "met" : `missed: ${digits(share)} times the goal`;
  return share >= 1 ? "met" : `missed: ${digits(share)} of the goal`;
}

/** The judged number with its unit. */
export function resultText(row: Row): string {
  if ("notMeasured" in row) return "-";
  return row.unit === "x" ? digits(row.result) : `${digits(row.result)} ${row.unit}`;
}

/** The goal with its bound. */
export function goalText({ goal }: Row): string {
  if (goal === undefined) return "";
  return `${goal.bound === "at most" ? "<=" : ">="} ${goal.value}`;
}

/** Both sides in nanoseconds, or why there are none. */
export function detailText(row: Row): string {
  if ("notMeasured" in row) return row.notMeasured;
  if (row.nanoseconds === undefined) return "";
  const { subject, baseline, per } = row.nanoseconds;
  return `${digits(subject)} : ${digits(baseline)} ns per ${per}`;
}

/** Three significant digits. */
function digits(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3);
}
