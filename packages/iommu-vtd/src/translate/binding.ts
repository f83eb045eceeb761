/**
 * What root, context and PASID structures say about a requester: how its requests are translated, or why they are refused.
 */

/** How requests are translated. */
export type BindingKind = "refused" | "pass-through" | "second-stage" | "first-stage" | "nested";

/** Immutable once looked up: the caches keep it. */
export interface Binding {
  readonly kind: BindingKind;
  /** A fault reason when `kind` is `refused`, else 0. */
  readonly reason: number;
  /** FPD of an entry on the way: qualified faults are not recorded. */
  readonly faultsDisabled: boolean;
  /** Found in scalable mode: its reasons are those of that mode. */
  readonly scalable: boolean;
  /** Domain-id; -1 when refused. */
  readonly domainId: number;
  /** The PASID whose entry it is; 0 in legacy mode. */
  readonly pasid: number;
  /** The first stage translates, alone or nested: page-selective invalidations of the domain treat it otherwise. */
  readonly firstStage: boolean;
  /** Privileged requests. */
  readonly privileged: boolean;
  /** Second stage: frame of the first table, levels, and the first input frame that is out of reach. For pass-through only the limit. */
  readonly rootPfn: number;
  readonly levels: number;
  readonly limitPfn: number;
  /** SSADE: the walk sets accessed and dirty flags in second-stage entries. */
  readonly secondStageFlags: boolean;
  /** First stage: frame of the first table (guest-physical when nested), levels. */
  readonly firstRootPfn: number;
  readonly firstLevels: number;
  /** WPE: write protection binds privileged requests too. */
  readonly writeProtect: boolean;
  /** EAFE: the walk sets the extended accessed flag. */
  readonly extendedAccessed: boolean;
  /** Table accesses are snooped: flags may be updated. */
  readonly snooped: boolean;
  /** PGSNP: page accesses are snooped. */
  readonly pageSnoop: boolean;
  /** Legacy: translation requests and translated requests are allowed. */
  readonly deviceTlb: boolean;
}

const NOTHING: Binding = {
  kind: "refused",
  reason: 0,
  faultsDisabled: false,
  scalable: false,
  domainId: -1,
  pasid: 0,
  firstStage: false,
  privileged: false,
  rootPfn: 0,
  levels: 0,
  limitPfn: 0,
  secondStageFlags: false,
  firstRootPfn: 0,
  firstLevels: 0,
  writeProtect: false,
  extendedAccessed: false,
  snooped: false,
  pageSnoop: false,
  deviceTlb: false,
};

/** A binding; what is not given is absent. */
export function bindingOf(given: Partial<Binding> & Pick<Binding, "kind">): Binding {
  return { ...NOTHING, firstStage: given.kind === "first-stage" || given.kind === "nested", ...given };
}

/** A refusal. No entry that could disable faults has been read where nothing is said of them. */
export function refusedBinding(reason: number, faultsDisabled = false): Binding {
  return { ...NOTHING, reason, faultsDisabled };
}
