/** A container that does not let go of a page which the guest took away: nothing stale stays reachable without an event that says so. */
import { describe, expect, it } from "vitest";
import { Access } from "@iommu-kit/iommu-core";
import {
  type DmaContainer,
  MemoryContainer,
  shadow,
  shadowBlock,
  type1v2,
  VfioNotifier,
} from "@iommu-kit/notifier-vfio";
import { entriesOf, RemoteContainer } from "./containers.js";
import { Guest } from "./guest.js";

const REFUSED = { ok: false, cause: "invalid" } as const;

/** How the removal of one page goes wrong, and whether dirty pages are tracked then. */
const failures: [string, boolean, (container: MemoryContainer) => void][] = [
  ["refused", false, (container) => once(container, "unmap", () => REFUSED)],
  [
    "said that it had removed nothing",
    false,
    (container) => once(container, "unmap", () => ({ ok: true, removedPageCount: 0 })),
  ],
  ["rejected", false, (container) => once(container, "unmap", () => Promise.reject(new Error("EIO")))],
  ["refused an unmap that reads the log", true, (container) => void (container.dirtyLog.unmapAndRead = () => REFUSED)],
  [
    "rejected an unmap that reads the log",
    true,
    (container) => void (container.dirtyLog.unmapAndRead = () => Promise.reject(new Error("EIO"))),
  ],
];

describe.each([true, false])("a container that is exclusive: %s", (exclusive) => {
  it.each(failures)(
    "has let go when the attachment has failed, although at first it %s",
    async (_how, tracking, break_) => {
      const { guest, container, notifier, attachment, stuck } = await machine({ exclusive, tracking });
      break_(container);

      guest.table.unmap(1, 1);
      await guest.flush();
      await settled();

      expect(attachment.state).toBe("failed");
      expect(entriesOf(container)).toEqual(exclusive ? [] : ["5000+1"]);
      expect(stuck).toEqual([]);
      expect(await collect(notifier)).toEqual(tracking ? [100, 101, 102, 103] : []);
    },
  );

  it.each([true, false])(
    "that never lets go of one page is reported as stuck, once, and lets go of all others (tracking: %s)",
    async (tracking) => {
      const { guest, container, attachment, stuck } = await machine({ exclusive, tracking });
      const { unmap } = container;
      container.unmap = (iovaPfn, pageCount) => (iovaPfn === 1 ? REFUSED : unmap.call(container, iovaPfn, pageCount));
      container.unmapAll = () => REFUSED;
      delete container.dirtyLog.unmapAndRead;

      guest.table.unmap(1, 1);
      await guest.flush();
      await settled();

      expect(attachment.state).toBe("failed");
      expect(container.translate(1, Access.read, shadowBlock())).toBe(true);
      expect(stuck).toEqual(["reset the device behind it"]);
      if (!exclusive) expect(entriesOf(container)).toEqual(["1+1", "5000+1"]);
    },
  );
});

/** How a container answers an unmap that it never carries out. */
const denials: [string, () => ReturnType<DmaContainer["unmap"]>][] = [
  ["refuses", () => REFUSED],
  [
    "throws at",
    () => {
      throw new Error("EIO");
    },
  ],
  ["rejects", () => Promise.reject(new Error("EIO"))],
];

it.each(denials)(
  "a container that is shared and %s every unmap of one page is reported as stuck, once, and lets go of all others",
  async (_how, deny) => {
    const { guest, container, attachment, stuck } = await machine({ exclusive: false });
    const { unmap } = container;
    container.unmap = (iovaPfn, pageCount) =>
      iovaPfn === 1 ? (deny() as ReturnType<typeof unmap>) : unmap.call(container, iovaPfn, pageCount);

    guest.table.unmap(1, 1);
    await guest.flush();
    await settled();

    expect(attachment.state).toBe("failed");
    expect(stuck).toEqual(["reset the device behind it"]);
    expect(entriesOf(container)).toEqual(["1+1", "5000+1"]);
  },
);

it.each(denials)("a container of its own that %s being emptied is reported as stuck, once", async (_how, deny) => {
  const { guest, container, attachment, stuck } = await machine({});
  container.unmapAll = deny as MemoryContainer["unmapAll"];
  container.map = () => ({ ok: false, cause: "gone" });

  guest.table.map(9, 1, 900);
  await guest.flush();
  await settled();

  expect(attachment.state).toBe("failed");
  expect(stuck).toEqual(["reset the device behind it"]);
});

it.each(denials.slice(1))(
  "a container that %s the end of the step in which it failed is reported as stuck, and what was unmapped in it counts as far as it was written",
  async (_how, deny) => {
    const { guest, container, notifier, attachment, stuck } = await machine({ tracking: true });
    delete container.dirtyLog.unmapAndRead;
    expect(container.translate(1, Access.write, shadowBlock())).toBe(true);
    container.map = () => ({ ok: false, cause: "gone" });
    const { commit } = container;
    container.commit = () => {
      commit.call(container);
      return deny() as unknown as undefined;
    };

    guest.table.unmap(0, 4);
    guest.table.map(9, 1, 900);
    await guest.flush();
    await settled();

    expect(attachment.state).toBe("failed");
    expect(stuck).toEqual(["reset the device behind it"]);
    expect(await collect(notifier)).toEqual([101]);
  },
);

it("a step that a failure cut short is read when the container has closed it, not before", async () => {
  const { guest, container, notifier } = await machine({ tracking: true });
  delete container.dirtyLog.unmapAndRead;
  container.map = () => ({ ok: false, cause: "gone" });
  const { commit } = container;
  let close = (): void => undefined;
  container.commit = () =>
    new Promise<void>((resolve) => {
      close = () => resolve(commit.call(container));
    }) as unknown as undefined;
  guest.table.unmap(0, 4);
  guest.table.map(9, 1, 900);
  const flushed = guest.flush();
  await settled();

  // The device goes on through what it had until the step is closed.
  expect(container.translate(2, Access.write, shadowBlock())).toBe(true);
  close();
  await flushed;

  expect(await collect(notifier)).toEqual([102]);
});

it("what is not confirmed yet when another page fails is let go of too", async () => {
  const { guest, container, far, attachment, stuck } = await machine({ exclusive: false, remote: true });
  // Both are on their way when the first is refused; the second is refused afterwards, when the attachment is over.
  let refusals = 0;
  const { unmap } = container;
  container.unmap = (...range) => (refusals++ < 2 ? REFUSED : unmap.apply(container, range));

  guest.table.unmap(1, 1);
  const first = guest.flush();
  guest.table.unmap(2, 1);
  const second = guest.flush();
  await far.answer();
  await Promise.all([first, second]);
  await settled();

  expect(attachment.state).toBe("failed");
  expect(entriesOf(container)).toEqual(["5000+1"]);
  expect(stuck).toEqual([]);
});

it("a container that confirms late, after the attachment has failed, is not reported as stuck", async () => {
  const { guest, container, far, attachment, stuck } = await machine({ exclusive: false, remote: true });
  guest.table.unmap(1, 1);
  void guest.flush();
  const { map } = container;
  container.map = (...entry) => (entry[0] === 9 ? { ok: false, cause: "gone" } : map.apply(container, entry));
  guest.table.map(9, 1, 900);
  void guest.flush();
  await far.answer();
  await settled();

  expect(attachment.state).toBe("failed");
  expect(entriesOf(container)).toEqual(["5000+1"]);
  expect(stuck).toEqual([]);
});

it("what was unmapped in a step that a failure cut short is counted as far as it was written", async () => {
  const { guest, container, notifier } = await machine({ tracking: true });
  delete container.dirtyLog.unmapAndRead;
  expect(container.translate(1, Access.write, shadowBlock())).toBe(true);
  container.map = () => ({ ok: false, cause: "gone" });

  guest.table.unmap(0, 4);
  guest.table.map(9, 1, 900);
  await guest.flush();

  expect(await collect(notifier)).toEqual([101]);
});

it("the guest's waits, also of what it does meanwhile, complete only when the second try has been answered", async () => {
  for (const exclusive of [true, false]) {
    const { guest, container, far, attachment } = await machine({ exclusive, remote: true });
    once(container, "unmap", () => REFUSED);
    const done: string[] = [];
    guest.table.unmap(1, 1);
    const first = guest.flush()?.then(() => done.push("first"));
    await far.answer(1);
    await settled();
    expect([attachment.state, far.waiting > 0, done]).toEqual(["failed", true, []]);

    guest.table.unmap(2, 1);
    const second = guest.flush()?.then(() => done.push("second"));
    await settled();
    expect([container.translate(1, Access.read, shadowBlock()), done]).toEqual([true, []]);
    await far.answer();
    await Promise.all([first, second]);

    expect(done).toEqual(["first", "second"]);
    expect(container.translate(1, Access.read, shadowBlock())).toBe(false);
  }
});

async function machine(options: { exclusive?: boolean; tracking?: boolean; remote?: boolean }) {
  const guest = new Guest();
  const container = new MemoryContainer(options.remote === true ? type1v2 : shadow);
  const far = new RemoteContainer(container);
  const used: DmaContainer = options.remote === true ? far : container;
  if (options.exclusive === false) container.map(5000, 1, 1, Access.read);
  const notifier = new VfioNotifier(used, { exclusive: options.exclusive ?? true });
  const attachment = notifier.attachTo(guest.device(3));
  guest.table.map(0, 4, 100);
  const flushed = guest.flush();
  await far.answer();
  await flushed;
  if (options.tracking === true) await notifier.startDirtyTracking();
  const stuck: string[] = [];
  notifier.events.on("stuck", ({ error }) => stuck.push(error.hint));
  return { guest, container, far, notifier, attachment, stuck };
}

/** Answers the next call of one method only. */
function once(container: MemoryContainer, name: "unmap", answer: () => unknown): void {
  const original = container[name];
  container[name] = (() => {
    container[name] = original;
    return answer();
  }) as MemoryContainer["unmap"];
}

async function settled(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
}

async function collect(notifier: VfioNotifier): Promise<number[]> {
  const frames: number[] = [];
  await notifier.collectDirty((gpaPfn, pageCount) => {
    for (let i = 0; i < pageCount; i++) frames.push(gpaPfn + i);
  });
  return frames;
}
