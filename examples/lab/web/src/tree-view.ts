/**
 * The guest's tables as a tree by the ARIA pattern: one stop for Tab, arrows move, right opens, left closes, Enter takes an entry over into the form.
 */

import type { TableLeaf, TableNode } from "../../dist/tables/table-tree.js";
import { make, redraw } from "./dom.js";

/** What the tree asks of the page. */
export interface TreeHost {
  /** A remark on a leaf, such as that nobody knows it yet. */
  remark(leaf: TableLeaf): string | undefined;
  choose(leaf: TableLeaf): void;
}

interface Row {
  readonly node: TableNode;
  readonly level: number;
  readonly index: number;
  readonly siblings: number;
}

/** More are of no use to a reader. */
const MOST_ROWS = 400;

/** See the file's header. */
export class TreeView {
  /** Levels that are open unless closed by hand. */
  openLevels = 9;
  readonly #element: HTMLElement;
  readonly #host: TreeHost;
  readonly #toggled = new Set<string>();
  #rows: readonly Row[] = [];
  #root: TableNode | undefined;
  #current = "root";

  constructor(element: HTMLElement, host: TreeHost) {
    this.#element = element;
    this.#host = host;
    element.addEventListener("keydown", (event) => this.#onKey(event));
    element.addEventListener("click", (event) => {
      const key = (event.target as Element).closest<HTMLElement>("[role=treeitem]")?.dataset["key"];
      if (key !== undefined) this.#activate(key);
    });
  }

  /** Forgets what was opened by hand. */
  reset(): void {
    this.#toggled.clear();
    this.#current = "root";
  }

  draw(root: TableNode | undefined): void {
    this.#root = root;
    const rows: Row[] = [];
    if (root !== undefined) this.#collect({ node: root, level: 1, index: 1, siblings: 1 }, rows);
    this.#rows = rows;
    if (!rows.some(({ node }) => node.key === this.#current)) this.#current = "root";
    redraw(
      this.#element,
      rows.map((row) => this.#item(row)),
    );
  }

  #collect(row: Row, rows: Row[]): void {
    if (rows.length >= MOST_ROWS) return;
    rows.push(row);
    if (!this.#isOpen(row)) return;
    const children = row.node.children?.() ?? [];
    for (const [index, node] of children.entries())
      this.#collect({ node, level: row.level + 1, index: index + 1, siblings: children.length }, rows);
  }

  #isOpen({ node, level }: Row): boolean {
    return node.children !== undefined && this.#toggled.has(node.key) !== level <= this.openLevels;
  }

  #item(row: Row): HTMLElement {
    const { node, level, index, siblings } = row;
    const remark = node.leaf === undefined ? undefined : this.#host.remark(node.leaf);
    const isBranch = node.children !== undefined;
    return make(
      "li",
      {
        role: "treeitem",
        "data-key": node.key,
        "aria-level": level,
        "aria-posinset": index,
        "aria-setsize": siblings,
        "aria-expanded": isBranch ? this.#isOpen(row) : undefined,
        tabindex: node.key === this.#current ? 0 : -1,
        style: `--level: ${level - 1}`,
        class: node.leaf === undefined ? "branch" : "leaf",
      },
      make("span", { class: "label" }, node.label),
      " ",
      make("span", { class: "detail" }, node.detail),
      ...(remark === undefined ? [] : [" ", make("span", { class: "remark" }, remark)]),
    );
  }

  #activate(key: string): void {
    this.#current = key;
    const row = this.#rows.find(({ node }) => node.key === key);
    if (row?.node.leaf !== undefined) this.#host.choose(row.node.leaf);
    else this.#toggle(key);
    this.#focus(key);
  }

  #toggle(key: string): void {
    if (!this.#toggled.delete(key)) this.#toggled.add(key);
    this.draw(this.#root);
  }

  #focus(key: string): void {
    this.#current = key;
    for (const item of this.#element.querySelectorAll<HTMLElement>("[role=treeitem]")) {
      const isCurrent = item.dataset["key"] === key;
      item.tabIndex = isCurrent ? 0 : -1;
      if (isCurrent) item.focus();
    }
  }

  #onKey(event: KeyboardEvent): void {
    const at = this.#rows.findIndex(({ node }) => node.key === this.#current);
    const row = this.#rows[at];
    if (row === undefined) return;
    const target = this.#targetOf(event.key, at, row);
    if (target === undefined) return;
    event.preventDefault();
    if (target === "activate") this.#activate(row.node.key);
    else if (target === "toggle") {
      this.#toggle(row.node.key);
      this.#focus(row.node.key);
    } else this.#focus(target);
  }

  /** The key of the row to move to, or what to do. */
  #targetOf(key: string, at: number, row: Row): string | undefined {
    const keyAt = (index: number): string | undefined => this.#rows[index]?.node.key;
    switch (key) {
      case "ArrowDown":
        return keyAt(at + 1);
      case "ArrowUp":
        return keyAt(at - 1);
      case "Home":
        return keyAt(0);
      case "End":
        return keyAt(this.#rows.length - 1);
      case "ArrowRight":
        if (row.node.children === undefined) return undefined;
        return this.#isOpen(row) ? keyAt(at + 1) : "toggle";
      case "ArrowLeft":
        if (this.#isOpen(row)) return "toggle";
        return this.#rows.slice(0, at).findLast(({ level }) => level < row.level)?.node.key;
      case "Enter":
      case " ":
        return "activate";
      default:
        return undefined;
    }
  }
}
