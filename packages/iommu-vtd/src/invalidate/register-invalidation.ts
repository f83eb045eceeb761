/**
 * Invalidation through registers: CCMD, IOTLB and IVA (§6.5.1).
 *
 * A command whose granularity is reserved, that names more pages than MAMV allows, or that arrives while the queue is on or outside of legacy mode does nothing and reports granularity 00. ICC and
 * IVT clear when every notifier has completed; of a guest that does not wait for that, when all that it has commanded is done.
 */

import type { Completion } from "@iommu-kit/iommu-core";
import { PendingCommand } from "../registers/pending-command.js";
import type { RegisterFile } from "../registers/register-file.js";
import { domainIdBits, type UnitCapabilities } from "../spec/capabilities.js";
import { ContextGranularity, IotlbGranularity, maskedRange } from "../spec/invalidation.js";
import { TableMode } from "../spec/encodings.js";
import { CAP, VER } from "../spec/registers-capability.js";
import { GSTS } from "../spec/registers-command.js";
import { CCMD, IOTLB, IVA } from "../spec/registers-invalidation.js";
import type { RootPointer } from "../translate/root-pointer.js";
import type { Invalidator } from "./invalidator.js";

const NOTHING_DONE = 0;
/** Units of this major version and above have no register interface. */
const FIRST_WITHOUT_REGISTERS = 6;

/** Carries out what is written to CCMD and IOTLB, and clears ICC and IVT when it is done. */
export class RegisterInvalidation {
  readonly #file: RegisterFile;
  readonly #invalidator: Invalidator;
  readonly #capabilities: UnitCapabilities;
  readonly #root: RootPointer;
  /** Commands that ICC and IVT stand for: the bits clear when all of them are done. */
  readonly #contexts = new PendingCommand();
  readonly #translations = new PendingCommand();

  constructor(file: RegisterFile, invalidator: Invalidator, capabilities: UnitCapabilities, root: RootPointer) {
    this.#file = file;
    this.#invalidator = invalidator;
    this.#capabilities = capabilities;
    this.#root = root;
  }

  /** Commands in flight are forgotten: their registers have been reset. */
  reset(): void {
    this.#contexts.forget();
    this.#translations.forget();
  }

  /** Takes up the registers of a snapshot: commands that were in flight complete when `completion` is done, which covers everything they asked for. */
  restore(completion: Completion): void {
    if (this.#file.get("CCMD", CCMD.fields.ICC) === 1) this.#finishContext(completion, this.#contextGranularity());
    if (this.#file.get("IOTLB", IOTLB.fields.IVT) === 1)
      this.#finishTranslation(completion, this.#translationGranularity());
  }

  /** The high word of CCMD was written. */
  contextCommand(): void {
    const { ICC, SID, FM } = CCMD.fields;
    if (this.#file.get("CCMD", ICC) === 0) return;
    const granularity = this.#contextGranularity();
    let completion: Completion;
    if (granularity === ContextGranularity.GLOBAL) completion = this.#invalidator.contexts();
    else if (granularity === ContextGranularity.DEVICE)
      completion = this.#invalidator.contextsOfDevice(this.#file.get("CCMD", SID), this.#file.get("CCMD", FM));
    this.#finishContext(completion, granularity);
  }

  /** The high word of IOTLB was written. */
  translationCommand(): void {
    const { IVT, DID } = IOTLB.fields;
    if (this.#file.get("IOTLB", IVT) === 0) return;
    const domainId = this.#domainId(this.#file.get("IOTLB", DID));
    const granularity = this.#translationGranularity();
    let completion: Completion;
    if (granularity === IotlbGranularity.GLOBAL) completion = this.#invalidator.translations();
    else if (granularity === IotlbGranularity.DOMAIN) completion = this.#invalidator.translationsOfDomain(domainId);
    else if (granularity === IotlbGranularity.PAGE) {
      const { AM, ADDR } = IVA.fields;
      const range = maskedRange(this.#file.get("IVA", ADDR), this.#file.get("IVA", AM));
      completion = this.#invalidator.translationsOfPages(domainId, range);
    }
    this.#finishTranslation(completion, granularity);
  }

  /** What CCMD asks for becomes. Coarser than asked is allowed, and is what is reported; see `Invalidator.contexts`. */
  #contextGranularity(): number {
    const asked = this.#file.get("CCMD", CCMD.fields.CIRG);
    if (!this.#accepts()) return NOTHING_DONE;
    return asked === ContextGranularity.DOMAIN ? ContextGranularity.GLOBAL : asked;
  }

  /** What IOTLB asks for becomes. */
  #translationGranularity(): number {
    const asked = this.#file.get("IOTLB", IOTLB.fields.IIRG);
    if (!this.#accepts()) return NOTHING_DONE;
    return asked === IotlbGranularity.PAGE ? this.#pageGranularity(this.#file.get("IVA", IVA.fields.AM)) : asked;
  }

  /** What a page-selective request becomes: coarser without PSI, nothing beyond MAMV. */
  #pageGranularity(order: number): number {
    const { PSI, MAMV } = CAP.fields;
    const { cap } = this.#capabilities;
    if (PSI.get(cap, 0) === 0) return IotlbGranularity.DOMAIN;
    return order > MAMV.get(cap, 0) ? NOTHING_DONE : IotlbGranularity.PAGE;
  }

  #accepts(): boolean {
    const old = this.#file.get("VER", VER.fields.MAX) < FIRST_WITHOUT_REGISTERS;
    return old && this.#root.mode === TableMode.LEGACY && this.#file.get("GSTS", GSTS.fields.QIES) === 0;
  }

  #domainId(value: number): number {
    return value % 2 ** domainIdBits(this.#capabilities.cap);
  }

  #finishContext(completion: Completion, granularity: number): void {
    this.#contexts.follow(completion, () => {
      this.#file.set("CCMD", CCMD.fields.CAIG, granularity);
      this.#file.set("CCMD", CCMD.fields.ICC, 0);
    });
  }

  #finishTranslation(completion: Completion, granularity: number): void {
    this.#translations.follow(completion, () => {
      this.#file.set("IOTLB", IOTLB.fields.IAIG, granularity);
      this.#file.set("IOTLB", IOTLB.fields.IVT, 0);
    });
  }
}
