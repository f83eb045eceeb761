/**
 * A guest whose MAP notifiers are judged at every call by the slow model: an unmap of a page that the device still reaches as before is a breach, and at the end what is held must
 * be what the device reaches.
 */

import assert from "node:assert/strict";
import { type Access, type AddressSpace, type FrameRange, parseSourceId, Translation } from "@iommu-kit/iommu-core";
import { RecordingNotifier, type RecordingNotifierOptions, type Run, RunList } from "@iommu-kit/iommu-core/testing";
import { GuestDriver, type GuestOptions } from "@iommu-kit/iommu-vtd/testing";
import { slowMappings, slowTranslate, type SlowUnit } from "./slow-model.js";

/** See the file's header. Legacy mode only. */
export class WatchedGuest extends GuestDriver {
  readonly #slow: SlowUnit;
  /** What the unit has been told to use. */
  #latchedPfn = 0;
  #translating = false;
  #regions: readonly FrameRange[];
  /** Devices whose context entry differs from what the unit has been told: nobody may say what they reach. */
  readonly #untold = new Set<string>();

  constructor(options: GuestOptions = {}) {
    super({ cachingMode: true, ...options });
    this.#regions = options.regions ?? this.memory.ram;
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

  /** Edits a context entry and does not tell the unit: until `tellContexts`, the slow model holds its tongue about the device. */
  editContext(device: string, edit: () => void): void {
    if (this.#translating) this.#untold.add(device);
    edit();
  }

  /** The unit is about to look at every context entry anew, or at one device's. */
  tellContexts(device?: string): void {
    if (device === undefined) this.#untold.clear();
    else this.#untold.delete(device);
  }

  /** Resets the unit. */
  reset(): void {
    this.#translating = false;
    this.#latchedPfn = 0;
    void this.unit.reset();
  }

  /** Names the regions of the host. */
  setRegions(regions: readonly FrameRange[]): void {
    this.#regions = regions;
    void this.unit.setRegions(regions);
  }

  /** Everything that a device reaches, by the slow model; nothing while its context entry is one that the unit has not been told of. */
  reachable(device: string): Run[] {
    if (this.#untold.has(device)) return [];
    return this.#reached(device).joined();
  }

  /** Attaches a MAP notifier that objects to every unmap of a live page. */
  watch(device: string, options: RecordingNotifierOptions = {}): RecordingNotifier {
    // Tables do not change while a notifier is being called: one enumeration for each call.
    let stale = true;
    let reached = new RunList();
    const truth = (iovaPfn: number): ReturnType<RunList["lookup"]> => {
      if (this.#untold.has(device)) return undefined;
      if (stale) reached = this.#reached(device);
      stale = false;
      return reached.lookup(iovaPfn);
    };
    const notifier: RecordingNotifier = new RecordingNotifier({
      name: device,
      truth,
      ...options,
      onCall: (call) => {
        stale = true;
        options.onCall?.(call);
      },
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

  #reached(device: string): RunList {
    if (!this.#translating) return this.#identity();
    const sid = parseSourceId(device);
    const passes = slowTranslate(this.memory, this.#slow, this.#latchedPfn, { sid, iovaPfn: 0, access: 3 });
    if (passes.passThrough === true) return this.#identity();
    const runs = new RunList();
    for (const leaf of slowMappings(this.memory, this.#slow, this.#latchedPfn, sid)) {
      runs.set({ ...leaf, access: leaf.access as Access });
    }
    return runs;
  }

  #identity(): RunList {
    const runs = new RunList();
    for (const { firstPfn, pageCount } of this.#regions)
      runs.set({ iovaPfn: firstPfn, pageCount, gpaPfn: firstPfn, access: 3 });
    runs.delete(0xfee00, 0x100);
    return runs;
  }
}

/** Where a request of a device goes: its target frame, or the fault code. */
export function ask(space: AddressSpace, iovaPfn: number, access: Access = 1): number | string {
  const out = new Translation();
  return space.translate(iovaPfn, access, out) ? out.gpaPfn : `fault ${out.reason.toString(16)}`;
}
