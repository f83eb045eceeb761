/**
 * A broken invariant: what a round ends with when the unit did something that it must not.
 */

/** The invariants. Each has a defect that breaks it, and that the fuzzer finds: test/planted-defects.test.ts. */
export const INVARIANTS = [
  "block",
  "budget",
  "busy",
  "completion",
  "contract",
  "detach",
  "dma",
  "flags",
  "queue",
  "record",
  "registers",
  "shadow",
  "slice",
  "stale",
  "threw",
  "walk",
  "write",
] as const;

/** One of them, by name. */
export type Invariant = (typeof INVARIANTS)[number];

/** See the file's header. `kind` stays the same while a failure is being shrunk. */
export class Failure extends Error {
  readonly kind: Invariant;

  constructor(kind: Invariant, detail: string, options?: ErrorOptions) {
    super(`${kind}: ${detail}`, options);
    this.kind = kind;
  }
}

/** @throws {Failure} unless `holds`. */
export function demand(holds: boolean, kind: Invariant, detail: () => string): void {
  if (!holds) throw new Failure(kind, detail());
}
