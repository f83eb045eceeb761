/**
 * A run of frames that is still growing: with the `free` policy an entry is made when the step ends, or when the next
 * map does not continue it. Everybody who contributed gets the one answer.
 */
import type { Access, MapAnswer } from "@iommu-kit/iommu-core";

/** One run, from its first map until `settle`. */
export class OpenRun {
  readonly iovaPfn: number;
  readonly gpaPfn: number;
  readonly access: Access;
  /** The container's answer, once the run has been closed. */
  readonly answer: Promise<MapAnswer>;
  #pageCount: number;
  #resolve: (answer: MapAnswer | Promise<MapAnswer>) => void = () => undefined;
  #reject: (cause: unknown) => void = () => undefined;

  constructor(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access) {
    this.iovaPfn = iovaPfn;
    this.gpaPfn = gpaPfn;
    this.access = access;
    this.#pageCount = pageCount;
    this.answer = new Promise<MapAnswer>((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  get pageCount(): number {
    return this.#pageCount;
  }

  /** Takes more frames in; false where they do not continue the run. */
  extend(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): boolean {
    const continues =
      iovaPfn === this.iovaPfn + this.#pageCount && gpaPfn === this.gpaPfn + this.#pageCount && access === this.access;
    if (continues) this.#pageCount += pageCount;
    return continues;
  }

  /** Answers everybody with what `place` answers, or throws. */
  settle(place: () => MapAnswer | Promise<MapAnswer>): void {
    try {
      this.#resolve(place());
    } catch (cause) {
      this.#reject(cause);
    }
  }
}
