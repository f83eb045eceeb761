import { describe, expect, it } from "vitest";
import { type Attachment, BackendIommu, IommuError, type Notifier, UNPLUGGED } from "../src/index.js";
import {
  FakeMemory,
  ManualScheduler,
  RecordingFlushNotifier,
  RecordingNotifier,
  SimpleDomain,
} from "../src/testing/index.js";
import { Machine, range, run } from "./support/machine.js";

describe("replay", () => {
  it("goes to the newcomer alone", () => {
    const machine = new Machine();
    machine.tables.map(0, 700, 100);
    machine.tables.map(5000, 3, 100, 1);
    const first = new RecordingNotifier();
    machine.nicSpace.attach(first);
    first.calls.length = 0;
    const second = new RecordingNotifier();
    const third = new RecordingNotifier({ granularity: "block" });
    machine.nicSpace.attach(second);
    machine.diskSpace.attach(third);
    expect(first.calls).toEqual([]);
    expect(second.held()).toEqual(first.held());
    expect(third.held()).toEqual(first.held());
  });

  it("tells everyone what the guest has changed since, before it tells the newcomer all", () => {
    const machine = new Machine();
    machine.tables.map(0, 3, 100);
    const first = new RecordingNotifier();
    machine.nicSpace.attach(first);
    first.take();
    machine.tables.unmap(1, 1);
    const second = new RecordingNotifier();
    machine.nicSpace.attach(second);
    expect(first.take()).toEqual(["unmap 0x1+1"]);
    expect(second.take()).toEqual(["map 0x0+1 -> 0x64 rw", "map 0x2+1 -> 0x66 rw"]);
  });

  it("brings the others of the device along if its domain has changed and nobody has said so", () => {
    const machine = new Machine();
    machine.tables.map(0, 3, 100);
    const first = new RecordingNotifier();
    machine.nicSpace.attach(first);
    const other = new SimpleDomain("other");
    other.map(2, 4, 102);
    void machine.backend.assign(machine.nic, other, false);
    const second = new RecordingNotifier();
    machine.nicSpace.attach(second);
    expect(second.held()).toEqual([run(2, 4, 102)]);
    expect(first.held()).toEqual([run(2, 4, 102)]);
  });

  it("replays everything to a notifier that comes back, and unmaps everything when it leaves", () => {
    const machine = new Machine();
    machine.tables.map(0, 700, 100);
    for (let i = 0; i < 3; i++) {
      const notifier = new RecordingNotifier();
      const attachment = machine.nicSpace.attach(notifier);
      expect(notifier.pageCount).toBe(700);
      expect(attachment.heldPages).toBe(700);
      expect(attachment.detach()).toBeUndefined();
      expect(attachment.state).toBe("detached");
      expect(attachment.heldPages).toBe(0);
      notifier.end();
      machine.tables.map(2000 + i, 1, 5);
      void machine.invalidate();
      machine.tables.unmap(2000 + i, 1);
      expect(notifier.breaches).toEqual([]);
      expect(machine.nicSpace.attachments).toEqual([]);
    }
  });
});

describe("attach", () => {
  it("refuses a notifier that is attached already, speaks another contract, or gives a bad range", () => {
    const machine = new Machine();
    const notifier = new RecordingNotifier();
    machine.nicSpace.attach(notifier);
    expect(() => machine.nicSpace.attach(notifier)).toThrow(/not attached to 00:03.0/);
    const future = Object.assign(new RecordingFlushNotifier(), { contract: 2 as 1 });
    expect(() => machine.nicSpace.attach(future)).toThrow(/expected contract 1, got 2 .*fits this iommu-core/);
    for (const bad of [range(-1, 1), range(0, 0), range(0.5, 1), range(2 ** 52, 1), range(0, 2 ** 53)]) {
      expect(() => machine.nicSpace.attach(new RecordingNotifier(), { range: bad })).toThrow(IommuError);
    }
    expect(machine.nicSpace.attachments).toHaveLength(1);
  });

  it("refuses what is no notifier, with the name of what it lacks", () => {
    const { nicSpace } = new Machine();
    const nothing = (): undefined => undefined;
    const rows: readonly (readonly [unknown, RegExp])[] = [
      [undefined, /^notifier: expected kind "map", "unmap" or "device-tlb", got undefined /],
      [{ name: "mirror" }, /^mirror: expected kind .*, got undefined /],
      [{ kind: "unmapp", unmap: nothing }, /got unmapp /],
      [{ kind: "toString", unmap: nothing }, /got toString /],
      [{ kind: "unmap" }, /expected a method unmap, got undefined /],
      [{ kind: "device-tlb", unmap: nothing }, /expected a method invalidate, got undefined /],
      [{ kind: "map", granularity: "page", unmap: nothing }, /expected a method map, got undefined /],
      [
        { kind: "map", granularity: "pages", map: nothing, unmap: nothing },
        /granularity "page" or "block", got pages /,
      ],
      [
        { kind: "map", granularity: "page", map: nothing, unmap: nothing, replace: true },
        /method replace, or none, got true /,
      ],
    ];
    for (const [given, message] of rows) {
      const attach = (): Attachment => nicSpace.attach(given as Notifier);
      expect(attach).toThrow(message);
      expect(attach).toThrow(expect.objectContaining({ code: "notifier-contract" }));
    }
    expect(nicSpace.attachments).toEqual([]);
  });

  it("lets the backend refuse a kind of notifier, and nothing is left of the attempt", () => {
    const machine = new Machine();
    Object.assign(machine.backend, {
      admit: (_requester: unknown, kind: string) => {
        if (kind === "map")
          throw new IommuError("caching-mode-required", "expected caching mode", { hint: "turn it on" });
      },
    });
    expect(() => machine.nicSpace.attach(new RecordingNotifier())).toThrow("expected caching mode (turn it on)");
    expect(machine.nicSpace.attachments).toEqual([]);
    machine.nicSpace.attach(new RecordingFlushNotifier());
    expect(machine.nicSpace.attachments).toHaveLength(1);
  });

  it("is refused from inside a callback of a notifier, with the way out; so are detach, unplug and setRegions", () => {
    const machine = new Machine();
    const errors: string[] = [];
    const tryAll = (): void => {
      for (const attempt of [
        () => machine.nicSpace.attach(new RecordingNotifier()),
        () => attachment.detach(),
        () => machine.nicSpace.unplug(),
        () => machine.unit.setRegions([range(0, 1)]),
      ]) {
        try {
          void attempt();
        } catch (error) {
          if (error instanceof IommuError) errors.push(error.code);
        }
      }
    };
    const attachment: Attachment = machine.nicSpace.attach(new RecordingNotifier());
    machine.nicSpace.attach(new RecordingNotifier({ onCall: ({ type }) => void (type === "map" && tryAll()) }));
    machine.tables.map(0, 1, 1);
    void machine.invalidate();
    expect(errors).toEqual(Array.from({ length: 4 }, () => "reentrant-call"));
    errors.length = 0;
    machine.nicSpace.attach(new RecordingFlushNotifier({ onCall: tryAll }));
    expect(errors).toEqual(Array.from({ length: 4 }, () => "reentrant-call"));
    expect(machine.nicSpace.attachments).toHaveLength(3);
    expect(machine.nicSpace.attachments.every(({ state }) => state === "active")).toBe(true);
    expect(machine.nicSpace.plugged).toBe(true);
  });

  it("lets a notifier translate from inside a callback", () => {
    const machine = new Machine();
    machine.tables.map(0, 1, 77);
    const read: boolean[] = [];
    const onCall = (): void => void read.push(machine.nicSpace.dma.write(0x10, Uint8Array.of(1)));
    machine.nicSpace.attach(new RecordingNotifier({ steps: false, onCall }));
    expect(read).toEqual([true]);
  });

  it("does an invalidation announced from inside a callback later, not in the middle", async () => {
    const machine = new Machine();
    let again = true;
    const notifier = new RecordingNotifier({
      onCall: ({ type }) => {
        if (type !== "map" || !again) return;
        again = false;
        machine.tables.map(5, 1, 5);
        void machine.invalidate();
      },
    });
    machine.nicSpace.attach(notifier);
    machine.tables.map(0, 1, 1);
    void machine.invalidate();
    await machine.scheduler.idle();
    expect(notifier.held()).toEqual([run(0, 1, 1), run(5, 1, 5)]);
    expect(notifier.breaches).toEqual([]);
  });
});

describe("detach in every state", () => {
  it("while syncing: the replay stops, what was told is taken back", async () => {
    const machine = new Machine({ limits: { mappingsPerSlice: 4, entriesPerSlice: 4 } });
    for (let i = 0; i < 20; i++) machine.tables.map(i * 600, 1, i);
    const notifier = new RecordingNotifier();
    const attachment = machine.nicSpace.attach(notifier);
    expect(attachment.state).toBe("syncing");
    const told = notifier.pageCount;
    expect(told).toBeGreaterThan(0);
    expect(told).toBeLessThan(20);
    const done = attachment.detach();
    expect(attachment.state).toBe("detached");
    await machine.scheduler.idle();
    await done;
    notifier.end();
    expect(notifier.breaches).toEqual([]);
  });

  it("before its replay has begun: it hears nothing at all", async () => {
    const machine = new Machine({ limits: { mappingsPerSlice: 4, entriesPerSlice: 4 } });
    for (let i = 0; i < 20; i++) machine.tables.map(i * 600, 1, i);
    machine.nicSpace.attach(new RecordingNotifier());
    const notifier = new RecordingNotifier();
    const attachment = machine.diskSpace.attach(notifier);
    const done = attachment.detach();
    await machine.scheduler.idle();
    await done;
    expect(notifier.calls).toEqual([]);
    notifier.end();
  });

  it("while failed, parked, and twice", () => {
    const machine = new Machine();
    machine.tables.map(0, 1, 1);
    const failing = new RecordingNotifier();
    const attachment = machine.nicSpace.attach(failing);
    expect(() => failing.map(0, 1, 1, 3)).toThrow(/outside of begin/);
    Object.assign(failing, {
      unmap: () => {
        throw new Error("no");
      },
    });
    machine.tables.unmap(0, 1);
    void machine.invalidate();
    expect(attachment.state).toBe("failed");
    expect(attachment.detach()).toBeUndefined();
    expect(attachment.detach()).toBeUndefined();
    expect(attachment.state).toBe("detached");

    const parked = new RecordingNotifier();
    const parkedOn = [machine.nicSpace.attach(parked), machine.diskSpace.attach(parked)];
    void machine.backend.assign(machine.nic, new SimpleDomain("other"));
    expect(parkedOn[0]!.state).toBe("parked");
    for (const each of parkedOn) void each.detach();
    parked.end();
    void machine.backend.assign(machine.nic, machine.tables);
    expect(parked.breaches).toEqual([]);
    expect([...machine.unit.hub.views]).toEqual([]);
  });

  it("with answers outstanding: done when the notifier has completed", async () => {
    const machine = new Machine();
    machine.tables.map(0, 1, 1);
    const notifier = new RecordingNotifier();
    const attachment = machine.nicSpace.attach(notifier);
    notifier.answers.mode = "manual";
    const done = attachment.detach();
    let finished = false;
    void Promise.resolve(done).then(() => (finished = true));
    await machine.scheduler.idle();
    expect(finished).toBe(false);
    notifier.answers.settle();
    await done;
    expect(finished).toBe(true);
  });
});

describe("unplug", () => {
  it("detaches every notifier and refuses every further request, with a reason of its own", () => {
    const machine = new Machine();
    machine.tables.map(0, 2, 1);
    const space = machine.nicSpace;
    const notifier = new RecordingNotifier();
    const flush = new RecordingFlushNotifier();
    const attachments = [space.attach(notifier), space.attach(flush)];
    flush.take();
    const faults = machine.watch("fault");
    expect(space.dma.read(0, new Uint8Array(4))).toBe(true);
    void space.unplug();
    notifier.end();
    flush.end();
    expect(flush.take()).toEqual([range(0, 2 ** 52)]);
    expect(attachments.map(({ state }) => state)).toEqual(["detached", "detached"]);
    expect(space.dma.read(0, new Uint8Array(4))).toBe(false);
    expect(space.dma.failure).toEqual({ iovaPfn: 0, reason: UNPLUGGED, cause: "unplugged" });
    expect(faults).toHaveLength(1);
    expect(space.plugged).toBe(false);
    expect(space.unplug()).toBeUndefined();
    expect(() => space.attach(new RecordingNotifier())).toThrow(
      /00:03.0: expected a device, got one that is unplugged/,
    );
    expect(machine.unit.addressSpaces).not.toContain(space);
    expect(machine.nicSpace).not.toBe(space);
    expect(machine.nicSpace.dma.read(0, new Uint8Array(4))).toBe(true);
  });

  it("in the middle of a DMA ends it at the page under way", () => {
    const memory = new FakeMemory();
    const machine = new Machine({ memory });
    for (let i = 0; i < 4; i++) machine.tables.map(i, 1, 10 - i);
    const space = machine.nicSpace;
    const write = memory.write.bind(memory);
    let writes = 0;
    memory.write = (...args) => {
      writes += 1;
      if (writes === 2) void space.unplug();
      return write(...args);
    };
    expect(space.dma.write(0, new Uint8Array(4 * 4096).fill(7))).toBe(false);
    expect(writes).toBe(2);
    expect(space.dma.failure).toMatchObject({ iovaPfn: 2, reason: UNPLUGGED });
  });

  it("while a sync is under way ends what the device's notifiers are told, and the sync goes on for others", async () => {
    const machine = new Machine({ limits: { mappingsPerSlice: 4, entriesPerSlice: 4 } });
    const gone = new RecordingNotifier();
    const stays = new RecordingNotifier();
    machine.nicSpace.attach(gone);
    machine.diskSpace.attach(stays);
    for (let i = 0; i < 20; i++) machine.tables.map(i * 600, 1, i);
    void machine.invalidate();
    void machine.nicSpace.unplug();
    await machine.scheduler.idle();
    gone.end();
    expect(gone.breaches).toEqual([]);
    expect(stays.pageCount).toBe(20);
  });
});

describe("address spaces", () => {
  it("are the same object for the same requester, and one for each PASID", () => {
    const machine = new Machine();
    expect(machine.unit.addressSpace(5)).toBe(machine.unit.addressSpace(5));
    expect(machine.unit.addressSpace(5, { pasid: 0 })).not.toBe(machine.unit.addressSpace(5));
    expect(machine.unit.addressSpace(5, { pasid: 0xfffff })).toBe(machine.unit.addressSpace(5, { pasid: 0xfffff }));
    expect(machine.unit.addressSpace(5, { pasid: 7 }).label).toBe("00:00.5 pasid 7");
  });

  it("are refused for a source-id or PASID that does not exist", () => {
    const machine = new Machine();
    for (const sourceId of [-1, 65_536, 1.5, Number.NaN]) {
      expect(() => machine.unit.addressSpace(sourceId)).toThrow(IommuError);
    }
    for (const pasid of [-1, 2 ** 20, 0.5]) expect(() => machine.unit.addressSpace(0, { pasid })).toThrow(/PASID/);
    expect(machine.unit.addressSpace(0).label).toBe("00:00.0");
    expect(machine.unit.addressSpace(65_535).label).toBe("ff:1f.7");
  });

  it("are one for each set of flags, which only requests with PASID carry", () => {
    const machine = new Machine();
    const all = [{}, { privileged: true }, { execute: true }, { privileged: true, execute: true }].map((flags) =>
      machine.unit.addressSpace(5, { pasid: 1, ...flags }),
    );
    expect(new Set(all).size).toBe(4);
    expect(new Set(all.map(({ key }) => key)).size).toBe(4);
    expect(all.map(({ privileged, execute }) => [privileged, execute])).toEqual([
      [false, false],
      [true, false],
      [false, true],
      [true, true],
    ]);
    for (const flags of [{ privileged: true }, { execute: true }])
      expect(() => machine.unit.addressSpace(5, flags)).toThrow(/PASID/);
    expect(machine.unit.addressSpaces).toEqual(expect.arrayContaining(all));
  });

  it("say which domain they see by the backend's word", () => {
    const machine = new Machine();
    expect(machine.nicSpace.domain).toBe(machine.tables);
    expect(machine.unit.addressSpace(5).domain).toBe(machine.backend.unassigned);
  });

  it("need limits that exist and are positive integers", () => {
    const options = { backend: new Machine().backend, memory: new FakeMemory(), scheduler: new ManualScheduler() };
    for (const [limits, message] of [
      [{ entriesPerSlice: 0 }, /limits.entriesPerSlice: expected a positive integer, got 0/],
      [{ callsInFlight: 1.5 }, /limits.callsInFlight: expected a positive integer, got 1.5/],
      [{ leaseDeadlineMilliseconds: "9" as never }, /limits.leaseDeadlineMilliseconds/],
      [{ consumerDeadlineMilliseconds: Number.NaN }, /limits.consumerDeadlineMilliseconds/],
      [{ consumerDeadline: 5 } as object, /limits: expected entriesPerSlice, .*, got consumerDeadline/],
    ] as const) {
      expect(() => new BackendIommu({ ...options, limits })).toThrow(
        expect.objectContaining({ code: "bad-option", message: expect.stringMatching(message) as unknown }),
      );
    }
    const limits = { callsInFlight: undefined } as object;
    expect(new BackendIommu({ ...options, limits }).limits.callsInFlight).toBe(65_536);
  });
});

describe("an attach behind an invalidation that waits for its slice", () => {
  it("replays once", async () => {
    const machine = new Machine({ limits: { mappingsPerSlice: 1, entriesPerSlice: 1 } });
    machine.tables.map(0, 1, 1);
    machine.tables.map(2 ** 20, 1, 1);
    machine.nicSpace.attach(new RecordingNotifier());
    void machine.invalidate();
    const notifier = new RecordingNotifier();
    machine.nicSpace.attach(notifier);
    await machine.scheduler.idle();
    expect(notifier.breaches).toEqual([]);
    expect(notifier.pageCount).toBe(2);
  });
});
