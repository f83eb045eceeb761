/**
 * What a MAP notifier says that cannot be true: from there on it is not known what it holds.
 */

import { Access } from "../access.js";
import { isTarget } from "../diff/slot.js";
import { IommuError } from "../errors.js";
import { type MapNotifier, notifierName } from "../notifier.js";
import { endOf, type FrameRange } from "../range.js";

/** Whether what a notifier names are frames, at least one, and all of them in `whole`. */
export function isPartOf({ firstPfn, pageCount }: FrameRange, whole: FrameRange): boolean {
  const frames = Number.isSafeInteger(firstPfn) && Number.isSafeInteger(pageCount) && pageCount > 0;
  return frames && firstPfn >= whole.firstPfn && firstPfn + pageCount <= endOf(whole);
}

/** Whether frames can have been given with this target and these rights. */
export function isMapping(gpaPfn: number, pageCount: number, access: Access): boolean {
  return isTarget(gpaPfn, pageCount) && access !== Access.none && (access & Access.readWrite) === access;
}

/** An answer to a map that is neither a success nor a refusal. */
export function meaninglessAnswer(notifier: MapNotifier, answer: unknown): IommuError {
  const got = typeof answer === "string" ? `"${answer}"` : String(answer);
  return new IommuError(
    "notifier-contract",
    `${notifierName(notifier)}: expected undefined, "full" or "unsupported" as the answer to a map, got ${got}`,
    { hint: "see MapAnswer; undefined is: held" },
  );
}

/** A report of frames that it was not given, or of a part of a block. They may be no frames at all: shown as they are. */
export function untrueReport(notifier: MapNotifier, { firstPfn, pageCount }: FrameRange): IommuError {
  return new IommuError(
    "notifier-contract",
    `${notifierName(notifier)}: expected reports of frames as they were given, in whole blocks, got first ${firstPfn}, count ${pageCount} as refused`,
    { hint: "see MapReports.refused" },
  );
}
