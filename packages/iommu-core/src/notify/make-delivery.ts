/**
 * A delivery for one MAP notifier, of its granularity, wired to what hears of it: the events of every attachment it serves, and the guard over its answers.
 */

import type { AttachmentRecord } from "./attachment-record.js";
import { BlockDelivery } from "./block-delivery.js";
import type { Completion } from "../completion.js";
import type { ConsumerGuard } from "./consumer-guard.js";
import type { IommuError } from "../errors.js";
import type { IommuEvents, Observers } from "../events.js";
import type { DeliveryReports, MapDelivery } from "./map-delivery.js";
import type { MapNotifier } from "../notifier.js";
import { PageDelivery } from "./page-delivery.js";
import type { FrameRange } from "../range.js";

/** What a delivery is wired to. */
export interface DeliveryWiring {
  /** The notifier's attachments as they are now. */
  readonly attachments: () => readonly AttachmentRecord[];
  readonly observers: Observers;
  readonly guard: ConsumerGuard;
  /** Largest blocks that the consumer may hold, as of now. */
  readonly mostBlocks: () => number;
  readonly retryLater: () => void;
}

/** Makes the delivery that `notifier` has as long as it is attached anywhere; `range` is what it was attached for. */
export function makeDelivery(notifier: MapNotifier, range: FrameRange, wiring: DeliveryWiring): MapDelivery {
  const { attachments, observers, guard, mostBlocks, retryLater } = wiring;
  const watched = (name: keyof IommuEvents): readonly AttachmentRecord[] =>
    attachments().filter(({ space }) => observers.wants(space, name));
  let failure: IommuError | undefined;
  const fail = (error: IommuError): Completion => delivery.fail(error);
  const failed = (error: IommuError): void => {
    failure ??= error;
    for (const attachment of attachments()) {
      attachment.failure = failure;
      observers.emit("failed", { space: attachment.space, attachment, error });
    }
  };
  const reports: DeliveryReports = {
    window: (iovaPfn, pageCount) => {
      for (const attachment of watched("window"))
        observers.emit("window", { space: attachment.space, attachment, iovaPfn, pageCount });
    },
    refused: (iovaPfn, pageCount, gpaPfn, answer) => {
      for (const attachment of watched("refused"))
        observers.emit("refused", { space: attachment.space, attachment, iovaPfn, pageCount, gpaPfn, answer });
    },
    cutOff: (error) => guard.cutOff(notifier, error, failed),
    guard: (promise, settled) => guard.watch(notifier, promise, settled, fail),
    retryLater,
  };
  const Delivery = notifier.granularity === "page" ? PageDelivery : BlockDelivery;
  const delivery: MapDelivery = new Delivery(notifier, range, reports, mostBlocks);
  return delivery;
}
