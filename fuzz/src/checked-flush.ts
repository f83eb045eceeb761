/** A flush of everything, by each of the ways that a driver has, after which all must be in step with the tables. */

import { RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { checkShadow } from "./checks.js";
import { FLUSH } from "./descriptors.js";
import { QIE } from "./driver.js";
import { demand } from "./failure.js";
import { Frames } from "./layout.js";
import { PROBE_BYTES } from "./judge.js";
import { Offset, SRTP } from "./machine.js";
import type { RoundParts } from "./round-parts.js";
import type { Invalidation, StepOf } from "./step.js";

/** Flushes of one machine. */
export class CheckedFlush {
  readonly #parts: RoundParts;

  constructor(parts: RoundParts) {
    this.#parts = parts;
  }

  async flush(by: StepOf<"flush">["by"]): Promise<void> {
    const { machine, driver, rest } = this.#parts;
    machine.memory.disarm();
    await rest.quiesce();
    machine.overBudget.clear();
    const { mode } = machine.latched;
    const scalable = machine.plan.mode === "scalable";
    if (by === "registers" && mode === 0) {
      machine.command(QIE, false);
      driver.registers({ what: "contexts" });
      driver.registers({ what: "all" });
      await rest.quiesce();
      demand(machine.read64(Offset.CCMD) >> 63n === 0n, "completion", () => "CCMD.ICC stays 1");
      demand(machine.read64(Offset.IOTLB) >> 63n === 0n, "completion", () => "IOTLB.IVT stays 1");
      demand(((machine.read64(Offset.CCMD) >> 59n) & 3n) === 1n, "completion", () => "contexts were not invalidated");
      demand(((machine.read64(Offset.IOTLB) >> 57n) & 3n) === 1n, "completion", () => "the IOTLB was not invalidated");
    } else if (by === "root" || mode > 1 || (mode === 1 && !scalable)) {
      machine.command(SRTP, true);
      await rest.quiesce();
      demand((machine.read32(Offset.GSTS) & SRTP) !== 0, "completion", () => "GSTS.RTPS stays 0");
    } else {
      await this.#flushByQueue(scalable && mode === 1);
    }
    machine.cachesAreClean();
    // A pass may have met its budget over what it was about to remove: the next one must not.
    if ([...machine.overBudget.values()].includes("mappings")) {
      machine.overBudget.clear();
      machine.command(SRTP, true);
      await rest.quiesce();
    }
    this.#checkLevels();
    for (const consumer of machine.consumers.values()) checkShadow(machine, consumer);
    this.#probe();
  }

  async #flushByQueue(wide: boolean): Promise<void> {
    const { machine, driver, rest } = this.#parts;
    driver.queue({ do: "queue", on: true, wide, order: 0 });
    driver.status += 1;
    const pasids: Invalidation[] = wide ? [{ what: "pasids" }] : [];
    const done: Invalidation = { what: "wait", did: driver.status, source: FLUSH };
    driver.submit([{ what: "contexts" }, ...pasids, { what: "all" }, { what: "interrupts" }, done]);
    await rest.quiesce();
    const status = machine.memory.peek(Frames.flushed * 4096) ?? 0n;
    const where = (): string => `IQH ${machine.read32(Offset.IQH)}, FSTS ${machine.read32(Offset.FSTS).toString(16)}`;
    demand(
      Number(status & 0xffffffffn) === driver.status,
      "completion",
      () => `the wait was not completed: ${where()}`,
    );
    demand(
      machine.read32(Offset.IQH) === machine.read32(Offset.IQT),
      "completion",
      () => `the queue stands: ${where()}`,
    );
  }

  /** GSTS follows what was commanded once all is quiet. */
  #checkLevels(): void {
    const { machine } = this.#parts;
    const shown = machine.read32(Offset.GSTS) >>> 31 === 1;
    demand(shown === machine.latched.enabled, "completion", () => `TES ${shown}, commanded ${machine.latched.enabled}`);
  }

  /** With clean caches every answer is that of the tables. */
  #probe(): void {
    const { machine, judge, devices } = this.#parts;
    for (const { who, pfn } of devices.recent) {
      judge.translate(who, pfn, 1);
      judge.translate(who, pfn, 2);
      judge.transfer(who, pfn, "read", PROBE_BYTES);
    }
    for (const { who, notifier } of [...machine.consumers.values()]) {
      if (!(notifier instanceof RecordingNotifier)) continue;
      for (const run of notifier.held().slice(0, 4)) judge.translate(who, run.iovaPfn + run.pageCount - 1, 1);
    }
  }
}
