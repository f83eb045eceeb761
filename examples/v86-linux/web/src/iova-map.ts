/**
 * A picture of what one device may reach: all of its 4 GiB, and page by page the end of it, from where Linux hands out addresses.
 *
 * Fed with map and unmap events; drawn once a frame at most, and only when something changed.
 */

const OVERVIEW_CELLS = 128;
const PAGES_PER_CELL = 2 ** 20 / OVERVIEW_CELLS;
const DETAIL_PAGES = 512;
const DETAIL_FIRST_PFN = 2 ** 20 - DETAIL_PAGES;
/** How long a change stays coloured. */
const FADE_MILLISECONDS = 700;

type Colour = readonly [red: number, green: number, blue: number];

interface Palette {
  readonly empty: Colour;
  readonly mapped: Colour;
  readonly fresh: Colour;
  readonly gone: Colour;
}

/** One device's row. */
export class IovaMap {
  readonly element = document.createElement("div");
  readonly #count = document.createElement("small");
  readonly #overview = canvasOf(OVERVIEW_CELLS);
  readonly #detail = canvasOf(DETAIL_PAGES);
  readonly #pagesInCell = new Float64Array(OVERVIEW_CELLS);
  readonly #cellChanged = new Float64Array(OVERVIEW_CELLS).fill(-Infinity);
  readonly #isMapped = new Uint8Array(DETAIL_PAGES);
  readonly #pageChanged = new Float64Array(DETAIL_PAGES).fill(-Infinity);
  readonly #label: string;
  #pages = 0;
  #restless = true;

  /** `label` names the device. */
  constructor(label: string) {
    this.#label = label;
    this.element.className = "device";
    const name = document.createElement("span");
    name.append(label, this.#count);
    this.element.append(name, this.#overview, this.#detail);
    for (const canvas of [this.#overview, this.#detail]) canvas.setAttribute("role", "img");
  }

  /** Frames were mapped (`delta` 1) or unmapped (-1). */
  change(iovaPfn: number, pageCount: number, delta: 1 | -1): void {
    const now = performance.now();
    this.#pages += delta * pageCount;
    this.#restless = true;
    const end = Math.min(iovaPfn + pageCount, 2 ** 20);
    for (let pfn = iovaPfn; pfn < end;) {
      const cell = Math.floor(pfn / PAGES_PER_CELL);
      const next = Math.min(end, (cell + 1) * PAGES_PER_CELL);
      this.#pagesInCell[cell] = (this.#pagesInCell[cell] ?? 0) + delta * (next - pfn);
      this.#cellChanged[cell] = now;
      pfn = next;
    }
    for (let pfn = Math.max(iovaPfn, DETAIL_FIRST_PFN); pfn < end; pfn += 1) {
      this.#isMapped[pfn - DETAIL_FIRST_PFN] = delta === 1 ? 1 : 0;
      this.#pageChanged[pfn - DETAIL_FIRST_PFN] = now;
    }
  }

  /** Draws if something changed or is still fading. */
  draw(palette: Palette): void {
    if (!this.#restless) return;
    const now = performance.now();
    this.#restless = false;
    const colourOf = (isMapped: boolean, changed: number): Colour => {
      const isRecent = now - changed < FADE_MILLISECONDS;
      this.#restless ||= isRecent;
      if (isRecent) return isMapped ? palette.fresh : palette.gone;
      return isMapped ? palette.mapped : palette.empty;
    };
    paint(this.#overview, (cell) => colourOf((this.#pagesInCell[cell] ?? 0) > 0, this.#cellChanged[cell] ?? 0));
    paint(this.#detail, (page) => colourOf(this.#isMapped[page] === 1, this.#pageChanged[page] ?? 0));
    const pages = `${this.#pages.toLocaleString("en")} ${this.#pages === 1 ? "page" : "pages"}`;
    this.#count.textContent = pages;
    this.#overview.setAttribute("aria-label", `${this.#label}: ${pages} mapped in 4 GiB`);
    this.#detail.setAttribute("aria-label", `${this.#label}: the last 2 MiB`);
  }
}

/** The page's colours, as the style sheet has them now. */
export function paletteOf(element: HTMLElement): Palette {
  const colour = (name: string): Colour => {
    element.style.color = `var(${name})`;
    const [red = 0, green = 0, blue = 0] = (getComputedStyle(element).color.match(/[\d.]+/g) ?? []).map(Number);
    return [red, green, blue];
  };
  const palette: Palette = {
    empty: colour("--empty"),
    mapped: colour("--mapped"),
    fresh: colour("--fresh"),
    gone: colour("--gone"),
  };
  element.style.color = "";
  return palette;
}

function canvasOf(width: number): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = 1;
  return canvas;
}

function paint(canvas: HTMLCanvasElement, colourOf: (cell: number) => Colour): void {
  const context = canvas.getContext("2d");
  if (context === null) return;
  const image = context.createImageData(canvas.width, 1);
  for (let cell = 0; cell < canvas.width; cell += 1) {
    image.data.set([...colourOf(cell), 255], cell * 4);
  }
  context.putImageData(image, 0, 0);
}
