/**
 * What a host may get wrong when it attaches a notifier.
 */

import type { AddressSpace } from "./address-space.js";
import type { Attachment } from "./attachment.js";
import { IommuError } from "./errors.js";
import { NOTIFIER_CONTRACT, type Notifier, notifierName } from "./notifier.js";
import { checkRange, type FrameRange } from "./range.js";

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
  const { contract = NOTIFIER_CONTRACT } = notifier;
  if (contract !== NOTIFIER_CONTRACT) {
    throw new IommuError(
      "notifier-contract",
      `${notifierName(notifier)}: expected notifier contract ${NOTIFIER_CONTRACT}, got ${contract}`,
      { hint: "install a version of the notifier that fits this version of iommu-core" },
    );
  }
  const largestBlock = notifier.kind === "map" ? (notifier.largestBlock ?? 1) : 1;
  if (!(largestBlock >= 1 && Number.isInteger(Math.log2(largestBlock)))) {
    throw new IommuError(
      "bad-option",
      `${notifierName(notifier)}: expected a largest block that is a power of two, got ${largestBlock}`,
      { hint: "give it in 4 KiB pages: 512 for 2 MiB" },
    );
  }
  if (attachments.some((attachment) => attachment.notifier === notifier)) {
    throw new IommuError("already-attached", `${notifierName(notifier)} is attached to ${space.label} already`, {
      hint: "detach it first",
    });
  }
}
