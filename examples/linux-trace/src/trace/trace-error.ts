/** What is wrong with a trace file, and what to do about it: the only error that this program explains instead of showing a stack. */

/** Why a trace cannot be played. */
export type TraceProblem = "missing" | "damaged" | "not-a-trace" | "wrong-version" | "bad-line";

/** See the file's header. */
export class TraceError extends Error {
  override readonly name = "TraceError";
  readonly problem: TraceProblem;
  /** One sentence that names the way out. */
  readonly hint: string;

  constructor(problem: TraceProblem, message: string, options: { readonly hint: string; readonly cause?: unknown }) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.problem = problem;
    this.hint = options.hint;
  }
}
