/**
 * A virtio-iommu device (virtio 1.3, §5.13) on virtio-mmio: a backend of the core, and the guest's way to it.
 */

import {
  type Access,
  ALL_FRAMES,
  type AddressSpace,
  type Announce,
  type Backend,
  BackendIommu,
  type ByteAddress,
  type Completion,
  contains,
  type Domain,
  type FrameRange,
  type GuestMemory,
  IommuError,
  type Limits,
  type MessageWindow,
  type MsiSink,
  type Requester,
  type Scheduler,
  type SourceId,
  timerScheduler,
  type Translation,
} from "@iommu-kit/iommu-core";
import { configBytes, resolveConfig, type ResolvedConfig, type VirtioIommuConfig } from "./config.js";
import { doorbellOf } from "./doorbell.js";
import { Endpoint } from "./endpoint.js";
import { FaultReports } from "./fault-reports.js";
import { MmioTransport, type VirtioDevice } from "./mmio-transport.js";
import { RequestQueue } from "./request-queue.js";
import { Requests } from "./requests.js";
import { BYPASS_OFFSET, DEVICE_ID, FaultReason, IommuFeature, Queue } from "./spec/iommu.js";
import { Interrupt } from "./spec/virtio.js";
import { BLOCKED, BypassDomains } from "./virtio-domain.js";
import type { Virtqueue } from "./virtqueue.js";

/** What a host supplies, and its decisions. */
export interface VirtioIommuOptions extends VirtioIommuConfig {
  readonly memory: GuestMemory;
  /** The level of the device's interrupt line has changed. */
  readonly interrupt: (level: boolean) => void;
  /** Receives messages that endpoints write to their reserved `"msi"` range. */
  readonly msi?: MsiSink;
  /** Default: the host's timers. */
  readonly scheduler?: Scheduler;
  /** What is mapped onto itself in bypass. Default: RAM. */
  readonly regions?: readonly FrameRange[];
  readonly limits?: Partial<Limits>;
}

/** The device. Its register block is `mmio`; address spaces of endpoints come from `iommu`. */
export class VirtioIommu {
  readonly mmio: MmioTransport;
  readonly iommu: BackendIommu;
  readonly config: ResolvedConfig;
  readonly #endpoints: ReadonlyMap<number, Endpoint>;
  readonly #space: Uint8Array;
  readonly #bypass = new BypassDomains();
  readonly #requests: Requests;
  readonly #queue: RequestQueue;
  readonly #faults: FaultReports;
  readonly #msi: MsiSink;

  /** @throws {IommuError} `bad-option` or `bad-range`. */
  constructor(options: VirtioIommuOptions) {
    const { memory, interrupt, msi = () => undefined, scheduler = timerScheduler, regions, limits } = options;
    this.config = resolveConfig(options);
    this.#msi = msi;
    this.#endpoints = new Map(options.endpoints.map((endpoint) => [endpoint.sourceId, new Endpoint(endpoint)]));
    this.#space = configBytes(this.config);
    this.mmio = new MmioTransport(this.#device(), { memory, interrupt });
    this.#requests = new Requests({
      config: this.config,
      endpoints: this.#endpoints,
      accepted: () => this.mmio.accepted,
    });
    this.iommu = new BackendIommu({
      backend: this.#backend(),
      memory,
      scheduler,
      ...(regions && { regions }),
      ...(limits && { limits }),
    });
    const used = (): void => this.mmio.raise(Interrupt.USED_BUFFER);
    this.#faults = new FaultReports(this.#queueOf(Queue.EVENT), used);
    this.#queue = new RequestQueue({
      queue: this.#queueOf(Queue.REQUEST),
      requests: this.#requests,
      iommu: this.iommu,
      scheduler,
      interrupt: used,
    });
  }

  /** What an endpoint sees: see `Iommu.addressSpace`. */
  addressSpace(sourceId: SourceId): AddressSpace {
    return this.iommu.addressSpace(sourceId);
  }

  /** Fault reports that found no buffer on the event queue. */
  get droppedReports(): number {
    return this.#faults.dropped;
  }

  /** Resets the system: unlike the driver's reset it also restores the `bypass` field. Done when every notifier has completed. */
  reset(): Completion {
    this.#space[BYPASS_OFFSET] = this.config.bypass ? 1 : 0;
    return this.mmio.reset();
  }

  /** What the architecture answers to the core. */
  #backend(): Backend {
    return {
      connect: (announce: Announce) => (this.#requests.announce = announce),
      domainOf: (requester) => this.#domainOf(requester),
      translate: (requester, iovaPfn, access, out, address) => {
        const reason = this.#translate(requester, iovaPfn, access, out);
        if (reason !== undefined) this.#refuse(requester, { iovaPfn, access, address, reason });
      },
      messageWindowOf: (requester): MessageWindow | undefined => doorbellOf(this.#endpointOf(requester), this.#msi),
      admit: (requester, kind) => {
        if (kind !== "device-tlb") return;
        const who = `source-id 0x${requester.sourceId.toString(16)}`;
        throw new IommuError("not-supported", `device-TLB notifier on ${who}: virtio-iommu has no ATS`, {
          hint: "attach an UNMAP-only notifier: requests tell it of every invalidation",
        });
      },
    };
  }

  /** What the device puts behind the registers. */
  #device(): VirtioDevice {
    return {
      deviceId: DEVICE_ID,
      features: this.config.features,
      readLimit: Requests.readLimit,
      enter: () => this.iommu.enter(),
      readConfig: (offset) => this.#space[offset] ?? 0,
      writeConfig: (offset, value) => this.#writeConfig(offset, value),
      notified: (queue) => {
        if (queue === Queue.REQUEST) this.#queue.notified();
      },
      reset: () => {
        this.#queue.reset();
        this.#requests.reset();
        return this.#requests.announce({ range: ALL_FRAMES, concerns: () => true });
      },
    };
  }

  #queueOf(index: number): Virtqueue {
    const queue = this.mmio.queues[index];
    if (queue === undefined) throw new RangeError(`virtio-iommu: expected queue 0 or 1, got ${index}`);
    return queue;
  }

  /** Requests with PASID have no address space in this architecture. */
  #endpointOf({ sourceId, pasid }: Requester): Endpoint | undefined {
    return pasid === undefined ? this.#endpoints.get(sourceId) : undefined;
  }

  #domainOf(requester: Requester): Domain {
    const endpoint = this.#endpointOf(requester);
    if (endpoint === undefined) return BLOCKED;
    const bypass = endpoint.domain === undefined ? this.#space[BYPASS_OFFSET] === 1 : endpoint.domain.bypass;
    return bypass ? this.#bypass.of(endpoint.reserved) : (endpoint.domain ?? BLOCKED);
  }

  /** Answers a request, or why it is refused. */
  #translate(requester: Requester, iovaPfn: number, access: Access, out: Translation): number | undefined {
    const endpoint = this.#endpointOf(requester);
    const domain = this.#domainOf(requester);
    if (endpoint === undefined || domain.kind === "blocked") {
      out.refuse(FaultReason.DOMAIN, endpoint === undefined ? "no endpoint of this unit" : "not attached");
      return FaultReason.DOMAIN;
    }
    if (domain.kind === "bypass") {
      const isReserved = endpoint.reserved.some((range) => contains(range, iovaPfn));
      if (!isReserved) return out.allow(iovaPfn, 1, 3) as undefined;
      out.refuse(FaultReason.MAPPING, "reserved");
      return FaultReason.MAPPING;
    }
    const mapping = endpoint.domain?.mappings.find(iovaPfn);
    const rights = mapping?.access ?? 0;
    if (mapping === undefined || rights === 0 || (rights & access) !== access) {
      out.refuse(FaultReason.MAPPING, mapping === undefined ? "not mapped" : "no right");
      return FaultReason.MAPPING;
    }
    const target = mapping.gpaPfn + (iovaPfn - mapping.firstPfn);
    return out.allow(target, blockAround(iovaPfn, mapping), rights) as undefined;
  }

  #refuse(
    requester: Requester,
    refused: { iovaPfn: number; access: Access; address: ByteAddress | undefined; reason: number },
  ): void {
    if (this.#endpointOf(requester) !== undefined && this.mmio.running)
      this.#faults.report({ ...refused, endpoint: requester.sourceId });
  }

  /** A driver may write one field, once it has accepted that it can; other values than 0 and 1 are not taken. */
  #writeConfig(offset: number, value: number): void {
    const mayWrite = offset === BYPASS_OFFSET && (this.mmio.accepted & IommuFeature.BYPASS_CONFIG) !== 0n;
    if (!mayWrite || value > 1 || this.#space[BYPASS_OFFSET] === value) return;
    this.#space[BYPASS_OFFSET] = value;
    const unattached = ({ sourceId }: Requester): boolean => this.#endpoints.get(sourceId)?.domain === undefined;
    void this.#requests.announce({ range: ALL_FRAMES, concerns: unattached });
  }
}

/** The largest naturally aligned block around a frame that lies in a mapping. */
function blockAround(pfn: number, { firstPfn, pageCount }: FrameRange): number {
  let block = 1;
  for (let next = 2; next <= pageCount; next *= 2) {
    const start = pfn - (pfn % next);
    if (start < firstPfn || start + next > firstPfn + pageCount) break;
    block = next;
  }
  return block;
}
