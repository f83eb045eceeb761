/**
 * The events of a Linux trace, as they stand in JSON. Strings are hexadecimal without prefix.
 */

/** `n` equal events in a row. */
interface Repeat {
  readonly x: number;
}

/** One line of a trace. */
export type TraceEvent =
  | readonly ["M", string, ...string[]]
  | readonly ["W", string, number, string]
  | readonly ["R", string, number, string]
  | readonly ["T", string, 1 | 2, string, ...(string | number | Repeat)[]]
  | readonly ["I", string, string, string, ...(string | Repeat)[]]
  | readonly ["S", ...string[]]
  | readonly ["X", string, string]
  | readonly ["Q", string, string]
  | readonly ["N", string, "m" | "u", string, string, string, string]
  | readonly ["L", string, "+" | "-", string, string]
  | readonly ["P" | "K" | "A", ...unknown[]]
  | readonly ["E", string, number, string, number]
  | readonly ["G", string, string];

/** How often an event happened, and its elements without that. */
export function unfold<Part>(event: readonly (Part | Repeat)[]): {
  readonly parts: readonly Part[];
  readonly times: number;
} {
  const last = event.at(-1);
  if (typeof last !== "object" || last === null || !("x" in last)) return { parts: event as readonly Part[], times: 1 };
  return { parts: event.slice(0, -1) as readonly Part[], times: last.x };
}
