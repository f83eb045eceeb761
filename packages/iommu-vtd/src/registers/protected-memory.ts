/**
 * Protected memory regions: PMEN, PLMBASE / PLMLIMIT, PHMBASE / PHMLIMIT (§11.4.8).
 *
 * A base decodes its low bits as 0, a limit as 1, so equal values protect 2 MiB; a limit below its base protects nothing. Every request to a region is blocked, whether
 * translation is on or not, and not recorded.
 */

import type { Completion, FrameRange } from "@iommu-kit/iommu-core";
import { PHM, PLM, PMEN } from "../spec/registers-command.js";
import type { OutputFilter } from "../translate/output-filter.js";
import { PendingCommand } from "./pending-command.js";
import type { RegisterFile } from "./register-file.js";

/** Frames in a block of 2 MiB, the unit of these registers. */
const BLOCK_PAGES = 512;

/** Brings PMEN and the output filter of one unit in step. */
export class ProtectedMemory {
  readonly #file: RegisterFile;
  readonly #filter: OutputFilter;
  readonly #announce: () => Completion;
  /** EPM as it was last acted on; PRS follows later. */
  #enabled = 0;
  /** PRS shows the last write of PMEN when notifiers have completed all of them. */
  readonly #pending = new PendingCommand();

  constructor(file: RegisterFile, filter: OutputFilter, announce: () => Completion) {
    this.#file = file;
    this.#filter = filter;
    this.#announce = announce;
  }

  /** PMEN was written: PRS follows EPM when every notifier has completed. */
  enableWritten(): void {
    const on = this.#file.get("PMEN", PMEN.fields.EPM);
    if (on === this.#enabled) return;
    this.#enabled = on;
    this.#filter.protect(on === 1 ? this.#regions() : []);
    this.#follow(this.#announce());
  }

  /** Takes the regions from the registers, after a reset or a restore; whoever calls announces. */
  reload(): void {
    this.#pending.forget();
    this.#enabled = this.#file.get("PMEN", PMEN.fields.EPM);
    this.#filter.protect(this.#enabled === 1 ? this.#regions() : []);
  }

  /** After `reload` for a restore: PRS follows when every notifier has completed. */
  restore(completion: Completion): void {
    this.#follow(completion);
  }

  #follow(completion: Completion): void {
    this.#pending.follow(completion, () =>
      this.#file.set("PMEN", PMEN.fields.PRS, this.#file.get("PMEN", PMEN.fields.EPM)),
    );
  }

  #regions(): FrameRange[] {
    const low = PLM.fields.PLM;
    const high = PHM.fields.PHM;
    const regions: FrameRange[] = [];
    const add = (base: number, limit: number): void => {
      if (limit >= base) regions.push({ firstPfn: base * BLOCK_PAGES, pageCount: (limit - base + 1) * BLOCK_PAGES });
    };
    if (this.#file.wordOf("PLMBASE") >= 0) add(this.#file.get("PLMBASE", low), this.#file.get("PLMLIMIT", low));
    if (this.#file.wordOf("PHMBASE") >= 0) add(this.#file.get("PHMBASE", high), this.#file.get("PHMLIMIT", high));
    return regions;
  }
}
