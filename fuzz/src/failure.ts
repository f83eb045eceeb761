/**
 * A broken invariant: what a round ends with when the unit did something that it must not.
 */

/** See the file's header. `kind` stays the same while a failure is being shrunk. */
export class Failure extends Error {
  readonly kind: string;

  constructor(kind: string, detail: string, options?: ErrorOptions) {
    super(`${kind}: ${detail}`, options);
    this.kind = kind;
  }
}

/** @throws {Failure} unless `holds`. */
export function demand(holds: boolean, kind: string, detail: () => string): void {
  if (!holds) throw new Failure(kind, detail());
}
