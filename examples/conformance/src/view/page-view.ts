/**
 * What a notifier holds, page by page, kept apart from the unit's own structures: a map from IOVA frames to target and rights.
 *
 * Stored as blocks of 2^0, 2^9, 2^18 ... frames that reach consecutive targets, so that gigabytes of identity mapping cost a few numbers;
 * a block is cut when a part of it changes. Two views are equal when every page of them is, whatever their blocks are.
 */

/** A block: target of its first frame and rights; 0 is "not mapped". */
type Packed = number;
type Slot = Packed | Table;

/** A table of 512 slots. */
class Table {
  readonly slots: Slot[] = new Array<Slot>(512).fill(0);
}

/** A run where two views differ: what its first frame reaches in each, packed as target * 4 + rights, 0 for nothing. */
export interface Difference {
  readonly iovaPfn: number;
  readonly pageCount: number;
  readonly mine: Packed;
  readonly other: Packed;
}

/** A difference as text. */
export function formatDifference({ iovaPfn, pageCount, mine, other }: Difference): string {
  const side = (value: Packed): string =>
    value === 0 ? "nothing" : `0x${(Math.floor(value / 4) * 4096).toString(16)} rights ${value % 4}`;
  return `0x${(BigInt(iovaPfn) * 4096n).toString(16)} (${pageCount} pages): ours ${side(mine)}, theirs ${side(other)}`;
}

/** Called with runs of mapped frames. */
export type RunVisitor = (iovaPfn: number, pageCount: number, gpaPfn: number, access: number) => void;

const TOP_PAGES = 2 ** 27;

/** See the file's header. */
export class PageView {
  readonly #top = new Map<number, Slot>();

  /** Makes frames reach `gpaPfn` and following; what they reached before is forgotten. `access` is 1 to 3. */
  set(iovaPfn: number, pageCount: number, gpaPfn: number, access: number): void {
    this.#write(iovaPfn, pageCount, pack(gpaPfn, access));
  }

  /** Makes frames reach nothing. */
  clear(iovaPfn: number, pageCount: number): void {
    for (const index of this.#topIndexes(iovaPfn, pageCount)) this.#writeTop(index, iovaPfn, pageCount, 0);
  }

  /** Target and rights of one frame, packed: 0 if it reaches nothing. */
  at(iovaPfn: number): Packed {
    let slot: Slot = this.#top.get(Math.floor(iovaPfn / TOP_PAGES)) ?? 0;
    let pages = TOP_PAGES;
    let offset = iovaPfn % TOP_PAGES;
    while (typeof slot !== "number") {
      pages /= 512;
      slot = slot.slots[Math.floor(offset / pages)] ?? 0;
      offset %= pages;
    }
    return advance(slot, offset);
  }

  /** Calls `visit` for the mapped frames of a range, in ascending order. Runs are not joined. */
  each(iovaPfn: number, pageCount: number, visit: RunVisitor): void {
    for (const index of this.#topIndexes(iovaPfn, pageCount)) {
      walk(
        this.#top.get(index) ?? 0,
        index * TOP_PAGES,
        TOP_PAGES,
        { first: iovaPfn, end: iovaPfn + pageCount },
        visit,
      );
    }
  }

  /** How many frames of a range are mapped. */
  count(iovaPfn: number, pageCount: number): number {
    let sum = 0;
    this.each(iovaPfn, pageCount, (_, pages) => (sum += pages));
    return sum;
  }

  /** Runs of a range where this view and another differ, in ascending order, `limit` at most. */
  difference(
    other: PageView,
    range: { readonly firstPfn: number; readonly pageCount: number },
    limit = 100,
  ): Difference[] {
    const found: Difference[] = [];
    const end = range.firstPfn + range.pageCount;
    const indexes = new Set([
      ...this.#topIndexes(range.firstPfn, range.pageCount),
      ...other.#topIndexes(range.firstPfn, range.pageCount),
    ]);
    const report = (difference: Difference): boolean => found.push(difference) < limit;
    for (const index of [...indexes].sort((a, b) => a - b)) {
      const bounds = { first: range.firstPfn, end, report };
      if (!compare(this.#top.get(index) ?? 0, other.#top.get(index) ?? 0, index * TOP_PAGES, TOP_PAGES, bounds)) break;
    }
    return found;
  }

  #write(iovaPfn: number, pageCount: number, value: Packed): void {
    const last = Math.floor((iovaPfn + pageCount - 1) / TOP_PAGES);
    for (let index = Math.floor(iovaPfn / TOP_PAGES); index <= last; index++)
      this.#writeTop(index, iovaPfn, pageCount, value);
  }

  #writeTop(index: number, iovaPfn: number, pageCount: number, value: Packed): void {
    const slot = write(this.#top.get(index) ?? 0, index * TOP_PAGES, TOP_PAGES, {
      first: iovaPfn,
      end: iovaPfn + pageCount,
      value,
    });
    if (slot === 0) this.#top.delete(index);
    else this.#top.set(index, slot);
  }

  #topIndexes(iovaPfn: number, pageCount: number): number[] {
    const first = Math.floor(iovaPfn / TOP_PAGES);
    const last = Math.floor((iovaPfn + pageCount - 1) / TOP_PAGES);
    const indexes = [...this.#top.keys()].filter((index) => index >= first && index <= last);
    return indexes.sort((a, b) => a - b);
  }
}

function pack(gpaPfn: number, access: number): Packed {
  return gpaPfn * 4 + access;
}

function advance(value: Packed, pages: number): Packed {
  return value === 0 ? 0 : value + pages * 4;
}

interface Writing {
  readonly first: number;
  readonly end: number;
  /** For frame `first`. */
  readonly value: Packed;
}

function write(slot: Slot, base: number, pages: number, writing: Writing): Slot {
  if (writing.first <= base && writing.end >= base + pages) return advance(writing.value, base - writing.first);
  if (slot === 0 && writing.value === 0) return 0;
  const table = typeof slot === "number" ? cut(slot, pages / 512) : slot;
  const size = pages / 512;
  const from = Math.max(0, Math.floor((writing.first - base) / size));
  const to = Math.min(511, Math.floor((writing.end - 1 - base) / size));
  for (let index = from; index <= to; index++)
    table.slots[index] = write(table.slots[index] ?? 0, base + index * size, size, writing);
  return table;
}

function cut(value: Packed, pages: number): Table {
  const table = new Table();
  if (value !== 0) for (let index = 0; index < 512; index++) table.slots[index] = advance(value, index * pages);
  return table;
}

function walk(
  slot: Slot,
  base: number,
  pages: number,
  range: { readonly first: number; readonly end: number },
  visit: RunVisitor,
): void {
  const first = Math.max(base, range.first);
  const end = Math.min(base + pages, range.end);
  if (slot === 0 || first >= end) return;
  if (typeof slot === "number") {
    const value = advance(slot, first - base);
    visit(first, end - first, Math.floor(value / 4), value % 4);
    return;
  }
  const size = pages / 512;
  for (let index = Math.floor((first - base) / size); index <= Math.floor((end - 1 - base) / size); index++) {
    walk(slot.slots[index] ?? 0, base + index * size, size, range, visit);
  }
}

interface Bounds {
  readonly first: number;
  readonly end: number;
  /** Answers whether to go on. */
  readonly report: (difference: Difference) => boolean;
}

/** Compares two slots for `pages` frames from `base` on, within bounds. `false`: enough has been reported. */
function compare(a: Slot, b: Slot, base: number, pages: number, bounds: Bounds): boolean {
  const first = Math.max(base, bounds.first);
  const end = Math.min(base + pages, bounds.end);
  if (a === b || first >= end) return true;
  const skipped = first - base;
  if (typeof a === "number" && typeof b === "number") {
    return bounds.report({
      iovaPfn: first,
      pageCount: end - first,
      mine: advance(a, skipped),
      other: advance(b, skipped),
    });
  }
  const size = pages / 512;
  const left = typeof a === "number" ? cut(a, size).slots : a.slots;
  const right = typeof b === "number" ? cut(b, size).slots : b.slots;
  const last = Math.floor((end - 1 - base) / size);
  for (let index = Math.floor(skipped / size); index <= last; index++) {
    // Most slots are equal numbers: no call for these.
    if (left[index] === right[index]) continue;
    if (!compare(left[index] ?? 0, right[index] ?? 0, base + index * size, size, bounds)) return false;
  }
  return true;
}
