/**
 * What a `VfioNotifier` tells its host, typed. Nothing here is needed for correctness: an event without a listener is
 * not built. A listener that throws is reported from the event loop, never into the guest's path.
 */
import { EventEmitter } from "eventemitter3";
import type { IommuError } from "@iommu-kit/iommu-core";
import type { ContainerRefusal } from "./container.js";
import type { PressureEvent } from "./entry-pressure.js";

/** The container would not take a run of frames. */
export interface RefusalEvent {
  /** First input frame. */
  readonly iovaPfn: number;
  /** Frames, 1 or more. */
  readonly pageCount: number;
  /** Target of the first frame. */
  readonly gpaPfn: number;
  /** `no-space` is tried again when entries free up; every other cause is not. */
  readonly cause: ContainerRefusal;
}

/** A merged entry was cut: its frames that stay mapped were unreachable until they had been mapped again. */
export interface CutEvent {
  /** The entry. */
  readonly iovaPfn: number;
  /** Frames of the entry that was cut. */
  readonly pageCount: number;
  /** Frames of it that stay mapped. */
  readonly keptPageCount: number;
}

/** Events of a `VfioNotifier`. */
export interface VfioNotifierEvents {
  /** The fill of the container crossed a level. */
  pressure: (event: PressureEvent) => void;
  /** A run of frames was refused. */
  refused: (event: RefusalEvent) => void;
  /** A merged entry was cut. The address space reports the frames of it that stay mapped as a `window` too. */
  window: (event: CutEvent) => void;
  /** The container did not let go when everything was revoked: the device behind it must be reset. */
  stuck: (event: { readonly error: IommuError }) => void;
}

/** A typed emitter of these events. */
export class VfioEventEmitter extends EventEmitter<VfioNotifierEvents> {
  /** @internal Emits, keeping what a listener throws away from the caller. */
  report<Name extends keyof VfioNotifierEvents>(name: Name, ...event: Parameters<VfioNotifierEvents[Name]>): void {
    try {
      // eventemitter3 cannot relate a generic name to its arguments; the signature above has.
      (this as EventEmitter<Record<string, (event: unknown) => void>>).emit(name, event[0]);
    } catch (error) {
      void Promise.resolve().then(() => {
        throw error;
      });
    }
  }
}
