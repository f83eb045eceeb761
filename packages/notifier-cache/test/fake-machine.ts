/**
 * The smallest machine that a cache can be put behind: an IOMMU on a backend whose "guest tables" are a map of blocks, changed at will and announced when told to.
 */
import {
  type Access,
  type AddressSpace,
  ALL_FRAMES,
  type Announce,
  type Backend,
  BackendIommu,
  type Completion,
  type Domain,
  type FrameRange,
  type Limits,
  type GuestMemory,
  LeafTable,
  type MappingSink,
  type Scheduler,
  type Translation,
} from "@iommu-kit/iommu-core";

interface Block {
  readonly firstPfn: number;
  readonly pageCount: number;
  readonly gpaPfn: number;
  readonly access: Access;
}

/** Refusals of the fake backend. */
export const NOT_MAPPED = 6;
export const NO_RIGHT = 5;

class TableBackend implements Backend {
  readonly blocks = new Map<number, Block>();
  domain: Domain;
  /** Whether the guest invalidates the device TLB by name. */
  deviceTlb = true;
  announce: Announce = () => undefined;
  translations = 0;
  /** Runs inside every translation, after the table was read. */
  duringTranslation: (() => void) | undefined;

  constructor(holes: readonly FrameRange[]) {
    const scan = (range: FrameRange, sink: MappingSink): void => {
      for (const block of [...this.blocks.values()].toSorted((a, b) => a.firstPfn - b.firstPfn)) {
        const first = Math.max(range.firstPfn, block.firstPfn);
        const end = Math.min(range.firstPfn + range.pageCount, block.firstPfn + block.pageCount);
        if (end > first && !sink.run(first, end - first, block.gpaPfn + first - block.firstPfn, block.access)) return;
      }
    };
    this.domain = { kind: "table", label: "the table", holes, scan };
  }

  /** From now on pages are told as tables of 512 entries, as backends with page tables do. */
  tellTables(): void {
    const scan = (range: FrameRange, sink: MappingSink): void => {
      const end = range.firstPfn + range.pageCount;
      for (let first = Math.floor(range.firstPfn / 512) * 512; first < end; first += 512) {
        const entries = new Int32Array(1024);
        for (let i = 0; i < 512; i++) {
          const block = this.blockOf(first + i);
          if (block === undefined) continue;
          const frame = block.gpaPfn + first + i - block.firstPfn;
          entries[i * 2] = ((frame << 12) | block.access) >>> 0;
          entries[i * 2 + 1] = Math.floor(frame / 2 ** 20);
        }
        const table = new LeafTable();
        table.words = entries;
        if (!sink.reach(first, 512) || !sink.table(first, table)) return;
      }
    };
    this.domain = { kind: "table", label: "the tables", holes: [], scan };
  }

  /** From now on a scan tells everything that is mapped, also what lies outside of its range. */
  tellMore(): void {
    const scan = (_range: FrameRange, sink: MappingSink): void => {
      for (const { firstPfn, pageCount, gpaPfn, access } of [...this.blocks.values()].toSorted(
        (a, b) => a.firstPfn - b.firstPfn,
      ))
        if (!sink.run(firstPfn, pageCount, gpaPfn, access)) return;
    };
    this.domain = { kind: "table", label: "all tables", holes: [], scan };
  }

  blockOf(pfn: number): Block | undefined {
    for (const span of [1, 512, 262_144]) {
      const block = this.blocks.get(Math.floor(pfn / span) * span);
      if (block !== undefined && block.pageCount === span) return block;
    }
    return undefined;
  }

  translate(_requester: unknown, iovaPfn: number, access: Access, out: Translation): void {
    this.translations += 1;
    const block =
      this.domain.kind === "bypass"
        ? { firstPfn: iovaPfn, pageCount: 1, gpaPfn: iovaPfn, access: 3 as Access }
        : this.domain.kind === "blocked"
          ? undefined
          : this.blockOf(iovaPfn);
    const needed = access === 0 ? 1 : access;
    if (block === undefined) out.refuse(NOT_MAPPED, "not mapped");
    else if ((block.access & needed) !== needed) out.refuse(NO_RIGHT, "no right");
    else out.allow(block.gpaPfn + iovaPfn - block.firstPfn, block.pageCount, block.access);
    const during = this.duringTranslation;
    this.duringTranslation = undefined;
    during?.();
  }

  domainOf(): Domain {
    return this.domain;
  }

  namesDeviceTlb(): boolean {
    return this.deviceTlb;
  }

  connect(announce: Announce): void {
    this.announce = announce;
  }
}

/** A scheduler whose time the test advances. */
class ManualScheduler implements Scheduler {
  #now = 0;
  #tasks: { readonly at: number; readonly task: () => void }[] = [];

  defer(task: () => void): void {
    setTimeout(task, 0);
  }

  after(milliseconds: number, task: () => void): () => void {
    const entry = { at: this.#now + milliseconds, task };
    this.#tasks.push(entry);
    return () => {
      this.#tasks = this.#tasks.filter((it) => it !== entry);
    };
  }

  /** Runs what is due within the next `milliseconds`. */
  advance(milliseconds: number): void {
    this.#now += milliseconds;
    const due = this.#tasks.filter((it) => it.at <= this.#now);
    this.#tasks = this.#tasks.filter((it) => it.at > this.#now);
    for (const { task } of due) task();
  }
}

/** Guest RAM of 64 MiB at 0. */
export class Ram implements GuestMemory {
  readonly ram: readonly FrameRange[];
  readonly bytes: Uint8Array;

  constructor(pageCount = 16_384, bytes: Uint8Array = new Uint8Array(pageCount * 4096)) {
    this.ram = [{ firstPfn: 0, pageCount }];
    this.bytes = bytes;
  }

  read(gpa: number, into: Uint8Array): boolean {
    if (gpa + into.length > this.bytes.length) return false;
    into.set(this.bytes.subarray(gpa, gpa + into.length));
    return true;
  }

  write(gpa: number, from: Uint8Array): boolean {
    if (gpa + from.length > this.bytes.length) return false;
    this.bytes.set(from, gpa);
    return true;
  }

  fetch(): boolean {
    return false;
  }

  writeWord(): boolean {
    return false;
  }

  compareExchange(): boolean {
    return false;
  }
}

/** One device on a fake unit. */
export class FakeMachine {
  readonly memory: Ram;
  readonly scheduler = new ManualScheduler();
  readonly iommu: BackendIommu;
  readonly space: AddressSpace;
  readonly #backend: TableBackend;

  constructor(
    options: {
      readonly holes?: readonly FrameRange[];
      readonly memory?: Ram;
      readonly limits?: Partial<Limits>;
    } = {},
  ) {
    this.memory = options.memory ?? new Ram(1);
    this.#backend = new TableBackend(options.holes ?? []);
    const { memory, scheduler } = this;
    this.iommu = new BackendIommu({ backend: this.#backend, memory, scheduler, limits: options.limits ?? {} });
    this.space = this.iommu.addressSpace(0x18);
  }

  /** Table walks so far. */
  get translations(): number {
    return this.#backend.translations;
  }

  /** See the backend. Before anything is attached. */
  tellTables(): void {
    this.#backend.tellTables();
  }

  /** See the backend. Before anything is attached. */
  tellMore(): void {
    this.#backend.tellMore();
  }

  /** The device sees memory as it is, or nothing; announced. */
  setDomain(kind: "bypass" | "blocked", holes: readonly FrameRange[] = []): Completion {
    this.#backend.domain = { kind, label: kind, holes, scan: () => undefined };
    return this.invalidate();
  }

  /** Writes the table; announces nothing. `pageCount` is 1, 512 or 2^18, frames aligned to it. */
  map(firstPfn: number, gpaPfn: number, access: Access = 3, pageCount = 1): void {
    this.#backend.blocks.set(firstPfn, { firstPfn, pageCount, gpaPfn, access });
  }

  /** Takes the block at `firstPfn` out of the table; announces nothing. */
  unmap(firstPfn: number): void {
    this.#backend.blocks.delete(firstPfn);
  }

  /** What the table says now: target and rights of one page. */
  read(pfn: number): { readonly gpaPfn: number; readonly access: Access } | undefined {
    const block = this.#backend.blockOf(pfn);
    return block === undefined ? undefined : { gpaPfn: block.gpaPfn + pfn - block.firstPfn, access: block.access };
  }

  /** Announces that this range changed. */
  invalidate(firstPfn = 0, pageCount = ALL_FRAMES.pageCount): Completion {
    return this.#backend.announce({ range: { firstPfn, pageCount }, concerns: () => true });
  }

  /** A device-TLB invalidation. */
  invalidateDeviceTlb(firstPfn: number, pageCount: number): Completion {
    return this.iommu.hub.invalidateDeviceTlb(this.space, { firstPfn, pageCount });
  }

  /** Runs once, in the middle of the next translation. */
  duringNextTranslation(task: () => void): void {
    this.#backend.duringTranslation = task;
  }
}
