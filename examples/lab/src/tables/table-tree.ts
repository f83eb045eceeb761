/**
 * A guest's tables as a tree for people: root-entry, context-entry, and the second-stage tables below (§9.1, §9.3, §9.7), read from guest memory when a node is opened.
 *
 * Neighbours that map consecutive pages are one node. Tables of a guest may point anywhere, at themselves too: depth ends with the levels, and a node's children are only read when asked for.
 */

import { type Access, accessOf, formatAccess, formatSourceId } from "@iommu-kit/iommu-core";

/** The 32-bit word of guest memory at a multiple of 4. */
export type ReadWord = (gpa: number) => number;

/** A node. */
export interface TableNode {
  /** The same for the same entry of the same table, whatever it says. */
  readonly key: string;
  /** Which entry. */
  readonly label: string;
  /** What it says. */
  readonly detail: string;
  /** A leaf that maps pages. */
  readonly leaf: TableLeaf | undefined;
  /** Reads what is below. `undefined` for a leaf. */
  readonly children: (() => TableNode[]) | undefined;
}

/** What a leaf, or several leaves in a row, maps. */
export interface TableLeaf {
  readonly iovaPfn: number;
  readonly pageCount: number;
  readonly gpaPfn: number;
  readonly access: Access;
}

const ENTRIES = 512;
const LARGE = 0x80;
/** Translation types of a context-entry (§9.3). */
const SECOND_STAGE = 0;
const PASS_THROUGH = 2;

/** The tables of a legacy-mode device, from its root-entry on. */
export function tableTree(rootPfn: number, sourceId: number, read: ReadWord): TableNode {
  const bus = sourceId >> 8;
  const entry = fetch(read, rootPfn * 4096 + bus * 16);
  const present = (entry.low & 1) === 1;
  return {
    key: "root",
    label: `root-entry, bus 0x${bus.toString(16)}`,
    detail: present ? `contexts at ${hex(entry.frame)}` : "not present",
    leaf: undefined,
    children: present ? () => [contextNode(entry.frame, sourceId, read)] : undefined,
  };
}

function contextNode(tablePfn: number, sourceId: number, read: ReadWord): TableNode {
  const gpa = tablePfn * 4096 + (sourceId & 0xff) * 16;
  const entry = fetch(read, gpa);
  const high = read(gpa + 8);
  const type = (entry.low >> 2) & 3;
  const levels = (high & 7) + 2;
  const domain = (high >>> 8) & 0xffff;
  const walks = (entry.low & 1) === 1 && type === SECOND_STAGE;
  const says = walks
    ? `domain ${domain}, ${levels} levels`
    : type === PASS_THROUGH
      ? `domain ${domain}, pass-through`
      : `type ${type}`;
  return {
    key: "context",
    label: `context-entry ${formatSourceId(sourceId)}`,
    detail: (entry.low & 1) === 0 ? "not present" : says,
    leaf: undefined,
    children: walks ? () => entryNodes({ tablePfn: entry.frame, level: levels, firstPfn: 0 }, read) : undefined,
  };
}

interface Table {
  readonly tablePfn: number;
  readonly level: number;
  /** The first IOVA frame that it translates. */
  readonly firstPfn: number;
}

function entryNodes({ tablePfn, level, firstPfn }: Table, read: ReadWord): TableNode[] {
  const nodes: TableNode[] = [];
  const span = ENTRIES ** (level - 1);
  let run: OpenRun | undefined;
  const close = (): void => {
    if (run !== undefined) nodes.push(leafNode(run));
    run = undefined;
  };
  for (let index = 0; index < ENTRIES; index++) {
    const { low, frame } = fetch(read, tablePfn * 4096 + index * 8);
    const access = accessOf(low);
    if (access === 0) continue;
    const iovaPfn = firstPfn + index * span;
    if (level > 1 && (low & LARGE) === 0) {
      close();
      nodes.push(tableNode({ tablePfn: frame, level: level - 1, firstPfn: iovaPfn }, index, access, read));
      continue;
    }
    const goesOn: boolean =
      run !== undefined &&
      run.access === access &&
      run.index + run.pageCount / span === index &&
      run.gpaPfn + run.pageCount === frame;
    if (goesOn && run !== undefined) run.pageCount += span;
    else {
      close();
      run = { index, level, span, iovaPfn, pageCount: span, gpaPfn: frame, access };
    }
  }
  close();
  return nodes;
}

interface OpenRun {
  readonly index: number;
  readonly level: number;
  readonly span: number;
  readonly iovaPfn: number;
  pageCount: number;
  readonly gpaPfn: number;
  readonly access: Access;
}

function tableNode(table: Table, index: number, access: Access, read: ReadWord): TableNode {
  const rights = access === 3 ? "" : `, ${formatAccess(access)}`;
  return {
    key: `${table.level}:${table.firstPfn}`,
    label: `entry ${hex(index)}`,
    detail: `level ${table.level} table at ${hex(table.tablePfn)}${rights}`,
    leaf: undefined,
    children: () => entryNodes(table, read),
  };
}

function leafNode({ index, level, span, iovaPfn, pageCount, gpaPfn, access }: OpenRun): TableNode {
  const last = index + pageCount / span - 1;
  const size = level === 1 ? "" : level === 2 ? ", 2 MiB" : ", 1 GiB";
  return {
    key: `leaf:${level}:${iovaPfn}`,
    label: last === index ? `entry ${hex(index)}` : `entries ${hex(index)} to ${hex(last)}`,
    detail: `${hex(iovaPfn)} → ${hex(gpaPfn)} ${formatAccess(access)}${size}`,
    leaf: { iovaPfn, pageCount, gpaPfn, access },
    children: undefined,
  };
}

function fetch(read: ReadWord, gpa: number): { readonly low: number; readonly frame: number } {
  const low = read(gpa);
  return { low, frame: (read(gpa + 4) & 0xfffff) * 2 ** 20 + (low >>> 12) };
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}
