/**
 * Versions of the interfaces that other packages implement (docs/contract.md says what changes them).
 *
 * Who implements one states the version as a literal, because a constant would be that of the core it meets. Who states none was written for version 1.
 */

import { IommuError } from "./errors.js";

/** Version of the notifier interfaces. */
export const NOTIFIER_CONTRACT = 1;

/** Version of `Backend`, `Domain`, `MappingSink` and what they name. */
export const BACKEND_CONTRACT = 1;

/** @throws {IommuError} with this code unless the part was written for the version of this core. */
export function checkContract(
  code: "notifier-contract" | "backend-contract",
  name: string,
  expected: number,
  got = 1,
): void {
  if (got === expected) return;
  throw new IommuError(code, `${name}: expected contract ${expected}, got ${got}`, {
    hint: "install a version of it that fits this iommu-core",
  });
}
