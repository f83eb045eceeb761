/**
 * What the reserved bits of structures depend on: the capability registers and the host's address width.
 *
 * The functions of this folder that answer with reserved masks read it; they are called once per configuration, and
 * walkers keep the words.
 */
import type { Field, Part } from "@iommu-kit/iommu-core";
import { CAP, ECAP } from "./registers-capability.js";

/** The capabilities of one unit. */
export interface UnitCapabilities {
  /** The two words of CAP. */
  readonly cap: Int32Array;
  /** The two words of ECAP. */
  readonly ecap: Int32Array;
  /** Host address width (HAW), 32 to 52: addresses in tables are narrower than this. */
  readonly hostAddressWidth: number;
}

/** Width of a domain-id, 4 to 16 bits. In entries the bits above are reserved, in commands they are ignored. */
export function domainIdBits(cap: Int32Array): number {
  return 4 + 2 * CAP.fields.ND.get(cap, 0);
}

/** Maximum guest address width (MGAW): bits of the widest second-stage input. */
export function guestAddressBits(cap: Int32Array): number {
  return CAP.fields.MGAW.get(cap, 0) + 1;
}

/** Width of a PASID that the unit accepts, 1 to 20 bits (ECAP.PSS). */
export function pasidBits(ecap: Int32Array): number {
  return ECAP.fields.PSS.get(ecap, 0) + 1;
}

/** Those fields whose capability (a one-bit field of ECAP) the unit lacks: they are reserved there. */
export function absentFields(ecap: Int32Array, needs: readonly (readonly [Field, ...Part[]])[]): Part[] {
  return needs.flatMap(([capability, ...fields]) => (capability.get(ecap, 0) === 0 ? fields : []));
}

/** The part of a domain-id field at `lo` (16 bits wide) that the unit's domain-ids do not reach; may be empty. */
export function unusedDomainIdBits(cap: Int32Array, { hi, lo }: Part): Pick<Part, "hi" | "lo"> {
  return { hi, lo: lo + domainIdBits(cap) };
}
