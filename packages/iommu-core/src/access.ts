/**
 * Access rights of a mapping or a request, as a two-bit set.
 *
 * The numeric values are the R and W bits of a second-stage entry, so rights combine with `&` along a walk.
 */

/** Rights as a bit set: read is bit 0, write is bit 1. `none` as a *request* is a zero-length read. */
export const Access = { none: 0, read: 1, write: 2, readWrite: 3 } as const;
/** One of the four sets of rights. */
export type Access = (typeof Access)[keyof typeof Access];

/** The two low bits of `word` as rights; every other bit is ignored. */
export function accessOf(word: number): Access {
  return (word & 3) as Access;
}

/** `"r-"`, `"-w"`, `"rw"` or `"--"`, for people. */
export function formatAccess(access: Access): string {
  return `${(access & 1) === 0 ? "-" : "r"}${(access & 2) === 0 ? "-" : "w"}`;
}
