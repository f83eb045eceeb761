/**
 * The same pages in every holder, as rows of cells: which pages deserve a cell, and how much of each a holder has.
 *
 * An IOVA space is huge and nearly empty. Cells cover what is mapped somewhere and skip the rest; a page gets a cell of its own where there are few.
 */

/** Frames, half-open. */
export interface Span {
  readonly firstPfn: number;
  readonly pageCount: number;
}

/** A cell: frames from `firstPfn` on, of which `mappedPages` are mapped somewhere. */
export interface Cell extends Span {
  readonly mappedPages: number;
}

/** A superpage is not worth 512 cells. */
const MOST_CELLS_OF_A_SPAN = 16;

/** Cells for spans that may overlap, in ascending order, at most `limit`. */
export function cellsOf(spans: Iterable<Span>, limit: number): Cell[] {
  const cells = union(spans).flatMap(split);
  const together = Math.ceil(cells.length / limit);
  if (together <= 1) return cells;
  return Array.from({ length: Math.ceil(cells.length / together) }, (_, index) =>
    join(cells.slice(index * together, (index + 1) * together)),
  );
}

/** Which part of each cell's mapped pages the spans cover, 0 to 1. Spans are ascending and disjoint, as holders keep them. */
export function coverage(cells: readonly Cell[], spans: readonly Span[]): number[] {
  let next = 0;
  return cells.map(({ firstPfn, pageCount, mappedPages }) => {
    const end = firstPfn + pageCount;
    while (next < spans.length && endOf(spans[next]) <= firstPfn) next += 1;
    let pages = 0;
    for (let at = next; at < spans.length && (spans[at]?.firstPfn ?? end) < end; at++)
      pages += Math.min(end, endOf(spans[at])) - Math.max(firstPfn, spans[at]?.firstPfn ?? end);
    return Math.min(1, pages / mappedPages);
  });
}

function union(spans: Iterable<Span>): Cell[] {
  const sorted = [...spans].toSorted((a, b) => a.firstPfn - b.firstPfn);
  const merged: { firstPfn: number; pageCount: number; mappedPages: number }[] = [];
  for (const { firstPfn, pageCount } of sorted) {
    const last = merged.at(-1);
    const end = last === undefined ? -1 : last.firstPfn + last.pageCount;
    if (last === undefined || firstPfn > end) merged.push({ firstPfn, pageCount, mappedPages: pageCount });
    else last.mappedPages = last.pageCount = Math.max(end, firstPfn + pageCount) - last.firstPfn;
  }
  return merged;
}

function split({ firstPfn, pageCount }: Span): Cell[] {
  const count = Math.min(pageCount, MOST_CELLS_OF_A_SPAN);
  const edge = (index: number): number => firstPfn + Math.floor((index * pageCount) / count);
  return Array.from({ length: count }, (_, index) => {
    const pages = edge(index + 1) - edge(index);
    return { firstPfn: edge(index), pageCount: pages, mappedPages: pages };
  });
}

function join(cells: readonly Cell[]): Cell {
  const firstPfn = cells[0]?.firstPfn ?? 0;
  return {
    firstPfn,
    pageCount: endOf(cells.at(-1)) - firstPfn,
    mappedPages: cells.reduce((sum, { mappedPages }) => sum + mappedPages, 0),
  };
}

function endOf(span: Span | undefined): number {
  return span === undefined ? Infinity : span.firstPfn + span.pageCount;
}
