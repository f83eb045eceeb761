import type { Access, Completion, MapAnswer, MapNotifier } from "../../src/index.js";

/** What a `CountedShadow` is like. */
export interface CountedShadowOptions {
  readonly granularity: "page" | "block";
  readonly largestBlock?: number;
  readonly replace?: boolean;
  /** Blocks that it takes. */
  readonly capacity?: number;
}

/** A MAP notifier over a few GiB that counts its calls and holds one number for each frame: quick where a list of every call would be slow. */
export class CountedShadow implements MapNotifier {
  readonly kind = "map";
  readonly granularity: "page" | "block";
  readonly largestBlock: number;
  readonly replace?: NonNullable<MapNotifier["replace"]>;
  capacity: number;
  /** For each frame: target * 4 + rights, 0 when it is not held. */
  readonly pages: Float64Array;
  readonly breaches: string[] = [];
  /** For each frame: the pages of the block that begins there. */
  readonly #blocks: Uint32Array;
  #blockCount = 0;
  #calls = 0;

  constructor(options: CountedShadowOptions, frames: number) {
    this.granularity = options.granularity;
    this.largestBlock = options.largestBlock ?? 2 ** 52;
    this.capacity = options.capacity ?? Infinity;
    this.pages = new Float64Array(frames);
    this.#blocks = new Uint32Array(frames);
    if (options.replace === true) this.replace = (...call) => this.#replace(...call);
  }

  get blockCount(): number {
    return this.#blockCount;
  }

  /** Frames that it holds. */
  get heldPages(): number {
    return this.pages.reduce((held, page) => held + (page === 0 ? 0 : 1), 0);
  }

  /** Calls since they were last asked for. */
  takeCalls(): number {
    const calls = this.#calls;
    this.#calls = 0;
    return calls;
  }

  map(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): MapAnswer {
    this.#calls += 1;
    if (this.#blockCount >= this.capacity) return "full";
    if (pageCount > this.largestBlock) this.breaches.push(`map of ${pageCount} pages`);
    for (let i = 0; i < pageCount; i++) {
      if (this.pages[iovaPfn + i] !== 0) this.breaches.push(`map of ${iovaPfn + i}, which is held`);
      this.pages[iovaPfn + i] = (gpaPfn + i) * 4 + access;
    }
    this.#blocks[iovaPfn] = pageCount;
    this.#blockCount += 1;
    return undefined;
  }

  unmap(iovaPfn: number, pageCount: number): Completion {
    this.#calls += 1;
    if (this.granularity === "block" && this.#blocks[iovaPfn] !== pageCount)
      this.breaches.push(`unmap of ${pageCount} pages at ${iovaPfn}, which are no block`);
    for (let pfn = iovaPfn; pfn < iovaPfn + pageCount; pfn++) {
      if (this.pages[pfn] === 0) this.breaches.push(`unmap of ${pfn}, which is not held`);
      if (this.#blocks[pfn] !== 0) this.#blockCount -= 1;
      this.#blocks[pfn] = 0;
    }
    this.pages.fill(0, iovaPfn, iovaPfn + pageCount);
    return undefined;
  }

  revoke(): void {
    this.pages.fill(0);
    this.#blocks.fill(0);
    this.#blockCount = 0;
  }

  #replace(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): MapAnswer {
    this.#calls += 1;
    for (let i = 0; i < pageCount; i++) {
      if (this.pages[iovaPfn + i] === 0) this.breaches.push(`replace of ${iovaPfn + i}, which is not held`);
      this.pages[iovaPfn + i] = (gpaPfn + i) * 4 + access;
    }
    return undefined;
  }
}
