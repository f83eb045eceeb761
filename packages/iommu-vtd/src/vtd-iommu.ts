/**
 * The unit: puts the parts together, and is the only class that knows all of them.
 *
 * Flow A (device DMA) is translate/translate.ts; flow B (driver MMIO) is registers/, then invalidate/. What is commanded here: latch, enable, reset.
 */

import {
  type AddressSpace,
  type AddressSpaceOptions,
  type Announce,
  type Backend,
  BackendIommu,
  BitAccess,
  type Completion,
  type Domain,
  type FrameRange,
  type GuestMemory,
  type Iommu,
  IommuError,
  type IommuEventEmitter,
  type Limits,
  type MessageWindow,
  type MsiMessage,
  type MsiSink,
  type Requester,
  type Scheduler,
  type SourceId,
  timerScheduler,
  type Translation,
  type Access,
} from "@iommu-kit/iommu-core";
import { resolveConfig, type ResolvedConfig, type VtdConfig } from "./config.js";
import { COMPLETION_EVENT, EventMessage } from "./fault/event-message.js";
import { FaultLog } from "./fault/fault-log.js";
import { InterruptRemap, type RemapResult } from "./interrupt/interrupt-remap.js";
import { MessagePort } from "./interrupt/message-port.js";
import { Descriptors } from "./invalidate/descriptors.js";
import { InvalidationQueue } from "./invalidate/invalidation-queue.js";
import { Invalidator } from "./invalidate/invalidator.js";
import { RegisterInvalidation } from "./invalidate/register-invalidation.js";
import { GlobalCommand } from "./registers/global-command.js";
import { MmioPort } from "./registers/mmio-port.js";
import { ProtectedMemory } from "./registers/protected-memory.js";
import { RegisterFile } from "./registers/register-file.js";
import { sideEffects } from "./registers/side-effects.js";
import { Domains } from "./scan/domains.js";
import { FirstStageScan } from "./scan/first-stage-scan.js";
import { SecondStageScan } from "./scan/second-stage-scan.js";
import { GCMD, IRTA, RTADDR } from "./spec/registers-command.js";
import { TableMode } from "./spec/encodings.js";
import { Bindings } from "./translate/bindings.js";
import { Iotlb } from "./translate/iotlb.js";
import { OutputFilter } from "./translate/output-filter.js";
import type { RootPointer } from "./translate/root-pointer.js";
import { Translator } from "./translate/translate.js";

/** What a host supplies, and its decisions about the unit. */
export interface VtdOptions extends VtdConfig {
  readonly memory: GuestMemory;
  /** Receives remapped interrupts and the unit's own events. */
  readonly msi: MsiSink;
  /** Default: the host's timers. */
  readonly scheduler?: Scheduler;
  /** What is mapped onto itself while translation is off or passed through. Default: RAM. */
  readonly regions?: readonly FrameRange[];
  readonly limits?: Partial<Limits>;
}

/** An Intel VT-d remapping unit. */
export class VtdIommu implements Iommu {
  /** The register block. */
  readonly mmio: MmioPort;
  readonly config: ResolvedConfig;
  readonly #iommu: BackendIommu;
  readonly #file: RegisterFile;
  readonly #faults: FaultLog;
  readonly #root: RootPointer = { enabled: false, mode: TableMode.LEGACY, rootPfn: 0 };
  readonly #interrupts: InterruptRemap;
  readonly #invalidator: Invalidator;
  readonly #queue: InvalidationQueue;
  readonly #registerInvalidation: RegisterInvalidation;
  readonly #command: GlobalCommand;
  readonly #bindings: Bindings;
  readonly #protectedMemory: ProtectedMemory;
  readonly #iotlb: Iotlb;

  /** @throws {IommuError} `bad-option` or `bad-range`. */
  constructor(options: VtdOptions) {
    const { memory, msi, scheduler = timerScheduler } = options;
    const config = resolveConfig(options);
    const { capabilities } = config;
    this.config = config;
    const file = new RegisterFile(capabilities, config.ver);
    this.#file = file;
    this.#faults = new FaultLog(file, config.faultRecords, msi);
    this.#bindings = new Bindings(memory, capabilities, this.#root, config.contextEntries);
    this.#iotlb = new Iotlb(config.iotlbEntries);
    this.#interrupts = new InterruptRemap({
      memory,
      capabilities,
      faults: this.#faults,
      entryCount: config.interruptEntries,
      send: msi,
    });
    this.#invalidator = new Invalidator(this.#iotlb, this.#bindings);
    const filter = new OutputFilter();
    this.#protectedMemory = new ProtectedMemory(file, filter, () => this.#invalidator.everything());
    const translator = new Translator({
      memory,
      capabilities,
      root: this.#root,
      bindings: this.#bindings,
      iotlb: this.#iotlb,
      filter,
      faults: this.#faults,
      widestInputBits: widestInput(config),
    });
    const secondStage = new SecondStageScan(memory, capabilities, filter);
    const firstStage = new FirstStageScan({ memory, capabilities, secondStage, filter });
    const domains = new Domains(secondStage, firstStage, filter);
    const backend = this.#makeBackend(translator, domains);
    const { regions, limits } = options;
    this.#iommu = new BackendIommu({
      backend,
      memory,
      scheduler,
      ...(regions && { regions }),
      ...(limits && { limits }),
    });
    const completionEvent = new EventMessage(file, COMPLETION_EVENT, msi);
    const interrupts = this.#interrupts;
    const handler = new Descriptors({
      memory,
      file,
      capabilities,
      invalidator: this.#invalidator,
      interrupts: (range) => interrupts.cache.invalidate(range),
      completionEvent,
    });
    this.#queue = new InvalidationQueue({
      memory,
      file,
      capabilities,
      root: this.#root,
      faults: this.#faults,
      handler,
      pace: this.#makePace(scheduler),
    });
    this.#registerInvalidation = new RegisterInvalidation(file, this.#invalidator, capabilities);
    this.#command = new GlobalCommand(file, this.#makeTargets(), writableCommands(file));
    const effects = sideEffects(file, {
      command: this.#command,
      registerInvalidation: this.#registerInvalidation,
      queue: this.#queue,
      faults: this.#faults,
      completionEvent,
      protectedMemory: this.#protectedMemory,
    });
    this.mmio = new MmioPort(file, effects, { enter: () => this.#enter() });
  }

  get events(): IommuEventEmitter {
    return this.#iommu.events;
  }

  get addressSpaces(): readonly AddressSpace[] {
    return this.#iommu.addressSpaces;
  }

  addressSpace(sourceId: SourceId, options: AddressSpaceOptions = {}): AddressSpace {
    return this.#iommu.addressSpace(sourceId, options);
  }

  setRegions(regions: readonly FrameRange[]): Completion {
    return this.#iommu.setRegions(regions);
  }

  /** A message of a requester, or of none (an I/O APIC without source-id). What leaves the unit goes to `msi`. `false`: refused, a fault may have been recorded. */
  interrupt(requesterId: SourceId | undefined, message: MsiMessage): boolean {
    return this.#interrupts.request(requesterId, message);
  }

  /** What a message would become, for hosts that cache routes: nothing is delivered or recorded. Ask again after every interrupt-entry invalidation. */
  translateInterrupt(requesterId: SourceId | undefined, message: MsiMessage): RemapResult {
    return this.#interrupts.translate(requesterId, message);
  }

  /**
   * Resets the unit: registers, caches, latched pointers, queue; translation is off afterwards and notifiers hold the identity mapping.
   * A warm reset leaves fault records and status. Reset the devices first. Done when every notifier has completed.
   * @throws {IommuError} `reentrant-call` from inside a notifier's callback.
   */
  reset(options: { readonly warm?: boolean } = {}): Completion {
    if (!this.#enter())
      throw new IommuError("reentrant-call", "expected reset outside of notifier callbacks", {
        hint: "defer it with queueMicrotask",
      });
    this.#file.reset(options.warm === true);
    this.#protectedMemory.reload();
    this.#command.reset();
    this.#registerInvalidation.reset();
    this.#queue.disable();
    Object.assign(this.#root, { enabled: false, mode: TableMode.LEGACY, rootPfn: 0 });
    Object.assign(this.#interrupts.pointer, {
      enabled: false,
      entryCount: 0,
      extended: false,
      tablePfn: 0,
      compatibility: false,
    });
    this.#interrupts.cache.invalidate(undefined);
    this.#faults.next = 0;
    return this.#invalidator.everything();
  }

  /** Begins a slice of work for one access of the guest; `false` while a notifier is being called. */
  #enter(): boolean {
    const { hub } = this.#iommu;
    if (hub.calling) return false;
    hub.queue.beginSlice();
    return true;
  }

  #makeBackend(translator: Translator, domains: Domains): Backend {
    const invalidator = this.#invalidator;
    const { cachingMode, deviceTlb } = this.config;
    const messageWindow: MessageWindow = new MessagePort(this.#interrupts);
    return {
      messageWindow,
      connect: (announce: Announce) => invalidator.connect(announce),
      translate: (requester: Requester, iovaPfn: number, access: Access, out: Translation) =>
        translator.translate(requester, iovaPfn, access, out),
      domainOf: (requester) => this.#domainOf(domains, requester),
      admit: (requester, kind) => admit(requester, kind, { cachingMode, deviceTlb }),
    };
  }

  #domainOf(domains: Domains, requester: Requester): Domain {
    if (!this.#root.enabled) return domains.untranslated;
    return domains.of(this.#bindings.of(requester), requester.pasid !== undefined);
  }

  #makeTargets(): ConstructorParameters<typeof GlobalCommand>[1] {
    const root = this.#root;
    const file = this.#file;
    const { pointer, cache } = this.#interrupts;
    const settle = (): void => {
      // §7.2.1: the record to be written next starts over when nothing can fault any more.
      if (!root.enabled && !pointer.enabled) this.#faults.next = 0;
    };
    const hostFrames = 2 ** (this.config.hostAddressWidth - 12);
    return {
      enableQueue: (on) => (on ? this.#queue.enable() : this.#queue.disable()),
      latchRoot: () => {
        root.mode = file.get("RTADDR", RTADDR.fields.TTM);
        root.rootPfn = file.get("RTADDR", RTADDR.fields.RTA) % hostFrames;
        return this.#invalidator.everything();
      },
      latchInterruptTable: () => {
        pointer.entryCount = 2 ** (file.get("IRTA", IRTA.fields.S) + 1);
        pointer.extended = file.get("IRTA", IRTA.fields.EIME) === 1;
        pointer.tablePfn = file.get("IRTA", IRTA.fields.IRTA);
        cache.invalidate(undefined);
      },
      enableInterruptRemapping: (on) => {
        pointer.enabled = on;
        cache.invalidate(undefined);
        settle();
      },
      passCompatibilityInterrupts: (on) => {
        pointer.compatibility = on;
      },
      enableTranslation: (on) => {
        root.enabled = on;
        settle();
        return this.#invalidator.everything();
      },
    };
  }

  #makePace(scheduler: Scheduler): { take(): boolean; defer(resume: () => void): void } {
    const { queue } = this.#iommu.hub;
    return {
      take: () => {
        if (queue.spent) return false;
        queue.slice.entriesLeft -= 1;
        return true;
      },
      defer: (resume) =>
        scheduler.defer(() => {
          queue.beginSlice();
          resume();
        }),
    };
  }
}

/** Input bits of the widest table: what a fault record can show. */
function widestInput(config: ResolvedConfig): number {
  if (config.firstStage === false) return Math.max(39, ...config.addressWidths);
  // First-stage inputs are sign-extended: all 64 bits count.
  return 64;
}

function writableCommands(file: RegisterFile): Int32Array {
  const probe = GCMD.mask(BitAccess.WRITE);
  const word = file.wordOf("GCMD");
  const before = file.words[word] ?? 0;
  file.write(word, -1);
  probe[0] = (file.words[word] ?? 0) & (probe[0] ?? 0);
  file.words[word] = before;
  return probe;
}

function admit(
  requester: Requester,
  kind: "map" | "unmap" | "device-tlb",
  has: { readonly cachingMode: boolean; readonly deviceTlb: boolean },
): void {
  const who = `source-id 0x${requester.sourceId.toString(16)}`;
  if (kind === "map" && !has.cachingMode) {
    throw new IommuError(
      "caching-mode-required",
      `map notifier on ${who}: expected a unit with caching mode, got one without`,
      {
        hint: "pass cachingMode: true, or the guest need not announce what it maps",
      },
    );
  }
  if (kind === "device-tlb" && !has.deviceTlb) {
    throw new IommuError(
      "not-supported",
      `device-TLB notifier on ${who}: expected a unit with device TLBs, got one without`,
      { hint: "pass deviceTlb: true" },
    );
  }
}
