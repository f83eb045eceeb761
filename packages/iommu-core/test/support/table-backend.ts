import {
  type Access,
  ALL_FRAMES,
  type Announce,
  type Backend,
  type Completion,
  type Domain,
  type EntryFormat,
  type FrameRange,
  LeafTable,
  type MappingSink,
  type Requester,
  type SourceId,
  type Translation,
} from "../../src/index.js";
import type { FakeMemory, PageTables } from "../../src/testing/index.js";

/** Entries say what they map where the hub wants it, in any other bits whatever they like. */
const plainEntries = (): EntryFormat => ({
  decode(words, count) {
    for (let i = 0; i < count * 2; i += 2) if ((words[i]! & 3) === 0) words.fill(0, i, i + 2);
  },
});

/** Scans page tables in guest memory: leaf tables go to the sink whole, large pages as runs. Counts the entries it reads. */
export class TableDomain implements Domain {
  readonly kind = "table";
  readonly label: string;
  readonly holes: readonly FrameRange[];
  readonly tables: PageTables;
  readonly memory: FakeMemory;
  entriesRead = 0;
  format = plainEntries();
  readonly #leaf = new LeafTable();
  /** The leaf table lies in the middle of larger memory, as in a direct window. */
  readonly #window = new Int32Array(3 * 1024);
  readonly #leafWords = this.#window.subarray(1024, 2048);
  readonly #words = Array.from({ length: 6 }, () => new Int32Array(1024));

  constructor(label: string, tables: PageTables, holes: readonly FrameRange[] = []) {
    this.label = label;
    this.tables = tables;
    this.memory = tables.memory;
    this.holes = holes;
    this.#leaf.words = this.#window;
    this.#leaf.firstWord = 1024;
  }

  scan(range: FrameRange, sink: MappingSink): void {
    this.#scanTable(this.tables.rootPfn, this.tables.levels, 0, range, sink);
  }

  #scanTable(tablePfn: number, level: number, firstPfn: number, range: FrameRange, sink: MappingSink): boolean {
    const words = this.#words[level]!;
    const span = 512 ** (level - 1);
    const end = range.firstPfn + range.pageCount;
    if (!sink.reach(Math.max(firstPfn, range.firstPfn), 512)) return false;
    this.entriesRead += 512;
    if (!this.memory.fetch(tablePfn * 4096, level === 1 ? this.#leafWords : words)) return true;
    if (level === 1) {
      this.#leaf.format = this.format;
      return sink.table(firstPfn, this.#leaf);
    }
    for (let index = 0; index < 512; index++) {
      const first = firstPfn + index * span;
      if (first + span <= range.firstPfn) continue;
      if (first >= end) return true;
      const low = words[index * 2]!;
      const access = (low & 3) as Access;
      if (access === 0) continue;
      const target = (words[index * 2 + 1]! & 0xfffff) * 2 ** 20 + (low >>> 12);
      const going =
        (low & 0x80) === 0
          ? this.#scanTable(target, level - 1, first, range, sink)
          : sink.run(first, span, target, access);
      if (!going) return false;
    }
    return true;
  }
}

/** Domains of page tables: one for every requester that is not assigned to another. */
export class TableBackend implements Backend {
  readonly domain: TableDomain;
  readonly #assigned = new Map<SourceId, TableDomain>();
  #announce: Announce | undefined;

  constructor(domain: TableDomain) {
    this.domain = domain;
  }

  connect(announce: Announce): void {
    this.#announce = announce;
  }

  domainOf(requester: Requester): TableDomain {
    return this.#assigned.get(requester.sourceId) ?? this.domain;
  }

  /** Moves a requester to other tables. */
  assign(sourceId: SourceId, domain: TableDomain): Completion {
    this.#assigned.set(sourceId, domain);
    return this.#announce?.({ range: ALL_FRAMES, concerns: (requester) => requester.sourceId === sourceId });
  }

  translate(requester: Requester, iovaPfn: number, access: Access, out: Translation): void {
    const { tables, memory } = this.domainOf(requester);
    const level = tables.leafLevel(iovaPfn);
    const gpa = tables.entryGpa(iovaPfn, level);
    const low = memory.peek(gpa);
    const span = 512 ** (level - 1);
    if ((low & 3 & access) !== access || (low & 3) === 0) return out.refuse(1, "not mapped");
    out.allow((memory.peek(gpa + 4) & 0xfffff) * 2 ** 20 + (low >>> 12) + (iovaPfn % span), span, (low & 3) as Access);
  }

  invalidate(range: FrameRange): Completion {
    return this.#announce?.({ range, concerns: () => true });
  }
}
