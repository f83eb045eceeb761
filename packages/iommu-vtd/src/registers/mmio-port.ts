/**
 * The register block as the guest's CPU reaches it: accesses of 4 and 8 bytes at an offset (§11.2).
 *
 * An 8-byte access is two words, both stored before either takes effect. Misaligned accesses and accesses beyond the block read 0 and write nothing: the architecture
 * leaves them undefined, and a guest must not be able to make a host throw.
 */

import { IommuError } from "@iommu-kit/iommu-core";
import type { RegisterFile } from "./register-file.js";

/** What a write to a word sets off; `value` is what was written. */
export type SideEffect = (value: number) => void;

/** What the port asks its unit around each access. */
export interface MmioOwner {
  /** A write is about to take effect: `false` when a notifier is being called, from where registers may not be written. */
  enter(): boolean;
  /** Whether the unit has left its machine: nothing is written any more. */
  gone(): boolean;
}

/** 4- and 8-byte reads and writes. Values of 4 bytes are unsigned numbers, of 8 bytes unsigned bigints. */
export class MmioPort {
  readonly #file: RegisterFile;
  readonly #effects: readonly (SideEffect | undefined)[];
  readonly #owner: MmioOwner;

  /** @internal */
  constructor(file: RegisterFile, effects: readonly (SideEffect | undefined)[], owner: MmioOwner) {
    this.#file = file;
    this.#effects = effects;
    this.#owner = owner;
  }

  /** Size of the block in bytes. */
  get byteLength(): number {
    return this.#file.byteLength;
  }

  /** The 32-bit word at a byte offset. */
  read32(offsetBytes: number): number {
    return this.#file.read(offsetBytes / 4) >>> 0;
  }

  /** The 64 bits at a byte offset that is a multiple of 4. */
  read64(offsetBytes: number): bigint {
    return BigInt(this.read32(offsetBytes)) | (BigInt(this.read32(offsetBytes + 4)) << 32n);
  }

  /**
   * Writes a 32-bit word.
   * @throws {IommuError} `reentrant-call` from inside a notifier's callback: a mistake of the host.
   */
  write32(offsetBytes: number, value: number): void {
    if (!this.#enter()) return;
    const word = offsetBytes / 4;
    this.#file.write(word, value);
    this.#effects[word]?.(value);
  }

  /**
   * Writes 64 bits at a byte offset that is a multiple of 4.
   * @throws {IommuError} `reentrant-call` from inside a notifier's callback: a mistake of the host.
   */
  write64(offsetBytes: number, value: bigint): void {
    if (!this.#enter()) return;
    const word = offsetBytes / 4;
    const low = Number(BigInt.asIntN(32, value));
    const high = Number(BigInt.asIntN(32, value >> 32n));
    this.#file.write(word, low);
    this.#file.write(word + 1, high);
    this.#effects[word]?.(low);
    this.#effects[word + 1]?.(high);
  }

  /** Begins an access. `false`: there is no unit any more. */
  #enter(): boolean {
    if (this.#owner.gone()) return false;
    if (this.#owner.enter()) return true;
    throw new IommuError(
      "reentrant-call",
      "expected register writes from the guest, got one from inside a notifier's callback",
      {
        hint: "defer it with queueMicrotask",
      },
    );
  }
}
