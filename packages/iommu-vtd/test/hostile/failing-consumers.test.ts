/**
 * Every way for a consumer to fail, at every call that it gets: what the guest sees, what the host sees, and that nothing stale stays reachable. The rows of docs/failure-modes.md.
 */

import type { AddressSpace, Attachment, DeviceTlbNotifier, IommuError } from "@iommu-kit/iommu-core";
import {
  AnswerQueue,
  type NotifierCall,
  RecordingFlushNotifier,
  RecordingNotifier,
  type Run,
} from "@iommu-kit/iommu-core/testing";
import { GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import { describe, expect, it } from "vitest";
import { DeviceTlbDescriptor } from "../../src/spec/descriptors.js";
import { DescriptorType } from "../../src/spec/invalidation.js";
import { ask } from "../support/watched-guest.js";

const VICTIM = "00:03.0";
const VICTIM_SOURCE = 0x18;
const OTHER = "00:04.0";
const DEADLINE = 5000;

/** What the tables say before, and after the guest has changed a page, unmapped one and mapped one. */
const BEFORE: Run[] = [
  { iovaPfn: 1, pageCount: 1, gpaPfn: 0x101, access: 3 },
  { iovaPfn: 600, pageCount: 1, gpaPfn: 0x102, access: 3 },
];
const AFTER: Run[] = [
  { iovaPfn: 1, pageCount: 1, gpaPfn: 0x201, access: 3 },
  { iovaPfn: 1200, pageCount: 1, gpaPfn: 0x103, access: 3 },
];

/** A guest with two devices in one domain; the other one's consumer never fails. */
class Rig {
  readonly guest = new GuestDriver({ cachingMode: true, deviceTlb: true });
  readonly other = new RecordingNotifier({ name: "other" });
  readonly failures: IommuError[] = [];
  readonly space: AddressSpace;

  constructor() {
    const { guest } = this;
    for (const device of [VICTIM, OTHER]) guest.context(device, { did: 5 });
    for (const run of BEFORE) guest.map(5, { iovaPfn: run.iovaPfn, gpaPfn: run.gpaPfn });
    guest.start();
    guest.device(OTHER).attach(this.other);
    this.space = guest.device(VICTIM);
    guest.unit.events.on("failed", ({ error }) => this.failures.push(error));
  }

  /** The guest edits its tables, invalidates the domain and waits. */
  change(): void {
    const { guest } = this;
    guest.map(5, { iovaPfn: 1, gpaPfn: 0x201 });
    guest.unmap(5, 600);
    guest.map(5, { iovaPfn: 1200, gpaPfn: 0x103 });
    guest.invalidate.domain(5);
  }

  async idle(): Promise<void> {
    await this.guest.scheduler.idle();
  }

  /** What must hold whatever the victim did, once its deadline has passed: the guest's wait is done without an error, the other is in step. */
  assertOthersUnaffected(wanted: readonly Run[]): void {
    expect(this.guest.queue.completed).toBe(true);
    expect(this.guest.faultStatus).toBe(0);
    this.other.check();
    expect(this.other.held()).toEqual(wanted);
    expect(ask(this.space, 1)).toBe(wanted[0]?.gpaPfn);
  }

  /** A consumer that comes back is replayed to exactly the right view, and follows. */
  async assertComesBack(attachment: Attachment, wanted: readonly Run[]): Promise<void> {
    await attachment.detach();
    const mended = new RecordingNotifier({ name: "mended" });
    await this.space.attach(mended).ready;
    await this.idle();
    expect(mended.held()).toEqual(wanted);
    this.guest.unmap(5, 1);
    this.guest.invalidate.domain(5);
    await this.idle();
    expect(mended.held()).toEqual(wanted.slice(1));
    mended.check();
  }
}

type MapCall = Exclude<NotifierCall["type"], "revoke">;
/** What goes wrong inside of a call; `answers` says how the answer to this call is given. */
interface Failure {
  readonly name: string;
  readonly act?: (rig: Rig, attachment: () => Attachment) => void;
  readonly answer?: "rejects" | "never";
  readonly code: IommuError["code"];
  readonly cause?: RegExp;
}

const FAILURES: readonly Failure[] = [
  {
    name: "throws",
    act: () => {
      throw new Error("broken");
    },
    code: "notifier-failed",
    cause: /broken/,
  },
  { name: "rejects", answer: "rejects", code: "notifier-failed", cause: /socket gone/ },
  { name: "never settles", answer: "never", code: "notifier-timeout" },
  {
    name: "writes a register and does not catch the refusal",
    act: ({ guest }) => guest.unit.mmio.write32(0x18, 0),
    code: "notifier-failed",
    cause: /register writes/,
  },
  {
    name: "detaches itself and does not catch the refusal",
    act: (_rig, attachment) => void attachment().detach(),
    code: "notifier-failed",
    cause: /detach outside/,
  },
];

/** Calls that have no answer: they can throw, and nothing else. */
const WITHOUT_ANSWER: ReadonlySet<MapCall> = new Set(["begin"]);

/** Of these calls those at which this can go wrong. */
function callsFor({ answer }: Failure, calls: readonly MapCall[]): readonly MapCall[] {
  return answer === undefined ? calls : calls.filter((call) => !WITHOUT_ANSWER.has(call));
}

function misbehave(notifier: { readonly answers: AnswerQueue }, failure: Failure): void {
  if (failure.answer === undefined) return;
  notifier.answers.mode = "manual";
  if (failure.answer === "rejects") queueMicrotask(() => notifier.answers.fail(new Error("socket gone")));
}

function expectFailed(rig: Rig, failure: Failure, attachment: Attachment): void {
  expect(rig.failures.map(({ code }) => code)).toEqual([failure.code]);
  if (failure.cause !== undefined) expect(String(rig.failures[0]?.cause)).toMatch(failure.cause);
  expect(attachment.state).toBe("failed");
}

for (const failure of FAILURES) {
  describe(`a MAP notifier that ${failure.name}`, () => {
    for (const moment of callsFor(failure, ["begin", "map", "commit"])) {
      it(`from ${moment} while it is replayed`, async () => {
        const rig = new Rig();
        const victim: RecordingNotifier = new RecordingNotifier({
          onCall: ({ type }) => {
            if (type !== moment) return;
            misbehave(victim, failure);
            failure.act?.(rig, () => rig.space.attachments[0]!);
          },
        });
        const place = rig.space.attach(victim);
        await rig.idle();
        rig.guest.scheduler.advance(DEADLINE);
        await rig.idle();
        expectFailed(rig, failure, place);
        expect(victim.revoked).toBeDefined();
        expect(victim.pageCount).toBe(0);
        rig.change();
        await rig.idle();
        rig.assertOthersUnaffected(AFTER);
        await rig.assertComesBack(place, AFTER);
      });
    }

    for (const moment of callsFor(failure, ["begin", "map", "unmap", "replace", "commit"])) {
      it(`from ${moment} during an invalidation`, async () => {
        const rig = new Rig();
        let armed = false;
        const victim: RecordingNotifier = new RecordingNotifier({
          replace: true,
          onCall: ({ type }) => {
            if (!armed || type !== moment) return;
            misbehave(victim, failure);
            failure.act?.(rig, () => attachment);
          },
        });
        const attachment = rig.space.attach(victim);
        armed = true;
        rig.change();
        await rig.idle();
        // A consumer that does not answer holds the guest up, until its deadline.
        if (failure.answer === "never") {
          expect(rig.guest.queue.completed).toBe(false);
          rig.guest.scheduler.advance(DEADLINE);
          await rig.idle();
        }
        expectFailed(rig, failure, attachment);
        expect(victim.revoked).toBeDefined();
        expect(victim.pageCount).toBe(0);
        rig.assertOthersUnaffected(AFTER);
        await rig.assertComesBack(attachment, AFTER);
      });
    }
  });

  describe(`an UNMAP-only notifier that ${failure.name}`, () => {
    for (const moment of ["attach", "an invalidation"] as const) {
      it(`during ${moment}`, async () => {
        const rig = new Rig();
        let armed = moment === "attach";
        const victim: RecordingFlushNotifier = new RecordingFlushNotifier({
          onCall: () => {
            if (!armed) return;
            misbehave(victim, failure);
            failure.act?.(rig, () => rig.space.attachments[0]!);
          },
        });
        const attachment = rig.space.attach(victim);
        armed = true;
        rig.change();
        await rig.idle();
        if (failure.answer === "never") {
          rig.guest.scheduler.advance(DEADLINE);
          await rig.idle();
        }
        expectFailed(rig, failure, attachment);
        expect(victim.revoked).toBeDefined();
        rig.assertOthersUnaffected(AFTER);
        await rig.assertComesBack(attachment, AFTER);
      });
    }
  });

  describe(`a device TLB that ${failure.name}`, () => {
    it("gives the guest the architected time-out", async () => {
      const rig = new Rig();
      const answers = new AnswerQueue("sync");
      const device: DeviceTlbNotifier = {
        kind: "device-tlb",
        invalidate: () => {
          misbehave({ answers }, failure);
          failure.act?.(rig, () => attachment);
          return answers.give(undefined);
        },
      };
      const attachment = rig.space.attach(device);
      rig.guest.queue.submit(
        DeviceTlbDescriptor.pack({ TYPE: DescriptorType.DEVICE_TLB, SID: VICTIM_SOURCE, ADDR: 1 }),
        rig.guest.queue.waitFor(77),
      );
      await rig.idle();
      rig.guest.scheduler.advance(100_000);
      await rig.idle();
      // ITE, and the wait is not done: software learns that the device may still hold the page.
      expect(rig.guest.faultStatus & 0x40).toBe(0x40);
      expect(rig.guest.memory.peek(rig.guest.queue.statusGpa)).not.toBe(77);
      rig.other.check();
      expect(rig.other.held()).toEqual(BEFORE);
    });
  });
}

describe("a consumer that is slow", () => {
  it("delays the guest's completion, not its own events, and does not fail", async () => {
    const rig = new Rig();
    const victim = new RecordingNotifier({ replace: true });
    rig.space.attach(victim);
    victim.answers.mode = "manual";
    rig.change();
    await rig.idle();
    rig.guest.scheduler.advance(DEADLINE - 1);
    await rig.idle();
    expect(rig.guest.queue.completed).toBe(false);
    expect(victim.held()).toEqual(AFTER);
    victim.answers.settle();
    await rig.idle();
    rig.assertOthersUnaffected(AFTER);
    expect(rig.failures).toEqual([]);
    expect(rig.guest.scheduler.timerCount).toBe(0);
  });
});

describe("a consumer that calls back into the unit", () => {
  it("may translate; what it may not do is refused with an error that says how, and one that catches it goes on", async () => {
    const rig = new Rig();
    const refused: string[] = [];
    const attempt = (what: () => unknown): void => {
      try {
        what();
      } catch (error) {
        refused.push((error as IommuError).code);
      }
    };
    const victim: RecordingNotifier = new RecordingNotifier({
      onCall: () => {
        expect(ask(rig.space, 1)).toBeTypeOf("number");
        attempt(() => rig.guest.unit.mmio.write64(0x28, 1n << 63n));
        attempt(() => rig.space.attachments[0]?.detach());
        attempt(() => rig.space.unplug());
        attempt(() => rig.space.attach(new RecordingNotifier()));
        attempt(() => rig.guest.unit.setRegions([]));
        attempt(() => rig.guest.unit.reset());
      },
    });
    rig.space.attach(victim);
    rig.change();
    await rig.idle();
    expect(new Set(refused)).toEqual(new Set(["reentrant-call"]));
    expect(refused.length % 6).toBe(0);
    expect(victim.held()).toEqual(AFTER);
    expect(rig.failures).toEqual([]);
    rig.assertOthersUnaffected(AFTER);
  });

  it("may detach as soon as its callback has returned", async () => {
    const rig = new Rig();
    const victim: RecordingNotifier = new RecordingNotifier({
      onCall: () => queueMicrotask(() => void attachment.detach()),
    });
    const attachment = rig.space.attach(victim);
    rig.change();
    await rig.idle();
    expect(attachment.state).toBe("detached");
    expect(victim.pageCount).toBe(0);
    expect(rig.failures).toEqual([]);
    rig.assertOthersUnaffected(AFTER);
  });
});

describe("a consumer whose revoke throws", () => {
  it("is reported with both causes' errors, and nobody else suffers", async () => {
    const rig = new Rig();
    const victim = new RecordingNotifier({
      onCall: ({ type }) => {
        if (type === "unmap") throw new Error("broken");
      },
    });
    victim.revoke = () => {
      throw new Error("cannot drop it");
    };
    const attachment = rig.space.attach(victim);
    rig.change();
    await rig.idle();
    expect(attachment.state).toBe("failed");
    expect(rig.failures.map(({ cause }) => String(cause))).toEqual(["Error: broken", "Error: cannot drop it"]);
    expect(rig.failures[1]?.hint).toMatch(/reset the device/);
    rig.assertOthersUnaffected(AFTER);
  });
});
