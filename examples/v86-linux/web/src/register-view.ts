/**
 * The register block as a table: every register that is not 0, with its fields in the words of the unit's own inspection.
 *
 * A row is made anew only when its value changes: what the reader points at stays.
 */

import type { VtdIommu } from "@iommu-kit/iommu-vtd";
import { inspect, type RegisterInspection } from "@iommu-kit/iommu-vtd/inspect";

/** Registers of capabilities have too many fields for sentences: they show names, and sentences on demand. */
const MOST_SENTENCES = 12;
const REFRESH_MILLISECONDS = 200;
/** Shown also when they are 0: that is an answer. */
const ALWAYS: ReadonlySet<string> = new Set(["GSTS", "FSTS"]);
/** Only the registers are asked for: no table of the guest is read. */
const REGISTERS_ONLY = { ranges: 1, entries: 1, items: 1 } as const;

/** The table's body, kept up to date. */
export class RegisterTable {
  readonly #body: HTMLElement;
  readonly #iommu: VtdIommu;
  readonly #rows = new Map<string, { readonly value: string; readonly row: HTMLTableRowElement }>();
  #drawn = -Infinity;

  constructor(body: HTMLElement, iommu: VtdIommu) {
    this.#body = body;
    this.#iommu = iommu;
  }

  /** Draws if it is time. */
  draw(): void {
    if (performance.now() - this.#drawn < REFRESH_MILLISECONDS) return;
    this.#drawn = performance.now();
    const { registers } = inspect(this.#iommu, REGISTERS_ONLY);
    const shown = registers.filter(({ name, fields }) => ALWAYS.has(name) || fields.some(({ value }) => value !== 0));
    const rows = shown.map((register) => this.#rowOf(register));
    const isSame = rows.length === this.#body.children.length && rows.every((row) => row.parentElement === this.#body);
    if (!isSame) this.#body.replaceChildren(...rows);
  }

  #rowOf(register: RegisterInspection): HTMLTableRowElement {
    const known = this.#rows.get(register.name);
    if (known?.value === register.value) return known.row;
    const row = document.createElement("tr");
    const name = cell(register.name);
    name.title = `${register.title}, ${register.section}`;
    const meaning = document.createElement("td");
    meaning.append(...fieldsOf(register));
    row.append(name, cell(register.value.slice(2)), meaning);
    this.#rows.set(register.name, { value: register.value, row });
    return row;
  }
}

function cell(text: string): HTMLTableCellElement {
  const element = document.createElement("td");
  element.textContent = text;
  return element;
}

/** Fields that are not 0; a field of one bit needs no value. */
function fieldsOf({ fields }: RegisterInspection): readonly HTMLElement[] {
  const set = fields.filter(({ value }) => value !== 0);
  return set.map(({ name, bits, value, meaning }, index) => {
    const element = document.createElement("span");
    const isSentence = fields.length <= MOST_SENTENCES;
    const text = value < 1_000 ? String(value) : `0x${value.toString(16)}`;
    const number = bits.includes(":") ? `${isSentence ? ": " : " "}${text}` : "";
    element.textContent = `${isSentence ? meaning : name}${number}${index < set.length - 1 ? ", " : ""}`;
    element.title = `${name} (bits ${bits}): ${meaning}`;
    return element;
  });
}
