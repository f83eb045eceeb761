import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Access, IommuError } from "@iommu-kit/iommu-core";
import {
  type Coalescing,
  type CutEvent,
  MemoryContainer,
  type PressureEvent,
  type RefusalEvent,
  shadow,
  shadowBlock,
  type1,
  type1v2,
  vfioUser,
  iommufd,
  VfioNotifier,
} from "@iommu-kit/notifier-vfio";
import { entriesOf, pagesOf, PlainContainer, RemoteContainer, SteppedContainer } from "./containers.js";
import { Guest, GuestTable } from "./guest.js";

const policies: Coalescing[] = ["leaf", "aligned", "free"];

/** Changes of a guest's tables, with superpages, spread over a few leaf tables. */
const change = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant("map" as const),
      first: fc.nat({ max: 1500 }),
      count: fc.integer({ min: 1, max: 40 }),
      gpa: fc.nat({ max: 4000 }),
      access: fc.constantFrom<Access>(1, 2, 3),
      leaf: fc.constant(1),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("map" as const),
      first: fc.constantFrom(0, 512, 1024),
      count: fc.constant(512),
      gpa: fc.constantFrom(0, 512, 7 * 512),
      access: fc.constant<Access>(3),
      leaf: fc.constantFrom(1, 512),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("unmap" as const),
      first: fc.nat({ max: 1500 }),
      count: fc.integer({ min: 1, max: 200 }),
    }),
  },
);
type Change = typeof change extends fc.Arbitrary<infer T> ? T : never;

function apply(table: GuestTable, changes: readonly Change[]): void {
  for (const c of changes) {
    // 4 KiB leaves under a superpage: the driver first writes the superpage out.
    for (const [first, leaf] of [...table.leaves]) {
      if (leaf.pageCount === 1 || first >= c.first + c.count || first + leaf.pageCount <= c.first) continue;
      table.map(first, leaf.pageCount, leaf.gpaPfn, leaf.access);
    }
    if (c.kind === "map") table.map(c.first, c.count, c.gpa, c.access, c.leaf);
    else table.unmap(c.first, c.count);
  }
}

describe.each(policies)("with the %s policy", (coalescing) => {
  it.each([type1v2, type1, iommufd, vfioUser, shadow])(
    "a container of kind $name always holds what the guest's tables say",
    async (profile) => {
      await fc.assert(
        fc.asyncProperty(
          fc.array(fc.array(change, { minLength: 1, maxLength: 4 }), { maxLength: 8 }),
          async (rounds) => {
            const guest = new Guest();
            const container = new MemoryContainer(profile);
            const notifier = new VfioNotifier(container, { coalescing });
            const attachment = notifier.attachTo(guest.device(3));
            for (const changes of rounds) {
              apply(guest.table, changes);
              await guest.flush();
              expect(pagesOf(container)).toEqual(guest.table.pages());
              expect([...notifier.entries()]).toEqual([...container.entries()]);
            }
            expect(attachment.state).toBe("active");
            await notifier.detach();
            expect(container.entriesHeld).toBe(0);
          },
        ),
        { numRuns: 12 },
      );
    },
  );

  it("never makes a page vanish that stays mapped, in a container that applies steps: seen after every single call", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.array(change, { minLength: 1, maxLength: 3 }), { minLength: 1, maxLength: 6 }),
        async (rounds) => {
          const guest = new Guest();
          const container = new MemoryContainer(type1v2);
          const watched = new SteppedContainer(container);
          new VfioNotifier(watched, { coalescing }).attachTo(guest.device(3));
          for (const changes of rounds) {
            const before = new Map(guest.table.pages().map((page) => [Number(page.split(":")[0]), page]));
            apply(guest.table, changes);
            const lasting = guest.table.pages().filter((page) => before.get(Number(page.split(":")[0])) === page);
            const wanted = lasting.map((page) => page.split(":").map(Number));
            const vanished = new Set<number | undefined>();
            const out = shadowBlock();
            watched.afterCall = () => {
              for (const [iova = 0, gpa, access] of wanted) {
                const reached = container.translate(iova, access === 2 ? Access.write : Access.read, out);
                if (!reached || out.gpaPfn !== gpa) vanished.add(iova);
              }
            };
            await guest.flush();
            expect([...vanished]).toEqual([]);
          }
        },
      ),
      { numRuns: 15 },
    );
  });
});

describe("entries", () => {
  it("are the guest's leaves by default: a 2 MiB leaf is one, each 4 KiB leaf is one", () => {
    const { guest, container } = machine();
    guest.table.map(512, 512, 1024, Access.readWrite, 512);
    guest.table.map(2, 3, 40);

    void guest.flush();

    expect(entriesOf(container)).toEqual(["2+1", "3+1", "4+1", "512+512"]);
  });

  it("are naturally aligned blocks with the aligned policy, no larger than wanted", () => {
    const { guest, container } = machine({ coalescing: "aligned", largestBlock: 8 });
    guest.table.map(3, 30, 100);

    void guest.flush();

    expect(entriesOf(container)).toEqual(["3+1", "4+4", "8+8", "16+8", "24+8", "32+1"]);
  });

  it("are whole runs with the free policy, across leaf tables", async () => {
    const { guest, container } = machine({ coalescing: "free" });
    guest.table.map(3, 2000, 100);
    guest.table.map(2003, 5, 9000);
    guest.table.map(2008, 5, 9005, Access.read);

    await guest.flush();

    expect(entriesOf(container)).toEqual(["3+2000", "2003+5", "2008+5"]);
  });

  it("of the free policy are no larger than wanted either", async () => {
    const { guest, container } = machine({ coalescing: "free", largestBlock: 8 });
    guest.table.map(3, 30, 100);

    await guest.flush();

    expect(entriesOf(container)).toEqual(["3+8", "11+8", "19+8", "27+6"]);
    expect(pagesOf(container)).toEqual(guest.table.pages());
  });

  it("are no larger than the container takes", () => {
    const container = Object.assign(new PlainContainer(new MemoryContainer(type1v2)), { largestEntryPageCount: 300 });
    const guest = new Guest();
    new VfioNotifier(container).attachTo(guest.device(3));
    guest.table.map(512, 512, 1024, Access.readWrite, 512);

    void guest.flush();

    expect(entriesOf(container.inner)).toEqual(["512+256", "768+256"]);
  });

  it("refuses a block size that is no power of two, and levels that do not ascend", () => {
    const container = new MemoryContainer(type1v2);
    expect(() => new VfioNotifier(container, { largestBlock: 3 })).toThrow(
      /expected a power of two of pages, got 3 \(512 for 2 MiB/,
    );
    expect(() => new VfioNotifier(container, { pressureLevels: [0.9, 0.5] })).toThrow(
      /expected ascending parts of the limit in \(0, 1\], got 0.9, 0.5/,
    );
    expect(() => new VfioNotifier(container, { pressureLevels: [1.5] })).toThrow(IommuError);
    for (const dirtyDeadlineMilliseconds of [0, -1, 0.5, Number.NaN, Infinity])
      expect(() => new VfioNotifier(container, { dirtyDeadlineMilliseconds })).toThrow(
        `dirtyDeadlineMilliseconds: expected a positive integer, got ${dirtyDeadlineMilliseconds}`,
      );
  });
});

describe("windows, in a container that applies each call by itself", () => {
  it("cannot open with the leaf policy and 4 KiB leaves: other pages are never unmapped", () => {
    const { guest, plain } = machine({}, type1v2, "plain");
    guest.table.map(0, 64, 100);
    void guest.flush();
    plain.calls.length = 0;

    guest.table.unmap(10, 1);
    void guest.flush();
    void guest.flush();

    expect(plain.calls).toEqual(["unmap 10+1"]);
  });

  it("are reported by the address space when the guest breaks a superpage up", () => {
    const { guest, space, container } = machine({}, type1v2, "plain");
    guest.table.map(512, 512, 1024, Access.readWrite, 512);
    void guest.flush();
    const windows: number[] = [];
    space.events.on("window", ({ pageCount }) => windows.push(pageCount));

    guest.table.map(512, 512, 1024);
    void guest.flush();
    expect(windows).toEqual([]);
    guest.table.unmap(700, 1);
    void guest.flush();

    expect(windows).toEqual([188, 323]);
    expect(pagesOf(container)).toEqual(guest.table.pages());
  });

  it("are reported by the notifier when a merged entry is cut, and are no larger than the entry", () => {
    const { guest, notifier, plain, container } = machine({ coalescing: "aligned" }, type1v2, "plain");
    guest.table.map(0, 64, 100);
    guest.table.map(64, 8, 500);
    void guest.flush();
    const windows: CutEvent[] = [];
    notifier.events.on("window", (event) => windows.push(event));
    plain.calls.length = 0;

    guest.table.unmap(66, 1);
    void guest.flush();

    expect(windows).toEqual([{ iovaPfn: 64, pageCount: 8, keptPageCount: 7 }]);
    expect(plain.calls).toEqual(["unmap 64+8", "map 64+2", "map 67+1", "map 68+4"]);
    expect(pagesOf(container)).toEqual(guest.table.pages());
  });
});

describe("a container that is full", () => {
  const small = { ...type1v2, entryLimit: 10 };

  it.each(["memory", "plain"] as const)(
    "refuses, the address space says what is missing, and freed entries are used at once (%s)",
    (kind) => {
      const { guest, space, notifier, attachment, container } = machine({}, small, kind);
      const refused: string[] = [];
      const told: RefusalEvent[] = [];
      space.events.on("refused", ({ iovaPfn, answer }) => refused.push(`${iovaPfn} ${answer}`));
      notifier.events.on("refused", (event) => told.push(event));
      guest.table.map(0, 12, 100);

      expect(() => guest.flush()).not.toThrow();
      expect(attachment.state).toBe("active");
      expect(attachment.refusedPages).toBe(2);
      expect(refused).toEqual(["10 full", "11 full"]);
      expect(told[0]).toEqual({ iovaPfn: 10, pageCount: 1, gpaPfn: 110, cause: "no-space" });

      guest.table.unmap(3, 1);
      void guest.flush();
      expect(attachment.refusedPages).toBe(1);
      guest.table.unmap(4, 1);
      void guest.flush();
      expect(attachment.refusedPages).toBe(0);
      expect(pagesOf(container)).toEqual(guest.table.pages());
    },
  );

  it("does not offer again what the guest has unmapped meanwhile", () => {
    const { guest, attachment, container } = machine({}, small);
    guest.table.map(0, 12, 100);
    void guest.flush();
    guest.table.unmap(10, 2);
    void guest.flush();
    guest.table.unmap(0, 5);
    void guest.flush();

    expect(attachment.refusedPages).toBe(0);
    expect(pagesOf(container)).toEqual(guest.table.pages());
  });

  it("tells its fill at 80 % and 95 % before it refuses, and on the way down", () => {
    const { guest, notifier } = machine({}, { ...type1v2, entryLimit: 100 });
    const told: PressureEvent[] = [];
    const refused: number[] = [];
    notifier.events.on("pressure", (event) => told.push(event));
    notifier.events.on("refused", ({ iovaPfn }) => refused.push(iovaPfn));

    guest.table.map(0, 79, 100);
    void guest.flush();
    expect(told).toEqual([]);
    guest.table.map(0, 81, 100);
    void guest.flush();
    guest.table.unmap(78, 3);
    void guest.flush();
    guest.table.map(0, 99, 100);
    void guest.flush();
    expect(told.map(({ level, rising, entriesHeld }) => [level, rising, entriesHeld])).toEqual([
      [0.8, true, 80],
      [0.95, true, 95],
    ]);
    expect(refused).toEqual([]);
    guest.table.unmap(0, 50);
    void guest.flush();
    expect(told.slice(2).map(({ level, rising }) => [level, rising])).toEqual([
      [0.95, false],
      [0.8, false],
    ]);
  });

  it("is offered everything again when somebody else frees its entries", async () => {
    const container = new MemoryContainer(small);
    for (let i = 0; i < 6; i++) container.map(1000 + i, 1, i, Access.read);
    const guest = new Guest();
    const attachment = new VfioNotifier(container, { exclusive: false }).attachTo(guest.device(3));
    guest.table.map(0, 8, 100);
    void guest.flush();
    expect(attachment.refusedPages).toBe(4);

    container.unmap(1000, 6);
    await Promise.resolve();

    expect(attachment.refusedPages).toBe(0);
    expect(container.entriesHeld).toBe(8);
  });

  it("takes as many merged entries of a run as there is room for, and the address space says what is missing", () => {
    const { guest, space, attachment, container } = machine(
      { coalescing: "aligned" },
      { ...type1v2, entryLimit: 3 },
      "plain",
    );
    const told: string[] = [];
    space.events.on("refused", ({ iovaPfn, pageCount, gpaPfn, answer }) =>
      told.push(`${iovaPfn}+${pageCount} -> ${gpaPfn} ${answer}`),
    );
    guest.table.map(1, 30, 100);

    void guest.flush();

    expect(entriesOf(container)).toEqual(["1+1", "2+2", "4+4"]);
    expect(told).toEqual(["8+23 -> 107 full"]);
    expect(attachment).toMatchObject({
      heldPages: 7,
      refusedPages: 23,
      refusedRanges: [{ firstPfn: 8, pageCount: 23 }],
    });
  });

  it("that has no room for the rest of a merged entry says so through the address space, and is offered it again", () => {
    const { guest, space, attachment, notifier, container } = machine(
      { coalescing: "aligned" },
      { ...type1v2, entryLimit: 3 },
      "plain",
    );
    guest.table.map(0, 16, 100);
    guest.table.map(32, 2, 200);
    void guest.flush();
    const told: string[] = [];
    const refused: RefusalEvent[] = [];
    notifier.events.on("refused", (event) => refused.push(event));
    space.events.on("refused", ({ iovaPfn, pageCount, gpaPfn, answer }) =>
      told.push(`refused ${iovaPfn}+${pageCount} -> ${gpaPfn} ${answer}`),
    );
    space.events.on("window", ({ iovaPfn, pageCount }) => told.push(`window ${iovaPfn}+${pageCount}`));

    guest.table.unmap(5, 1);
    void guest.flush();
    expect(entriesOf(container)).toEqual(["0+4", "4+1", "32+2"]);
    expect(told).toEqual(["window 0+5", "window 6+10", "refused 6+10 -> 106 full"]);
    expect(refused).toEqual([{ iovaPfn: 6, pageCount: 10, gpaPfn: 106, cause: "no-space" }]);
    expect(attachment).toMatchObject({
      heldPages: 7,
      refusedPages: 10,
      refusedRanges: [{ firstPfn: 6, pageCount: 10 }],
    });
    guest.table.unmap(0, 4);
    guest.table.unmap(32, 2);
    void guest.flush();

    expect(attachment).toMatchObject({ heldPages: 11, refusedPages: 0, refusedRanges: [] });
    expect(pagesOf(container)).toEqual(guest.table.pages());
  });

  it("is offered the rest of a cut entry again in the same invalidation, if what follows makes room for it", () => {
    const { guest, attachment, container } = machine({ coalescing: "aligned" }, { ...type1v2, entryLimit: 2 }, "plain");
    guest.table.map(0, 32, 100);
    guest.table.map(32, 16, 132);
    void guest.flush();
    expect(entriesOf(container)).toEqual(["0+32", "32+16"]);

    guest.table.unmap(5, 43);
    void guest.flush();

    expect(entriesOf(container)).toEqual(["0+4", "4+1"]);
    expect(attachment).toMatchObject({ heldPages: 5, refusedPages: 0 });
  });

  it("asks for no retry of the rest of a cut entry that the container does not accept: more room would not help", () => {
    const container = new PlainContainer(new MemoryContainer(type1v2));
    const notifier = new VfioNotifier(container, { coalescing: "free" });
    const told: string[] = [];
    notifier.reportTo({
      refused: (iovaPfn, pageCount, _gpaPfn, _access, answer) => told.push(`${answer} ${iovaPfn}+${pageCount}`),
      window: () => undefined,
      retry: () => told.push("retry"),
    });
    void notifier.map(0, 4, 100, Access.read);
    void notifier.map(8, 1, 200, Access.read);
    container.map = () => ({ ok: false, cause: "bad-target" });

    void notifier.unmap(1, 1);
    void notifier.unmap(8, 1);

    expect(told).toEqual(["unsupported 0+1", "unsupported 2+2"]);
  });

  it("is offered the rest again when somebody else frees entries, but not what the guest has unmapped since", async () => {
    const { guest, attachment, container } = machine(
      { coalescing: "aligned", exclusive: false },
      { ...type1v2, entryLimit: 3 },
      "plain",
    );
    container.map(5000, 1, 1, Access.read);
    guest.table.map(0, 16, 100);
    void guest.flush();
    guest.table.unmap(5, 1);
    void guest.flush();
    expect(attachment.refusedPages).toBe(10);

    guest.table.unmap(6, 2);
    void guest.flush();
    container.unmap(5000, 1);
    await Promise.resolve();

    expect(attachment.refusedPages).toBe(0);
    expect(pagesOf(container)).toEqual(guest.table.pages());
  });
});

describe("targets", () => {
  const barFirstPfn = 0x80000;

  it("that the container does not accept are reported and left out; all else is mapped", () => {
    const { guest, space, notifier, attachment, container } = machine({
      acceptsTarget: (gpaPfn) => gpaPfn < barFirstPfn,
    });
    const answers: string[] = [];
    const causes: string[] = [];
    space.events.on("refused", ({ iovaPfn, answer }) => answers.push(`${iovaPfn} ${answer}`));
    notifier.events.on("refused", ({ cause }) => causes.push(cause));
    guest.table.map(0, 2, 100);
    guest.table.map(2, 1, barFirstPfn);
    guest.table.map(3, 1, 103);

    void guest.flush();

    expect(answers).toEqual(["2 unsupported"]);
    expect(causes).toEqual(["bad-target"]);
    expect(attachment.state).toBe("active");
    expect(entriesOf(container)).toEqual(["0+1", "1+1", "3+1"]);
  });

  it("that the container itself refuses, and ranges outside its aperture, are reported in the same way", () => {
    const { guest, notifier, attachment, container } = machine();
    const causes: string[] = [];
    notifier.events.on("refused", ({ iovaPfn, cause }) => causes.push(`${iovaPfn} ${cause}`));
    guest.table.map(2 ** 27 - 1, 2, 100);

    void guest.flush();

    expect(causes).toEqual([`${2 ** 27} invalid`]);
    expect(attachment.state).toBe("active");
    expect(entriesOf(container)).toEqual([`${2 ** 27 - 1}+1`]);
  });
});

describe("a merged run", () => {
  it("of which the container does not accept one entry is mapped around it", () => {
    const usableRanges = [
      { firstPfn: 0, pageCount: 8 },
      { firstPfn: 16, pageCount: 1000 },
    ];
    const { guest, space, attachment, container } = machine({ coalescing: "aligned" }, { ...type1v2, usableRanges });
    const told: string[] = [];
    space.events.on("refused", ({ iovaPfn, pageCount, gpaPfn, answer }) =>
      told.push(`${iovaPfn}+${pageCount} -> ${gpaPfn} ${answer}`),
    );
    guest.table.map(3, 30, 100);

    void guest.flush();

    expect(entriesOf(container)).toEqual(["3+1", "4+4", "16+16", "32+1"]);
    expect(told).toEqual(["8+8 -> 105 unsupported"]);
    expect(attachment).toMatchObject({ state: "active", heldPages: 22, refusedPages: 8 });
  });

  it("that the container is gone for when it is put there fails the attachment, and answers everybody who added to it", async () => {
    const { guest, attachment, container, notifier } = machine({ coalescing: "free" }, type1v2, "plain");
    notifier.container.map = () => ({ ok: false, cause: "gone" });
    guest.table.map(0, 3, 100);

    await guest.flush();

    expect(attachment).toMatchObject({ state: "failed", failure: { code: "notifier-failed" } });
    expect(container.entriesHeld).toBe(0);
  });

  it("that is still being gathered when its notifier is cut off is answered, and goes nowhere", async () => {
    const container = new PlainContainer(new MemoryContainer(type1v2));
    const notifier = new VfioNotifier(container, { coalescing: "free" });
    notifier.begin();
    const answers = [0, 1].map(async (pfn) => notifier.map(pfn, 1, 100 + pfn, Access.read));

    void notifier.revoke();

    expect(await Promise.all(answers)).toEqual([undefined, undefined]);
    expect([container.calls, notifier.entriesHeld]).toEqual([["unmapAll"], 0]);
  });
});

it("a map over frames that are held already is the caller's mistake, said before the container is asked", () => {
  const container = new PlainContainer(new MemoryContainer(type1v2));
  const notifier = new VfioNotifier(container);
  void notifier.map(4, 4, 100, Access.read);

  expect(() => notifier.map(7, 2, 200, Access.read)).toThrow(
    expect.objectContaining({ code: "notifier-contract", hint: "unmap or replace frames before mapping them again" }),
  );

  expect(container.calls).toEqual(["map 4+4"]);
  expect([...notifier.entries()]).toHaveLength(1);
});

describe("a container that fails", () => {
  it("by being gone ends the attachment, not the guest", () => {
    const { guest, attachment, plain } = machine({}, type1v2, "plain");
    guest.table.map(0, 1, 100);
    void guest.flush();
    plain.map = () => ({ ok: false, cause: "gone" });

    guest.table.map(1, 1, 101);
    expect(() => guest.flush()).not.toThrow();

    expect(attachment.state).toBe("failed");
    expect(plain.inner.entriesHeld).toBe(0);
  });

  it("by not letting go of a page is emptied: no stale mapping stays", () => {
    const { guest, attachment, plain } = machine({}, type1v2, "plain");
    guest.table.map(0, 4, 100);
    void guest.flush();
    plain.unmap = () => ({ ok: true, removedPageCount: 0 });

    guest.table.unmap(2, 1);
    void guest.flush();

    expect(attachment.state).toBe("failed");
    expect(String(attachment.failure?.cause)).toMatch(/expected the container to remove 1 pages, got 0/);
    expect(plain.inner.entriesHeld).toBe(0);
  });

  it("by not letting go even then is reported as stuck", () => {
    const { guest, notifier, plain } = machine({}, type1v2, "plain");
    guest.table.map(0, 4, 100);
    void guest.flush();
    plain.unmap = () => ({ ok: false, cause: "gone" });
    plain.unmapAll = () => ({ ok: false, cause: "gone" });
    const stuck: string[] = [];
    notifier.events.on("stuck", ({ error }) => stuck.push(error.hint));

    guest.table.unmap(2, 1);
    expect(() => guest.flush()).not.toThrow();

    expect(stuck).toEqual(["reset the device behind it"]);
  });

  it("and comes back is replayed to exactly the right view", () => {
    const { guest, notifier, space, plain, container } = machine({}, type1v2, "plain");
    const { map } = PlainContainer.prototype;
    plain.map = () => ({ ok: false, cause: "gone" });
    guest.table.map(0, 4, 100);
    void guest.flush();
    expect(space.attachments[0]?.state).toBe("failed");

    plain.map = map;
    guest.table.map(7, 2, 300);
    void guest.flush();
    void notifier.detach();
    const again = notifier.attachTo(space);

    expect(again.state).toBe("active");
    expect(pagesOf(container)).toEqual(guest.table.pages());
  });

  it("in the middle of a step is emptied for devices too, at once", () => {
    const guest = new Guest();
    const container = new MemoryContainer(type1v2);
    const stepped = new SteppedContainer(container);
    const attachment = new VfioNotifier(stepped).attachTo(guest.device(3));
    guest.table.map(0, 4, 100);
    void guest.flush();
    expect(container.translate(1, Access.read, shadowBlock())).toBe(true);

    guest.table.unmap(0, 1);
    guest.table.map(9, 1, 100);
    stepped.map = () => ({ ok: false, cause: "gone" });
    // The step is closed by the revoke itself: nothing that follows is needed.
    const closed: string[] = [];
    stepped.commit = () => void closed.push("commit");
    stepped.unmapAll = () => {
      closed.push("unmapAll");
      return container.unmapAll();
    };
    void guest.flush();

    expect(attachment.state).toBe("failed");
    expect(closed).toEqual(["unmapAll", "commit"]);
  });

  it("leaves the entries of others alone when it is not exclusive", () => {
    const container = new MemoryContainer(type1v2);
    container.map(5000, 1, 1, Access.read);
    const plain = new PlainContainer(container);
    const guest = new Guest();
    new VfioNotifier(plain, { exclusive: false }).attachTo(guest.device(3));
    guest.table.map(0, 4, 100);
    void guest.flush();
    plain.map = () => ({ ok: false, cause: "gone" });

    guest.table.map(9, 1, 100);
    void guest.flush();

    expect(entriesOf(container)).toEqual(["5000+1"]);
  });
});

describe("a container behind a pipe", () => {
  it("completes the guest's invalidation only when it has answered", async () => {
    const remote = new RemoteContainer(new MemoryContainer(type1v2));
    const guest = new Guest();
    new VfioNotifier(remote).attachTo(guest.device(3));
    guest.table.map(0, 3, 100);

    let done = false;
    const completion = guest.flush()?.then(() => (done = true));
    await remote.answer(2);
    expect([remote.waiting, done]).toEqual([1, false]);
    await remote.answer();
    await completion;

    expect(done).toBe(true);
    expect(pagesOf(remote.inner)).toEqual(guest.table.pages());
  });

  it.each(policies)(
    "ends with what the tables say, whatever is under way when the guest goes on (%s)",
    async (coalescing) => {
      await fc.assert(
        fc.asyncProperty(
          fc.array(
            fc.record({ changes: fc.array(change, { minLength: 1, maxLength: 3 }), answers: fc.nat({ max: 60 }) }),
            { maxLength: 8 },
          ),
          fc.constantFrom(type1v2, vfioUser, shadow),
          async (rounds, profile) => {
            const remote = new RemoteContainer(new MemoryContainer(profile));
            const guest = new Guest();
            const notifier = new VfioNotifier(remote, { coalescing });
            const attachment = notifier.attachTo(guest.device(3));
            for (const { changes, answers } of rounds) {
              apply(guest.table, changes);
              void guest.flush();
              await remote.answer(answers);
            }
            await remote.answer();

            expect(attachment.state).toBe("active");
            expect(pagesOf(remote.inner)).toEqual(guest.table.pages());
            expect([...notifier.entries()]).toEqual([...remote.inner.entries()]);
          },
        ),
        { numRuns: 12 },
      );
    },
  );

  it.each(policies)(
    "that is nearly full never holds what the tables do not, and ends with all that has room (%s)",
    async (coalescing) => {
      await fc.assert(
        fc.asyncProperty(
          fc.array(
            fc.record({ changes: fc.array(change, { minLength: 1, maxLength: 3 }), answers: fc.nat({ max: 60 }) }),
            { maxLength: 8 },
          ),
          async (rounds) => {
            const remote = new RemoteContainer(new MemoryContainer({ ...type1v2, entryLimit: 30 }));
            const guest = new Guest();
            const notifier = new VfioNotifier(remote, { coalescing });
            const attachment = notifier.attachTo(guest.device(3));
            for (const { changes, answers } of rounds) {
              apply(guest.table, changes);
              void guest.flush();
              await remote.answer(answers);
            }
            await remote.answer();

            expect(attachment.state).toBe("active");
            const wanted = new Set(guest.table.pages());
            expect(pagesOf(remote.inner).filter((page) => !wanted.has(page))).toEqual([]);
            expect(remote.inner.pagesHeld + attachment.refusedPages).toBe(wanted.size);
          },
        ),
        { numRuns: 20 },
      );
    },
  );

  it("that refuses a part of a run while the guest unmaps that part does not map it later", async () => {
    const remote = new RemoteContainer(new MemoryContainer({ ...type1v2, entryLimit: 2 }));
    const guest = new Guest();
    new VfioNotifier(remote, { coalescing: "aligned" }).attachTo(guest.device(3));
    guest.table.map(100, 1, 1);
    guest.table.map(102, 1, 3);
    void guest.flush();
    await remote.answer();
    guest.table.map(1, 3, 201);
    void guest.flush();
    await remote.answer(1);

    guest.table.unmap(1, 1);
    void guest.flush();
    await remote.answer();
    guest.table.unmap(100, 3);
    void guest.flush();
    await remote.answer();

    expect(pagesOf(remote.inner)).toEqual(guest.table.pages());
  });

  it("that has no room for the rest of a cut entry is offered it again, if entries were freed while it answered", async () => {
    const remote = new RemoteContainer(new MemoryContainer({ ...type1v2, entryLimit: 2 }));
    const guest = new Guest();
    const attachment = new VfioNotifier(remote, { coalescing: "aligned" }).attachTo(guest.device(3));
    guest.table.map(0, 16, 100);
    guest.table.map(32, 1, 500);
    void guest.flush();
    await remote.answer();

    guest.table.unmap(5, 11);
    void guest.flush();
    guest.table.unmap(32, 1);
    void guest.flush();
    await remote.answer();

    expect(attachment).toMatchObject({ heldPages: 5, refusedPages: 0 });
    expect(pagesOf(remote.inner)).toEqual(guest.table.pages());
  });

  it("that refuses a run of which the guest has unmapped the middle meanwhile is asked again for both ends only", async () => {
    const remote = new RemoteContainer(new MemoryContainer({ ...shadow, entryLimit: 3 }));
    const guest = new Guest();
    const attachment = new VfioNotifier(remote, { coalescing: "free" }).attachTo(guest.device(3));
    for (const iovaPfn of [100, 102, 104]) guest.table.map(iovaPfn, 1, iovaPfn);
    void guest.flush();
    await remote.answer();
    guest.table.map(0, 8, 200);
    const mapped = guest.flush();
    guest.table.unmap(2, 3);
    const unmapped = guest.flush();
    await remote.answer();
    await Promise.all([mapped, unmapped]);
    expect(attachment).toMatchObject({
      state: "active",
      refusedRanges: [
        { firstPfn: 0, pageCount: 2 },
        { firstPfn: 5, pageCount: 3 },
      ],
    });

    guest.table.unmap(100, 5);
    const freed = guest.flush();
    await remote.answer();
    await freed;

    expect(attachment.refusedPages).toBe(0);
    expect(pagesOf(remote.inner)).toEqual(guest.table.pages());
  });

  it("that turns out to be full reports it late, and recovers", async () => {
    const remote = new RemoteContainer(new MemoryContainer({ ...type1v2, entryLimit: 3 }));
    const guest = new Guest();
    const attachment = new VfioNotifier(remote).attachTo(guest.device(3));
    guest.table.map(0, 5, 100);
    void guest.flush();
    await remote.answer();
    expect(attachment.refusedPages).toBe(2);

    guest.table.unmap(0, 2);
    void guest.flush();
    await remote.answer();

    expect(attachment.refusedPages).toBe(0);
    expect(pagesOf(remote.inner)).toEqual(guest.table.pages());
  });

  it("that turns out to be full is offered again what somebody else made room for while it answered", async () => {
    const container = new MemoryContainer({ ...type1v2, entryLimit: 3 });
    container.map(1000, 1, 1, Access.read);
    let answer: (() => void) | undefined;
    const remote = new RemoteContainer(container);
    // Carried out when called, told when the test says so.
    remote.map = (...entry) => {
      const result = container.map(...entry);
      if (result.ok) return Promise.resolve(result);
      return new Promise((resolve) => (answer = () => resolve(result)));
    };
    const guest = new Guest();
    const notifier = new VfioNotifier(
      Object.assign(remote, { onEntriesFreed: (listener: () => void) => container.onEntriesFreed(listener) }),
      { exclusive: false },
    );
    const attachment = notifier.attachTo(guest.device(3));
    guest.table.map(0, 3, 100);
    const flushed = guest.flush();

    container.unmap(1000, 1);
    await new Promise((resolve) => setImmediate(resolve));
    expect(attachment.refusedPages).toBe(0);
    answer?.();
    await flushed;
    await new Promise((resolve) => setImmediate(resolve));

    expect(attachment.refusedPages).toBe(0);
    expect(pagesOf(container)).toEqual(guest.table.pages());
  });
});

describe("several devices", () => {
  it("in one container and one domain are served by one attachment of it: nothing is mapped twice", () => {
    const guest = new Guest();
    const plain = new PlainContainer(new MemoryContainer(type1v2));
    const notifier = new VfioNotifier(plain);
    guest.table.map(0, 3, 100);

    notifier.attachTo(guest.device(3));
    notifier.attachTo(guest.device(4));
    guest.table.map(3, 1, 103);
    void guest.flush();

    expect(plain.calls).toEqual(["map 0+1", "map 1+1", "map 2+1", "map 3+1"]);
  });

  it("with different tables cannot share it: the second is refused with a reason", () => {
    const guest = new Guest();
    const notifier = new VfioNotifier(new MemoryContainer(type1v2));
    notifier.attachTo(guest.device(3));

    expect(() => notifier.attachTo(guest.device(4, new GuestTable("domain 2")))).toThrow(
      /expected what 00:03.0 sees, domain 1.*got 00:04.0 with domain 2/,
    );
  });

  it("follow a device into another domain by differences only", () => {
    const { guest, plain } = machine({}, type1v2, "plain");
    guest.table.map(0, 8, 100);
    void guest.flush();
    const other = new GuestTable("domain 2");
    other.map(0, 7, 100);
    other.map(9, 1, 200);
    plain.calls.length = 0;

    void guest.move(3, other);

    expect(plain.calls).toEqual(["unmap 7+1", "map 9+1"]);
  });
});

describe("the end of an attachment", () => {
  function watched() {
    const guest = new Guest();
    const container = new MemoryContainer(type1v2);
    const listeners = new Set<() => void>();
    const plain = Object.assign(new PlainContainer(container), {
      onEntriesFreed: (listener: () => void) => {
        const end = container.onEntriesFreed(listener);
        listeners.add(listener);
        return () => {
          end();
          listeners.delete(listener);
        };
      },
    });
    const notifier = new VfioNotifier(plain);
    const attachment = notifier.attachTo(guest.device(3));
    guest.table.map(0, 8, 100);
    void guest.flush();
    expect([container.entriesHeld, listeners.size]).toEqual([8, 1]);
    return { guest, container, listeners, notifier, attachment };
  }

  it.each<[string, (parts: ReturnType<typeof watched>) => unknown]>([
    ["its notifier's detach", ({ notifier }) => notifier.detach()],
    ["its own detach", ({ attachment }) => attachment.detach()],
    ["the unplugging of its device", ({ guest }) => guest.device(3).unplug()],
    ["the end of its unit", ({ guest }) => guest.iommu.destroy()],
  ])("by %s leaves nothing in the container, and no listener on it", (_how, end) => {
    const parts = watched();
    void end(parts);
    const { guest, container, listeners, attachment } = parts;
    expect([container.entriesHeld, listeners.size, attachment.state]).toEqual([0, 0, "detached"]);
    guest.table.map(20, 1, 1);
    void guest.flush();
    expect(container.entriesHeld).toBe(0);
  });

  it("by unplugging before anything was mapped leaves nothing for its notifier to end, which serves the next device", async () => {
    const { guest, notifier, container } = machine();
    const { attachments } = guest.device(3);
    void guest.device(3).unplug();
    await notifier.detach();
    expect(attachments[0]?.state).toBe("detached");

    guest.table.map(0, 2, 100);
    notifier.attachTo(guest.device(4));

    expect(pagesOf(container)).toEqual(guest.table.pages());
  });

  it("of one of its devices leaves it listening for the others, and a device that is plugged again is served", async () => {
    const { guest, container, listeners, notifier } = watched();
    notifier.attachTo(guest.device(4));
    void guest.device(3).unplug();
    guest.table.unmap(0, 2);
    void guest.flush();
    expect(listeners.size).toBe(1);
    void guest.device(4).unplug();
    expect([container.entriesHeld, listeners.size]).toEqual([0, 0]);
    notifier.attachTo(guest.device(3));
    expect([container.entriesHeld, listeners.size]).toEqual([6, 1]);
    await notifier.detach();
    expect([container.entriesHeld, listeners.size]).toEqual([0, 0]);
  });
});

it("keeps what a listener throws out of the guest's path", async () => {
  const { guest, notifier, container } = machine({ acceptsTarget: () => false });
  const loose: unknown[] = [];
  const catchLoose = (error: unknown) => loose.push(error);
  process.on("unhandledRejection", catchLoose);
  notifier.events.on("refused", () => {
    throw new Error("listener");
  });
  guest.table.map(0, 1, 100);

  expect(() => guest.flush()).not.toThrow();
  await new Promise((resolve) => setImmediate(resolve));
  process.off("unhandledRejection", catchLoose);

  expect(loose).toHaveLength(1);
  expect(container.entriesHeld).toBe(0);
});

/** A guest with one device behind a notifier. */
function machine(
  options: ConstructorParameters<typeof VfioNotifier>[1] = {},
  profile = type1v2,
  kind: "memory" | "plain" = "memory",
) {
  const guest = new Guest();
  const container = new MemoryContainer(profile);
  const plain = new PlainContainer(container);
  const notifier = new VfioNotifier(kind === "plain" ? plain : container, options);
  const space = guest.device(3);
  return { guest, space, notifier, container, plain, attachment: notifier.attachTo(space) };
}
