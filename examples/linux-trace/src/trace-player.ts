/**
 * A machine that lives through a trace, event by event: what the driver did goes into the machine, what the devices asked is asked again, and every answer is
 * compared with the recorded one.
 *
 * Work that the unit defers is finished before the next event, as it was on the recorded machine.
 */

import { Machine } from "./machine/machine.js";
import { CACHING_MODE } from "./machine/unit-options.js";
import type { Follow } from "./follow/follow.js";
import type { Device } from "./machine/device.js";
import { DriverTally } from "./measure/driver-tally.js";
import type { StepSample } from "./measure/watched-container.js";
import type { DmaEvent, InterruptEvent, RegisterEvent, TraceEvent, WaitEvent } from "./trace/trace-event.js";
import type { Trace } from "./trace/trace.js";

/** Pages mapped for a device at a moment of the trace. */
export interface Sample extends StepSample {
  readonly lineNumber: number;
  /** The device reaches RAM as it is: translation is off, or it is passed through. */
  readonly bypass: boolean;
}

/** A check: how often it was made and how often it failed. */
export interface Check {
  passed: number;
  failed: number;
}

/** What playing a trace showed. */
export interface Playback {
  readonly trace: Trace;
  readonly driver: DriverTally;
  readonly checks: {
    readonly translations: Check;
    readonly interrupts: Check;
    readonly registerReads: Check;
    readonly waits: Check;
    readonly views: Check;
  };
  /** Requests for a page that the driver had not announced to anybody yet: possible without caching mode only. */
  unannounced: number;
  /** The first mismatches, for people. */
  readonly mismatches: string[];
  readonly devices: readonly { readonly device: Device; readonly samples: readonly Sample[] }[];
  /** Events of the unit by name. */
  readonly events: ReadonlyMap<string, number>;
  readonly milliseconds: number;
}

/** The unit's events that are counted. */
const COUNTED = ["map", "unmap", "change", "window", "refused", "failed", "fault"] as const;
/** Register writes between two comparisons of every container with a fresh walk of the tables. */
const WRITES_PER_VIEW_CHECK = 256;
const MISMATCHES_KEPT = 5;
const GLOBAL_COMMAND = 0x18;
const CAP_REGISTER = 0x08;

/** See the file's header. */
export class TracePlayer {
  readonly machine: Machine;
  readonly #trace: Trace;
  readonly #driver = new DriverTally();
  readonly #samples = new Map<Device, Sample[]>();
  readonly #events = new Map<string, number>();
  readonly #checks = {
    translations: { passed: 0, failed: 0 },
    interrupts: { passed: 0, failed: 0 },
    registerReads: { passed: 0, failed: 0 },
    waits: { passed: 0, failed: 0 },
    views: { passed: 0, failed: 0 },
  };
  readonly #mismatches: string[] = [];
  #unannounced = 0;
  #writes = 0;

  constructor(trace: Trace, follow: Follow) {
    this.#trace = trace;
    this.machine = new Machine(trace.header, follow);
    for (const device of this.machine.devices.values()) this.#samples.set(device, []);
    this.#sample(1);
    for (const name of COUNTED) {
      this.#events.set(name, 0);
      this.machine.unit.events.on(name, () => this.#events.set(name, (this.#events.get(name) ?? 0) + 1));
    }
  }

  /**
   * Plays the next event.
   * @param lineNumber For messages, and for samples.
   */
  play(event: TraceEvent, lineNumber: number): void {
    this.#driver.add(event);
    switch (event.kind) {
      case "memory":
        this.machine.memory.writeWords(event.gpa, event.words);
        break;
      case "write":
        this.#write(event, lineNumber);
        break;
      case "read":
        this.#read(event, lineNumber);
        break;
      case "dma":
        for (let count = 0; count < event.repeat; count++) this.#request(event, lineNumber);
        break;
      case "interrupt":
        for (let count = 0; count < event.repeat; count++) this.#interrupt(event, lineNumber);
        break;
      case "wait":
        this.#wait(event, lineNumber);
        break;
      case "descriptor":
        break;
    }
  }

  /** What was seen so far. */
  finish(milliseconds: number): Playback {
    return {
      trace: this.#trace,
      driver: this.#driver,
      checks: this.#checks,
      unannounced: this.#unannounced,
      mismatches: this.#mismatches,
      devices: [...this.#samples].map(([device, samples]) => ({ device, samples })),
      events: this.#events,
      milliseconds,
    };
  }

  #write({ offsetBytes, byteLength, value }: RegisterEvent, lineNumber: number): void {
    const { unit, scheduler } = this.machine;
    if (byteLength === 8) unit.mmio.write64(offsetBytes, value);
    else unit.mmio.write32(offsetBytes, Number(value));
    scheduler.runAll();
    this.#sample(lineNumber);
    this.#writes += 1;
    if (offsetBytes === GLOBAL_COMMAND || this.#writes % WRITES_PER_VIEW_CHECK === 0) this.#compareViews(lineNumber);
  }

  #read({ offsetBytes, byteLength, value }: RegisterEvent, lineNumber: number): void {
    const { unit } = this.machine;
    const got = byteLength === 8 ? unit.mmio.read64(offsetBytes) : BigInt(unit.mmio.read32(offsetBytes));
    const ignored = this.#ignoredBits(offsetBytes);
    this.#count("registerReads", (got & ~ignored) === (value & ~ignored), () => {
      return `line ${lineNumber}: register 0x${offsetBytes.toString(16)} reads 0x${got.toString(16)}, recorded 0x${value.toString(16)}`;
    });
  }

  /**
   * Bits in which this machine may differ: caching mode, which it always has; and the PASID of a fault record without one (PP is 0), which the recorded unit
   * leaves set to something.
   */
  #ignoredBits(offsetBytes: number): bigint {
    if (offsetBytes === CAP_REGISTER) return this.#trace.header.cachingMode ? 0n : CACHING_MODE;
    const { faultRecordOffset, faultRecords } = this.machine.unit.config;
    const place = offsetBytes - faultRecordOffset;
    if (place < 0 || place >= faultRecords * 16 || place % 16 !== 12) return 0n;
    const hasPasid = this.machine.unit.mmio.read32(offsetBytes - 4) >= 2 ** 31;
    return hasPasid ? 0n : 0xfffff00n;
  }

  #request(event: DmaEvent, lineNumber: number): void {
    const device = this.machine.devices.get(event.sourceId);
    if (device === undefined) {
      this.#count(
        "translations",
        false,
        () => `line ${lineNumber}: a request of a device that the header does not name`,
      );
      return;
    }
    const { mismatch, announced } = device.request(event);
    if (!announced && !this.#trace.header.cachingMode) this.#unannounced += 1;
    const problem =
      mismatch ?? (announced || !this.#trace.header.cachingMode ? undefined : "the container does not follow");
    this.#count("translations", problem === undefined, () => {
      return `line ${lineNumber}: ${device.name}, page 0x${event.iovaPfn.toString(16)}: ${problem ?? ""}`;
    });
  }

  #interrupt({ sourceId, address, data, answer }: InterruptEvent, lineNumber: number): void {
    const { unit, messages } = this.machine;
    messages.length = 0;
    unit.interrupt(sourceId, { address, addressHigh: 0, data });
    const got = messages.pop();
    this.#count("interrupts", got?.address === answer?.address && got?.data === answer?.data, () => {
      return `line ${lineNumber}: interrupt 0x${address.toString(16)}/0x${data.toString(16)} became 0x${(got?.address ?? 0).toString(16)}/0x${(got?.data ?? 0).toString(16)}`;
    });
  }

  #wait({ gpa, value }: WaitEvent, lineNumber: number): void {
    const { memory } = this.machine;
    const got = memory.word(gpa) >>> 0;
    this.#count(
      "waits",
      got === value,
      () => `line ${lineNumber}: the wait at 0x${gpa.toString(16)} stored ${got}, recorded ${value}`,
    );
    // The driver takes the word back before it waits on it again; its own write is not recorded.
    memory.writeWord(gpa, 0);
  }

  #compareViews(lineNumber: number): void {
    if (!this.#trace.header.cachingMode) return;
    for (const device of this.machine.devices.values()) {
      this.#count(
        "views",
        device.followsTables(),
        () => `line ${lineNumber}: the container of ${device.name} differs from the tables`,
      );
    }
  }

  #sample(lineNumber: number): void {
    for (const [device, samples] of this.#samples) {
      const sample = device.container.endStep();
      if (sample !== undefined) samples.push({ ...sample, lineNumber, bypass: device.space.domain.kind === "bypass" });
    }
  }

  #count(check: keyof Playback["checks"], ok: boolean, describe: () => string): void {
    this.#checks[check][ok ? "passed" : "failed"] += 1;
    if (!ok && this.#mismatches.length < MISMATCHES_KEPT) this.#mismatches.push(describe());
  }
}
