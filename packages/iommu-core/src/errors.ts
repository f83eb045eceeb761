/**
 * The one error class for mistakes of the *host* programmer. What a guest does wrong is never thrown: it is a fault reason.
 */

/** What went wrong, stable across releases: switch on this, not on the message. */
export type IommuErrorCode =
  | "bad-source-id"
  | "bad-range"
  | "bad-option"
  | "caching-mode-required"
  | "not-supported"
  | "notifier-contract"
  | "notifier-failed"
  | "notifier-timeout"
  | "already-attached"
  | "not-attached"
  | "different-view"
  | "reentrant-call"
  | "unplugged"
  | "destroyed"
  | "bad-snapshot"
  | "missing-peer";

/** A host mistake: what was expected, what was got, and in `hint` what would be right. */
export class IommuError extends Error {
  override readonly name = "IommuError";
  readonly code: IommuErrorCode;
  /** One sentence that names the fix. */
  readonly hint: string;

  constructor(code: IommuErrorCode, message: string, options: { readonly hint: string; readonly cause?: unknown }) {
    super(`${message} (${options.hint})`, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.hint = options.hint;
  }
}
