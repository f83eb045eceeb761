/**
 * The machine that the backend suite plays with: the backend under test, a guest, and what that guest has mapped.
 */

import { Access } from "../access.js";
import type { AddressSpace } from "../address-space.js";
import type { Backend, MappingSink } from "../backend.js";
import type { Completion } from "../completion.js";
import { BackendIommu, type Iommu } from "../iommu.js";
import type { LeafTable } from "../diff/leaf-table.js";
import { ALL_FRAMES, contains, type FrameRange, intersect } from "../range.js";
import { FANOUT } from "../diff/slot.js";
import type { SourceId } from "../source-id.js";
import { Translation } from "../translation.js";
import { check, checkTarget, type Target } from "./contract.js";
import { FakeMemory } from "./fake-memory.js";
import { RunList } from "./run-list.js";

/** A backend under test, or a whole unit, and a guest that drives it. */
export type BackendFixture = BackendGuest &
  (
    | {
        /** It must not have been connected yet: the suite makes a unit on it. */
        readonly backend: Backend;
        readonly iommu?: undefined;
      }
    | {
        /** A unit that brings its backend along. */
        readonly iommu: Iommu;
        readonly backend?: undefined;
      }
  );

/** What the suite has the guest do. */
export interface BackendGuest {
  /** A device with tables of its own, empty at first. */
  readonly sourceId: SourceId;
  /** Another device with tables of its own: nothing that is mapped for the first may be seen by it. */
  readonly otherSourceId?: SourceId;
  /** The guest maps free frames of the first device, invalidates as its driver would, and waits. */
  map(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): Completion;
  /** The guest unmaps mapped frames, invalidates as its driver would, and waits. */
  unmap(iovaPfn: number, pageCount: number): Completion;
  /** Input frames that can be mapped. Default: 2^36 from 0 on. */
  readonly range?: FrameRange;
  /** Targets are below this frame. Default: 2^32. */
  readonly targetLimit?: number;
  /** Rights that tables can give. Default: read, write, and both. */
  readonly rights?: readonly Access[];
}

/** @internal A machine on the backend, and what the guest has mapped. */
export class BackendRig {
  readonly fixture: BackendFixture;
  readonly unit: Iommu;
  readonly space: AddressSpace;
  readonly truth = new RunList();
  readonly rights: readonly Access[];
  readonly first: number;
  readonly last: number;
  readonly #out = new Translation();
  readonly #watched = new Set<number>();

  constructor(fixture: BackendFixture) {
    this.fixture = fixture;
    this.unit = fixture.iommu ?? new BackendIommu({ backend: fixture.backend, memory: new FakeMemory() });
    this.space = this.unit.addressSpace(fixture.sourceId);
    this.rights = fixture.rights ?? [Access.read, Access.write, Access.readWrite];
    const range = fixture.range ?? { firstPfn: 0, pageCount: 2 ** 36 };
    this.first = Math.ceil(range.firstPfn / FANOUT) * FANOUT;
    this.last = range.firstPfn + range.pageCount - 1;
  }

  async map(at: number, pageCount: number, gpaPfn: number, access: Access = Access.readWrite): Promise<void> {
    const iovaPfn = this.first + at;
    this.watch(iovaPfn, pageCount);
    this.truth.set({ iovaPfn, pageCount, gpaPfn, access });
    await this.fixture.map(iovaPfn, pageCount, gpaPfn, access);
  }

  async unmap(at: number, pageCount: number): Promise<void> {
    const iovaPfn = this.first + at;
    this.watch(iovaPfn, pageCount);
    this.truth.delete(iovaPfn, pageCount);
    await this.fixture.unmap(iovaPfn, pageCount);
  }

  watch(iovaPfn: number, pageCount: number): void {
    for (let pfn = iovaPfn - 1; pfn <= iovaPfn + pageCount; pfn++) {
      const near = pfn < iovaPfn + 20 || pfn > iovaPfn + pageCount - 20 || pfn % 61 === 0;
      if (near && pfn >= this.first && pfn <= this.last) this.#watched.add(pfn);
    }
  }

  translate(iovaPfn: number, access: Access): Target {
    const out = this.#out;
    this.space.translate(iovaPfn, access, out);
    return out.reason === 0 ? { gpaPfn: out.gpaPfn, access: out.access } : undefined;
  }

  /** Every watched frame of the range translates, for each right, as the guest mapped it. */
  checkTranslations(range: FrameRange = ALL_FRAMES): void {
    for (const pfn of this.#watched) {
      if (!contains(range, pfn)) continue;
      const expected = this.truth.lookup(pfn);
      for (const access of [Access.read, Access.write, Access.readWrite] as const) {
        const allowed = expected !== undefined && (expected.access & access) === access;
        checkTarget(`translate for rights ${access}`, pfn, this.translate(pfn, access), allowed ? expected : undefined);
      }
    }
  }

  /** A scan of the range tells exactly what the guest mapped there, whatever `meanwhile` does at each of its calls. */
  checkScan(
    range: FrameRange = { firstPfn: this.first, pageCount: this.last - this.first + 1 },
    callsAtOnce = Infinity,
    meanwhile?: () => void,
  ): void {
    const seen = new RunList();
    let from = range.firstPfn;
    const end = range.firstPfn + range.pageCount;
    for (let turns = 0; from < end; turns++) {
      check(turns < 100_000, `a scan that is stopped every ${callsAtOnce} calls never ends`);
      const sink = new CollectingSink(seen, { firstPfn: from, pageCount: end - from }, callsAtOnce, meanwhile);
      this.space.domain.scan({ firstPfn: from, pageCount: end - from }, sink);
      from = sink.stopped ? sink.position : end;
    }
    const got = seen.joined(range.firstPfn, range.pageCount);
    const expected = this.truth.joined(range.firstPfn, range.pageCount);
    const same = JSON.stringify(got) === JSON.stringify(expected);
    check(same, `scan: expected ${JSON.stringify(expected)}, got ${JSON.stringify(got)}`);
  }
}

/** @internal Collects a scan, objects to disorder, and stops it after some calls. */
export class CollectingSink implements MappingSink {
  stopped = false;
  /** Everything below has been told. */
  position: number;
  readonly #seen: RunList;
  readonly #range: FrameRange;
  readonly #meanwhile: (() => void) | undefined;
  #callsLeft: number;

  constructor(seen: RunList, range: FrameRange, calls: number, meanwhile?: () => void) {
    this.#seen = seen;
    this.#meanwhile = meanwhile;
    this.#range = range;
    this.#callsLeft = calls;
    this.position = range.firstPfn;
  }

  run(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): boolean {
    this.#meanwhile?.();
    check(!this.stopped, "scan: goes on although it was told to stop");
    check(pageCount > 0, `scan: a run of ${pageCount} frames`);
    const part = intersect({ firstPfn: iovaPfn, pageCount }, this.#range);
    check(iovaPfn + pageCount > this.position, `scan: frame ${iovaPfn} comes after ${this.position}: not ascending`);
    check(iovaPfn >= this.position || part.firstPfn === this.#range.firstPfn, `scan: frame ${iovaPfn} is told twice`);
    if (part.pageCount > 0 && access !== 0) {
      const offset = part.firstPfn - iovaPfn;
      this.#seen.set({ iovaPfn: part.firstPfn, pageCount: part.pageCount, gpaPfn: gpaPfn + offset, access });
    }
    this.position = iovaPfn + pageCount;
    return this.#goOn();
  }

  reach(iovaPfn: number): boolean {
    this.#meanwhile?.();
    check(!this.stopped, "scan: goes on although it was told to stop");
    this.position = Math.max(this.position, Math.min(iovaPfn, this.#range.firstPfn + this.#range.pageCount));
    return true;
  }

  table(iovaPfn: number, table: LeafTable): boolean {
    this.#meanwhile?.();
    check(!this.stopped, "scan: goes on although it was told to stop");
    check(iovaPfn % FANOUT === 0, `scan: a table at frame ${iovaPfn}, no multiple of ${FANOUT}`);
    check(iovaPfn + FANOUT > this.position, `scan: frame ${iovaPfn} comes after ${this.position}: not ascending`);
    table.visit(iovaPfn, this.#range, (pfn, pageCount, gpaPfn, access) => {
      this.#seen.set({ iovaPfn: pfn, pageCount, gpaPfn, access });
      return true;
    });
    this.position = iovaPfn + FANOUT;
    return this.#goOn();
  }

  #goOn(): boolean {
    this.#callsLeft -= 1;
    this.stopped = this.#callsLeft <= 0;
    return !this.stopped;
  }
}
