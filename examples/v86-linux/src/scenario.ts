/**
 * A scenario: one boot of the guest in one configuration, and what must be true of it afterwards.
 *
 * Expectations are values: each compares what was wanted with what was found, so that a verdict can show both.
 */

import type { VtdConfig } from "@iommu-kit/iommu-vtd";
import type { V86DeviceName } from "./adapter/attach-iommu.js";
import type { DmaCounters } from "./adapter/device-dma.js";
import type { GuestConsole } from "./guest-console.js";
import type { ContainerCounters } from "./judge/container-judge.js";
import type { DumpComparison } from "./judge/driver-dump.js";
import type { JudgeCounters } from "./judge/shadow-judge.js";

/** One expectation, judged. */
export interface Check {
  readonly what: string;
  readonly expected: string;
  readonly found: string;
  readonly ok: boolean;
}

/** What a run leaves behind for its expectations. */
export interface RunEvidence {
  readonly console: GuestConsole;
  /** What arrived at the host's end of the virtio console. */
  readonly virtioConsole: string;
  /** SHA-256 of the file that the guest wrote through virtio-9p, as the host has it; `undefined` if there is none. */
  readonly sharedFileSha256: string | undefined;
  readonly unit: UnitCounters;
  readonly dma: Readonly<Record<string, DmaCounters>>;
  readonly interruptsDelivered: number;
  readonly judge: JudgeCounters | undefined;
  /** The shipped VFIO notifier's container, judged likewise. */
  readonly container: ContainerCounters | undefined;
  readonly dump: DumpComparison | undefined;
  /** The message of the error that attaching a MAP notifier threw; `undefined` if it was accepted or not tried. */
  readonly notifierRefusal: string | undefined;
}

/** What the unit was seen to do. */
export interface UnitCounters {
  faults: number;
  invalidations: number;
  maps: number;
  unmaps: number;
  changes: number;
  /** Pages that some consumer briefly did not hold although they stay mapped. */
  windowPages: number;
  failedAttachments: number;
}

/** A scenario. */
export interface Scenario {
  readonly name: string;
  /** One line for people. */
  readonly title: string;
  readonly unit: VtdConfig;
  /** Added to `intel_iommu=on`. */
  readonly commandLine: string;
  /** Tasks of guest/tasks. */
  readonly tasks: readonly string[];
  /** See `AttachIommuOptions`. */
  readonly withoutAccessPlatform?: readonly V86DeviceName[];
  /** Plug the DMA engine; `raw`: in front of the unit. Default: not plugged. */
  readonly engine?: "behind" | "raw";
  /** Follow every device with a MAP notifier and judge it. Default false. */
  readonly judge?: boolean;
  /** The guest reads a unit without caching mode although ours has it: it then does not announce what it maps. Default false. */
  readonly hideCachingMode?: boolean;
  /** Only try to attach a MAP notifier, which must be refused. */
  readonly tryNotifier?: boolean;
  /** What must be true afterwards. */
  readonly expect: (evidence: RunEvidence) => readonly Check[];
}

/** Equality of two values, as text. */
export function equal(what: string, found: string | number | undefined, expected: string | number): Check {
  return { what, expected: String(expected), found: String(found), ok: found === expected };
}

/** More than a limit. */
export function moreThan(what: string, found: number, limit: number): Check {
  return {
    what,
    expected: `more than ${limit.toLocaleString("en")}`,
    found: found.toLocaleString("en"),
    ok: found > limit,
  };
}

/** Something that holds or does not. */
export function holds(what: string, ok: boolean, found = ok ? "yes" : "no"): Check {
  return { what, expected: "yes", found, ok };
}
