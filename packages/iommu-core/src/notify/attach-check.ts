/**
 * What a host may get wrong when it attaches a notifier.
 */

import type { AddressSpace } from "../address-space.js";
import type { Attachment } from "../attachment.js";
import { checkContract, NOTIFIER_CONTRACT } from "../contract.js";
import { IommuError } from "../errors.js";
import { type Notifier, notifierName } from "../notifier.js";
import { checkRange, type FrameRange } from "../range.js";

/** The methods of each kind; those of `optional` may be missing. */
const METHODS: Readonly<
  Record<string, { readonly required: readonly string[]; readonly optional: readonly string[] }>
> = {
  map: { required: ["map", "unmap"], optional: ["replace", "begin", "commit", "revoke", "reportTo"] },
  unmap: { required: ["unmap"], optional: ["revoke"] },
  "device-tlb": { required: ["invalidate"], optional: ["revoke"] },
};

/**
 * Checks everything that does not depend on what the notifier's other address spaces see.
 * @throws {IommuError} `bad-range`, `notifier-contract`, `bad-option` or `already-attached`.
 */
export function checkAttach(
  space: AddressSpace,
  attachments: readonly Attachment[],
  notifier: Notifier,
  range: FrameRange,
): void {
  checkRange(range, "attach");
  checkShape(notifier);
  checkContract("notifier-contract", notifierName(notifier), NOTIFIER_CONTRACT, notifier.contract);
  const largestBlock = notifier.kind === "map" ? (notifier.largestBlock ?? 1) : 1;
  if (!(largestBlock >= 1 && Number.isInteger(Math.log2(largestBlock)))) {
    throw new IommuError(
      "bad-option",
      `${notifierName(notifier)}: expected a largest block that is a power of two, got ${largestBlock}`,
      { hint: "give it in 4 KiB pages: 512 for 2 MiB" },
    );
  }
  if (attachments.some((attachment) => attachment.notifier === notifier)) {
    throw new IommuError(
      "already-attached",
      `${notifierName(notifier)}: expected one that is not attached to ${space.label}, got one that is`,
      { hint: "detach it first" },
    );
  }
}

/** What the types say, for hosts that are not type-checked: a notifier that hears nothing would be found out by a device that reaches a stale page. */
function checkShape(notifier: unknown): void {
  const given = (typeof notifier === "object" && notifier !== null ? notifier : {}) as Readonly<
    Record<string, unknown>
  >;
  const { kind, name, granularity } = given;
  const methods = typeof kind === "string" && Object.hasOwn(METHODS, kind) ? METHODS[kind] : undefined;
  const label = typeof name === "string" ? name : "notifier";
  if (methods === undefined) refuse(label, 'kind "map", "unmap" or "device-tlb"', kind);
  for (const method of methods.required)
    if (typeof given[method] !== "function") refuse(label, `a method ${method}`, given[method]);
  for (const method of methods.optional)
    if (given[method] !== undefined && typeof given[method] !== "function")
      refuse(label, `a method ${method}, or none`, given[method]);
  if (kind === "map" && granularity !== "page" && granularity !== "block")
    refuse(label, 'granularity "page" or "block"', granularity);
}

function refuse(label: string, expected: string, got: unknown): never {
  throw new IommuError("notifier-contract", `${label}: expected ${expected}, got ${String(got)}`, {
    hint: "implement MapNotifier, UnmapNotifier or DeviceTlbNotifier",
  });
}
