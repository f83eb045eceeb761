/**
 * An IOMMU as its host and its devices see it, and the class that makes one out of a backend.
 */

import { AddressSpace } from "./address-space.js";
import type { Backend } from "./backend.js";
import { type Completion, CompletionGroup, whenDone } from "./completion.js";
import { BACKEND_CONTRACT, checkContract } from "./contract.js";
import { type IommuEventEmitter, Observers } from "./events.js";
import { type Limits, resolveLimits } from "./limits.js";
import { NotifierHub } from "./notify/notifier-hub.js";
import { type GuestMemory, type Scheduler, timerScheduler } from "./ports.js";
import { checkRange, endOf, type FrameRange } from "./range.js";
import { checkSourceId, type SourceId } from "./source-id.js";
import { checkGiven, IommuError } from "./errors.js";

/** Which requests of a source-id. */
export interface AddressSpaceOptions {
  /** 0 to 2^20 - 1: requests with this PASID. Default: requests without PASID. */
  readonly pasid?: number;
  /** The requests ask for supervisor privilege; needs a PASID. Default false. */
  readonly privileged?: boolean;
  /** The requests ask to execute; needs a PASID. Default false. */
  readonly execute?: boolean;
}

/** An IOMMU. */
export interface Iommu {
  /** Events of all address spaces. */
  readonly events: IommuEventEmitter;
  /**
   * What a requester sees. The same requester gives the same object until it is unplugged.
   * @throws {IommuError} `bad-source-id`, `bad-option`, or `destroyed` after `destroy`.
   */
  addressSpace(sourceId: SourceId, options?: AddressSpaceOptions): AddressSpace;
  /** Every address space that was asked for and is still plugged. */
  readonly addressSpaces: readonly AddressSpace[];
  /**
   * Says which frames are mapped onto themselves while translation is off or passed through: RAM, and the BARs of peer devices. Ascending and disjoint.
   * Differences are announced. Default: the RAM of the memory port.
   * @throws {IommuError} `bad-range`.
   */
  setRegions(regions: readonly FrameRange[]): Completion;
  /**
   * Takes the unit out of its machine: unplugs every device, so that every further request is refused, notifiers let go and leases are recalled. Done when the notifiers have
   * completed; then its listeners are removed, and nothing of it is scheduled any more. Again, it only answers when that is.
   * @throws {IommuError} `reentrant-call` from inside a notifier's callback or a listener of what notifiers are told: nothing has happened then.
   */
  destroy(): Completion;
}

/** What `BackendIommu` needs. */
export interface BackendIommuOptions {
  /** The architecture: one for each unit. */
  readonly backend: Backend;
  /** Where translated requests go. */
  readonly memory: GuestMemory;
  /** Default: the host's timers. */
  readonly scheduler?: Scheduler;
  /** What is mapped onto itself while translation is off or passed through. Ascending and disjoint. Default: RAM. */
  readonly regions?: readonly FrameRange[];
  /** Budgets and deadlines that differ from the defaults. */
  readonly limits?: Partial<Limits>;
}

/** An `Iommu` on any backend. */
export class BackendIommu implements Iommu {
  readonly events: IommuEventEmitter;
  /** Those given, and the defaults for the others. */
  readonly limits: Limits;
  /** @internal */
  readonly hub: NotifierHub;
  readonly #backend: Backend;
  readonly #memory: GuestMemory;
  readonly #givenLimits: Partial<Limits>;
  readonly #spaces = new Map<number, AddressSpace>();
  #destroyed = false;
  /** Of `destroy`, for whoever calls it again. */
  #gone: Completion;

  /** @throws {IommuError} `backend-contract`, `bad-option` or `bad-range`. */
  constructor(options: BackendIommuOptions) {
    for (const given of [options, options?.backend, options?.memory])
      checkGiven(given, "BackendIommu", "new BackendIommu({ backend, memory })");
    const { backend, memory, scheduler = timerScheduler, regions = memory.ram } = options;
    checkContract("backend-contract", "backend", BACKEND_CONTRACT, backend.contract);
    checkRegions(regions);
    this.#backend = backend;
    this.#memory = memory;
    this.#givenLimits = options.limits ?? {};
    this.limits = resolveLimits(this.#givenLimits, memory, regions);
    const observers = new Observers(scheduler);
    this.events = observers.unit;
    this.hub = new NotifierHub({ backend, scheduler, limits: this.limits, observers, regions });
    backend.connect((change) => this.hub.announce(change));
  }

  get addressSpaces(): readonly AddressSpace[] {
    return [...this.#spaces.values()].filter((space) => space.plugged);
  }

  addressSpace(sourceId: SourceId, options: AddressSpaceOptions = {}): AddressSpace {
    checkSourceId(sourceId);
    if (this.#destroyed) {
      throw new IommuError("destroyed", "expected a unit that is in its machine, got one that was destroyed", {
        hint: "make a new unit for a new machine",
      });
    }
    const { pasid, privileged = false, execute = false } = options;
    if (pasid !== undefined && !(Number.isInteger(pasid) && pasid >= 0 && pasid < 2 ** 20)) {
      throw new IommuError("bad-option", `expected a PASID in 0..0xfffff, got ${pasid}`, {
        hint: "leave it out for requests without PASID",
      });
    }
    if ((privileged || execute) && pasid === undefined) {
      throw new IommuError("bad-option", "privileged and execute: expected a PASID beside them, got none", {
        hint: "only requests with PASID carry these flags",
      });
    }
    const flags = (privileged ? 1 : 0) + (execute ? 2 : 0);
    const key = (sourceId * 2 ** 21 + (pasid === undefined ? 0 : pasid + 1)) * 4 + flags;
    const known = this.#spaces.get(key);
    if (known?.plugged === true) return known;
    const space = new AddressSpace(
      { sourceId, pasid, privileged, execute, key },
      this.#backend,
      this.#memory,
      this.hub,
    );
    this.#spaces.set(key, space);
    this.hub.register(space);
    return space;
  }

  /** For backends: begins a slice of work, for one access of the guest. `false` while a notifier is being called: refuse the access. */
  enter(): boolean {
    if (this.hub.calling) return false;
    this.hub.queue.beginSlice();
    return true;
  }

  /**
   * For backends that carry out several commands in one access: counts one of them against the slice. `false`: the slice is spent; go on from the
   * event loop (`Scheduler.defer`), with a new slice.
   */
  spend(): boolean {
    const { queue } = this.hub;
    if (queue.spent) return false;
    queue.slice.entriesLeft -= 1;
    return true;
  }

  /** Unplugs every device, then removes the listeners; done when the notifiers have let go. For backends: their own part is theirs to end, before this. */
  destroy(): Completion {
    this.hub.refuseInCallback("destroy");
    if (this.#destroyed) return this.#gone;
    this.#destroyed = true;
    const spaces = this.addressSpaces;
    const group = new CompletionGroup();
    for (const space of spaces) group.add(space.unplug());
    this.#spaces.clear();
    this.#gone = group.take();
    whenDone(this.#gone, () => {
      for (const { events } of [this, ...spaces]) events.removeAllListeners();
    });
    return this.#gone;
  }

  setRegions(regions: readonly FrameRange[]): Completion {
    checkRegions(regions);
    // Shared with whoever works by them: a default that follows the regions has to follow in all these places.
    Object.assign(this.limits, resolveLimits(this.#givenLimits, this.#memory, regions));
    return this.hub.setRegions(regions);
  }
}

function checkRegions(regions: readonly FrameRange[]): void {
  let end = 0;
  for (const region of regions) {
    checkRange(region, "regions");
    if (region.firstPfn < end) {
      throw new IommuError(
        "bad-range",
        `regions: expected ascending, disjoint ranges, got one at frame ${region.firstPfn} below ${end}`,
        { hint: "sort and merge them" },
      );
    }
    end = endOf(region);
  }
}
