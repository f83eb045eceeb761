/**
 * The invalidation queue as a driver uses it: descriptors are written at its own tail, and each invalidation is followed by a wait that writes a status word.
 */

import type { FakeMemory } from "@iommu-kit/iommu-core/testing";
import {
  ContextCacheDescriptor,
  InterruptEntryCacheDescriptor,
  IotlbDescriptor,
  PasidCacheDescriptor,
  PasidIotlbDescriptor,
  WaitDescriptor,
} from "../spec/descriptors.js";
import {
  ContextGranularity,
  DescriptorType,
  InterruptGranularity,
  IotlbGranularity,
  PasidCacheGranularity,
  PasidIotlbGranularity,
} from "../spec/invalidation.js";
import type { VtdIommu } from "../vtd-iommu.js";
import { type FrameAllocator, pokeWords } from "./frame-allocator.js";

const IQT = 0x88;
const IQA = 0x90;
const WIDE = 0x800n;

/** How a queue is set up. */
export interface GuestQueueOptions {
  /** log2 of the queue's pages, 0 to 7. Default 0: 256 narrow or 128 wide descriptors. */
  readonly sizeOrder?: number;
  /** 256-bit descriptors. Default false. */
  readonly wide?: boolean;
}

/** Writes descriptors into the queue of a test guest: `submit` moves the tail, `run` also waits and says whether the wait has completed. */
export class GuestQueue {
  /** First frame of the queue. */
  readonly basePfn: number;
  /** Byte address of the status word that waits write. */
  readonly statusGpa: number;
  /** Byte offset of the next free slot. */
  tailBytes = 0;
  /** Status value that the last wait asked for. */
  lastStatus = 0;
  #wide = false;
  #sizeBytes = 4096;
  readonly #unit: VtdIommu;
  readonly #memory: FakeMemory;

  constructor(unit: VtdIommu, memory: FakeMemory, frames: FrameAllocator) {
    this.#unit = unit;
    this.#memory = memory;
    this.basePfn = frames.take(128);
    this.statusGpa = frames.take() * 4096;
  }

  /** Bytes of a descriptor. */
  get stepBytes(): number {
    return this.#wide ? 32 : 16;
  }

  /** Writes IQA, and IQT with 0. */
  setUp(options: GuestQueueOptions = {}): void {
    this.#wide = options.wide ?? false;
    const order = options.sizeOrder ?? 0;
    this.#sizeBytes = 4096 * 2 ** order;
    this.tailBytes = 0;
    this.#unit.mmio.write64(IQT, 0n);
    this.#unit.mmio.write64(IQA, BigInt(this.basePfn) * 4096n + BigInt(order) + (this.#wide ? WIDE : 0n));
  }

  /** Writes descriptors behind the tail; the unit is not told. */
  write(...descriptors: readonly Int32Array[]): void {
    for (const words of descriptors) {
      const gpa = this.basePfn * 4096 + this.tailBytes;
      const slot = new Int32Array(this.stepBytes / 4);
      slot.set(words.subarray(0, slot.length));
      pokeWords(this.#memory, gpa, slot);
      this.tailBytes = (this.tailBytes + this.stepBytes) % this.#sizeBytes;
    }
  }

  /** Writes descriptors and the tail register. */
  submit(...descriptors: readonly Int32Array[]): void {
    this.write(...descriptors);
    this.kick();
  }

  /** Writes the tail register. */
  kick(): void {
    this.#unit.mmio.write32(IQT, this.tailBytes);
  }

  /** Submits descriptors and a wait; answers whether the wait has written its status already. */
  run(...descriptors: readonly Int32Array[]): boolean {
    this.lastStatus += 1;
    this.submit(...descriptors, this.waitFor(this.lastStatus));
    return this.completed;
  }

  /** Whether the status word says that the last `run` is over. */
  get completed(): boolean {
    return this.#memory.peek(this.statusGpa) === this.lastStatus;
  }

  /** A wait that writes `status` to the status word. */
  waitFor(status: number): Int32Array {
    return WaitDescriptor.pack({ TYPE: DescriptorType.WAIT, SW: 1, DATA: status, SADDR: this.statusGpa / 4 });
  }
}

/** Descriptors as words: pass them to `GuestQueue.submit`. Frames are 4 KiB; `order` is log2 of a number of pages. */
export const descriptor = {
  contexts: (): Int32Array =>
    ContextCacheDescriptor.pack({ TYPE: DescriptorType.CONTEXT_CACHE, G: ContextGranularity.GLOBAL }),
  contextsOfDomain: (did: number): Int32Array =>
    ContextCacheDescriptor.pack({ TYPE: DescriptorType.CONTEXT_CACHE, G: ContextGranularity.DOMAIN, DID: did }),
  contextsOfDevice: (sourceId: number, did = 0, functionMask = 0): Int32Array =>
    ContextCacheDescriptor.pack({
      TYPE: DescriptorType.CONTEXT_CACHE,
      G: ContextGranularity.DEVICE,
      DID: did,
      SID: sourceId,
      FM: functionMask,
    }),
  all: (): Int32Array => IotlbDescriptor.pack({ TYPE: DescriptorType.IOTLB, G: IotlbGranularity.GLOBAL }),
  domain: (did: number): Int32Array =>
    IotlbDescriptor.pack({ TYPE: DescriptorType.IOTLB, G: IotlbGranularity.DOMAIN, DID: did }),
  page: (did: number, iovaPfn: number, order = 0): Int32Array =>
    IotlbDescriptor.pack({ TYPE: DescriptorType.IOTLB, G: IotlbGranularity.PAGE, DID: did, AM: order, ADDR: iovaPfn }),
  interrupts: (): Int32Array =>
    InterruptEntryCacheDescriptor.pack({ TYPE: DescriptorType.INTERRUPT_ENTRY_CACHE, G: InterruptGranularity.GLOBAL }),
  interrupt: (index: number, order = 0): Int32Array =>
    InterruptEntryCacheDescriptor.pack({
      TYPE: DescriptorType.INTERRUPT_ENTRY_CACHE,
      G: InterruptGranularity.INDEX,
      IIDX: index,
      IM: order,
    }),
  pasidPages: (did: number, pasid: number, iovaPfn: number, order = 0): Int32Array =>
    PasidIotlbDescriptor.pack({
      TYPE: DescriptorType.PASID_IOTLB,
      G: PasidIotlbGranularity.PAGE,
      DID: did,
      PASID: pasid,
      AM: order,
      ADDR: iovaPfn,
    }),
  pasidAll: (did: number, pasid: number): Int32Array =>
    PasidIotlbDescriptor.pack({
      TYPE: DescriptorType.PASID_IOTLB,
      G: PasidIotlbGranularity.PASID,
      DID: did,
      PASID: pasid,
    }),
  pasidEntries: (): Int32Array =>
    PasidCacheDescriptor.pack({ TYPE: DescriptorType.PASID_CACHE, G: PasidCacheGranularity.GLOBAL }),
  pasidEntriesOfDomain: (did: number): Int32Array =>
    PasidCacheDescriptor.pack({ TYPE: DescriptorType.PASID_CACHE, G: PasidCacheGranularity.DOMAIN, DID: did }),
  pasidEntry: (did: number, pasid: number): Int32Array =>
    PasidCacheDescriptor.pack({
      TYPE: DescriptorType.PASID_CACHE,
      G: PasidCacheGranularity.PASID,
      DID: did,
      PASID: pasid,
    }),
  /** A wait with exactly the given flags. */
  wait: (given: {
    readonly status?: { readonly gpa: number; readonly value: number };
    readonly interrupt?: boolean;
    readonly fence?: boolean;
  }): Int32Array =>
    WaitDescriptor.pack({
      TYPE: DescriptorType.WAIT,
      SW: given.status === undefined ? 0 : 1,
      IF: given.interrupt === true ? 1 : 0,
      FN: given.fence === true ? 1 : 0,
      DATA: given.status?.value ?? 0,
      SADDR: (given.status?.gpa ?? 0) / 4,
    }),
} as const;
