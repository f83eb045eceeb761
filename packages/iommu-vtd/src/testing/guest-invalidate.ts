/**
 * Invalidation as a driver commands it: through the queue, each followed by a wait, or through the registers.
 */

import { parseSourceId } from "@iommu-kit/iommu-core";
import { CCMD, IOTLB, IVA } from "../spec/registers-invalidation.js";
import { ContextGranularity, IotlbGranularity } from "../spec/invalidation.js";
import type { VtdIommu } from "../vtd-iommu.js";
import { descriptor, type GuestQueue } from "./guest-queue.js";
import { wordAt } from "../spec/word.js";

/** Through the queue: each submits one descriptor and a wait, and answers whether the wait has completed already. */
export class QueuedInvalidation {
  readonly #queue: GuestQueue;

  constructor(queue: GuestQueue) {
    this.#queue = queue;
  }

  /** Context cache, global. */
  contexts(): boolean {
    return this.#queue.run(descriptor.contexts());
  }

  /** Context cache, one domain. */
  contextsOfDomain(did: number): boolean {
    return this.#queue.run(descriptor.contextsOfDomain(did));
  }

  /** Context cache, one device (`"00:03.0"`) under a function mask of 0 to 3. */
  context(device: string, did = 0, functionMask = 0): boolean {
    return this.#queue.run(descriptor.contextsOfDevice(parseSourceId(device), did, functionMask));
  }

  /** IOTLB, global. */
  all(): boolean {
    return this.#queue.run(descriptor.all());
  }

  /** IOTLB, one domain. */
  domain(did: number): boolean {
    return this.#queue.run(descriptor.domain(did));
  }

  /** IOTLB, 2^`order` pages of a domain. */
  page(did: number, iovaPfn: number, order = 0): boolean {
    return this.#queue.run(descriptor.page(did, iovaPfn, order));
  }

  /** Interrupt entries, all. */
  interrupts(): boolean {
    return this.#queue.run(descriptor.interrupts());
  }

  /** Interrupt entries, 2^`order` indexes. */
  interrupt(index: number, order = 0): boolean {
    return this.#queue.run(descriptor.interrupt(index, order));
  }

  /** PASID-based IOTLB, 2^`order` pages of a PASID. */
  pasidPages(did: number, pasid: number, iovaPfn: number, order = 0): boolean {
    return this.#queue.run(descriptor.pasidPages(did, pasid, iovaPfn, order));
  }

  /** PASID-based IOTLB, everything of a PASID. */
  pasidAll(did: number, pasid: number): boolean {
    return this.#queue.run(descriptor.pasidAll(did, pasid));
  }

  /** PASID cache, global. */
  pasidEntries(): boolean {
    return this.#queue.run(descriptor.pasidEntries());
  }

  /** PASID cache, one domain. */
  pasidEntriesOfDomain(did: number): boolean {
    return this.#queue.run(descriptor.pasidEntriesOfDomain(did));
  }

  /** PASID cache, one PASID of a domain. */
  pasidEntry(did: number, pasid: number): boolean {
    return this.#queue.run(descriptor.pasidEntry(did, pasid));
  }
}

const CCMD_OFFSET = 0x28;

/** What a register command answers: the granularity that was done (0: nothing), or `"pending"`. */
export type RegisterOutcome = number | "pending";

/** Through CCMD, IVA and IOTLB (§6.5.1), 8 bytes at a time. */
export class RegisterCommands {
  readonly #unit: VtdIommu;

  constructor(unit: VtdIommu) {
    this.#unit = unit;
  }

  /** Context cache, global. */
  contexts(): RegisterOutcome {
    return this.#context({ CIRG: ContextGranularity.GLOBAL });
  }

  /** Context cache, one domain. */
  contextsOfDomain(did: number): RegisterOutcome {
    return this.#context({ CIRG: ContextGranularity.DOMAIN, DID: did });
  }

  /** Context cache, one device. */
  context(device: string, did = 0, functionMask = 0): RegisterOutcome {
    return this.#context({
      CIRG: ContextGranularity.DEVICE,
      DID: did,
      SID: parseSourceId(device),
      FM: functionMask,
    });
  }

  /** IOTLB, global. */
  all(): RegisterOutcome {
    return this.#iotlb({ IIRG: IotlbGranularity.GLOBAL });
  }

  /** IOTLB, one domain. */
  domain(did: number): RegisterOutcome {
    return this.#iotlb({ IIRG: IotlbGranularity.DOMAIN, DID: did });
  }

  /** IOTLB, 2^`order` pages of a domain. */
  page(did: number, iovaPfn: number, order = 0): RegisterOutcome {
    this.#unit.mmio.write64(this.#iotlbOffset - 8, toBigInt(IVA.pack({ AM: order, ADDR: iovaPfn })));
    return this.#iotlb({ IIRG: IotlbGranularity.PAGE, DID: did });
  }

  get #iotlbOffset(): number {
    return this.#unit.config.iotlbRegisterOffset + 8;
  }

  /** CCMD as it stands. */
  contextOutcome(): RegisterOutcome {
    const words = toWords(this.#unit.mmio.read64(CCMD_OFFSET));
    return CCMD.fields.ICC.get(words, 0) === 1 ? "pending" : CCMD.fields.CAIG.get(words, 0);
  }

  /** IOTLB as it stands. */
  iotlbOutcome(): RegisterOutcome {
    const words = toWords(this.#unit.mmio.read64(this.#iotlbOffset));
    return IOTLB.fields.IVT.get(words, 0) === 1 ? "pending" : IOTLB.fields.IAIG.get(words, 0);
  }

  #context(given: Parameters<typeof CCMD.pack>[0]): RegisterOutcome {
    this.#unit.mmio.write64(CCMD_OFFSET, toBigInt(CCMD.pack({ ICC: 1, ...given })));
    return this.contextOutcome();
  }

  #iotlb(given: Parameters<typeof IOTLB.pack>[0]): RegisterOutcome {
    this.#unit.mmio.write64(this.#iotlbOffset, toBigInt(IOTLB.pack({ IVT: 1, ...given })));
    return this.iotlbOutcome();
  }
}

function toBigInt(words: Int32Array): bigint {
  return (BigInt(wordAt(words, 1) >>> 0) << 32n) | BigInt(wordAt(words, 0) >>> 0);
}

function toWords(value: bigint): Int32Array {
  return Int32Array.of(Number(BigInt.asIntN(32, value)), Number(BigInt.asIntN(32, value >> 32n)));
}
