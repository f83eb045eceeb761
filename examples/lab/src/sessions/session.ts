/**
 * Something that the lab shows: two machines that live through the same, one followed by the old strategy and one by ours, step by step.
 */

import type { AddressSpace, FrameRange } from "@iommu-kit/iommu-core";
import type { VtdIommu } from "@iommu-kit/iommu-vtd";
import type { WatchedContainer } from "@iommu-kit/linux-trace/measure/watched-container";
import type { CacheNotifier } from "@iommu-kit/notifier-cache";
import { StepRecorder } from "../steps/step-recorder.js";
import { Timeline } from "../steps/timeline.js";
import type { ReadWord } from "../tables/table-tree.js";

/** How a container is kept in step. */
export const STRATEGIES = ["old", "ours"] as const;

/** `old`: unmap all, map all. `ours`: only differences. */
export type Strategy = (typeof STRATEGIES)[number];

/** A device with a container and a cache behind it. */
export interface LabDevice {
  readonly name: string;
  readonly space: AddressSpace;
  readonly container: WatchedContainer;
  readonly cache: CacheNotifier;
}

/** A machine under one strategy. */
export interface LabMachine {
  readonly unit: VtdIommu;
  readonly read: ReadWord;
  /** What is mapped onto itself where no tables decide. */
  readonly regions: readonly FrameRange[];
  /** By source-id. */
  readonly devices: ReadonlyMap<number, LabDevice>;
}

/** A device of a session and what became of it. */
export class Followed {
  readonly device: LabDevice;
  readonly recorder: StepRecorder;
  readonly timeline: Timeline;

  constructor(device: LabDevice) {
    this.device = device;
    this.recorder = new StepRecorder(device.container);
    this.timeline = new Timeline(this.recorder.pages);
  }
}

/** See the file's header. */
export interface Session {
  readonly machines: Readonly<Record<Strategy, LabMachine>>;
  readonly followed: Readonly<Record<Strategy, ReadonlyMap<number, Followed>>>;
  /** Where on the time line: 0 before the first step. */
  readonly position: number;
  /** The last position that can be played; a session may grow past it. */
  readonly length: number;
  /** What happened last, for people. */
  readonly story: string;
  /** Plays the next step; `false` at the end. */
  step(): boolean;
  /** Plays up to and including the next step in which a container of `sourceId` was called; `false` at the end. */
  stepToChange(sourceId: number): boolean;
}

/** The devices of a machine, each followed from now on. */
export function followAll(machine: LabMachine): ReadonlyMap<number, Followed> {
  return new Map([...machine.devices].map(([sourceId, device]) => [sourceId, new Followed(device)]));
}

/** Ends a step at `position` for every device. Answers the devices whose container was called, under either strategy. */
export function endSteps(session: Pick<Session, "followed">, position: number): ReadonlySet<number> {
  const changed = new Set<number>();
  for (const strategy of STRATEGIES) {
    for (const [sourceId, { recorder, timeline }] of session.followed[strategy]) {
      const record = recorder.endStep();
      if (record === undefined) continue;
      timeline.add(position, record);
      changed.add(sourceId);
    }
  }
  return changed;
}
