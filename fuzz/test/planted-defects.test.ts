import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { IovaTree } from "../../packages/iommu-core/src/diff/iova-tree.js";
import { Transition } from "../../packages/iommu-core/src/diff/transition.js";
import { DmaPort } from "../../packages/iommu-core/src/dma/dma-port.js";
import { KnownPages } from "../../packages/iommu-core/src/dma/known-pages.js";
import { AttachmentRecord } from "../../packages/iommu-core/src/notify/attachment-record.js";
import { Backlog } from "../../packages/iommu-core/src/notify/backlog.js";
import { MapDelivery } from "../../packages/iommu-core/src/notify/map-delivery.js";
import { PageDelivery } from "../../packages/iommu-core/src/notify/page-delivery.js";
import { ViewJobs } from "../../packages/iommu-core/src/notify/view-jobs.js";
import { Translation } from "../../packages/iommu-core/src/translation.js";
import { FaultLog } from "../../packages/iommu-vtd/src/fault/fault-log.js";
import { Descriptors } from "../../packages/iommu-vtd/src/invalidate/descriptors.js";
import { RegisterFile } from "../../packages/iommu-vtd/src/registers/register-file.js";
import { Iotlb } from "../../packages/iommu-vtd/src/translate/iotlb.js";
import { OutputFilter } from "../../packages/iommu-vtd/src/translate/output-filter.js";
import { Unit } from "../../packages/iommu-vtd/src/unit.js";
import { SecondStageWalk } from "../../packages/iommu-vtd/src/translate/second-stage-walk.js";
import { INVARIANTS, type Invariant } from "../src/failure.js";
import { randomScenario } from "../src/generate.js";
import { readScenario } from "../src/replay-file.js";
import { failureOf } from "../src/shrink.js";
import type { Scenario, Step } from "../src/step.js";

/** Rounds in which each defect must be found, from its seed on: a seed that finds it now, since a test has no time to search. */
const MOST_ROUNDS = 40;

type Method = (this: unknown, ...args: unknown[]) => unknown;
type Make = (original: Method) => Method;

/** A defect of the unit: one method of it replaced. */
interface Defect {
  readonly what: string;
  readonly breaks: Invariant;
  /** What the failure says. Default: anything. */
  readonly says?: RegExp;
  readonly of: { readonly prototype: object };
  readonly method: string;
  readonly make: Make;
  /** The seed that is tried first: one that finds it. */
  readonly seed?: number;
  /** Instead: a guest made for it, where random ones take too long. */
  readonly guest?: () => Scenario;
}

const GSTS_WORD = 7;
const IOTLB_DESCRIPTOR = 2;
const PAGE_SELECTIVE = 3;
const UNKNOWN_TYPE = 3;
const WRITE = 2;

const DEFECTS: readonly Defect[] = [
  {
    what: "an exception out of the fault log",
    breaks: "threw",
    of: FaultLog,
    method: "record",
    make: () => () => {
      throw new Error("planted");
    },
    seed: 1,
  },
  {
    what: "an attachment that never says that it is done",
    breaks: "busy",
    of: AttachmentRecord,
    method: "state",
    make: (original) =>
      function state() {
        const now = original.call(this);
        return now === "active" ? "syncing" : now;
      },
    seed: 2,
  },
  {
    what: "a reserved bit that reads 1",
    breaks: "registers",
    of: RegisterFile,
    method: "read",
    make: (original) =>
      function read(word) {
        return (original.call(this, word) as number) | (word === GSTS_WORD ? 1 : 0);
      },
    seed: 1,
  },
  {
    what: "a wait whose status is never written",
    breaks: "completion",
    of: Descriptors,
    method: "wait",
    make: () => () => 0,
    seed: 1,
  },
  {
    what: "a page that stays mapped, unmapped and mapped again beside one that comes",
    breaks: "contract",
    says: /stays mapped/,
    of: PageDelivery,
    method: "add",
    make: (original) =>
      function add(this: PageDelivery, ...args) {
        const [iovaPfn] = args as [number];
        const state = { pass: 0, cursor: 0, told: new IovaTree(), untold: new IovaTree() };
        if (this.heldPages > 0 && iovaPfn > 0) this.remove(iovaPfn - 1, 1, state);
        return original.apply(this, args);
      } as Method,
    seed: 57,
  },
  {
    what: "a consumer that keeps everything when it is detached",
    breaks: "detach",
    of: ViewJobs,
    method: "settle",
    make: () => () => undefined,
    seed: 2,
  },
  {
    what: "a time-out that outlives its unit",
    breaks: "busy",
    says: /left of a destroyed unit/,
    of: Unit,
    method: "destroy",
    make: (original) =>
      function destroy(this: Unit) {
        this.iommu.hub.scheduler.after(1000, () => undefined);
        return original.call(this);
      } as Method,
    seed: 1,
  },
  {
    what: "a unit that is never said to be destroyed",
    breaks: "completion",
    says: /is not destroyed/,
    of: Unit,
    method: "destroy",
    make: (original) =>
      function destroy(this: Unit) {
        void original.call(this);
        return new Promise(() => undefined);
      } as Method,
    seed: 1,
  },
  {
    what: "a page-selective descriptor that is taken for one of an unknown type",
    breaks: "queue",
    of: Descriptors,
    method: "handle",
    make: (original) =>
      function handle(type, words) {
        const granularity = (((words as Int32Array)[0] ?? 0) >> 4) & 3;
        const selective = type === IOTLB_DESCRIPTOR && granularity === PAGE_SELECTIVE;
        return selective ? UNKNOWN_TYPE : original.call(this, type, words);
      },
    seed: 6,
  },
  {
    what: "an unmap that a consumer never hears of",
    breaks: "shadow",
    of: MapDelivery,
    method: "remove",
    make: () => () => undefined,
    seed: 19,
  },
  {
    what: "a budget that never fails closed",
    breaks: "budget",
    of: IovaTree,
    method: "slotCount",
    make: (original) =>
      function slotCount() {
        return Math.min(original.call(this) as number, 1);
      },
    seed: 13,
  },
  {
    what: "a pass that goes on when its slice is spent",
    breaks: "slice",
    of: Transition,
    method: "step",
    make: (original) =>
      function step() {
        while (original.call(this) !== true);
        return true;
      },
    seed: 6,
  },
  {
    what: "a cache that is told of the first page of a range only",
    breaks: "stale",
    of: Backlog,
    method: "add",
    make: (original) =>
      function add(concerned, range) {
        return original.call(this, concerned, { ...(range as object), pageCount: 1 });
      },
    seed: 32,
  },
  {
    what: "an IOTLB that ignores page-selective invalidations",
    breaks: "dma",
    of: Iotlb,
    method: "invalidatePages",
    make: () => () => undefined,
    seed: 6,
  },
  {
    what: "a port that knows where pages lie after an invalidation has said otherwise",
    breaks: "dma",
    says: /read of 64 bytes/,
    of: KnownPages,
    method: "forget",
    make: () => () => undefined,
    seed: 6,
  },
  {
    what: "an IOTLB entry that was never in any table",
    breaks: "stale",
    says: /never said that since the last flush/,
    of: Iotlb,
    method: "lookup",
    make: (original) =>
      function lookup(...args) {
        const out = args[3] as Translation;
        const hit = original.apply(this, args);
        if (hit === true) out.allow(out.gpaPfn ^ 1, out.pageCount, out.access);
        return hit;
      },
    guest: hitAfterAnEdit,
  },
  {
    what: "a device that may write what it may read",
    breaks: "dma",
    of: Translation,
    method: "allow",
    make: (original) =>
      function allow(gpaPfn, pageCount) {
        return original.call(this, gpaPfn, pageCount, 3);
      },
    seed: 47,
  },
  {
    what: "protected memory that is not",
    breaks: "dma",
    of: OutputFilter,
    method: "protects",
    make: () => () => false,
    seed: 36,
  },
  {
    what: "a walk that is begun again and again",
    breaks: "walk",
    of: SecondStageWalk,
    method: "walk",
    make: (original) =>
      function walk(...args) {
        for (let i = 0; i < 600; i++) original.apply(this, args);
        return original.apply(this, args);
      },
    seed: 6,
  },
  {
    what: "a write that lands in the frame beside the one that is named",
    breaks: "write",
    of: DmaPort,
    method: "write",
    make: (original) =>
      function write(...args) {
        const takeOut = replace(
          Translation.prototype,
          "allow",
          (allow) =>
            function beside(gpaPfn, ...rest) {
              return allow.call(this, (gpaPfn as number) ^ 1, ...rest);
            },
        );
        try {
          return original.apply(this, args);
        } finally {
          takeOut();
        }
      },
    seed: 13,
  },
  {
    what: "an answer that holds for more pages than it should",
    breaks: "block",
    of: Translation,
    method: "allow",
    make: (original) =>
      function allow(gpaPfn, pageCount, access) {
        return original.call(this, gpaPfn, (pageCount as number) * 512, access);
      },
    seed: 2,
  },
  {
    what: "a fault record of the wrong device",
    breaks: "record",
    of: FaultLog,
    method: "record",
    make: (original) =>
      function record(fault) {
        const wrong = fault as { readonly sourceId: number };
        return original.call(this, { ...wrong, sourceId: wrong.sourceId ^ 1 });
      },
    seed: 1,
  },
  {
    what: "a dirty flag that a read sets",
    breaks: "flags",
    of: SecondStageWalk,
    method: "walk",
    make: (original) =>
      function walk(binding, pfn, wanted, ...rest) {
        return original.call(this, binding, pfn, (wanted as number) | WRITE, ...rest);
      },
    seed: 2,
  },
];

/** A page is asked for, its entry changes, and without an invalidation it is asked for again. */
function hitAfterAnEdit(): Scenario {
  const { unit, steps } = readScenario(
    fileURLToPath(new URL("../corpus/shared-by-a-device-that-is-unplugged.json", import.meta.url)),
  );
  const setUp = steps.slice(
    0,
    steps.findIndex((step) => step.do === "attach"),
  );
  const ask: Step = { do: "dma", who: { source: 24 }, pfn: 5, how: "translate", access: 1 };
  const edit: Step = { do: "poke", frame: 43, index: 5, value: "0x50003" };
  return { version: 1, unit: { ...unit, caches: 64 }, steps: [...setUp, { do: "flush", by: "root" }, ask, edit, ask] };
}

/** Replaces a method or a getter; the answer puts it back. */
function replace(prototype: object, name: string, make: Make): () => void {
  const own: PropertyDescriptor | undefined = Object.getOwnPropertyDescriptor(prototype, name);
  const found = own ?? Object.getOwnPropertyDescriptor(Object.getPrototypeOf(prototype) as object, name);
  if (found === undefined) throw new Error(`there is no ${name} to replace`);
  const changed = found.get === undefined ? { value: make(found.value as Method) } : { get: make(found.get) };
  Object.defineProperty(prototype, name, { ...found, ...changed });
  return () => {
    if (own === undefined) Reflect.deleteProperty(prototype, name);
    else Object.defineProperty(prototype, name, own);
  };
}

/** Seeds tried until the defect is found by the name of what it breaks; more than allowed if it is not. */
async function roundsToFind(defect: Defect): Promise<number> {
  const takeOut = replace(defect.of.prototype, defect.method, defect.make);
  try {
    for (let round = 1; round <= MOST_ROUNDS; round++) {
      const failure = await failureOf(defect.guest?.() ?? randomScenario((defect.seed ?? 1) + round - 1));
      if (failure?.kind === defect.breaks && (defect.says?.test(failure.message) ?? true)) return round;
    }
    return MOST_ROUNDS + 1;
  } finally {
    takeOut();
  }
}

describe("a defect planted in the unit is found, by the name of the invariant that it breaks", () => {
  it.each(DEFECTS)("$breaks: $what", { timeout: 300_000 }, async (defect) => {
    expect(await roundsToFind(defect)).toBeLessThanOrEqual(MOST_ROUNDS);
  });

  it("is not found where there is none", async () => {
    expect((await failureOf(hitAfterAnEdit()))?.message).toBeUndefined();
  });

  it("is there for every invariant", () => {
    expect(INVARIANTS.filter((name) => !DEFECTS.some(({ breaks }) => breaks === name))).toEqual([]);
  });
});
