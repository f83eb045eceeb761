/**
 * What hangs on a fuzzed unit: recorders that object to breaches of the contract, checked against the naive model at every call.
 */

import type {
  Access,
  AddressSpace,
  Attachment,
  Completion,
  DeviceTlbNotifier,
  FrameRange,
} from "@iommu-kit/iommu-core";
import {
  AnswerQueue,
  RecordingFlushNotifier,
  RecordingNotifier,
  type RecordingNotifierOptions,
  RunList,
} from "@iommu-kit/iommu-core/testing";
import type { ConsumerPlan, Who } from "./step.js";

/** Where a page goes; `undefined`: nowhere. */
export type Reach = { readonly gpaPfn: number; readonly access: Access } | undefined;

/** Where a page goes, by the naive model. */
export type Truth = (iovaPfn: number) => {
  /** Whether the model can say at present. */
  readonly known: boolean;
  readonly reach?: Reach;
  /** Whether its reach may have been so at some time since the last flush. */
  readonly was?: (matches: (reach: Reach) => boolean) => boolean;
};

/** Frames of a range that are looked at: its ends, and some between. */
const SAMPLES = 8;
/** Calls that are compared one by one; of a flood every 64th. */
const COMPARED = 100;

/** What a device's TLB remembers of what it was told. */
const MOST_TOLD = 1000;

/** A MAP recorder that compares what it is told with the tables. */
export class WatchedNotifier extends RecordingNotifier {
  /** Calls since `resetCalls`. */
  callCount = 0;
  readonly #truth: Truth;
  /** What it has refused, as it was offered last. */
  readonly #refused = new RunList();

  constructor(options: RecordingNotifierOptions, truth: Truth) {
    super(options);
    this.#truth = truth;
  }

  override map(
    iovaPfn: number,
    pageCount: number,
    gpaPfn: number,
    access: Access,
  ): ReturnType<RecordingNotifier["map"]> {
    this.callCount += 1;
    // A block that is cut is mapped again as far as the pass has not come yet: its end says whether that was right.
    if (this.granularity === "page" && this.#isCompared)
      this.#compare(`map of ${access} to ${gpaPfn.toString(16)}`, iovaPfn, pageCount, gpaPfn, access);
    const answer = super.map(iovaPfn, pageCount, gpaPfn, access);
    if (this.lookup(iovaPfn) === undefined) this.#refused.set({ iovaPfn, pageCount, gpaPfn, access });
    return answer;
  }

  override unmap(iovaPfn: number, pageCount: number): Completion {
    this.callCount += 1;
    if (this.granularity === "page" && this.#isCompared) {
      for (const pfn of samplesOf(iovaPfn, pageCount)) {
        const now = this.#truth(pfn);
        const held = this.lookup(pfn);
        const live = now.reach !== undefined && now.reach.gpaPfn === held?.gpaPfn && now.reach.access === held.access;
        if (now.known && live)
          this.breaches.push(
            `${this.name}: unmap of ${pageCount} pages at ${iovaPfn.toString(16)}: ${pfn.toString(16)} stays mapped`,
          );
      }
    }
    return super.unmap(iovaPfn, pageCount);
  }

  /** Forgets what was recorded, so that a long round stays small. */
  resetCalls(): void {
    this.callCount = 0;
    this.calls.length = 0;
  }

  get #isCompared(): boolean {
    return this.callCount < COMPARED || this.callCount % 64 === 0;
  }

  #compare(what: string, iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): void {
    for (const pfn of samplesOf(iovaPfn, pageCount)) {
      const { known, reach, was } = this.#truth(pfn);
      const matches = (at: Reach): boolean => at?.gpaPfn === gpaPfn + (pfn - iovaPfn) && at.access === access;
      if (!known || matches(reach)) continue;
      // What it refused is offered again as it was, until an invalidation covers it.
      if (matches(this.#refused.lookup(pfn)) && was?.(matches) === true) continue;
      const tables = reach === undefined ? "nothing" : `${reach.gpaPfn.toString(16)} ${reach.access}`;
      this.breaches.push(`${this.name}: ${what} at ${pfn.toString(16)}: the tables say ${tables}`);
      return;
    }
  }
}

/** The cache inside a device: holds what it was answered until it is told to drop it. */
export class DeviceTlb implements DeviceTlbNotifier {
  readonly kind = "device-tlb";
  readonly answers: AnswerQueue;
  readonly breaches: string[] = [];
  /** The ranges that it was told to drop. */
  readonly told: FrameRange[] = [];

  constructor(mode: "sync" | "microtask" | "manual") {
    this.answers = new AnswerQueue(mode);
  }

  invalidate(iovaPfn: number, pageCount: number): Completion {
    if (!Number.isSafeInteger(iovaPfn) || !(pageCount > 0)) this.breaches.push(`device TLB: ${iovaPfn}+${pageCount}`);
    if (this.told.length >= MOST_TOLD) this.told.length = 0;
    this.told.push({ firstPfn: iovaPfn, pageCount });
    return this.answers.give(undefined);
  }
}

/** A consumer with its place. */
export interface Consumer {
  readonly plan: ConsumerPlan;
  /** Whose tables it mirrors: the first of the devices that it is attached to. Another one when that is unplugged. */
  who: Who;
  readonly notifier: WatchedNotifier | RecordingFlushNotifier | DeviceTlb;
  readonly attachments: { readonly who: Who; readonly space: AddressSpace; readonly attachment: Attachment }[];
  readonly range: FrameRange | undefined;
  /** What an UNMAP-only consumer has been answered and not told to drop. */
  readonly cache: RunList;
  /** It is being detached or was parked: live pages may be unmapped. */
  leaving: boolean;
}

/** Makes a consumer; `truth` hears whether it is leaving. */
export function makeConsumer(
  plan: ConsumerPlan,
  who: Who,
  name: string,
  truth: (consumer: Consumer) => Truth,
): Consumer {
  const cache = new RunList();
  const range = plan.range === undefined ? undefined : { firstPfn: plan.range[0], pageCount: plan.range[1] };
  const answers = plan.answers ?? "sync";
  let calls = 0;
  const onCall = (): void => {
    calls += 1;
    if (plan.throwsAt !== undefined && calls >= plan.throwsAt) throw new Error("this consumer always fails in the end");
  };
  const common = { plan, who, attachments: [], range, cache, leaving: false };
  if (plan.kind === "device-tlb") return { ...common, notifier: new DeviceTlb(answers) };
  if (plan.kind === "unmap") {
    const notifier = new RecordingFlushNotifier({
      name,
      answers,
      ...(range && { range }),
      onCall: (part) => {
        cache.delete(part.firstPfn, part.pageCount);
        onCall();
      },
    });
    return { ...common, notifier };
  }
  const options: RecordingNotifierOptions = {
    name,
    answers,
    onCall,
    granularity: plan.granularity ?? "page",
    replace: plan.replace === true,
    steps: plan.steps !== false,
    ...(plan.largestBlock !== undefined && { largestBlock: plan.largestBlock }),
    ...(plan.capacity !== undefined && { capacity: plan.capacity }),
    ...(range && { range }),
  };
  // The recorder asks for the truth only once it is attached to its place.
  const place: { truth: Truth } = { truth: () => ({ known: false }) };
  const consumer: Consumer = { ...common, notifier: new WatchedNotifier(options, (pfn) => place.truth(pfn)) };
  place.truth = truth(consumer);
  return consumer;
}

function samplesOf(firstPfn: number, pageCount: number): Set<number> {
  const samples = new Set<number>([firstPfn, firstPfn + pageCount - 1]);
  for (let i = 1; i < Math.min(SAMPLES, pageCount); i++) samples.add(firstPfn + Math.floor((pageCount * i) / SAMPLES));
  return samples;
}
