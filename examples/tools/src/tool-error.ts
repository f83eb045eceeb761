/** What a user can mend: shown as a sentence and a way out, never as a stack. */

/** See the file's header. */
export class ToolError extends Error {
  override readonly name = "ToolError";
  /** One sentence that names the way out. */
  readonly hint: string;

  constructor(message: string, hint: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.hint = hint;
  }
}
