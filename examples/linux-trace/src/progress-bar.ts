/** A progress bar where somebody watches, one line a step where the output goes to a file. */

/** What it writes to: `process.stderr`, or a test. */
export interface ProgressOutput {
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
  write(text: string): unknown;
}

const WIDEST = 40;
const CLEAR_LINE = "\r\u001B[K";

/** See the file's header. */
export class ProgressBar {
  readonly #output: ProgressOutput;
  readonly #label: string;
  #shown = -1;

  constructor(label: string, output: ProgressOutput) {
    this.#label = label;
    this.#output = output;
  }

  /** Shows which part is done, 0 to 1. Draws only when a whole percent is new. */
  update(part: number): void {
    if (this.#output.isTTY !== true) return;
    const percent = Math.floor(Math.min(1, Math.max(0, part)) * 100);
    if (percent === this.#shown) return;
    this.#shown = percent;
    const width = Math.max(10, Math.min(WIDEST, (this.#output.columns ?? 80) - this.#label.length - 10));
    const filled = Math.round((width * percent) / 100);
    const bar = "█".repeat(filled) + "░".repeat(width - filled);
    this.#output.write(`${CLEAR_LINE}${this.#label} ${bar} ${String(percent).padStart(3)} %`);
  }

  /** Ends it: one line stays. */
  finish(milliseconds: number): void {
    const start = this.#output.isTTY === true ? CLEAR_LINE : "";
    this.#output.write(`${start}${this.#label}: ${(milliseconds / 1000).toFixed(1)} s\n`);
  }
}
