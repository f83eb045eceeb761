/**
 * What each descriptor of the invalidation queue does (§6.5.2.1 to §6.5.2.10).
 */

import type { Completion, GuestMemory } from "@iommu-kit/iommu-core";
import type { EventMessage } from "../fault/event-message.js";
import type { RegisterFile } from "../registers/register-file.js";
import { domainIdBits, type UnitCapabilities } from "../spec/capabilities.js";
import {
  ContextCacheDescriptor,
  DeviceTlbDescriptor,
  InterruptEntryCacheDescriptor,
  IotlbDescriptor,
  PasidCacheDescriptor,
  PasidDeviceTlbDescriptor,
  PasidIotlbDescriptor,
  WaitDescriptor,
} from "../spec/descriptors.js";
import {
  ContextGranularity,
  DescriptorType,
  deviceTlbRange,
  InterruptGranularity,
  IotlbGranularity,
  maskedRange,
  PasidCacheGranularity,
  PasidIotlbGranularity,
  QueueError,
  waitStatusGpa,
} from "../spec/invalidation.js";
import { CAP } from "../spec/registers-capability.js";
import { ICS } from "../spec/registers-invalidation.js";
import type { PageRequestQueue } from "../page-request/page-request-queue.js";
import type { DeviceTlbInvalidation } from "./device-tlb-invalidation.js";
import type { DescriptorHandler } from "./invalidation-queue.js";
import type { Invalidator } from "./invalidator.js";

/** Drops cached interrupt entries: `undefined` for all, else indexes from `first` on. */
export type InterruptInvalidation = (range: { readonly first: number; readonly count: number } | undefined) => void;

/** What the descriptors act on. */
export interface DescriptorTargets {
  readonly memory: GuestMemory;
  readonly file: RegisterFile;
  readonly capabilities: UnitCapabilities;
  readonly invalidator: Invalidator;
  readonly interrupts: InterruptInvalidation;
  readonly completionEvent: EventMessage;
  readonly deviceTlb: DeviceTlbInvalidation;
  readonly pageRequests: PageRequestQueue;
}

/** Carries out one descriptor at a time, whose reserved bits have been checked. Answers what it has to wait for, or why the descriptor is invalid. */
export class Descriptors implements DescriptorHandler {
  readonly #targets: DescriptorTargets;
  /** The bits of domain-ids that the unit has; in commands others are ignored. */
  readonly #domainIds: number;
  readonly #pageSelective: boolean;
  readonly #largestOrder: number;

  constructor(targets: DescriptorTargets) {
    this.#targets = targets;
    const { cap } = targets.capabilities;
    this.#domainIds = 2 ** domainIdBits(cap) - 1;
    this.#pageSelective = CAP.fields.PSI.get(cap, 0) === 1;
    this.#largestOrder = CAP.fields.MAMV.get(cap, 0);
  }

  isWait(type: number): boolean {
    return type === DescriptorType.WAIT;
  }

  handle(type: number, words: Int32Array): Completion | QueueError {
    switch (type) {
      case DescriptorType.CONTEXT_CACHE:
        return this.#contextCache(words);
      case DescriptorType.IOTLB:
        return this.#iotlb(words);
      case DescriptorType.INTERRUPT_ENTRY_CACHE:
        return this.#interruptEntries(words);
      case DescriptorType.DEVICE_TLB:
        return this.#deviceTlb(words);
      case DescriptorType.PASID_DEVICE_TLB:
        return this.#pasidDeviceTlb(words);
      case DescriptorType.PAGE_GROUP_RESPONSE:
        return this.#targets.pageRequests.respond(words);
      case DescriptorType.PASID_IOTLB:
        return this.#pasidIotlb(words);
      case DescriptorType.PASID_CACHE:
        return this.#pasidCache(words);
      default:
        return QueueError.TYPE;
    }
  }

  wait(words: Int32Array): QueueError {
    const { memory, file, capabilities, completionEvent } = this.#targets;
    const { SW, IF, FN, PD, DATA } = WaitDescriptor.fields;
    // The architecture leaves open what a wait for nothing does. It can only be a mistake, so it is reported as one.
    if ([SW, IF, FN, PD].every((field) => field.get(words, 0) === 0)) return QueueError.RESERVED_FIELD;
    if (SW.get(words, 0) === 1) {
      // The architecture leaves a status address without memory undefined. The guest would wait for ever: it is told instead.
      const stored = memory.writeWord(waitStatusGpa(words, 0, capabilities.hostAddressWidth), DATA.get(words, 0));
      if (!stored) return QueueError.FETCH;
    }
    if (IF.get(words, 0) === 1 && file.get("ICS", ICS.fields.IWC) === 0) {
      file.set("ICS", ICS.fields.IWC, 1);
      completionEvent.raise();
    }
    return QueueError.NONE;
  }

  #contextCache(words: Int32Array): Completion | QueueError {
    const { G, SID, FM } = ContextCacheDescriptor.fields;
    const { invalidator } = this.#targets;
    switch (G.get(words, 0)) {
      case ContextGranularity.GLOBAL:
      case ContextGranularity.DOMAIN:
        return invalidator.contexts();
      case ContextGranularity.DEVICE:
        return invalidator.contextsOfDevice(SID.get(words, 0), FM.get(words, 0));
      default:
        return QueueError.TYPE;
    }
  }

  #iotlb(words: Int32Array): Completion | QueueError {
    const { G, DID, AM, ADDR } = IotlbDescriptor.fields;
    const { invalidator } = this.#targets;
    const domainId = DID.get(words, 0) & this.#domainIds;
    const order = AM.get(words, 0);
    switch (G.get(words, 0)) {
      case IotlbGranularity.GLOBAL:
        return invalidator.translations();
      case IotlbGranularity.DOMAIN:
        return invalidator.translationsOfDomain(domainId);
      case IotlbGranularity.PAGE:
        if (!this.#pageSelective) return QueueError.TYPE;
        if (order > this.#largestOrder) return QueueError.RESERVED_FIELD;
        return invalidator.translationsOfPages(domainId, maskedRange(ADDR.get(words, 0), order));
      default:
        return QueueError.TYPE;
    }
  }

  #pasidIotlb(words: Int32Array): Completion | QueueError {
    const { G, DID, PASID, AM, ADDR } = PasidIotlbDescriptor.fields;
    const { invalidator } = this.#targets;
    const domainId = DID.get(words, 0) & this.#domainIds;
    const pasid = PASID.get(words, 0);
    switch (G.get(words, 0)) {
      case PasidIotlbGranularity.PASID:
        return invalidator.translationsOfPasid(domainId, pasid);
      case PasidIotlbGranularity.PAGE:
        return invalidator.translationsOfPasidPages(domainId, pasid, maskedRange(ADDR.get(words, 0), AM.get(words, 0)));
      default:
        return QueueError.TYPE;
    }
  }

  #deviceTlb(words: Int32Array): Completion {
    const { SID, S, ADDR } = DeviceTlbDescriptor.fields;
    const range = deviceTlbRange(ADDR.get(words, 0), S.get(words, 0));
    return this.#targets.deviceTlb.invalidate(SID.get(words, 0), undefined, range);
  }

  #pasidDeviceTlb(words: Int32Array): Completion {
    const { SID, PASID, GI, S, ADDR } = PasidDeviceTlbDescriptor.fields;
    const range = deviceTlbRange(ADDR.get(words, 0), S.get(words, 0));
    const pasid = GI.get(words, 0) === 1 ? "every" : PASID.get(words, 0);
    return this.#targets.deviceTlb.invalidate(SID.get(words, 0), pasid, range);
  }

  #pasidCache(words: Int32Array): Completion | QueueError {
    const { G, DID, PASID } = PasidCacheDescriptor.fields;
    const { invalidator } = this.#targets;
    const domainId = DID.get(words, 0) & this.#domainIds;
    switch (G.get(words, 0)) {
      case PasidCacheGranularity.DOMAIN:
        return invalidator.pasidsOfDomain(domainId);
      case PasidCacheGranularity.PASID:
        return invalidator.pasid(domainId, PASID.get(words, 0));
      case PasidCacheGranularity.GLOBAL:
        return invalidator.pasids();
      default:
        return QueueError.TYPE;
    }
  }

  #interruptEntries(words: Int32Array): Completion | QueueError {
    const { G, IM, IIDX } = InterruptEntryCacheDescriptor.fields;
    if (G.get(words, 0) === InterruptGranularity.GLOBAL) {
      this.#targets.interrupts(undefined);
    } else {
      const count = 2 ** IM.get(words, 0);
      const index = IIDX.get(words, 0);
      this.#targets.interrupts({ first: index - (index % count), count });
    }
    return undefined;
  }
}
