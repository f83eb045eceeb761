/**
 * What a unit that caches everything remembers of second-stage translations, as a list (§6.2.4, §6.5.2.3).
 */

import type { DeviationName, Traits } from "../deviations.js";
import type { Block } from "./walk.js";

interface Entry {
  readonly sourceId: number;
  readonly domainId: number;
  readonly block: Block;
}

/** See the file's header. */
export class TranslationCache {
  #entries: Entry[] = [];
  /** Pages that went although they had not been named: source-id and first frame of the block. */
  readonly #lost = new Set<string>();
  readonly #traits: Traits;

  constructor(traits: Traits) {
    this.#traits = traits;
  }

  find(sourceId: number, iovaPfn: number): Block | undefined {
    return this.#entries.find((entry) => entry.sourceId === sourceId && covers(entry.block, iovaPfn, 1))?.block;
  }

  add(sourceId: number, domainId: number, block: Block): void {
    this.#entries.push({ sourceId, domainId, block });
  }

  /** Why a page is not there although no invalidation named it. */
  lossOf(sourceId: number, iovaPfn: number): DeviationName | undefined {
    const lost = [0, 9, 18].some((order) => this.#lost.has(`${sourceId} ${iovaPfn - (iovaPfn % 2 ** order)}`));
    return lost ? "page-selective-mask-of-8-bits" : undefined;
  }

  dropAll(): void {
    this.#entries = [];
  }

  dropDomain(domainId: number): void {
    this.#entries = this.#entries.filter((entry) => entry.domainId !== domainId);
  }

  dropPages(domainId: number, pfn: number, order: number): void {
    const pages = 2 ** order;
    const first = pfn - (pfn % pages);
    this.#entries = this.#entries.filter((entry) => {
      if (entry.domainId !== domainId) return true;
      if (covers(entry.block, first, pages)) return false;
      if (!this.#traits.has("page-selective-mask-of-8-bits") || !agree(entry.block.firstPfn, pfn, order)) return true;
      this.#lost.add(`${entry.sourceId} ${entry.block.firstPfn}`);
      return false;
    });
  }
}

function covers(block: Block, first: number, pages: number): boolean {
  return block.firstPfn < first + pages && block.firstPfn + block.pageCount > first;
}

/** Whether two frame numbers agree in the bits that a mask of 8 bits leaves. */
function agree(entryPfn: number, pfn: number, order: number): boolean {
  const mask = order > 7 ? 0 : 0x100 - 2 ** order;
  return ((entryPfn % 256) & mask) === ((pfn % 256) & mask);
}
