/**
 * A guest whose MAP notifiers are judged at every call by the slow model: an unmap of a page that the device still reaches as before is a breach, and at the end what is held must
 * be what the device reaches.
 */

import assert from "node:assert/strict";
import { type Access, type AddressSpace, parseSourceId, Translation } from "@iommu-kit/iommu-core";
import { RecordingNotifier, type RecordingNotifierOptions, type Run, RunList } from "@iommu-kit/iommu-core/testing";
import { GuestDriver, type GuestOptions } from "@iommu-kit/iommu-vtd/testing";
import { slowMappings, slowTranslate, type SlowUnit } from "./slow-model.js";

/** See the file's header. Legacy mode only. */
export class WatchedGuest extends GuestDriver {
  readonly #slow: SlowUnit;
  /** What the unit has been told to use. */
  #latchedPfn = 0;
  #translating = false;

  constructor(options: GuestOptions = {}) {
    super({ cachingMode: true, ...options });
    const { hostAddressWidth, maximumGuestAddressWidth, addressWidths, superpages, passThrough, snoopControl } =
      this.unit.config;
    this.#slow = {
      hostBits: hostAddressWidth,
      guestBits: maximumGuestAddressWidth,
      widths: addressWidths,
      superpages,
      passThrough,
      snoop: snoopControl,
    };
  }

  override setRoot(): boolean {
    this.#latchedPfn = this.contexts.rootPfn;
    return super.setRoot();
  }

  /** Latches a root table anywhere. */
  setRootTo(pfn: number): boolean {
    this.#latchedPfn = pfn;
    this.unit.mmio.write64(0x20, BigInt(pfn) * 4096n);
    return this.command(0x4000_0000);
  }

  override enable(): boolean {
    this.#translating = true;
    return super.enable();
  }

  override disable(): boolean {
    this.#translating = false;
    return super.disable();
  }

  /** Resets the unit. */
  reset(): void {
    this.#translating = false;
    this.#latchedPfn = 0;
    void this.unit.reset();
  }

  /** Where the device's requests go, by the slow model, at this moment. */
  truth(device: string, iovaPfn: number): { readonly gpaPfn: number; readonly access: Access } | undefined {
    const run = this.#bypasses(device) ? this.#identity().lookup(iovaPfn) : this.#table(device, iovaPfn);
    return run;
  }

  /** Everything that a device reaches, by the slow model. */
  reachable(device: string): Run[] {
    if (this.#bypasses(device)) return this.#identity().joined();
    const runs = new RunList();
    for (const leaf of slowMappings(this.memory, this.#slow, this.#latchedPfn, parseSourceId(device))) {
      runs.set({ ...leaf, access: leaf.access as Access });
    }
    return runs.joined();
  }

  /** Attaches a MAP notifier that objects to every unmap of a live page. */
  watch(device: string, options: RecordingNotifierOptions = {}): RecordingNotifier {
    const notifier = new RecordingNotifier({
      name: device,
      truth: (iovaPfn) => this.truth(device, iovaPfn),
      ...options,
    });
    this.device(device).attach(notifier, options.range === undefined ? {} : { range: options.range });
    return notifier;
  }

  /** Holds if the notifier heard nothing wrong and holds exactly what the device reaches. */
  assertInStep(device: string, notifier: RecordingNotifier): void {
    notifier.check();
    assert.equal(notifier.revoked, undefined);
    assert.deepEqual(notifier.held(), this.reachable(device));
  }

  #bypasses(device: string): boolean {
    if (!this.#translating) return true;
    const answer = slowTranslate(this.memory, this.#slow, this.#latchedPfn, {
      sid: parseSourceId(device),
      iovaPfn: 2 ** 40,
      access: 1,
    });
    const low = slowTranslate(this.memory, this.#slow, this.#latchedPfn, {
      sid: parseSourceId(device),
      iovaPfn: 0xfee00,
      access: 1,
    });
    // Pass-through is the only answer that refuses the window as output without having looked at a table.
    return answer.fault === 0x04 && low.fault === 0x0e && this.#passThrough(device);
  }

  #passThrough(device: string): boolean {
    return ((this.memory.peek(this.contexts.contextEntryGpa(device)) >> 2) & 3) === 2;
  }

  #identity(): RunList {
    const runs = new RunList();
    for (const { firstPfn, pageCount } of this.memory.ram)
      runs.set({ iovaPfn: firstPfn, pageCount, gpaPfn: firstPfn, access: 3 });
    runs.delete(0xfee00, 0x100);
    return runs;
  }

  #table(device: string, iovaPfn: number): { readonly gpaPfn: number; readonly access: Access } | undefined {
    if (iovaPfn >= 0xfee00 && iovaPfn < 0xfef00) return undefined;
    let access = 0;
    let gpaPfn = -1;
    for (const wanted of [1, 2]) {
      const answer = slowTranslate(this.memory, this.#slow, this.#latchedPfn, {
        sid: parseSourceId(device),
        iovaPfn,
        access: wanted,
      });
      if (answer.fault !== undefined) continue;
      access |= wanted;
      ({ gpaPfn } = answer);
    }
    return gpaPfn < 0 ? undefined : { gpaPfn, access: access as Access };
  }
}

/** Where a request of a device goes: its target frame, or the fault code. */
export function ask(space: AddressSpace, iovaPfn: number, access: Access = 1): number | string {
  const out = new Translation();
  return space.translate(iovaPfn, access, out) ? out.gpaPfn : `fault ${out.reason.toString(16)}`;
}
