/** Devices and consumers that come, go and fail while something of them is under way. */
import { describe, expect, it } from "vitest";
import { Access, IovaTree, sourceId } from "../src/index.js";
import { RecordingFlushNotifier, RecordingNotifier, SimpleDomain } from "../src/testing/index.js";
import { Machine, range } from "./support/machine.js";

describe("a device that is unplugged", () => {
  it("while an invalidation of it waits is not asked about any more, and hears of no move", async () => {
    const machine = new Machine({ limits: { invalidationsInFlight: 1 } });
    const slow = new RecordingFlushNotifier({ answers: "manual" });
    machine.diskSpace.attach(slow);
    const gone = machine.nicSpace;
    gone.attach(new RecordingFlushNotifier());
    slow.answers.settle();
    const moves = machine.watch("move");
    void machine.invalidate();
    const waiting = machine.backend.assign(machine.nic, new SimpleDomain("other"));
    const asked: number[] = [];
    const domainOf = machine.backend.domainOf.bind(machine.backend);
    machine.backend.domainOf = (requester) => {
      asked.push(requester.sourceId);
      return domainOf(requester);
    };
    void gone.unplug();
    slow.answers.settle();
    await waiting;
    expect([asked, moves]).toEqual([[], []]);
  });

  it("takes its consumers with it, and what one of them reports while another goes is told to nobody", () => {
    const machine = new Machine();
    machine.tables.map(0, 4, 100);
    const told = machine.watch("window", "refused");
    const second = new RecordingNotifier();
    const first = new RecordingNotifier({
      onCall: ({ type }) => {
        if (type !== "unmap") return;
        second.reports?.window(0, 1);
        second.lose(2, 1);
      },
    });
    const attachments = [machine.nicSpace.attach(first), machine.nicSpace.attach(second)];
    void machine.nicSpace.unplug();
    expect(told).toEqual([]);
    expect(second.take().slice(1)).toEqual(["unmap 0x0+2", "unmap 0x3+1"]);
    for (const attachment of attachments) expect(attachment).toMatchObject({ state: "detached", heldPages: 0 });
    expect([first.breaches, second.breaches]).toEqual([[], []]);
  });
});

describe("an invalidation that ends", () => {
  it("with none behind it leaves nothing to be done, and no error", async () => {
    const machine = new Machine({ limits: { invalidationsInFlight: 1 } });
    const slow = new RecordingFlushNotifier({ answers: "manual" });
    machine.nicSpace.attach(slow);
    slow.answers.settle();
    for (let i = 0; i < 3; i++) {
      const done = machine.invalidate();
      slow.answers.settle();
      await done;
      // A rejection that nobody handles fails the test that it comes in.
      await new Promise((turn) => setTimeout(turn, 1));
    }
    expect(slow.take()).toHaveLength(4);
  });
});

describe("an invalidation that concerns nobody", () => {
  it("is done at once, and widens none of those that wait", async () => {
    const machine = new Machine({ limits: { invalidationsInFlight: 1 } });
    const slow = new RecordingFlushNotifier({ answers: "manual" });
    machine.nicSpace.attach(slow);
    slow.answers.settle();
    slow.take();
    const done = [machine.invalidate(1, 1), machine.invalidate(2, 1)];
    expect(machine.backend.invalidate(new SimpleDomain("of nobody"), range(1000, 1))).toBeUndefined();
    for (const one of done) {
      slow.answers.settle();
      await one;
    }
    expect(slow.take()).toEqual([range(1, 1), range(2, 1)]);
  });

  it("waits like any other while caches still hold what a newcomer's attachment found exchanged", async () => {
    const machine = new Machine();
    const slow = new RecordingFlushNotifier();
    machine.nicSpace.attach(slow);
    void machine.backend.assign(machine.nic, new SimpleDomain("other"), false);
    slow.answers.mode = "manual";
    machine.nicSpace.attach(new RecordingNotifier());
    const ofNobody = (): ReturnType<typeof machine.invalidate> =>
      machine.backend.invalidate(new SimpleDomain("of nobody"), range(0, 1));
    let waits = true;
    const done = ofNobody()?.then(() => (waits = false));
    await machine.scheduler.idle();
    expect(waits).toBe(true);
    slow.answers.settle();
    await done;
    expect(waits).toBe(false);
    expect(ofNobody()).toBeUndefined();
  });
});

describe("a device with a lease and no notifier", () => {
  it("is not followed: it hears of no move, neither then nor later", () => {
    const machine = new Machine();
    machine.tables.map(0, 1, 1);
    const moves = machine.watch("move");
    const lease = machine.nicSpace.dma.segments(0, 16, Access.read);
    void machine.backend.assign(machine.nic, new SimpleDomain("second"));
    lease?.release();
    void machine.backend.assign(machine.nic, new SimpleDomain("third"));
    expect(moves).toEqual([]);
  });
});

describe("a consumer that leaves", () => {
  it("and throws as it does harms nobody: its attachment is over", () => {
    const machine = new Machine();
    machine.tables.map(0, 1, 1);
    const notifier = new RecordingNotifier();
    const attachment = machine.nicSpace.attach(notifier);
    notifier.unmap = () => {
      throw new Error("no");
    };
    expect(attachment.detach()).toBeUndefined();
    expect(attachment.state).toBe("detached");
    expect(notifier.revoked).toMatchObject({ code: "notifier-failed" });
    expect(machine.nicSpace.attachments).toEqual([]);
  });

  it("may ask for what it refused until its turn comes, and is not offered it any more", async () => {
    const machine = new Machine({ limits: { mappingsPerSlice: 2 } });
    for (let pfn = 0; pfn < 40; pfn += 4) machine.tables.map(pfn * 512, 1, 100 + pfn);
    const notifier = new RecordingNotifier({ capacity: 1 });
    const attachment = machine.nicSpace.attach(notifier);
    await machine.scheduler.idle();
    expect(attachment.refusedPages).toBe(9);
    const other = new RecordingNotifier();
    machine.diskSpace.attach(other);
    notifier.take();
    const left = attachment.detach();
    notifier.capacity = Infinity;
    notifier.reports?.retry();
    attachment.retry();
    await Promise.all([left, machine.scheduler.idle()]);
    expect(notifier.take()).toEqual(["unmap 0x0+1"]);
    expect([attachment.heldPages, attachment.refusedPages]).toEqual([0, 0]);
    expect(other.pageCount).toBe(10);
  });
});

describe("a budget", () => {
  it("of bytes is met by what takes more than it, not by what takes all of it", () => {
    const tree = new IovaTree();
    for (let i = 0; i < 5; i++) tree.insert(i * 2 ** 18, 1, 100 + i, Access.readWrite);
    for (const [bytesPerView, held] of [
      [tree.byteLength, 5],
      [tree.byteLength - 1, 0],
    ] as const) {
      const machine = new Machine({ limits: { bytesPerView } });
      for (let i = 0; i < 5; i++) machine.tables.map(i * 2 ** 18, 1, 100 + i);
      const notifier = new RecordingNotifier();
      machine.nicSpace.attach(notifier);
      expect(notifier.pageCount).toBe(held);
    }
  });

  it("of tables is met by one entry more than it has, not by all of them", () => {
    for (const [entries, again, held] of [
      [1024, 0, 1],
      [1025, 0, 0],
      // Tables that have been counted before.
      [1024, 512, 1],
      [1023, 2000, 1],
    ] as const) {
      const machine = new Machine({ limits: { tablesPerView: 2 } });
      machine.tables.scan = (_range, sink) =>
        void (sink.reach(0, entries) && sink.reach(0, again, true) && sink.run(0, 1, 100, 3));
      const notifier = new RecordingNotifier();
      const met = machine.watch("budget");
      machine.nicSpace.attach(notifier);
      expect(notifier.pageCount).toBe(held);
      expect(met).toEqual(held === 1 ? [] : ["budget budget=tables limit=2"]);
    }
  });

  it("that a view has met is named to a device as often as to its neighbours, also if it comes to the view by two ways", async () => {
    const machine = new Machine({ limits: { mappingsPerView: 8, entriesPerSlice: 4 } });
    const large = new SimpleDomain("large");
    for (let i = 0; i < 20; i++) large.map(i * 512, 1, i);
    const long = new SimpleDomain("long");
    for (let i = 0; i < 7; i++) long.map(i * 512, 1, i);
    const third = sourceId(0, 5, 0);
    await machine.backend.assign(third, long);
    const shared = new RecordingNotifier({ name: "of both" });
    machine.nicSpace.attach(shared);
    machine.diskSpace.attach(shared);
    machine.nicSpace.attach(new RecordingNotifier({ name: "of one" }));
    const busy = machine.unit.addressSpace(third);
    busy.attach(new RecordingNotifier());
    await machine.scheduler.idle();
    await Promise.all([machine.backend.assign(machine.disk, large), machine.scheduler.idle()]);
    const spaces: string[] = [];
    machine.unit.events.on("budget", ({ space }) => spaces.push(space.label));

    // Jobs wait behind a long one: what the second device sees is brought in when both see it already, then the first one's other notifier moves.
    const done = [
      machine.backend.invalidate(long),
      machine.backend.invalidateDevice(machine.disk),
      machine.backend.assign(machine.nic, large),
    ];
    await Promise.all([...done, machine.scheduler.idle()]);
    const times = [machine.nicSpace, machine.diskSpace].map(
      ({ label }) => spaces.filter((space) => space === label).length,
    );
    expect(times[0]).toBeGreaterThan(0);
    expect(times[0]).toBe(times[1]);
    expect(shared.pageCount).toBe(0);
  });
});
