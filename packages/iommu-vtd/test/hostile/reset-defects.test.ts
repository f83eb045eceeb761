/**
 * What is checked of a unit that is reset, restored or destroyed in the middle of something can fail: for every check, a defect that it finds, and by its name.
 */

import { BackendIommu } from "@iommu-kit/iommu-core";
import { afterEach, describe, expect, it, vi } from "vitest";
import { AddressSpace } from "../../../iommu-core/src/address-space.js";
import { LeaseTable } from "../../../iommu-core/src/dma/lease.js";
import type { MapDelivery } from "../../../iommu-core/src/notify/map-delivery.js";
import { IommuEventEmitter } from "../../../iommu-core/src/events.js";
import { NotifierHub } from "../../../iommu-core/src/notify/notifier-hub.js";
import { PageDelivery } from "../../../iommu-core/src/notify/page-delivery.js";
import { ViewJobs } from "../../../iommu-core/src/notify/view-jobs.js";
import { Descriptors } from "../../src/invalidate/descriptors.js";
import { InvalidationQueue } from "../../src/invalidate/invalidation-queue.js";
import { Invalidator } from "../../src/invalidate/invalidator.js";
import { PageGroup } from "../../src/page-request/page-group.js";
import { RegisterFile } from "../../src/registers/register-file.js";
import { Unit } from "../../src/unit.js";
import { endIn, ends, type State } from "./reset-rig.js";

// oxlint-disable-next-line typescript/no-explicit-any -- methods of many classes, each with its own parameters
type Method = (this: any, ...args: any[]) => unknown;

interface Defect {
  readonly what: string;
  readonly state: State;
  /** The check that finds it. */
  readonly says: RegExp;
  readonly of: { readonly prototype: object };
  readonly method: string;
  readonly make: (original: Method) => Method;
}

const nothing = (): Method => () => undefined;

/** Everything is done, and nobody hears of it. */
const endless = (original: Method): Method =>
  function carryOut(...args) {
    original.apply(this, args);
    return new Promise(() => undefined);
  };

const DEAF_NEWCOMER: Defect = {
  what: "a newcomer that hears of no pages",
  state: "with a replay to a newcomer under way",
  says: /^newcomer/,
  of: PageDelivery,
  method: "add",
  make: (original) =>
    function add(this: MapDelivery, ...args) {
      return this.notifier.name === "newcomer" ? undefined : original.apply(this, args);
    },
};

const UNHEEDED_LEASE: Defect = {
  what: "leases that nobody waits for",
  state: "with a lease that is held",
  says: /^completion while a lease is held/,
  of: LeaseTable,
  method: "recall",
  make: nothing,
};

const UNANSWERED_PAGES: Defect = {
  what: "page requests that nobody answers",
  state: "with a page request that waits",
  says: /^page response/,
  of: PageGroup,
  method: "settle",
  make: nothing,
};

const STAYING_QUEUE: Defect = {
  what: "a queue that goes on",
  state: "with an invalidation whose wait is not done",
  says: /^status of the wait/,
  of: InvalidationQueue,
  method: "disable",
  make: nothing,
};

/** Something that is still planned. */
const planned = (original: Method): Method =>
  function plan(this: Unit, ...args) {
    this.iommu.hub.scheduler.after(1000, () => undefined);
    return original.apply(this, args);
  };

/** A consumer that works, and is reported to have failed. */
const slandered = (original: Method): Method =>
  function slander(this: Unit, ...args) {
    for (const space of this.iommu.addressSpaces) space.events.emit("failed", {} as never);
    return original.apply(this, args);
  };

const [RESET, OFF_AND_ON, RESTORE, DESTROY] = ends;

const DEFECTS: readonly (Defect & { readonly end: (typeof ends)[number] | undefined })[] = [
  {
    end: RESET,
    what: "a reset that keeps fault records and status, as a warm one does",
    state: "with a fault that is recorded, and its interrupt pending behind its mask",
    says: /^registers/,
    of: RegisterFile,
    method: "reset",
    make: (original) =>
      function reset(this: RegisterFile) {
        return original.call(this, true);
      },
  },
  { end: RESET, ...STAYING_QUEUE },
  {
    end: RESET,
    what: "a reset that no notifier hears of",
    state: "at rest",
    says: /^mirror/,
    of: Invalidator,
    method: "everything",
    make: nothing,
  },
  { end: RESET, ...DEAF_NEWCOMER },
  { end: RESET, ...UNANSWERED_PAGES },
  { end: RESET, ...UNHEEDED_LEASE },
  {
    end: RESET,
    what: "a time-out that is left",
    state: "at rest",
    says: /^tasks and time-outs/,
    of: Unit,
    method: "reset",
    make: planned,
  },
  {
    end: RESET,
    what: "a failure of a consumer that works",
    state: "with a consumer that owes answers",
    says: /^failures/,
    of: Unit,
    method: "reset",
    make: slandered,
  },
  {
    end: RESET,
    what: "a completion that never comes",
    state: "at rest",
    says: /^completion:/,
    of: Unit,
    method: "reset",
    make: endless,
  },
  {
    end: OFF_AND_ON,
    what: "a command that never completes",
    state: "at rest",
    says: /^completion:/,
    of: Invalidator,
    method: "everything",
    make: endless,
  },
  {
    end: OFF_AND_ON,
    what: "a wait that stops the queue",
    state: "with an invalidation whose wait is not done",
    says: /^queue head/,
    of: Descriptors,
    method: "wait",
    make: () => () => 1,
  },
  {
    end: OFF_AND_ON,
    what: "notifiers that hear of every second command",
    state: "with mappings that are being announced",
    says: /^mirror/,
    of: Invalidator,
    method: "everything",
    make: (original) => {
      let calls = 0;
      return function everything(this: Invalidator, ...args) {
        return (calls += 1) % 2 === 0 ? undefined : original.apply(this, args);
      };
    },
  },
  { end: OFF_AND_ON, ...DEAF_NEWCOMER },
  { end: OFF_AND_ON, ...UNHEEDED_LEASE },
  {
    end: RESTORE,
    what: "an error that the restore raises",
    state: "with a fault that is recorded, and its interrupt pending behind its mask",
    says: /^fault status/,
    of: InvalidationQueue,
    method: "restore",
    make: (original) =>
      function restore(this: InvalidationQueue, ...args) {
        original.apply(this, args);
        this.strayCompletion(24);
      },
  },
  {
    end: RESTORE,
    what: "a wait that stops the queue",
    state: "with a consumer that owes answers",
    says: /^queue head/,
    of: Descriptors,
    method: "wait",
    make: () => () => 1,
  },
  {
    end: RESTORE,
    what: "a wait that the restore forgets",
    state: "with an invalidation whose wait is not done",
    says: /^status of the wait/,
    of: InvalidationQueue,
    method: "restore",
    make: (original) =>
      function restore(this: InvalidationQueue, enabled, _waiting, completion) {
        return original.call(this, enabled, undefined, completion);
      },
  },
  {
    end: RESTORE,
    what: "translation that the restore leaves off",
    state: "with a page request that waits",
    says: /^mirror/,
    of: Unit,
    method: "forget",
    make: (original) =>
      function forget(this: Unit, ...args) {
        original.apply(this, args);
        // It stays as it is, whatever is written to it.
        Object.defineProperty(this.root, "enabled", { get: () => false, set: vi.fn() });
      },
  },
  { end: RESTORE, ...DEAF_NEWCOMER },
  { end: RESTORE, ...UNHEEDED_LEASE },
  {
    end: DESTROY,
    what: "consumers that keep what they hold",
    state: "at rest",
    says: /^mirror/,
    of: ViewJobs,
    method: "settle",
    make: nothing,
  },
  {
    end: DESTROY,
    what: "one consumer that keeps what it holds",
    state: "with a replay to a newcomer under way",
    says: /^newcomer/,
    of: PageDelivery,
    method: "remove",
    make: (original) =>
      function remove(this: MapDelivery, ...args) {
        return this.notifier.name === "newcomer" ? undefined : original.apply(this, args);
      },
  },
  {
    end: DESTROY,
    what: "address spaces that are still there",
    state: "at rest",
    says: /^address spaces/,
    of: BackendIommu,
    method: "addressSpaces",
    make: (original) =>
      function addressSpaces(this: BackendIommu) {
        const seen = (this as { seen?: readonly AddressSpace[] }).seen ?? [];
        return ((this as { seen?: readonly AddressSpace[] }).seen = [
          ...seen,
          ...(original.call(this) as readonly AddressSpace[]),
        ]);
      },
  },
  {
    end: DESTROY,
    what: "attachments that are still there",
    state: "at rest",
    says: /^attachments/,
    of: NotifierHub,
    method: "attachmentsOf",
    make: () => () => [{}],
  },
  {
    end: DESTROY,
    what: "a request that gets through",
    state: "at rest",
    says: /^a request/,
    of: AddressSpace,
    method: "translate",
    make: () => () => true,
  },
  {
    end: DESTROY,
    what: "listeners that stay",
    state: "at rest",
    says: /^listeners/,
    of: IommuEventEmitter,
    method: "removeAllListeners",
    make: nothing,
  },
  {
    end: DESTROY,
    what: "registers that keep their values",
    state: "at rest",
    says: /^GSTS/,
    of: RegisterFile,
    method: "reset",
    make: nothing,
  },
  { end: DESTROY, ...STAYING_QUEUE },
  {
    end: DESTROY,
    what: "a unit that still listens, and sends what it held back",
    state: "with a fault that is recorded, and its interrupt pending behind its mask",
    says: /^messages/,
    of: Unit,
    method: "destroy",
    make: () =>
      function destroy(this: Unit) {
        return this.iommu.destroy();
      },
  },
  {
    end: DESTROY,
    what: "a unit that takes new devices",
    state: "at rest",
    says: /to throw/,
    of: BackendIommu,
    method: "addressSpace",
    make: (original) => {
      const known = new Map<unknown, unknown>();
      return function addressSpace(this: BackendIommu, sourceId: number, ...args) {
        if (!known.has(sourceId)) known.set(sourceId, original.call(this, sourceId, args[0]));
        return known.get(sourceId);
      };
    },
  },
  { end: DESTROY, ...UNANSWERED_PAGES },
  { end: DESTROY, ...UNHEEDED_LEASE },
  {
    end: DESTROY,
    what: "a time-out that is left",
    state: "at rest",
    says: /^tasks and time-outs/,
    of: Unit,
    method: "destroy",
    make: planned,
  },
];

afterEach(() => vi.restoreAllMocks());

function plant({ of, method, make }: Defect): void {
  let { prototype } = of as { prototype: object | null };
  while (prototype !== null && !Object.hasOwn(prototype, method))
    prototype = Object.getPrototypeOf(prototype) as object | null;
  const found = prototype === null ? undefined : Object.getOwnPropertyDescriptor(prototype, method);
  if (found === undefined) throw new Error(`there is no ${method} to replace`);
  // In the class itself, whoever it has the method from.
  const own = of.prototype as Record<string, Method>;
  if (found.get === undefined) vi.spyOn(own, method).mockImplementation(make(found.value as Method));
  else vi.spyOn(own as { value: object }, method as "value", "get").mockImplementation(make(found.get) as () => object);
}

describe("a defect planted in the unit is found, by the check that is there for it", () => {
  it.each(DEFECTS)("$end: $what", async (defect) => {
    const { end, state, says } = defect;
    if (end === undefined) throw new Error("there is no such end");
    await endIn(state, end);
    plant(defect);
    await expect(endIn(state, end)).rejects.toThrow(says);
  });
});
