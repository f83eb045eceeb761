/**
 * The driver's side of a split virtqueue whose every page may lie anywhere: addresses are IOVAs, and each access goes through the guest's own view of them.
 */

/** Where the guest finds a byte that the device knows by an IOVA. */
export type Locate = (iova: number) => number;

/** A virtqueue of `size` descriptors: descriptors, available ring and used ring in a page each (16 bytes * 256 at most). */
export class VirtioRing {
  readonly size: number;
  readonly descriptorIova: number;
  readonly availableIova: number;
  readonly usedIova: number;
  readonly #view: DataView;
  readonly #locate: Locate;
  /** Buffers made available so far. */
  posted = 0;
  /** Buffers taken back so far. */
  taken = 0;

  constructor(view: DataView, locate: Locate, iova: number, size = 256) {
    this.#view = view;
    this.#locate = locate;
    this.size = size;
    this.descriptorIova = iova;
    this.availableIova = iova + 0x1000;
    this.usedIova = iova + 0x2000;
  }

  /** Buffers that the device has used, of all that were posted. */
  get used(): number {
    const index = this.#view.getUint16(this.#locate(this.usedIova) + 2, true);
    return this.taken + ((index - this.taken) & 0xffff);
  }

  /** Puts a buffer into a descriptor and into the available ring; `publish` shows it. */
  post(descriptor: number, iova: number, byteLength: number, deviceWrites: boolean): void {
    const at = this.#locate(this.descriptorIova) + 16 * descriptor;
    this.#view.setBigUint64(at, BigInt(iova), true);
    this.#view.setUint32(at + 8, byteLength, true);
    this.#view.setUint16(at + 12, deviceWrites ? 2 : 0, true);
    this.#view.setUint16(at + 14, 0, true);
    this.#view.setUint16(this.#locate(this.availableIova) + 4 + 2 * (this.posted % this.size), descriptor, true);
    this.posted += 1;
  }

  /** Shows the device everything that was posted. */
  publish(): void {
    this.#view.setUint16(this.#locate(this.availableIova) + 2, this.posted & 0xffff, true);
  }

  /** Takes back the next used buffer: its descriptor, or `undefined`. */
  take(): number | undefined {
    if (this.used === this.taken) return undefined;
    const at = this.#locate(this.usedIova) + 4 + 8 * (this.taken % this.size);
    this.taken += 1;
    return this.#view.getUint32(at, true);
  }
}
