/**
 * A notifier's place on an address space, as its host sees it.
 */

import type { AddressSpace } from "./address-space.js";
import type { Completion } from "./completion.js";
import type { IommuError } from "./errors.js";
import type { Notifier } from "./notifier.js";
import type { FrameRange } from "./range.js";

/**
 * `syncing`: replay has not finished. `active`: it follows. `parked`: one MAP notifier serves several address spaces which now see different
 * domains; it holds nothing until they agree again. `failed`: it threw, rejected or did not answer, and was cut off. `detached`: over.
 */
export type AttachmentState = "syncing" | "active" | "parked" | "failed" | "detached";

/** How to attach. */
export interface AttachOptions {
  /** Hear only of these frames. Events are clipped at both ends, the target advanced by as much. Default: all frames. */
  readonly range?: FrameRange;
}

/** What `AddressSpace.attach` answers. */
export interface Attachment {
  /** Whose requests it mirrors. */
  readonly space: AddressSpace;
  /** What was attached. */
  readonly notifier: Notifier;
  /** What it hears of. */
  readonly range: FrameRange;
  /** As of now. */
  readonly state: AttachmentState;
  /** `undefined` once the first replay is done, or a promise for it. */
  readonly ready: Completion;
  /** Why it failed. */
  readonly failure: IommuError | undefined;
  /** Frames a MAP notifier holds; 0 for the other kinds. */
  readonly heldPages: number;
  /** Frames a MAP notifier should hold but refused. */
  readonly refusedPages: number;
  /** Those frames, ascending: a copy, right as of now. Neighbours that lead elsewhere or with other rights are ranges of their own. */
  readonly refusedRanges: readonly FrameRange[];
  /** Offers again what a full consumer refused: call it when entries have freed up for reasons the unit cannot see. */
  retry(): void;
  /**
   * Ends it. A MAP notifier is unmapped everything it holds, an UNMAP-only one or a device TLB is told to drop its range. Done when the notifier has completed.
   * @throws {IommuError} `reentrant-call` from inside a notifier's callback.
   */
  detach(): Completion;
}
