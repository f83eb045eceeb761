/** Directories of leaf tables that the host vouches for: what makes the unit read them again, and what it may leave out. */
import { describe, expect, it } from "vitest";
import { BackendIommu, type EntryFormat, type FrameRange, LeafTable, type MappingSink } from "../src/index.js";
import { FakeMemory, ManualScheduler, RecordingNotifier } from "../src/testing/index.js";
import { range, run } from "./support/machine.js";
import { OneDomain } from "./support/one-domain.js";

const SPAN = 2 ** 18;
const WHOLE = range(0, 2 ** 36);

/** A table of a guest's, in the frame that the host counts changes of. */
interface Table {
  readonly pfn: number;
  generation: number;
  readonly words: Int32Array;
}

/** A table whose only entry, the first, maps this frame. */
function tableOf(pfn: number, target: number): Table {
  const words = new Int32Array(1024);
  words[0] = (target << 12) | 3;
  return { pfn, generation: 1, words };
}

/** What a directory says: by index, tables or whole superpages. */
interface Directory {
  readonly pfn: number;
  generation: number;
  readonly entries: Map<number, Table | { readonly superpage: number }>;
}

function directoryOf(pfn: number, ...entries: [number, Table | { readonly superpage: number }][]): Directory {
  return { pfn, generation: 1, entries: new Map(entries) };
}

/** One directory for the first 2^18 frames, and the host's word for everything in it. */
class Guest extends OneDomain {
  directory: Directory;
  format: EntryFormat = { decode: () => undefined };
  /** The scan breaks off when it is about to read the directory. */
  broken = false;
  /** What is invalidated. */
  range = WHOLE;
  /** The tables are pointed to by nothing that is read: the sink hears of no directory. */
  flat = false;
  /** The sink is asked about the directory whatever the range. */
  asksAlways = false;
  /** Frames of the tables that were handed over. */
  readonly told: number[] = [];
  readonly #generations = new Map<number, () => number>();
  readonly #table = new LeafTable();

  constructor(directory: Directory) {
    super();
    this.directory = directory;
  }

  /** Answers the tables that were read for it. */
  flush(part = this.range): number[] {
    this.invalidate(part);
    return this.told.splice(0);
  }

  scan(part: FrameRange, sink: MappingSink): void {
    if (this.flat || this.#scanDirectory(part, sink)) this.#scanEntries(part, sink);
  }

  /** Whether what it points to is to be read. */
  #scanDirectory(part: FrameRange, sink: MappingSink): boolean {
    const { pfn, generation } = this.directory;
    if (part.firstPfn < SPAN && !sink.reach(part.firstPfn, 512, part.firstPfn > 0)) return false;
    if (this.asksAlways || (part.firstPfn === 0 && part.pageCount >= SPAN)) {
      Object.assign(this.#table, { pfn, generation, format: this.format });
      if (sink.isProved?.(0, this.#table, (frame) => this.#generations.get(frame)?.() ?? -2) === true) return false;
    }
    if (this.broken) throw new Error("the memory is gone");
    return true;
  }

  #scanEntries(part: FrameRange, sink: MappingSink): void {
    for (const [index, entry] of this.directory.entries) {
      const first = index * 512;
      if (first + 512 <= part.firstPfn || first >= part.firstPfn + part.pageCount) continue;
      if ("superpage" in entry) {
        if (!sink.run(first, 512, entry.superpage, 3)) return;
      } else {
        if (!sink.reach(first, 512)) return;
        this.told.push(entry.pfn);
        this.#generations.set(entry.pfn, () => entry.generation);
        Object.assign(this.#table, { ...entry, format: this.format });
        if (!sink.table(first, this.#table)) return;
      }
    }
  }
}

function world(directory: Directory, limits = {}) {
  const guest = new Guest(directory);
  const scheduler = new ManualScheduler();
  const unit = new BackendIommu({ backend: guest, memory: new FakeMemory(), scheduler, limits });
  const notifier = new RecordingNotifier({ replace: true });
  unit.addressSpace(0).attach(notifier);
  guest.told.splice(0);
  return { guest, scheduler, notifier };
}

describe("a directory that the host vouches for", () => {
  it("is not taken for another one of the same generation", () => {
    const { guest, notifier } = world(directoryOf(40, [0, tableOf(20, 100)]));
    expect(guest.flush()).toEqual([]);
    guest.directory = directoryOf(41, [3, tableOf(21, 200)]);
    expect(guest.flush()).toEqual([21]);
    expect(notifier.held()).toEqual([run(3 * 512, 1, 200)]);
  });

  it("is none any more once a leaf stands for another table, whatever the counters say, also when all of it is as it was again", () => {
    const [first, second] = [tableOf(20, 100), tableOf(21, 200)];
    const { guest, notifier } = world(directoryOf(40, [0, first]));
    const known = guest.directory;
    guest.directory = directoryOf(41, [0, second]);
    // Only this table is looked at: nothing is known of the other directory.
    expect(guest.flush(range(0, 512))).toEqual([21]);
    guest.directory = known;
    expect(guest.flush()).toEqual([20]);
    expect(notifier.held()).toEqual([run(0, 1, 100)]);
  });

  it("is read when the host has ceased to vouch for one of its tables", () => {
    const [kept, edited] = [tableOf(20, 100), tableOf(21, 200)];
    const { guest, notifier } = world(directoryOf(40, [0, kept], [1, edited]));
    edited.words[0] = (201 << 12) | 3;
    edited.words[2] = (202 << 12) | 3;
    edited.generation = 2;
    guest.flush(range(512, 1));
    edited.generation = -1;
    expect(guest.flush()).toEqual([20, 21]);
    expect(notifier.held()).toEqual([run(0, 1, 100), run(512, 2, 201)]);
    // What nobody vouches for is read every time.
    expect(guest.flush()).toEqual([20, 21]);
  });

  it("says nothing of what was mapped while its pass was not finished", () => {
    const { guest, notifier, scheduler } = world(directoryOf(40, [0, tableOf(20, 100)]));
    guest.directory.generation = 2;
    guest.broken = true;
    guest.flush();
    expect(notifier.held()).toEqual([]);
    expect(() => scheduler.turn()).toThrow("the memory is gone");
    guest.broken = false;
    expect(guest.flush()).toEqual([20]);
    expect(notifier.held()).toEqual([run(0, 1, 100)]);
  });

  it("is told again right after it has been taken back, as it was when it was told first", () => {
    const { guest, notifier } = world(directoryOf(40, [0, { superpage: 1024 }], [1, { superpage: 4096 }]));
    const whole = notifier.held();
    for (let i = 0; i < 3; i++) {
      guest.blocked = true;
      guest.flush();
      expect(notifier.held()).toEqual([]);
      guest.blocked = false;
      guest.flush();
      expect(notifier.held()).toEqual(whole);
    }
  });

  it("is not passed over by a scan of a part of it, or by the next one of the rest", () => {
    const { guest, notifier } = world(directoryOf(40, [0, tableOf(20, 100)], [511, tableOf(21, 200)]));
    expect(guest.flush()).toEqual([]);
    guest.asksAlways = true;
    expect(guest.flush(range(0, 512))).toEqual([20]);
    expect(guest.flush(range(1, SPAN))).toEqual([20, 21]);
    expect(guest.flush(range(511 * 512, SPAN))).toEqual([21]);
    expect(guest.flush(range(0, SPAN))).toEqual([]);
    expect(notifier.held()).toEqual([run(0, 1, 100), run(511 * 512, 1, 200)]);
  });

  it("stays vouched for where one of its tables has changed and was read in an invalidation of its own", () => {
    const [kept, edited] = [tableOf(20, 100), tableOf(21, 200)];
    const { guest, notifier } = world(directoryOf(40, [0, kept], [1, edited]));
    edited.words[2] = (300 << 12) | 3;
    edited.generation = 2;
    expect(guest.flush(range(512, 512))).toEqual([21]);
    expect(guest.flush()).toEqual([]);
    expect(notifier.held()).toEqual([run(0, 1, 100), run(512, 1, 200), run(513, 1, 300)]);
  });

  it("is read every time while one of its tables maps nothing: nothing is kept of such a table", () => {
    const [kept, emptied] = [tableOf(20, 100), tableOf(21, 200)];
    const { guest, notifier } = world(directoryOf(40, [0, kept], [1, emptied]));
    emptied.words[0] = 0;
    emptied.generation = 2;
    for (let i = 0; i < 3; i++) expect(guest.flush()).toEqual([20, 21]);
    expect(notifier.held()).toEqual([run(0, 1, 100)]);
  });

  it("is not taken for read by a pass over tables that no directory points to", () => {
    const [kept, gone] = [tableOf(20, 100), tableOf(21, 200)];
    const { guest, notifier } = world(directoryOf(40, [0, kept], [1, gone]));
    const known = guest.directory;
    expect(guest.flush()).toEqual([]);
    // The same counters of the host, and one of the tables: another domain that shares it.
    guest.directory = directoryOf(40, [0, kept]);
    guest.flat = true;
    expect(guest.flush()).toEqual([20]);
    expect(notifier.held()).toEqual([run(0, 1, 100)]);
    guest.flat = false;
    guest.directory = known;
    expect(guest.flush()).toEqual([20, 21]);
    expect(notifier.held()).toEqual([run(0, 1, 100), run(512, 1, 200)]);
  });

  it("of which the host keeps no count is read every time", () => {
    const { guest } = world(directoryOf(40, [0, tableOf(20, 100)]));
    guest.directory.generation = -1;
    for (let i = 0; i < 3; i++) expect(guest.flush()).toEqual([20]);
  });

  it("may be empty, or end with the range", () => {
    const { guest, notifier, scheduler } = world(directoryOf(40));
    guest.range = range(0, SPAN);
    expect(guest.flush()).toEqual([]);
    guest.directory.entries.set(511, tableOf(20, 100));
    guest.directory.generation = 2;
    expect(guest.flush()).toEqual([20]);
    expect(guest.flush()).toEqual([]);
    expect(notifier.held()).toEqual([run(511 * 512, 1, 100)]);
    // Nothing of all this was an error of the unit's.
    expect(scheduler.turn()).toBe(0);
  });

  it("that took several slices is remembered by the next pass, which takes one", async () => {
    const tables = [0, 1, 2].map((index): [number, Table] => [index, tableOf(20 + index, 100 * index + 100)]);
    const { guest, notifier, scheduler } = world(directoryOf(40, ...tables), { entriesPerSlice: 1100 });
    expect(notifier.pageCount).toBeLessThan(3);
    await scheduler.idle();
    expect(notifier.held()).toEqual([run(0, 1, 100), run(512, 1, 200), run(1024, 1, 300)]);
    guest.told.splice(0);
    expect(guest.flush()).toEqual([20, 21, 22]);
    expect(guest.flush()).toEqual([]);
    notifier.check();
  });
});
