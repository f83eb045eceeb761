/**
 * What the unit has latched of RTADDR, and whether it translates at all (§6.6).
 */

/** Changed by GCMD commands only. */
export interface RootPointer {
  /** TE, as commanded. */
  enabled: boolean;
  /** TTM, a `TableMode`. */
  mode: number;
  /** Frame of the root table. */
  rootPfn: number;
}
