import { describe, expect, it } from "vitest";
import {
  Access,
  BackendIommu,
  BufferMemory,
  DirtyTracker,
  IovaTree,
  layout,
  BitAccess,
  parseSourceId,
  sourceId,
  timerScheduler,
} from "../src/index.js";
import { FakeMemory, RecordingFlushNotifier, RecordingNotifier, SimpleDomain } from "../src/testing/index.js";
import { Machine, range } from "./support/machine.js";

/** What a host does wrong, the code it gets, and what the message names. */
const MISTAKES: Readonly<Record<string, readonly [code: string, names: RegExp, mistake: () => unknown]>> = {
  "a bus that does not exist": ["bad-source-id", /got 256\/0\/0/, () => sourceId(256, 0, 0)],
  "a device that does not exist": ["bad-source-id", /got 0\/-1\/0/, () => sourceId(0, -1, 0)],
  "half a function": ["bad-source-id", /got 0\/0\/0.5/, () => sourceId(0, 0, 0.5)],
  "text behind a source-id": ["bad-source-id", /got 00:03.0x/, () => parseSourceId("00:03.0x")],
  "text before a source-id": ["bad-source-id", /got 0000:00:03.0/, () => parseSourceId("0000:00:03.0")],
  "frames that do not exist": ["bad-range", /^IovaTree.insert: /, () => new IovaTree().insert(2 ** 52, 1, 0, 3)],
  "an empty range": ["bad-range", /^IovaTree.remove: /, () => new IovaTree().remove(0, 0)],
  "a target that does not exist": ["bad-range", /2\^40/, () => new IovaTree().insert(0, 2, 2 ** 40 - 1, 3)],
  "memory at half a frame": [
    "bad-range",
    /^BufferMemory: /,
    () => new BufferMemory([{ firstPfn: 0.5, bytes: new Uint8Array(4096) }]),
  ],
  "a unit whose backend is null": [
    "bad-option",
    /^BackendIommu: expected an object, got null /,
    () => new BackendIommu({ backend: null as never, memory: new FakeMemory() }),
  ],
  "bits left out of a layout": [
    "bad-option",
    /expected bit 1 of 32, got the end/,
    () => layout(32, { A: { hi: 0, lo: 0, access: BitAccess.READ, reset: 0 } }),
  ],
  "a transfer of no number of bytes": [
    "bad-option",
    /^segments: .* got 0.5/,
    () => new Machine().nicSpace.dma.segments(0, 0.5, Access.read),
  ],
  "a lease for no access": [
    "bad-option",
    /^segments: .* got Access.none/,
    () => new Machine().nicSpace.dma.segments(0, 1, Access.none),
  ],
  "a notifier for half a frame": [
    "bad-range",
    /^attach: /,
    () => new Machine().nicSpace.attach(new RecordingNotifier(), { range: range(0, 0.5) }),
  ],
  "a notifier of another contract": [
    "notifier-contract",
    /contract/,
    () => new Machine().nicSpace.attach(Object.assign(new RecordingNotifier(), { contract: 9 as never })),
  ],
  "blocks of three pages": [
    "bad-option",
    /power of two/,
    () => new Machine().nicSpace.attach(new RecordingNotifier({ largestBlock: 3 })),
  ],
  "a notifier attached twice": [
    "already-attached",
    /recording notifier/,
    () => {
      const { nicSpace } = new Machine();
      const notifier = new RecordingNotifier();
      nicSpace.attach(notifier);
      nicSpace.attach(notifier);
    },
  ],
  "a second dirty tracker": [
    "already-attached",
    /dirty tracker/,
    () => {
      const { nicSpace } = new Machine();
      new DirtyTracker(nicSpace).start();
      new DirtyTracker(nicSpace).start();
    },
  ],
  "a container for two ranges": [
    "bad-range",
    /the range of its other attachments, 0x0\+5 pages, got 0x0\+6 pages/,
    () => attachTwice((machine, notifier) => machine.diskSpace.attach(notifier, { range: range(0, 6) })),
  ],
  "a container for ranges that begin elsewhere": [
    "bad-range",
    /the range of its other attachments, 0x0\+5 pages, got 0x1000\+5 pages/,
    () => attachTwice((machine, notifier) => machine.diskSpace.attach(notifier, { range: range(1, 5) })),
  ],
  "a container for two views": [
    "different-view",
    /expected what 00:03.0, 00:04.0 sees, tables, got 00:05.0 with elsewhere/,
    () =>
      attachTwice((machine, notifier) => {
        machine.diskSpace.attach(notifier, { range: range(0, 5) });
        const third = sourceId(0, 5, 0);
        void machine.backend.assign(third, new SimpleDomain("elsewhere"));
        machine.unit.addressSpace(third).attach(notifier, { range: range(0, 5) });
      }),
  ],
  "a container that has failed": [
    "notifier-failed",
    /expected one that works/,
    () => {
      const machine = new Machine();
      machine.tables.map(0, 1, 1);
      const broken = new RecordingNotifier({ steps: false });
      broken.map = () => {
        throw new Error("no");
      };
      machine.nicSpace.attach(broken);
      machine.diskSpace.attach(broken);
    },
  ],
  "a device that is gone": [
    "unplugged",
    /00:03.0/,
    () => {
      const { nicSpace } = new Machine();
      void nicSpace.unplug();
      nicSpace.attach(new RecordingNotifier());
    },
  ],
};

/** Attaches a container to one device for five frames, then does something with it. */
function attachTwice(then: (machine: Machine, notifier: RecordingNotifier) => unknown): void {
  const machine = new Machine();
  const notifier = new RecordingNotifier();
  machine.nicSpace.attach(notifier, { range: range(0, 5) });
  then(machine, notifier);
}

describe("a mistake of the host", () => {
  it.each(Object.keys(MISTAKES))("%s: gets its code, and a message that names it", (name) => {
    const [code, names, mistake] = MISTAKES[name]!;
    expect(mistake).toThrow(
      expect.objectContaining({ code, message: expect.stringMatching(names) as unknown, name: "IommuError" }),
    );
  });

  it("inside a consumer's callback is named by what was tried", () => {
    const machine = new Machine();
    const texts: string[] = [];
    const attachment = machine.nicSpace.attach(new RecordingNotifier());
    const attempts: readonly (() => unknown)[] = [
      () => machine.nicSpace.attach(new RecordingNotifier()),
      () => attachment.detach(),
      () => machine.nicSpace.unplug(),
      () => machine.nicSpace.resync(),
      () => machine.unit.setRegions([]),
    ];
    const onCall = (): void => {
      for (const attempt of attempts) {
        try {
          attempt();
        } catch (error) {
          texts.push(error instanceof Error ? error.message : "");
        }
      }
    };
    machine.nicSpace.attach(new RecordingFlushNotifier({ onCall }));
    expect(texts).toHaveLength(5);
    for (const [i, name] of ["attach", "detach", "unplug", "resync", "change regions"].entries())
      expect(texts[i]).toContain(name);
  });
});

describe("the host's timers", () => {
  it("run what is deferred after the present turn, and time-outs unless they are cancelled", async () => {
    const ran: string[] = [];
    await new Promise<void>((done) => {
      const cancel = timerScheduler.after(1, () => ran.push("cancelled"));
      timerScheduler.after(2, () => {
        ran.push("time-out");
        done();
      });
      timerScheduler.defer(() => ran.push("deferred"));
      ran.push("now");
      cancel();
    });
    expect(ran).toEqual(["now", "deferred", "time-out"]);
  });
});
