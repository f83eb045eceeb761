/**
 * What can be wrong with a DMAR table, and the checks that all rules share.
 *
 * A problem is a value: the builder makes an error of the first, the decoder hands them all over.
 */

/** What is wrong with a table, stable across releases. */
export type DmarProblemCode =
  // Only in bytes: seen by the decoder.
  | "truncated"
  | "signature"
  | "revision"
  | "checksum"
  | "length"
  | "type-order"
  | "reserved-bits"
  | "unknown-scope"
  // In bytes and in options.
  | "range"
  | "alignment"
  | "address-width"
  | "overlap"
  | "duplicate"
  | "no-unit"
  | "no-namespace-device"
  | "include-all"
  | "scope-type"
  | "scope-count"
  | "path"
  | "name"
  | "flags"
  | "too-long"
  // Only with knowledge of the machine.
  | "io-apic"
  | "reserved-memory"
  | "guest-address-width";

/** One broken rule. */
export interface DmarProblem {
  /** The rule that is broken. */
  readonly code: DmarProblemCode;
  /** Place in the plain table, such as "units[0].scopes[2]"; "" for the table as a whole. */
  readonly where: string;
  /** "expected X, got Y". */
  readonly message: string;
  /** What would be right. */
  readonly hint: string;
  /** Place in the bytes; only from the decoder. */
  readonly offsetBytes?: number;
}

/** Collects problems, in the order in which they are found. */
export class Problems {
  readonly list: DmarProblem[] = [];

  add(code: DmarProblemCode, where: string, message: string, hint: string): void {
    this.list.push({ code, where, message, hint });
  }

  /** Reports `value` unless it is an integer in min..max; true when it is. */
  integer(where: string, value: number, min: number, max: number): boolean {
    if (Number.isInteger(value) && value >= min && value <= max) return true;
    const message = `expected an integer in ${min}..${max}, got ${String(value)}`;
    this.add("range", where, message, "give a value in the range");
    return false;
  }

  /** Reports the second and every later use of a key; `seen` maps a key to where it was first. */
  unique(seen: Map<string, string>, key: string, where: string, what: string, hint: string): void {
    const first = seen.get(key);
    if (first === undefined) seen.set(key, where);
    else this.add("duplicate", where, `expected ${what} once, got it in ${first} and here`, hint);
  }

  /** Reports a value that is not printable ASCII of up to `maxLength` characters. */
  text(where: string, value: string, maxLength: number): void {
    if (/^[\x20-\x7e]*$/.test(value) && value.length <= maxLength) return;
    const message = `expected at most ${maxLength} printable ASCII characters, got ${quote(value)}`;
    this.add("name", where, message, "use a shorter text of plain characters");
  }

  /**
   * Reports a range of bytes that is not aligned, not exact as a JS number or not within the host address width;
   * true when it is all of that. `byteLength` has been checked.
   */
  addressRange(where: string, gpa: number, byteLength: number, alignment: number, widthBits: number): boolean {
    if (!this.integer(where, gpa, 0, Number.MAX_SAFE_INTEGER)) return false;
    const excess = gpa % alignment;
    if (excess !== 0) {
      const message = `expected a multiple of ${hex(alignment)}, got ${hex(gpa)}`;
      this.add("alignment", where, message, `use ${hex(gpa - excess)} or ${hex(gpa - excess + alignment)}`);
      return false;
    }
    if (gpa + byteLength > 2 ** widthBits) {
      const message = `expected an end within ${widthBits} bits, got ${hex(gpa)} + ${hex(byteLength)}`;
      this.add("address-width", where, message, "raise hostAddressWidth or move the range");
      return false;
    }
    return true;
  }
}

/** A number as people read addresses; anything but an integer as it is. */
export function hex(value: number): string {
  return Number.isInteger(value) ? `${value < 0 ? "-" : ""}0x${Math.abs(value).toString(16)}` : String(value);
}

/** A text in quotes, with unprintable characters escaped and cut to a readable length; anything else as it is. */
export function quote(value: unknown): string {
  const shown = typeof value === "string" ? JSON.stringify(value) : String(value);
  return shown.length > 80 ? `${shown.slice(0, 80)}...` : shown;
}
