/**
 * A guest with page tables, for driving a notifier through the public surface of iommu-core: 4 KiB, 2 MiB and 1 GiB
 * leaves, changed at will and announced by `flush`, as a driver does.
 */
import {
  Access,
  type Announce,
  type Backend,
  BackendIommu,
  type Completion,
  type Domain,
  endOf,
  type FrameRange,
  type GuestMemory,
  intersect,
  LeafTable,
  type Limits,
  type MappingSink,
  type Requester,
  sourceId,
  type Translation,
  ALL_FRAMES,
} from "@iommu-kit/iommu-core";

const RW = Access.readWrite;
const TABLE_PAGES = 512;

interface Leaf {
  readonly pageCount: number;
  readonly gpaPfn: number;
  readonly access: Access;
}

/** One table of the guest. */
export class GuestTable implements Domain {
  readonly kind: "table" | "bypass";
  readonly label: string;
  readonly holes: readonly FrameRange[] = [];
  readonly leaves = new Map<number, Leaf>();

  constructor(label: string, kind: "table" | "bypass" = "table") {
    this.label = label;
    this.kind = kind;
  }

  /** Writes leaves for a run: of 4 KiB, or of the size given. */
  map(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access = RW, leafPages = 1): void {
    this.unmap(iovaPfn, pageCount);
    for (let i = 0; i < pageCount; i += leafPages)
      this.leaves.set(iovaPfn + i, { pageCount: leafPages, gpaPfn: gpaPfn + i, access });
  }

  /** Clears the leaves that begin in a range. */
  unmap(iovaPfn: number, pageCount: number): void {
    for (const first of this.leaves.keys())
      if (first >= iovaPfn && first < iovaPfn + pageCount) this.leaves.delete(first);
  }

  scan(range: FrameRange, sink: MappingSink): void {
    const sorted = [...this.leaves].filter(
      ([first, leaf]) => intersect(range, { firstPfn: first, pageCount: leaf.pageCount }).pageCount > 0,
    );
    sorted.sort(([a], [b]) => a - b);
    for (let i = 0; i < sorted.length;) {
      const [first, leaf] = sorted[i] ?? [0, { pageCount: 0, gpaPfn: 0, access: Access.none }];
      if (leaf.pageCount > 1) {
        if (!sink.run(first, leaf.pageCount, leaf.gpaPfn, leaf.access)) return;
        i += 1;
        continue;
      }
      const base = first - (first % TABLE_PAGES);
      const entries = new Int32Array(TABLE_PAGES * 2);
      for (let next = sorted[i]; next !== undefined && next[0] < base + TABLE_PAGES; next = sorted[++i]) {
        entries[(next[0] - base) * 2] = ((next[1].gpaPfn % 2 ** 20) << 12) | next[1].access;
        entries[(next[0] - base) * 2 + 1] = Math.floor(next[1].gpaPfn / 2 ** 20);
      }
      const table = new LeafTable();
      table.words = entries;
      if (!sink.table(base, table)) return;
    }
  }

  /** Every page of the table, ascending, as `iova:gpa:access`. */
  pages(): string[] {
    return [...this.leaves]
      .sort(([a], [b]) => a - b)
      .flatMap(([first, leaf]) =>
        Array.from({ length: leaf.pageCount }, (_, i) => `${first + i}:${leaf.gpaPfn + i}:${leaf.access}`),
      );
  }
}

/** A machine: the unit with its tables. */
export class Guest implements Backend {
  readonly iommu: BackendIommu;
  readonly table = new GuestTable("domain 1");
  readonly #tables = new Map<number, GuestTable>();
  #announce: Announce = () => undefined;

  constructor(limits: Partial<Limits> = {}) {
    this.iommu = new BackendIommu({ backend: this, memory: noMemory, limits });
  }

  /** A device in slot `slot`, in the first domain unless it is put into another. */
  device(slot: number, table: GuestTable = this.table) {
    const id = sourceId(0, slot, 0);
    this.#tables.set(id, table);
    return this.iommu.addressSpace(id);
  }

  /** Puts the device of a slot into another domain. */
  move(slot: number, table: GuestTable): Completion {
    const id = sourceId(0, slot, 0);
    this.#tables.set(id, table);
    return this.#announce({ range: ALL_FRAMES, concerns: (requester) => requester.sourceId === id });
  }

  /** Invalidates a range of the first domain, or of another. */
  flush(range: FrameRange = ALL_FRAMES, table: GuestTable = this.table): Completion {
    return this.#announce({ range, concerns: (requester) => this.#tables.get(requester.sourceId) === table });
  }

  connect(announce: Announce): void {
    this.#announce = announce;
  }

  domainOf(requester: Requester): Domain {
    return this.#tables.get(requester.sourceId) ?? this.table;
  }

  translate(requester: Requester, iovaPfn: number, access: Access, out: Translation): void {
    const table = this.#tables.get(requester.sourceId) ?? this.table;
    for (const [first, leaf] of table.leaves) {
      if (iovaPfn < first || iovaPfn >= endOf({ firstPfn: first, pageCount: leaf.pageCount })) continue;
      if ((leaf.access & access) === access) return out.allow(leaf.gpaPfn + (iovaPfn - first), 1, leaf.access);
    }
    out.refuse(1, "not mapped");
  }
}

const noMemory: GuestMemory = {
  ram: [{ firstPfn: 0, pageCount: 2 ** 20 }],
  read: () => false,
  write: () => false,
  fetch: () => false,
  writeWord: () => false,
  compareExchange: () => false,
};
