/**
 * The one error class for mistakes of the *host* programmer. What a guest does wrong is never thrown: it is a fault reason.
 */

/** What went wrong in the packages of this repository, stable across releases: switch on this, not on the message. docs/errors.md is made from these lines. */
export type IommuErrorCode =
  /** A bus, device, function or requester-id does not exist. */
  | "bad-source-id"
  /** Frames that are not whole, out of reach, not ascending, or not those of the other attachments. */
  | "bad-range"
  /** An option out of range, or a combination that is not allowed. */
  | "bad-option"
  /** A MAP notifier on a unit whose guest need not announce what it maps. */
  | "caching-mode-required"
  /** The unit, the back-end or the server cannot do what is asked of it. */
  | "not-supported"
  /** A notifier that was built for another version of its interface, or events that break it. */
  | "notifier-contract"
  /** A backend that was built for another version of its interface. */
  | "backend-contract"
  /** A notifier threw, rejected or lost its consumer: it was cut off alone. */
  | "notifier-failed"
  /** A notifier did not answer in time: it was cut off alone. */
  | "notifier-timeout"
  /** A second notifier, tracker or connection where there can be one. */
  | "already-attached"
  /** A container that would have to hold two different views. */
  | "different-view"
  /** Registers, attachments, regions or snapshots from inside a callback. */
  | "reentrant-call"
  /** An address space after its device was unplugged. */
  | "unplugged"
  /** A connection that is over, or a unit that has left its machine. */
  | "destroyed"
  /** A snapshot of another unit or version, or a damaged one. */
  | "bad-snapshot";

/**
 * Checks that the host gave an object, for hosts that are not type-checked.
 * @param call How to call it right: `new VtdIommu({ memory, msi })`.
 * @throws {IommuError} `bad-option`.
 */
export function checkGiven(value: unknown, what: string, call: string): void {
  if (typeof value === "object" && value !== null) return;
  throw new IommuError("bad-option", `${what}: expected an object, got ${String(value)}`, { hint: `call ${call}` });
}

/** The options that were given: `undefined` is the same as left out. */
export function withoutUndefined<Options extends object>(options: Options): Options {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as Options;
}

/** A host mistake: what was expected, what was got, and in `hint` what would be right. */
export class IommuError extends Error {
  /** Always this, for reports that print it. */
  override readonly name = "IommuError";
  /** One of those above, or a code of its own of a backend or a notifier from elsewhere. */
  readonly code: IommuErrorCode | (string & Record<never, never>);
  /** One sentence that names the fix. */
  readonly hint: string;

  constructor(
    code: IommuErrorCode | (string & Record<never, never>),
    message: string,
    options: { readonly hint: string; readonly cause?: unknown },
  ) {
    super(`${message} (${options.hint})`, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.hint = options.hint;
  }
}
