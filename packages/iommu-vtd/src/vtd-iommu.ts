/**
 * The unit as its host sees it: registers, address spaces, interrupts, ATS, reset.
 */

import {
  type AddressSpace,
  type AddressSpaceOptions,
  checkGiven,
  type Completion,
  type FrameRange,
  type GuestMemory,
  type Iommu,
  IommuError,
  type IommuEventEmitter,
  type MsiMessage,
  type SourceId,
} from "@iommu-kit/iommu-core";
import { DeviceAts } from "./ats/device-ats.js";
import type { ResolvedConfig } from "./config.js";
import type { ChangedRoutes, RemapResult } from "./interrupt/interrupt-remap.js";
import type { MmioPort } from "./registers/mmio-port.js";
import { PARTS } from "./unit-of.js";
import { Unit } from "./unit.js";
import type { VtdOptions } from "./vtd-options.js";

/** An Intel VT-d remapping unit. */
export class VtdIommu implements Iommu {
  readonly #unit: Unit;
  readonly #memory: GuestMemory;

  /** @throws {IommuError} `bad-option` or `bad-range`. */
  constructor(options: VtdOptions) {
    for (const given of [options, options?.memory]) checkGiven(given, "VtdIommu", "new VtdIommu({ memory, msi })");
    if (typeof options.msi !== "function") {
      throw new IommuError("bad-option", `VtdIommu: expected a function for msi, got ${String(options.msi)}`, {
        hint: "call new VtdIommu({ memory, msi: (message) => ... }): interrupts leave the unit there",
      });
    }
    this.#memory = options.memory;
    this.#unit = new Unit(options);
  }

  /** @internal The parts, for the optional subpaths. */
  get [PARTS](): Unit {
    return this.#unit;
  }

  /** The register block. */
  get mmio(): MmioPort {
    return this.#unit.mmio;
  }

  /** The decisions, defaults filled in. */
  get config(): ResolvedConfig {
    return this.#unit.config;
  }

  /** Events of every address space of the unit, until `destroy` removes the listeners. */
  get events(): IommuEventEmitter {
    return this.#unit.iommu.events;
  }

  /** Every address space that was asked for and is still plugged: a new array each time. */
  get addressSpaces(): readonly AddressSpace[] {
    return this.#unit.iommu.addressSpaces;
  }

  /**
   * What a requester sees: a device function, or one PASID of it (§3.4.1). The same object each time, until it is unplugged.
   * @throws {IommuError} `bad-source-id`, `bad-option` (a PASID beyond 20 bits, privilege or execute without one), or `destroyed` after `destroy`.
   */
  addressSpace(sourceId: SourceId, options: AddressSpaceOptions = {}): AddressSpace {
    return this.#unit.iommu.addressSpace(sourceId, options);
  }

  /**
   * Says which frames are mapped onto themselves while translation is off or a context passes through (§3.9). Ascending and disjoint. Only differences are announced; done
   * when every notifier has completed them.
   * @throws {IommuError} `bad-range`.
   */
  setRegions(regions: readonly FrameRange[]): Completion {
    return this.#unit.iommu.setRegions(regions);
  }

  /**
   * Takes the unit out of its machine; see `Iommu.destroy`. Its registers read as after a reset and ignore what is written, what its guest waits for is abandoned, and no message
   * leaves it any more.
   * @throws {IommuError} `reentrant-call` from inside a notifier's callback.
   */
  destroy(): Completion {
    return this.#unit.destroy();
  }

  /** A message of a requester, or of none (an I/O APIC without source-id). What leaves the unit goes to `msi`. `false`: refused, a fault may have been recorded. */
  interrupt(sourceId: SourceId | undefined, message: MsiMessage): boolean {
    return this.#unit.interrupts.request(sourceId, message);
  }

  /**
   * Called when cached routes may be wrong: with the interrupt-table indexes that the guest has invalidated (§6.5.2.8), or with `undefined` for all (another table or mode, remapping on
   * or off, a reset, a restore). It is called before the guest's wait completes, so whoever asks `translateInterrupt` again in it is never late. What it throws is thrown from the
   * event loop.
   */
  get onRoutesChanged(): ((changed: ChangedRoutes | undefined) => void) | undefined {
    return this.#unit.onRoutesChanged;
  }
  set onRoutesChanged(listener: ((changed: ChangedRoutes | undefined) => void) | undefined) {
    this.#unit.onRoutesChanged = listener;
  }

  /**
   * What a message would become, for hosts that cache routes: nothing is delivered or recorded. A route (`reason` 0) may be kept until `onRoutesChanged` is called for its index. A
   * refusal holds for this message alone: without caching mode the guest says nothing when an entry becomes present (§6.1).
   */
  translateInterrupt(sourceId: SourceId | undefined, message: MsiMessage): RemapResult {
    return this.#unit.interrupts.translate(sourceId, message);
  }

  /**
   * The ATS and PRI side of an address space of this unit. Page requests need `pageRequests`; without it they are answered `invalid`.
   * @throws {IommuError} `not-supported` on a unit without `deviceTlb`; `bad-option` for an address space of another unit.
   */
  ats(space: AddressSpace): DeviceAts {
    if (!this.config.deviceTlb) {
      throw new IommuError(
        "not-supported",
        `ATS of ${space.label}: expected a unit with device TLBs, got one without`,
        {
          hint: "pass deviceTlb: true",
        },
      );
    }
    if (space.plugged && !this.addressSpaces.includes(space)) {
      throw new IommuError(
        "bad-option",
        `ATS of ${space.label}: expected an address space of this unit, got another's`,
        {
          hint: "ask the unit that the space comes from",
        },
      );
    }
    const { translationRequests: requests, pageRequests: pages, queue } = this.#unit;
    const stray = (sourceId: SourceId): void => queue.strayCompletion(sourceId);
    return new DeviceAts(space, { memory: this.#memory, requests, pages, stray });
  }

  /**
   * Resets the unit: registers, caches, latched pointers, queue; translation is off afterwards and notifiers hold the identity mapping.
   * A warm reset leaves fault records and status. Reset the devices first. Done when every notifier has completed.
   * @throws {IommuError} `reentrant-call` from inside a notifier's callback; `destroyed` after `destroy`.
   */
  reset(options: { readonly warm?: boolean } = {}): Completion {
    this.#unit.enterOrThrow("reset");
    return this.#unit.reset(options.warm === true);
  }
}
