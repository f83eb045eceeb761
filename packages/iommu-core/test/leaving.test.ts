/**
 * What is left of a notifier, and of an address space, when it has gone: nothing that is told, and nothing in the way of others.
 */

import { describe, expect, it } from "vitest";
import type { MapAnswer, MapNotifier, UnmapNotifier } from "../src/index.js";
import { RecordingFlushNotifier, RecordingNotifier } from "../src/testing/index.js";
import { Machine, run } from "./support/machine.js";

describe("a notifier that is detached", () => {
  it("takes nobody else along when it is detached once more", () => {
    const machine = new Machine();
    const flush = new RecordingFlushNotifier();
    const first = machine.nicSpace.attach(flush);
    const second = machine.nicSpace.attach(new RecordingNotifier());
    void first.detach();
    flush.take();
    void first.detach();
    expect(machine.nicSpace.attachments).toEqual([second]);
    expect(flush.take()).toEqual([]);
  });

  it("can be attached again after a failure", () => {
    const machine = new Machine();
    const notifier: MapNotifier = {
      kind: "map",
      granularity: "page",
      map: () => {
        throw new Error("no");
      },
      unmap: () => undefined,
    };
    machine.tables.map(0, 1, 1);
    const broken = machine.nicSpace.attach(notifier);
    expect(broken.state).toBe("failed");
    void broken.detach();
    const held: number[] = [];
    Object.assign(notifier, { map: (iovaPfn: number) => void held.push(iovaPfn) });
    expect(machine.nicSpace.attach(notifier).state).toBe("active");
    expect(held).toEqual([0]);
  });

  it("is not offered anything any more, whatever it still answers and whoever asks for it", async () => {
    const machine = new Machine();
    const answers: ((answer: MapAnswer) => void)[] = [];
    let maps = 0;
    const attachment = machine.nicSpace.attach({
      kind: "map",
      granularity: "page",
      map: () => {
        maps += 1;
        return new Promise((resolve) => answers.push(resolve));
      },
      unmap: () => undefined,
    });
    const refused = machine.watch("refused");
    machine.tables.map(0, 1, 1);
    machine.tables.map(9, 1, 1);
    void machine.invalidate();
    machine.tables.unmap(0, 1);
    void machine.invalidate();
    void attachment.detach();
    attachment.retry();
    for (const answer of answers) answer("full");
    await machine.scheduler.idle();
    attachment.retry();
    await machine.scheduler.idle();
    expect([maps, refused]).toEqual([2, []]);
    expect(machine.nicSpace.attachments).toEqual([]);
  });

  it("need not be one that maps, to be asked for another try", () => {
    const machine = new Machine();
    const flush = new RecordingFlushNotifier();
    const attachment = machine.nicSpace.attach(flush);
    flush.take();
    attachment.retry();
    expect([flush.take(), attachment.state]).toEqual([[], "active"]);
  });
});

describe("a cache that fails twice", () => {
  it("is revoked once", async () => {
    const machine = new Machine();
    const rejections: (() => void)[] = [];
    let revoked = 0;
    const cache: UnmapNotifier = {
      kind: "unmap",
      unmap: () => new Promise((_, reject) => rejections.push(() => reject(new Error("no")))),
      revoke: () => void (revoked += 1),
    };
    machine.nicSpace.attach(cache);
    const failed = machine.watch("failed");
    void machine.invalidate(0, 1);
    void machine.invalidate(1, 1);
    expect(rejections).toHaveLength(3);
    for (const reject of rejections) reject();
    await machine.scheduler.idle();
    expect([revoked, failed.length]).toEqual([1, 1]);
  });

  it("is flushed by every invalidation where only device TLBs are invalidated by name", () => {
    const machine = new Machine();
    Object.assign(machine.backend, { namesDeviceTlb: () => true });
    const cache = new RecordingFlushNotifier();
    machine.nicSpace.attach(cache);
    cache.take();
    for (let i = 0; i < 3; i++) void machine.invalidate(5, 1);
    expect(cache.take()).toHaveLength(3);
  });
});

describe("an address space that is unplugged", () => {
  it("has no attachments, and detaching what it had does nothing", () => {
    const machine = new Machine();
    const space = machine.nicSpace;
    const notifier = new RecordingNotifier();
    machine.tables.map(0, 1, 1);
    const attachment = space.attach(notifier);
    void space.unplug();
    notifier.take();
    expect([space.attachments, space.plugged, attachment.detach()]).toEqual([[], false, undefined]);
    expect(notifier.take()).toEqual([]);
  });

  it("hears of no invalidation, not of one either that was waiting when it left", async () => {
    const machine = new Machine({ limits: { invalidationsInFlight: 1 } });
    const cache = new RecordingFlushNotifier();
    machine.diskSpace.attach(cache);
    machine.nicSpace.attach(new RecordingFlushNotifier());
    cache.answers.mode = "manual";
    const heard: string[] = [];
    machine.unit.events.on("invalidate", ({ space }) => heard.push(space.label));
    void machine.invalidate(1, 1);
    void machine.invalidate(2, 1);
    expect(heard).toEqual(expect.arrayContaining([machine.nicSpace.label, machine.diskSpace.label]));
    heard.length = 0;
    const label = machine.diskSpace.label;
    void machine.nicSpace.unplug();
    cache.answers.settle();
    await machine.scheduler.idle();
    expect(heard).toEqual([label]);
  });
});

describe("an address space without notifiers", () => {
  it("hears of no invalidation", () => {
    const machine = new Machine();
    machine.diskSpace.attach(new RecordingFlushNotifier());
    const other = machine.nicSpace;
    const heard: string[] = [];
    machine.unit.events.on("invalidate", ({ space }) => heard.push(space.label));
    void machine.invalidate();
    expect(heard).toEqual([machine.diskSpace.label]);
    expect(other.attachments).toEqual([]);
  });
});

describe("a device that moves", () => {
  it("is said to move once, and not when the guest only says again where it is", () => {
    const machine = new Machine();
    machine.tables.map(0, 1, 1);
    const notifier = new RecordingNotifier();
    machine.nicSpace.attach(notifier);
    const moved = machine.watch("move");
    void machine.backend.assign(machine.nic, machine.tables);
    expect(moved).toHaveLength(0);
    void machine.backend.assign(machine.nic, machine.backend.unassigned);
    void machine.backend.assign(machine.nic, machine.backend.unassigned);
    expect(moved).toHaveLength(1);
    expect(notifier.held()).toEqual([]);
    void machine.backend.assign(machine.nic, machine.tables);
    expect([moved.length, notifier.held()]).toEqual([2, [run(0, 1, 1)]]);
  });
});
