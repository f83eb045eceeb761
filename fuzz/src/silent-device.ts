/** A device TLB that does not answer: whatever happens meanwhile, one more invalidation is told to it, and times out. */

import { DeviceTlb } from "./consumers.js";
import { FLUSH } from "./descriptors.js";
import { demand } from "./failure.js";
import { Frames } from "./layout.js";
import { Offset } from "./machine.js";
import type { RoundParts } from "./round-parts.js";
import type { Invalidation, StepOf } from "./step.js";

/** The unit's own, in milliseconds: no plan changes it. */
const DEVICE_DEADLINE = 2000;
/** The page of the invalidation that comes last. */
const ONE_MORE = 0x9999;

/** A device-TLB invalidation of one page, type 3. */
function dropPage(source: number, pfn: number): Invalidation {
  return {
    what: "raw",
    words: [`0x${((BigInt(source) << 32n) | 3n).toString(16)}`, `0x${(BigInt(pfn) << 12n).toString(16)}`],
  };
}

/** Silent devices of one machine. */
export class SilentDevice {
  readonly #parts: RoundParts;

  constructor(parts: RoundParts) {
    this.#parts = parts;
  }

  async drop({ source, count, meanwhile }: StepOf<"drop">): Promise<void> {
    const { machine, driver, rest } = this.#parts;
    const scalable = machine.plan.mode === "scalable";
    if (!machine.plan.deviceTlb || machine.latched.mode > (scalable ? 1 : 0)) return;
    machine.memory.disarm();
    await rest.quiesce();
    const device = new DeviceTlb("manual");
    const attachment = machine.space({ source }).attach(device);
    const invalidations = Array.from({ length: count }, (_, page) => dropPage(source, page));
    driver.open();
    driver.submit(invalidations);
    await rest.idle();
    if (meanwhile === "answer") device.answers.settle();
    if (meanwhile === "time") machine.scheduler.advance(DEVICE_DEADLINE);
    if (meanwhile === "reset") {
      machine.resetMirror();
      void machine.unit.reset();
    }
    await rest.idle();
    driver.open();
    device.told.length = 0;
    driver.status += 1;
    driver.submit([dropPage(source, ONE_MORE), { what: "wait", did: driver.status, source: FLUSH }]);
    await rest.idle();
    const isDone = (): boolean =>
      Number((machine.memory.peek(Frames.flushed * 4096) ?? 0n) & 0xffffffffn) === driver.status;
    const where = (): string => `${count} device-TLB invalidations, ${meanwhile}, one more`;
    demand(!isDone(), "completion", () => `${where()}: its wait is done, and the device has not answered`);
    machine.scheduler.advance(DEVICE_DEADLINE);
    const faults = machine.read32(Offset.FSTS);
    demand((faults & 0x40) !== 0, "completion", () => `${where()}: no time-out, FSTS ${faults.toString(16)}`);
    await rest.idle();
    const told = device.told.some(({ firstPfn, pageCount }) => ONE_MORE >= firstPfn && ONE_MORE < firstPfn + pageCount);
    demand(told, "completion", () => `${where()}: the device was never told`);
    demand(!isDone(), "completion", () => `${where()}: the wait that timed out is done after all`);
    void attachment.detach();
    device.answers.settle();
    machine.write(Offset.FSTS, 4, 0x70n);
    await rest.quiesce();
  }
}
