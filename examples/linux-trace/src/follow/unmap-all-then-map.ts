/**
 * The old strategy, kept here to be compared with and in no package: to follow a change of the whole address space, unmap everything that was announced,
 * walk the guest's tables, and map again. In between, a device that is at work finds nothing.
 *
 * It hears of changes as an UNMAP-only notifier does. An invalidation of pages is followed by its differences, as old emulators did too; only what concerns
 * the whole space (context, domain and global invalidations, the root pointer, translation on and off) goes the long way.
 */

import {
  type AddressSpace,
  ALL_FRAMES,
  type Domain,
  endOf,
  type FrameRange,
  intersect,
  type UnmapNotifier,
} from "@iommu-kit/iommu-core";
import { type DmaContainer, ShadowPageTable } from "@iommu-kit/notifier-vfio";
import { type Run, walkDomain } from "./walk-domain.js";

/** See the file's header. */
export class UnmapAllThenMap implements UnmapNotifier {
  readonly kind = "unmap";
  readonly name = "unmap all, then map";
  readonly #space: AddressSpace;
  readonly #container: DmaContainer;
  readonly #regions: readonly FrameRange[];
  readonly #announced = new ShadowPageTable();
  #followed: Domain | undefined;

  constructor(space: AddressSpace, container: DmaContainer, regions: readonly FrameRange[]) {
    this.#space = space;
    this.#container = container;
    this.#regions = regions;
  }

  unmap(firstPfn: number, pageCount: number): void {
    const { domain } = this.#space;
    // Without tables there is nothing to follow: RAM was mapped when it was plugged.
    if (domain.kind === "bypass" && this.#followed?.kind === "bypass") return;
    this.#followed = domain;
    if (pageCount === ALL_FRAMES.pageCount) {
      check(this.#container.unmapAll());
      this.#announced.clear();
    }
    const range = { firstPfn, pageCount };
    const wanted = walkDomain(domain, this.#regions, range);
    this.#removeOthers(range, wanted);
    for (const run of wanted) this.#addMissing(run);
  }

  /** Unmaps what is announced in the range and is not wanted as it is. */
  #removeOthers(range: FrameRange, wanted: readonly Run[]): void {
    for (const held of [...this.#announced.blocks(range.firstPfn, range.pageCount)]) {
      const part = intersect({ firstPfn: held.iovaPfn, pageCount: held.pageCount }, range);
      let at = part.firstPfn;
      for (const run of wanted) {
        if (run.access !== held.access || run.gpaPfn - run.iovaPfn !== held.gpaPfn - held.iovaPfn) continue;
        const kept = intersect({ firstPfn: run.iovaPfn, pageCount: run.pageCount }, part);
        if (kept.pageCount === 0) continue;
        this.#remove(at, kept.firstPfn - at);
        at = endOf(kept);
      }
      this.#remove(at, endOf(part) - at);
    }
  }

  /** Maps what of the run is not announced yet. */
  #addMissing(run: Run): void {
    const end = run.iovaPfn + run.pageCount;
    let at = run.iovaPfn;
    for (const held of [...this.#announced.blocks(run.iovaPfn, run.pageCount)]) {
      this.#add(run, at, Math.max(at, held.iovaPfn));
      at = held.iovaPfn + held.pageCount;
    }
    this.#add(run, at, end);
  }

  #remove(firstPfn: number, pageCount: number): void {
    if (pageCount <= 0) return;
    this.#announced.remove(firstPfn, pageCount);
    check(this.#container.unmap(firstPfn, pageCount));
  }

  #add(run: Run, firstPfn: number, endPfn: number): void {
    if (endPfn <= firstPfn) return;
    const gpaPfn = run.gpaPfn + (firstPfn - run.iovaPfn);
    this.#announced.insert(firstPfn, endPfn - firstPfn, gpaPfn, run.access);
    check(this.#container.map(firstPfn, endPfn - firstPfn, gpaPfn, run.access));
  }
}

function check(answer: unknown): void {
  const refused = answer as { readonly ok?: boolean; readonly cause?: string };
  if (refused.ok !== true) throw new Error(`the container refused: ${refused.cause ?? "it answers late"}`);
}
