/**
 * The parts of one unit, wired: the only class that knows all of them, and what latching, enabling and reset do to them together.
 *
 * `VtdIommu` is its public face; snapshot and inspection read it.
 */

import {
  type AddressSpace,
  ALL_FRAMES,
  type Backend,
  BackendIommu,
  type Completion,
  type Domain,
  type FrameRange,
  type GuestMemory,
  IommuError,
  type Requester,
  type Scheduler,
  timerScheduler,
} from "@iommu-kit/iommu-core";
import { admitNotifier } from "./admit-notifier.js";
import { TranslationRequests } from "./ats/translation-request.js";
import { resolveConfig, type ResolvedConfig } from "./config.js";
import { COMPLETION_EVENT, type EventDelivery, EventMessage, PAGE_REQUEST_EVENT } from "./fault/event-message.js";
import { FaultLog } from "./fault/fault-log.js";
import { type ChangedRoutes, InterruptRemap } from "./interrupt/interrupt-remap.js";
import { MessagePort } from "./interrupt/message-port.js";
import { Descriptors } from "./invalidate/descriptors.js";
import { DeviceTlbInvalidation } from "./invalidate/device-tlb-invalidation.js";
import { InvalidationQueue } from "./invalidate/invalidation-queue.js";
import { Invalidator } from "./invalidate/invalidator.js";
import { queuePace } from "./invalidate/queue-pace.js";
import { RegisterInvalidation } from "./invalidate/register-invalidation.js";
import { PageRequestQueue } from "./page-request/page-request-queue.js";
import { commandTargets } from "./registers/command-targets.js";
import { GlobalCommand } from "./registers/global-command.js";
import { MmioPort } from "./registers/mmio-port.js";
import { ProtectedMemory } from "./registers/protected-memory.js";
import { RegisterFile } from "./registers/register-file.js";
import { sideEffects } from "./registers/side-effects.js";
import { Domains } from "./scan/domains.js";
import { FirstStageScan } from "./scan/first-stage-scan.js";
import { SecondStageScan } from "./scan/second-stage-scan.js";
import { TableMode } from "./spec/encodings.js";
import { GCMD } from "./spec/registers-command.js";
import { Bindings } from "./translate/bindings.js";
import { Iotlb } from "./translate/iotlb.js";
import { OutputFilter } from "./translate/output-filter.js";
import type { RootPointer } from "./translate/root-pointer.js";
import { Translator } from "./translate/translate.js";
import type { VtdOptions } from "./vtd-options.js";

/** @internal */
export class Unit {
  readonly config: ResolvedConfig;
  readonly memory: GuestMemory;
  readonly filter: OutputFilter;
  readonly root: RootPointer = { enabled: false, mode: TableMode.LEGACY, rootPfn: 0 };
  readonly file: RegisterFile;
  readonly mmio: MmioPort;
  readonly iommu: BackendIommu;
  readonly faults: FaultLog;
  readonly iotlb: Iotlb;
  readonly bindings: Bindings;
  readonly translator: Translator;
  readonly interrupts: InterruptRemap;
  readonly invalidator: Invalidator;
  readonly deviceTlb: DeviceTlbInvalidation;
  readonly queue: InvalidationQueue;
  readonly registerInvalidation: RegisterInvalidation;
  readonly command: GlobalCommand;
  readonly protectedMemory: ProtectedMemory;
  readonly pageRequests: PageRequestQueue;
  readonly translationRequests: TranslationRequests;
  readonly eventMessages: readonly EventMessage[];
  readonly #events: EventDelivery;
  readonly #scheduler: Scheduler;
  /** See `VtdIommu.onRoutesChanged`. */
  onRoutesChanged: ((changed: ChangedRoutes | undefined) => void) | undefined;
  #destroyed = false;

  /** @throws {IommuError} `bad-option` or `bad-range`. */
  constructor(options: VtdOptions) {
    const { memory, scheduler = timerScheduler } = options;
    this.#scheduler = scheduler;
    const msi = this.#outward(options.msi);
    const config = resolveConfig(options);
    const { capabilities } = config;
    const { root } = this;
    this.config = config;
    this.memory = memory;
    const file = new RegisterFile(capabilities, config.ver);
    this.file = file;

    // Flow A: translation.
    const filter = new OutputFilter();
    this.filter = filter;
    const events: EventDelivery = {
      send: msi,
      scheduler,
      intervalMilliseconds: config.eventIntervalMilliseconds,
      resting: new Set(),
    };
    this.#events = events;
    const faults = new FaultLog(file, config.faultRecords, events);
    const bindings = this.#makeBindings(config.contextEntries);
    const iotlb = new Iotlb(config.iotlbEntries);
    const translator = new Translator({
      memory,
      capabilities,
      root,
      bindings,
      iotlb,
      filter,
      faults,
      widestInputBits: widestInput(config),
    });
    const interrupts = new InterruptRemap({
      memory,
      capabilities,
      faults,
      entryCount: config.interruptEntries,
      send: msi,
      routesChanged: this.#outward((changed) => this.onRoutesChanged?.(changed)),
    });
    this.faults = faults;
    this.bindings = bindings;
    this.iotlb = iotlb;
    this.translator = translator;
    this.interrupts = interrupts;
    this.translationRequests = new TranslationRequests({ capabilities, root, bindings, translator });

    // The views of notifiers.
    const invalidator = new Invalidator(
      iotlb,
      bindings,
      2 ** (config.maximumGuestAddressWidth - 12),
      config.firstStage !== false,
    );
    this.invalidator = invalidator;
    const { regions, limits } = options;
    const backend = this.#makeBackend(this.#makeDomains());
    this.iommu = new BackendIommu({
      backend,
      memory,
      scheduler,
      ...(regions && { regions }),
      ...(limits && { limits }),
    });

    // Flow B: registers and queue.
    this.protectedMemory = new ProtectedMemory(file, filter, () => invalidator.everything());
    const completionEvent = new EventMessage(file, COMPLETION_EVENT, events);
    const pageRequestEvent = new EventMessage(file, PAGE_REQUEST_EVENT, events);
    this.eventMessages = [faults.event, completionEvent, pageRequestEvent];
    this.pageRequests = this.#makePageRequests(pageRequestEvent);
    this.deviceTlb = this.#makeDeviceTlb(scheduler);
    const handler = this.#makeDescriptors(completionEvent);
    this.queue = new InvalidationQueue({
      memory,
      file,
      capabilities,
      root,
      faults,
      handler,
      pace: queuePace(this.iommu, scheduler),
    });
    this.registerInvalidation = new RegisterInvalidation(file, invalidator, capabilities, root);
    this.command = new GlobalCommand(file, commandTargets(this), writableCommands(file, config));
    const { command, queue, registerInvalidation, pageRequests, protectedMemory } = this;
    const effects = sideEffects(file, {
      command,
      registerInvalidation,
      queue,
      faults,
      completionEvent,
      protectedMemory,
      pageRequests,
      pageRequestEvent,
    });
    this.mmio = new MmioPort(file, effects, { enter: () => this.enter(), gone: () => this.#destroyed });
  }

  /** Begins a slice of work for one access of the guest; `false` while a notifier is being called. An access from inside another one has what is left of its slice. */
  enter(): boolean {
    return this.queue.running ? !this.iommu.hub.calling : this.iommu.enter();
  }

  /** @throws {IommuError} `destroyed` after `destroy`: what would be saved, restored or reset is not the state of any machine. */
  checkPresent(what: string): void {
    if (!this.#destroyed) return;
    throw new IommuError("destroyed", `${what}: expected a unit that is in its machine, got one that was destroyed`, {
      hint: "make a new unit for a new machine",
    });
  }

  /** @throws {IommuError} `reentrant-call` from inside a notifier's callback, or `destroyed`. */
  enterOrThrow(what: string): void {
    this.checkPresent(what);
    if (this.enter()) return;
    throw new IommuError("reentrant-call", `expected ${what} outside of notifier callbacks, got it inside`, {
      hint: "defer it with queueMicrotask",
    });
  }

  /** See `VtdIommu.reset`. */
  reset(warm: boolean): Completion {
    this.#clear(warm);
    const completion = this.invalidator.everything();
    // Whoever asks for routes in there finds a unit that has been reset.
    this.interrupts.changed(undefined);
    return completion;
  }

  /** See `VtdIommu.destroy`. */
  destroy(): Completion {
    if (this.#destroyed) return this.iommu.destroy();
    this.enterOrThrow("destroy");
    this.#destroyed = true;
    this.#clear(false);
    for (const cancel of this.#events.resting) cancel();
    return this.iommu.destroy();
  }

  #clear(warm: boolean): void {
    this.forget();
    this.file.reset(warm);
    this.protectedMemory.reload();
    this.faults.next = 0;
    this.pageRequests.reset();
  }

  /** Drops what is latched, cached and in flight; registers stay as they are. */
  forget(): void {
    this.command.reset();
    this.registerInvalidation.reset();
    this.queue.disable();
    this.deviceTlb.reset();
    this.iommu.hub.forgetNames();
    Object.assign(this.root, { enabled: false, mode: TableMode.LEGACY, rootPfn: 0 });
    Object.assign(this.interrupts.pointer, {
      enabled: false,
      entryCount: 0,
      extended: false,
      tablePfn: 0,
      compatibility: false,
    });
    this.interrupts.cache.invalidate(undefined);
  }

  /** Lookups and scans of their own, without caches: for looking at tables from anywhere, even from inside a scan. */
  freshLookups(): { readonly bindings: Bindings; readonly domains: Domains } {
    return { bindings: this.#makeBindings(0), domains: this.#makeDomains() };
  }

  #makeBindings(entryCount: number): Bindings {
    const { memory, root, config } = this;
    const { capabilities, version } = config;
    return new Bindings({ memory, capabilities, root, majorVersion: version.major, entryCount });
  }

  #makeDomains(): Domains {
    const { memory, filter, config } = this;
    const { capabilities } = config;
    const secondStage = new SecondStageScan(memory, capabilities, filter);
    return new Domains(secondStage, new FirstStageScan({ memory, capabilities, secondStage, filter }), filter);
  }

  #makeBackend(domains: Domains): Backend {
    const { invalidator, translator, root, bindings, iotlb, config, interrupts } = this;
    const messages = new MessagePort(interrupts);
    const forget = (requester: Requester, { firstPfn, pageCount }: FrameRange): void =>
      iotlb.invalidateOwner(requester.key, firstPfn, pageCount);
    return {
      contract: 1,
      keepsAnswers: config.iotlbEntries > 0,
      messageWindowOf: ({ pasid }) => (pasid === undefined ? messages : undefined),
      connect: (announce) => invalidator.connect(announce),
      translate: (requester, iovaPfn, access, out) => translator.translate(requester, iovaPfn, access, out),
      domainOf: (requester: Requester): Domain => {
        if (!root.enabled) return domains.untranslated;
        return domains.of(bindings.of(requester), requester.pasid !== undefined);
      },
      namesDeviceTlb: (requester) => this.translationRequests.allowed(requester),
      admit: (requester, kind) => admitNotifier(requester, kind, config),
      forget,
      unplugged: (requester) => {
        bindings.unplugged(requester);
        // The next device there has the same key.
        forget(requester, ALL_FRAMES);
        this.pageRequests.unplugged(requester);
      },
    };
  }

  /**
   * A function of the host. One that throws is a mistake of its host, and reported from its event loop: neither guest nor device is in the middle of something there.
   */
  #outward<T>(tell: (what: T) => void): (what: T) => void {
    return (what) => {
      if (this.#destroyed) return;
      try {
        tell(what);
      } catch (error) {
        this.#scheduler.defer(() => {
          throw error;
        });
      }
    };
  }

  #makePageRequests(event: EventMessage): PageRequestQueue {
    const { memory, file, root, bindings, translator, invalidator, config } = this;
    const enabled = config.pageRequests;
    return new PageRequestQueue({ memory, file, root, bindings, translator, invalidator, event, enabled });
  }

  #makeDescriptors(completionEvent: EventMessage): Descriptors {
    const { memory, file, config, invalidator, interrupts, deviceTlb, pageRequests } = this;
    const { capabilities } = config;
    return new Descriptors({
      memory,
      file,
      capabilities,
      invalidator,
      interrupts: (routes) => interrupts.changed(routes),
      completionEvent,
      deviceTlb,
      pageRequests,
    });
  }

  #makeDeviceTlb(scheduler: Scheduler): DeviceTlbInvalidation {
    const { iommu, config } = this;
    return new DeviceTlbInvalidation({
      scheduler,
      deadlineMilliseconds: config.deviceTlbDeadlineMilliseconds,
      spaces: (): readonly AddressSpace[] => iommu.addressSpaces,
      invalidate: (space, range) => iommu.hub.invalidateDeviceTlb(space, range),
      timedOut: (sourceId) => this.queue.timedOut(sourceId),
    });
  }
}

/** Input bits of the widest table: what a fault record can show. First-stage inputs are sign-extended, so all 64 count. */
function widestInput(config: ResolvedConfig): number {
  return config.firstStage === false ? Math.max(39, ...config.addressWidths) : 64;
}

/** The GCMD bits that the unit has. */
function writableCommands(file: RegisterFile, config: ResolvedConfig): Int32Array {
  const commands = Int32Array.of(file.writableBits("GCMD"));
  if (!config.compatibilityInterrupts) GCMD.fields.CFI.set(commands, 0, 0);
  return commands;
}
