/**
 * What root and context structures say about a requester: how its requests are translated, or why they are refused.
 */

/** How requests are translated. */
export type BindingKind = "refused" | "second-stage" | "pass-through";

/** Immutable once looked up: the context cache keeps it. */
export interface Binding {
  readonly kind: BindingKind;
  /** A fault reason when `kind` is `refused`, else 0. */
  readonly reason: number;
  /** FPD of an entry on the way: qualified faults are not recorded. */
  readonly faultsDisabled: boolean;
  /** Domain-id; -1 when refused. */
  readonly domainId: number;
  /** Frame of the first table. */
  readonly rootPfn: number;
  /** Levels of the tables. */
  readonly levels: number;
  /** Input frames at and above it are refused. */
  readonly limitPfn: number;
  /** Translation requests and translated requests are allowed. */
  readonly deviceTlb: boolean;
}

/** A refusal. */
export function refusedBinding(reason: number, faultsDisabled: boolean): Binding {
  return {
    kind: "refused",
    reason,
    faultsDisabled,
    domainId: -1,
    rootPfn: 0,
    levels: 0,
    limitPfn: 0,
    deviceTlb: false,
  };
}
