import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Access } from "@iommu-kit/iommu-core";
import { ManualScheduler } from "@iommu-kit/iommu-core/testing";
import {
  type DirtyResult,
  iommufd,
  MemoryContainer,
  shadow,
  shadowBlock,
  type1,
  type1v2,
  vfioUser,
  VfioNotifier,
} from "@iommu-kit/notifier-vfio";
import { PlainContainer, RemoteContainer } from "./containers.js";
import { Guest } from "./guest.js";

const RW = Access.readWrite;
const SPACE = 24;

describe("dirty tracking", () => {
  it("tells the guest frames that the device wrote, once", async () => {
    const { guest, container, notifier } = machine(vfioUser);
    guest.table.map(0, 8, 100);
    await guest.flush();
    await notifier.startDirtyTracking();

    write(container, 3);
    write(container, 4);
    write(container, 7);

    expect(notifier.dirtyTracking).toBe("log");
    expect(await collect(notifier)).toEqual([103, 104, 107]);
    expect(await collect(notifier)).toEqual([]);
  });

  it("tells the frame that was behind an IOVA at the time of the write, not the one that is there now", async () => {
    const { guest, container, notifier } = machine(shadow);
    guest.table.map(0, 4, 100);
    await guest.flush();
    await notifier.startDirtyTracking();

    write(container, 2);
    guest.table.unmap(2, 1);
    await guest.flush();
    guest.table.map(2, 1, 900);
    await guest.flush();

    expect(await collect(notifier)).toEqual([102]);
  });

  it("counts a write that comes between the end of a step and the reading of the log for both frames it may have hit", async () => {
    const { guest, container, notifier } = machine(vfioUser);
    guest.table.map(0, 4, 100);
    await guest.flush();
    await notifier.startDirtyTracking();
    const { read } = container.dirtyLog;
    container.dirtyLog.read = (...range) => {
      if (container.translate(2, Access.write, shadowBlock())) container.dirtyLog.read = read;
      return read(...range);
    };

    guest.table.map(2, 1, 900);
    await guest.flush();

    expect(await collect(notifier)).toEqual([102, 900]);
  });

  it.each([type1, iommufd])("counts all that is writable where the container ($name) has no log", async (profile) => {
    const { guest, notifier } = machine(profile);
    guest.table.map(0, 2, 100);
    guest.table.map(2, 1, 200, Access.read);
    guest.table.map(3, 1, 300);
    await guest.flush();
    await notifier.startDirtyTracking();
    guest.table.unmap(3, 1);
    await guest.flush();

    expect(notifier.dirtyTracking).toBe("assume");
    expect(await collect(notifier)).toEqual([100, 101, 300]);
    expect(await collect(notifier)).toEqual([100, 101]);
  });

  it("counts all that is writable where the container does not know of logs at all", async () => {
    const guest = new Guest();
    const container = Object.defineProperty(new PlainContainer(new MemoryContainer(shadow)), "dirtyLog", {
      value: undefined,
    });
    const notifier = new VfioNotifier(container);
    notifier.attachTo(guest.device(3));
    guest.table.map(0, 2, 100);
    guest.table.map(2, 1, 200, Access.read);
    await guest.flush();
    expect(notifier.startDirtyTracking()).toBeUndefined();

    expect(notifier.dirtyTracking).toBe("assume");
    expect(await collect(notifier)).toEqual([100, 101]);
    expect(notifier.stopDirtyTracking()).toBeUndefined();
    expect(notifier.dirtyTracking).toBe("off");
  });

  it("tells frames that lie far apart in ascending order, whichever was written first", async () => {
    const { guest, container, notifier } = machine(shadow);
    const frames = [2 ** 30, 3, 70_000];
    for (const [iovaPfn, gpaPfn] of frames.entries()) guest.table.map(iovaPfn, 1, gpaPfn);
    await guest.flush();
    await notifier.startDirtyTracking();

    for (const iovaPfn of frames.keys()) write(container, iovaPfn);

    expect(await collect(notifier)).toEqual([3, 70_000, 2 ** 30]);
  });

  it("tells what was written to a range before it was removed by a container that reads its log in a call of its own", async () => {
    const guest = new Guest();
    const container = new MemoryContainer(vfioUser);
    const notifier = new VfioNotifier(new PlainContainer(container));
    notifier.attachTo(guest.device(3));
    guest.table.map(0, 4, 100);
    await guest.flush();
    await notifier.startDirtyTracking();
    write(container, 1);
    write(container, 3);

    guest.table.unmap(0, 3);
    await guest.flush();

    expect(await collect(notifier)).toEqual([101, 103]);
  });

  it("counts all that is writable when the container does not say what was written", async () => {
    const { guest, container, notifier } = machine(shadow);
    guest.table.map(0, 2, 100);
    guest.table.map(2, 1, 200, Access.read);
    await guest.flush();
    await notifier.startDirtyTracking();
    container.dirtyLog.read = () => ({ ok: false, cause: "gone" });

    expect(await collect(notifier)).toEqual([100, 101]);
  });

  it.each([
    ["refuses", () => ({ ok: false, cause: "gone" }) as const],
    ["rejects", () => Promise.reject(new Error("EIO"))],
  ])("counts all that was writable of a range whose removal the container %s", async (_how, unmapAndRead) => {
    const { guest, container, notifier } = machine(shadow);
    guest.table.map(0, 2, 100);
    guest.table.map(2, 1, 200, Access.read);
    guest.table.map(8, 1, 300);
    await guest.flush();
    await notifier.startDirtyTracking();
    write(container, 1);
    container.dirtyLog.unmapAndRead = unmapAndRead;

    guest.table.unmap(0, 3);
    await guest.flush();

    expect(await collect(notifier)).toEqual(expect.arrayContaining([100, 101]));
  });

  it("counts all that was writable of a removed range when reading the log rejects", async () => {
    const { guest, container, notifier } = machine(vfioUser);
    guest.table.map(0, 2, 100);
    await guest.flush();
    await notifier.startDirtyTracking();
    container.dirtyLog.read = () => Promise.reject(new Error("EIO"));

    guest.table.unmap(0, 2);
    await guest.flush();

    expect(await collect(notifier)).toEqual([100, 101]);
  });

  it.each([shadow, vfioUser])("waits for what is being unmapped when it is asked ($name)", async (profile) => {
    const guest = new Guest();
    const container = new MemoryContainer(profile);
    const far = new RemoteContainer(container);
    const notifier = new VfioNotifier(far);
    notifier.attachTo(guest.device(3));
    guest.table.map(0, 2, 100);
    const mapped = guest.flush();
    const started = notifier.startDirtyTracking();
    await far.answer();
    await mapped;
    await started;
    write(container, 1);

    guest.table.unmap(0, 2);
    const flushed = guest.flush();
    const collected = collect(notifier);
    await far.answer();
    await flushed;

    expect(await collected).toEqual([101]);
  });

  it("does not wait longer than its deadline for a container that never settles: what it has not told counts", async () => {
    for (const hangs of ["a read", "an unmap"]) {
      const guest = new Guest();
      const container = new MemoryContainer(vfioUser);
      const far = new RemoteContainer(container);
      const scheduler = new ManualScheduler();
      const notifier = new VfioNotifier(far, { scheduler, dirtyDeadlineMilliseconds: 700 });
      notifier.attachTo(guest.device(3));
      guest.table.map(0, 4, 100);
      guest.table.map(4, 1, 104, Access.read);
      const mapped = guest.flush();
      const started = notifier.startDirtyTracking();
      await far.answer();
      await Promise.all([mapped, started]);
      write(container, 1);
      if (hangs === "an unmap") {
        guest.table.unmap(0, 2);
        void guest.flush();
      }

      let told: number[] | undefined;
      void collect(notifier).then((frames) => (told = frames));
      scheduler.advance(699);
      await turns();
      expect(told).toBeUndefined();
      scheduler.advance(1);
      await turns();
      expect(told).toEqual([100, 101, 102, 103]);

      // What comes late is told the next time, so nothing is lost.
      await far.answer();
      const again = collect(notifier);
      await far.answer();
      expect(await again).toEqual([101]);
      expect(scheduler.timerCount).toBe(0);
    }
  });

  it("counts all that is writable from a start on that the container has not answered in time, even if it does later", async () => {
    const guest = new Guest();
    const container = new MemoryContainer(vfioUser);
    const far = new RemoteContainer(container);
    const scheduler = new ManualScheduler();
    const notifier = new VfioNotifier(far, { scheduler });
    notifier.attachTo(guest.device(3));
    guest.table.map(0, 2, 100);
    const mapped = guest.flush();
    await far.answer();
    await mapped;

    const started = notifier.startDirtyTracking();
    scheduler.advance(5000);
    await started;
    write(container, 1);
    await far.answer();

    expect(notifier.dirtyTracking).toBe("assume");
    expect(await collect(notifier)).toEqual([100, 101]);
    expect(scheduler.timerCount).toBe(0);
  });

  it.each(["its answer came after the deadline", "it is still pending"])(
    "stops a log whose start was asked for: %s",
    async (how) => {
      const { container, far, scheduler, notifier } = await remoteMachine();
      const started = notifier.startDirtyTracking();
      if (how !== "it is still pending") {
        scheduler.advance(5000);
        await started;
        await far.answer();
        expect([notifier.dirtyTracking, container.dirtyLog.active]).toEqual(["assume", true]);
      }

      const stopped = notifier.stopDirtyTracking();
      await far.answer();
      await Promise.all([started, stopped]);

      expect([notifier.dirtyTracking, container.dirtyLog.active]).toEqual(["off", false]);
      expect(scheduler.timerCount).toBe(0);
    },
  );

  it("waits no longer than its deadline for a container that does not say that it has stopped", async () => {
    const { container, far, scheduler, notifier } = await remoteMachine();
    const started = notifier.startDirtyTracking();
    await far.answer();
    await started;
    let stopped = false;
    void notifier.stopDirtyTracking()?.then(() => (stopped = true));
    scheduler.advance(4999);
    await turns();
    expect([notifier.dirtyTracking, stopped]).toEqual(["off", false]);
    scheduler.advance(1);
    await turns();
    expect([stopped, scheduler.timerCount]).toEqual([true, 0]);
    await far.answer();
    expect(container.dirtyLog.active).toBe(false);
  });

  it("stops what was never started, or could not be, without a word to the container", async () => {
    const { container, notifier } = machine(shadow);
    let stops = 0;
    container.dirtyLog.stop = () => {
      stops += 1;
      return { ok: true };
    };
    expect(notifier.stopDirtyTracking()).toBeUndefined();
    container.dirtyLog.start = () => ({ ok: false, cause: "denied" });
    await notifier.startDirtyTracking();
    expect(notifier.stopDirtyTracking()).toBeUndefined();
    expect([notifier.dirtyTracking, stops]).toEqual(["off", 0]);
  });

  it("takes the answer to a start for that start's only, not for a later one's", async () => {
    const { container, far, notifier } = await remoteMachine();
    const answers: DirtyResult[] = [{ ok: true }, { ok: false, cause: "gone" }];
    container.dirtyLog.start = () => answers.shift() ?? { ok: true };
    const first = notifier.startDirtyTracking();
    const stopped = notifier.stopDirtyTracking();
    const second = notifier.startDirtyTracking();
    await far.answer();
    await Promise.all([first, stopped, second]);

    expect(notifier.dirtyTracking).toBe("assume");
  });

  it("has one read of an entry in flight at most: until it is answered, the entry counts as written", async () => {
    const { container, far, scheduler, notifier } = await remoteMachine();
    const started = notifier.startDirtyTracking();
    await far.answer();
    await started;
    for (let round = 0; round < 3; round++) {
      const collected = collect(notifier);
      expect(far.waiting).toBe(2);
      scheduler.advance(5000);
      expect(await collected).toEqual([100, 101]);
    }

    write(container, 1);
    await far.answer();
    write(container, 0);
    const collected = collect(notifier);
    await far.answer();

    expect(await collected).toEqual([100, 101]);
    const again = collect(notifier);
    await far.answer();
    expect(await again).toEqual([]);
  });

  it("counts what is being unmapped until the container has confirmed it, also where there is no log", async () => {
    const { guest, container, far, scheduler, notifier } = await remoteMachine(type1);
    const started = notifier.startDirtyTracking();
    await far.answer();
    await started;
    expect(notifier.dirtyTracking).toBe("assume");
    guest.table.unmap(0, 2);
    const flushed = guest.flush();
    const collected = collect(notifier);
    scheduler.advance(5000);
    expect(await collected).toEqual([100, 101]);

    write(container, 1);
    await far.answer();
    await flushed;

    expect(await collect(notifier)).toEqual([100, 101]);
    expect(await collect(notifier)).toEqual([]);
  });

  it("counts what was unmapped in a step that is not closed yet", async () => {
    for (const profile of [vfioUser, type1]) {
      const container = new MemoryContainer(profile);
      let close = () => undefined as void;
      const stepped = Object.assign(new PlainContainer(container), {
        begin: () => container.begin(),
        commit: () => new Promise<void>((resolve) => (close = () => resolve(container.commit()))),
      });
      const guest = new Guest();
      const notifier = new VfioNotifier(stepped);
      notifier.attachTo(guest.device(3));
      guest.table.map(0, 2, 100);
      const mapped = guest.flush();
      close();
      await mapped;
      await notifier.startDirtyTracking();
      write(container, 1);

      guest.table.unmap(0, 2);
      const flushed = guest.flush();
      expect(await collect(notifier)).toEqual([100, 101]);
      write(container, 0);
      close();
      await flushed;

      expect(await collect(notifier)).toContain(100);
    }
  });

  it("forgets on stop also what is on its way", async () => {
    const { container, far, notifier } = await remoteMachine();
    const started = notifier.startDirtyTracking();
    await far.answer();
    await started;
    write(container, 1);
    const collected = collect(notifier);
    const stopped = notifier.stopDirtyTracking();
    await far.answer();
    await stopped;

    expect(await collected).toEqual([]);
    expect(await collect(notifier)).toEqual([]);
  });

  it("counts all that is writable when the container cannot start its log", async () => {
    const { guest, container, notifier } = machine(shadow);
    guest.table.map(0, 2, 100);
    await guest.flush();
    container.dirtyLog.start = () => ({ ok: false, cause: "gone" });
    await notifier.startDirtyTracking();

    expect(notifier.dirtyTracking).toBe("assume");
    expect(await collect(notifier)).toEqual([100, 101]);
  });

  it("forgets on stop, and tells nothing while it is off", async () => {
    const { guest, container, notifier } = machine(shadow);
    guest.table.map(0, 4, 100);
    await guest.flush();
    await notifier.startDirtyTracking();
    write(container, 1);

    await notifier.stopDirtyTracking();

    expect([notifier.dirtyTracking, container.dirtyLog.active]).toEqual(["off", false]);
    expect(await collect(notifier)).toEqual([]);
  });
});

/** What happens while memory is copied away under a running device. */
const event = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("write" as const), iovaPfn: fc.nat({ max: SPACE - 1 }) }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("map" as const),
      iovaPfn: fc.nat({ max: SPACE - 1 }),
      count: fc.integer({ min: 1, max: 8 }),
      gpa: fc.nat({ max: 30 }),
      access: fc.constantFrom<Access>(1, 2, 3),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("unmap" as const),
      iovaPfn: fc.nat({ max: SPACE - 1 }),
      count: fc.integer({ min: 1, max: 8 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("copy" as const) }) },
);

it.each([type1v2, type1, iommufd, vfioUser, shadow])(
  "memory copied while a device writes and the guest remaps ends up equal: no write is lost ($name)",
  async (profile) => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(event, { maxLength: 60 }),
        fc.constantFrom("leaf", "aligned", "free"),
        fc.boolean(),
        async (events, coalescing, remote) => {
          const guest = new Guest();
          const container = new MemoryContainer(profile);
          const far = new RemoteContainer(container);
          const notifier = new VfioNotifier(remote ? far : container, { coalescing });
          notifier.attachTo(guest.device(3));
          const source = new Map<number, number>();
          let serial = 0;
          let running = true;
          // A device that writes whenever it can: also between the calls that carry an invalidation out.
          const dma = (iovaPfn: number) => {
            const out = shadowBlock();
            if (running && container.translate(iovaPfn, Access.write, out)) source.set(out.gpaPfn, ++serial);
          };
          const settle = async (work: Promise<unknown> | undefined | void, iovaPfn = 0) => {
            for (let i = 0; far.waiting > 0; i++) {
              dma((iovaPfn + i) % SPACE);
              await far.answer(1);
            }
            await work;
          };
          guest.table.map(0, 12, 4);
          await settle(guest.flush());
          await settle(notifier.startDirtyTracking());
          const target = new Map(source);
          const copy = async () => {
            const dirty: number[] = [];
            await settle(
              notifier.collectDirty(
                (gpaPfn, pageCount) => void dirty.push(...Array.from({ length: pageCount }, (_, i) => gpaPfn + i)),
              ),
            );
            for (const gpaPfn of dirty) {
              const content = source.get(gpaPfn);
              if (content !== undefined) target.set(gpaPfn, content);
            }
          };

          for (const e of events) {
            if (e.kind === "write") dma(e.iovaPfn);
            else if (e.kind === "copy") await copy();
            else {
              if (e.kind === "map") guest.table.map(e.iovaPfn, e.count, e.gpa, e.access);
              else guest.table.unmap(e.iovaPfn, e.count);
              await settle(guest.flush(), e.iovaPfn);
            }
          }
          // The device is stopped; what it wrote last is copied last.
          running = false;
          await copy();

          expect([...target].sort(([a], [b]) => a - b)).toEqual([...source].sort(([a], [b]) => a - b));
        },
      ),
      { numRuns: 60 },
    );
  },
);

/** Two pages mapped in a container at the end of a pipe. */
async function remoteMachine(profile: typeof type1v2 = vfioUser) {
  const guest = new Guest();
  const container = new MemoryContainer(profile);
  const far = new RemoteContainer(container);
  const scheduler = new ManualScheduler();
  const notifier = new VfioNotifier(far, { scheduler });
  notifier.attachTo(guest.device(3));
  guest.table.map(0, 2, 100);
  const mapped = guest.flush();
  await far.answer();
  await mapped;
  return { guest, container, far, scheduler, notifier };
}

function machine(profile: typeof type1v2) {
  const guest = new Guest();
  const container = new MemoryContainer(profile);
  const notifier = new VfioNotifier(container);
  notifier.attachTo(guest.device(3));
  return { guest, container, notifier };
}

function write(container: MemoryContainer, iovaPfn: number): void {
  expect(container.translate(iovaPfn, RW, shadowBlock())).toBe(true);
}

async function collect(notifier: VfioNotifier): Promise<number[]> {
  const frames: number[] = [];
  await notifier.collectDirty((gpaPfn, pageCount) => {
    for (let i = 0; i < pageCount; i++) frames.push(gpaPfn + i);
  });
  return frames;
}

async function turns(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
}
