/**
 * The machine that the notifier suite plays with: one device on the reference backend, and the notifier under test on it.
 */

import { Access } from "../access.js";
import type { AddressSpace } from "../address-space.js";
import type { Attachment } from "../attachment.js";
import { BackendIommu } from "../iommu.js";
import type { MapNotifier, UnmapNotifier } from "../notifier.js";
import { ALL_FRAMES, contains, endOf, type FrameRange } from "../range.js";
import { check, checkTarget, type Target } from "./contract.js";
import { FakeMemory } from "./fake-memory.js";
import { SimpleBackend, SimpleDomain } from "./simple-backend.js";

/** A notifier under test, and a way to look behind it. */
export interface NotifierFixture {
  /** New: it holds nothing and is attached nowhere. */
  readonly notifier: MapNotifier | UnmapNotifier;
  /** What a device would reach at this frame through what the consumer holds, or has cached, now. Must not fill a cache. */
  lookup(iovaPfn: number): Target;
  /** UNMAP-only notifiers: makes the cache ask for this frame, as an access of the device would. */
  fill?(iovaPfn: number): void;
  /** Input frames that the consumer can hold. Default: all, up to 2^52. */
  readonly range?: FrameRange;
  /** Target frames that it can hold are below this. Default: 2^40. */
  readonly targetLimit?: number;
}

/** Makes a new notifier for an address space. Called once for every case. */
export type MakeNotifier = (space: AddressSpace) => NotifierFixture;

/** @internal A machine with one device, and the notifier on it. */
export class NotifierRig {
  readonly domain = new SimpleDomain("tables");
  readonly backend = new SimpleBackend(this.domain);
  readonly unit = new BackendIommu({ backend: this.backend, memory: new FakeMemory() });
  readonly space = this.unit.addressSpace(0x18);
  readonly fixture: NotifierFixture;
  /** First frame of the playground, and its last one plus 1. */
  readonly first: number;
  readonly end: number;
  readonly targetLimit: number;
  attachment: Attachment | undefined;
  /** Frames that are looked at again and again: a stale one is found whenever it appears. */
  readonly #watched = new Set<number>();

  constructor(make: MakeNotifier) {
    this.fixture = make(this.space);
    const range = this.fixture.range ?? ALL_FRAMES;
    this.first = Math.ceil(range.firstPfn / 512) * 512;
    this.end = endOf(range);
    this.targetLimit = this.fixture.targetLimit ?? 2 ** 40;
  }

  async attach(): Promise<void> {
    const range = this.fixture.range ?? ALL_FRAMES;
    this.attachment = this.space.attach(this.fixture.notifier, { range });
    await this.attachment.ready;
    this.checkActive();
  }

  async detach(): Promise<void> {
    await this.attachment?.detach();
  }

  /** The guest edits its tables; frames are counted from the start of the playground. */
  map(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access = Access.readWrite): void {
    this.domain.map(this.first + iovaPfn, pageCount, gpaPfn, access);
    this.watch(iovaPfn, pageCount);
  }

  unmap(iovaPfn: number, pageCount: number): void {
    this.domain.unmap(this.first + iovaPfn, pageCount);
    this.watch(iovaPfn, pageCount);
  }

  watch(iovaPfn: number, pageCount: number): void {
    const first = this.first + iovaPfn;
    for (let pfn = first - 1; pfn <= first + pageCount; pfn++) {
      const near = pfn < first + 40 || pfn > first + pageCount - 40 || pfn % 61 === 0;
      if (near && pfn >= this.first && pfn < this.end) this.#watched.add(pfn);
    }
  }

  /** The guest invalidates, waits, and everything watched is looked at. */
  async invalidate(iovaPfn = 0, pageCount = this.end - this.first): Promise<void> {
    await this.backend.invalidate(this.domain, { firstPfn: this.first + iovaPfn, pageCount });
    this.checkActive();
    this.checkAll();
  }

  /** Makes a cache ask for every watched frame. */
  fill(): void {
    for (const pfn of this.#watched) this.fixture.fill?.(pfn);
  }

  /** As `fill`, at a moment when nothing waits for an invalidation. */
  fillAll(): void {
    this.fill();
    this.checkAll();
  }

  checkActive(): void {
    const { attachment } = this;
    check(
      attachment?.state === "active",
      `expected an attachment that is active, got ${attachment?.state}: ${attachment?.failure}`,
    );
  }

  /** MAP: holds exactly what is mapped and it has not refused. UNMAP-only: what is cached is right. */
  checkAll(): void {
    const isMap = this.fixture.notifier.kind === "map";
    const refused = this.attachment?.refusedRanges ?? [];
    for (const pfn of this.#watched) {
      const got = this.fixture.lookup(pfn);
      const expected = refused.some((range) => contains(range, pfn)) ? undefined : this.domain.lookup(pfn);
      if (isMap || got !== undefined) checkTarget(isMap ? "held" : "cached", pfn, got, expected);
    }
  }

  /** Whether the notifier has refused a frame of the playground. */
  hasRefused(iovaPfn: number): boolean {
    const pfn = this.first + iovaPfn;
    return this.attachment?.refusedRanges.some((range) => contains(range, pfn)) ?? true;
  }

  checkEmpty(what: string): void {
    for (const pfn of this.#watched) checkTarget(what, pfn, this.fixture.lookup(pfn), undefined);
  }
}
