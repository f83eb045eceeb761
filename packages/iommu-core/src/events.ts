/**
 * What can be observed: typed events, built only when somebody listens (design D2). Notifiers do not hear of mappings through these; see notifier.ts.
 */

import { EventEmitter } from "eventemitter3";
import type { Access } from "./access.js";
import type { AddressSpace } from "./address-space.js";
import type { ByteAddress } from "./address.js";
import type { Attachment } from "./attachment.js";
import type { Domain } from "./backend.js";
import type { IommuError } from "./errors.js";
import type { Scheduler } from "./ports.js";

/** A refused request. */
export interface FaultEvent {
  /** Whose request it was. */
  readonly space: AddressSpace;
  /** Input byte address of the request. */
  readonly address: ByteAddress;
  /** What was asked for; `Access.none` is a zero-length read. */
  readonly access: Access;
  /** The backend's fault reason. */
  readonly reason: number;
  /** Finer than the reason: the failing check. */
  readonly cause: string;
}

/** A run of frames in the announced state of an address space. */
export interface MappingEvent {
  /** One of those that share the view. */
  readonly space: AddressSpace;
  /** First input frame. */
  readonly iovaPfn: number;
  /** Frames, 1 or more. */
  readonly pageCount: number;
  /** First target frame; of an unmap -1, or what it was while a `DirtyTracker` of the address space runs. */
  readonly gpaPfn: number;
  /** Of an unmap `Access.none`, or what they were while a `DirtyTracker` of the address space runs. */
  readonly access: Access;
}

/** Frames that the guest invalidated. */
export interface InvalidateEvent {
  /** One whose domain is concerned. */
  readonly space: AddressSpace;
  /** First input frame. */
  readonly iovaPfn: number;
  /** Frames; 2^52 from 0 on for everything. */
  readonly pageCount: number;
}

/** An attachment came, went or failed. */
export interface AttachmentEvent {
  /** Where. */
  readonly space: AddressSpace;
  /** The one that came or went. */
  readonly attachment: Attachment;
}

/** An attachment failed, or was cut off because it did not answer in time. */
export interface FailedEvent extends AttachmentEvent {
  /** Why; as `attachment.failure`. */
  readonly error: IommuError;
}

/** Frames that one consumer briefly did not hold although they stay mapped, because it can neither cut a block nor replace one. */
export interface WindowEvent extends AttachmentEvent {
  /** First input frame. */
  readonly iovaPfn: number;
  /** Frames, 1 or more. */
  readonly pageCount: number;
}

/** Frames that one consumer would not take. */
export interface RefusedEvent extends AttachmentEvent {
  /** First input frame. */
  readonly iovaPfn: number;
  /** Frames, 1 or more. */
  readonly pageCount: number;
  /** Where the first of them leads. */
  readonly gpaPfn: number;
  /** `"full"`: no room; `"unsupported"`: it cannot hold such a target, and is not asked again. */
  readonly answer: "full" | "unsupported";
}

/** A view spent its budget and failed closed: nothing is announced until the guest's next invalidation finds smaller tables. */
export interface BudgetEvent {
  /** One of those that share the view. */
  readonly space: AddressSpace;
  /** `"mappings"`: `limits.mappingsPerView` or `bytesPerView`; `"tables"`: `limits.tablesPerView`. */
  readonly budget: "mappings" | "tables";
  /** The limit's value, in mappings or in table pages. */
  readonly limit: number;
}

/** An address space sees another domain. */
export interface MoveEvent {
  /** The device that was moved. */
  readonly space: AddressSpace;
  /** What it saw. */
  readonly from: Domain;
  /** What it sees now. */
  readonly to: Domain;
}

/** Events of an address space, and, with the same names, of the whole unit. */
export interface IommuEvents {
  /** A request was refused, in the middle of it: also where the guest has disabled the recording of faults, and also after `unplug`. */
  fault: (event: FaultEvent) => void;
  /**
   * Frames came into the announced state, in a pass over the tables after an invalidation. The state exists while a MAP notifier is attached: the first one
   * brings all of it in, the last one to leave takes all of it out, and a replay to one more is no event.
   */
  map: (event: MappingEvent) => void;
  /** Frames left the announced state, as for `map`: they reach nothing any more. */
  unmap: (event: MappingEvent) => void;
  /** Target or rights of frames in the announced state changed; the event has the new ones. */
  change: (event: MappingEvent) => void;
  /** The guest invalidated frames: the unit's own caches have dropped them, the notifiers of this address space hear of it next. With the notifiers attached, mapped or not. */
  invalidate: (event: InvalidateEvent) => void;
  /** `attach` has accepted a notifier; it hears the present state after this. */
  attach: (event: AttachmentEvent) => void;
  /** A notifier was detached, or its device unplugged. What it still has to unmap may be under way. */
  detach: (event: AttachmentEvent) => void;
  /** A notifier threw, rejected, broke its contract or did not answer in time: it has been revoked, and hears nothing more. Once for each attachment, and once more if its `revoke` did not let go of everything: then the device behind it must be reset. */
  failed: (event: FailedEvent) => void;
  /** One consumer is without frames that stay mapped, until the map that directly follows. */
  window: (event: WindowEvent) => void;
  /** One consumer would not take frames: they stay mapped, and are offered again when it has room if the answer was `"full"`. */
  refused: (event: RefusedEvent) => void;
  /** A view has outgrown a limit, and everything in it has been unmapped. Once until the guest's tables are within it again. */
  budget: (event: BudgetEvent) => void;
  /** The guest has put the device into another domain; the differences follow as `map`, `unmap` and `change`. */
  move: (event: MoveEvent) => void;
}

/** A typed emitter of these events. */
export class IommuEventEmitter extends EventEmitter<IommuEvents> {}

/** @internal Sends events to an address space's listeners and the unit's. A listener that throws is reported from the event loop, never into the guest's path. */
export class Observers {
  readonly unit = new IommuEventEmitter();
  readonly #scheduler: Scheduler;

  constructor(scheduler: Scheduler) {
    this.#scheduler = scheduler;
  }

  /** Whether building this event is worth while. */
  wants(space: AddressSpace, name: keyof IommuEvents): boolean {
    return this.unit.listenerCount(name) > 0 || space.events.listenerCount(name) > 0;
  }

  emit<Name extends keyof IommuEvents>(name: Name, event: Parameters<IommuEvents[Name]>[0]): void {
    for (const emitter of [event.space.events, this.unit]) {
      try {
        // eventemitter3 cannot relate a generic name to its arguments; the signature above has.
        (emitter.emit as (name: string, event: unknown) => boolean).call(emitter, name, event);
      } catch (error) {
        this.report(error);
      }
    }
  }

  /** Throws a mistake of the host from its event loop, where it harms nobody who is being served. */
  report(error: unknown): void {
    this.#scheduler.defer(() => {
      throw error;
    });
  }
}
