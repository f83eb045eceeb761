/**
 * What a host may get wrong when it attaches a notifier.
 */

import type { AddressSpace } from "../address-space.js";
import type { Attachment } from "../attachment.js";
import { checkContract, NOTIFIER_CONTRACT } from "../contract.js";
import { IommuError } from "../errors.js";
import { type Notifier, notifierName } from "../notifier.js";
import { checkRange, type FrameRange } from "../range.js";

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
