/**
 * Invalidation through registers: CCMD, IOTLB and IVA (§6.5.1).
 *
 * A command whose granularity is reserved, that names more pages than MAMV allows, or that arrives while the queue is on does nothing and reports granularity 00. ICC and
 * IVT clear when every notifier has completed.
 */

import { type Completion, whenDone } from "@iommu-kit/iommu-core";
import type { RegisterFile } from "../registers/register-file.js";
import { domainIdBits, type UnitCapabilities } from "../spec/capabilities.js";
import { ContextGranularity, IotlbGranularity, maskedRange } from "../spec/invalidation.js";
import { CAP, VER } from "../spec/registers-capability.js";
import { GSTS } from "../spec/registers-command.js";
import { CCMD, IOTLB, IVA } from "../spec/registers-invalidation.js";
import type { Invalidator } from "./invalidator.js";

const NOTHING_DONE = 0;
/** Units of this major version and above have no register interface. */
const FIRST_WITHOUT_REGISTERS = 6;

/** See the file's header. */
export class RegisterInvalidation {
  readonly #file: RegisterFile;
  readonly #invalidator: Invalidator;
  readonly #capabilities: UnitCapabilities;
  #epoch = 0;

  constructor(file: RegisterFile, invalidator: Invalidator, capabilities: UnitCapabilities) {
    this.#file = file;
    this.#invalidator = invalidator;
    this.#capabilities = capabilities;
  }

  /** Commands in flight are forgotten: their registers have been reset. */
  reset(): void {
    this.#epoch += 1;
  }

  /** Takes up the registers of a snapshot: commands that were in flight complete when `completion` is done, which covers everything they asked for. */
  restore(completion: Completion): void {
    this.#finish(completion, () => {
      const { ICC, CIRG, CAIG } = CCMD.fields;
      const { IVT, IIRG, IAIG } = IOTLB.fields;
      if (this.#file.get("CCMD", ICC) === 1) this.#file.set("CCMD", CAIG, this.#file.get("CCMD", CIRG));
      if (this.#file.get("IOTLB", IVT) === 1) this.#file.set("IOTLB", IAIG, this.#file.get("IOTLB", IIRG));
      this.#file.set("CCMD", ICC, 0);
      this.#file.set("IOTLB", IVT, 0);
    });
  }

  /** The high word of CCMD was written. */
  contextCommand(): void {
    const { ICC, CIRG, CAIG, SID, FM } = CCMD.fields;
    const get = (field: typeof SID): number => this.#file.get("CCMD", field);
    if (get(ICC) === 0) return;
    const asked = get(CIRG);
    const known =
      asked === ContextGranularity.GLOBAL || asked === ContextGranularity.DOMAIN || asked === ContextGranularity.DEVICE;
    let done: number = this.#accepts() && known ? asked : NOTHING_DONE;
    // Coarser than asked is allowed, and is what is reported; see `Invalidator.contexts`.
    if (done === ContextGranularity.DOMAIN) done = ContextGranularity.GLOBAL;
    let completion: Completion;
    if (done === ContextGranularity.GLOBAL) completion = this.#invalidator.contexts();
    else if (done === ContextGranularity.DEVICE) completion = this.#invalidator.contextsOfDevice(get(SID), get(FM));
    this.#finish(completion, () => {
      this.#file.set("CCMD", CAIG, done);
      this.#file.set("CCMD", ICC, 0);
    });
  }

  /** The high word of IOTLB was written. */
  translationCommand(): void {
    const { IVT, IIRG, IAIG, DID } = IOTLB.fields;
    if (this.#file.get("IOTLB", IVT) === 0) return;
    const asked = this.#file.get("IOTLB", IIRG);
    const domainId = this.#domainId(this.#file.get("IOTLB", DID));
    let done: number = NOTHING_DONE;
    let completion: Completion;
    if (this.#accepts()) {
      if (asked === IotlbGranularity.GLOBAL) completion = this.#invalidator.translations();
      else if (asked === IotlbGranularity.DOMAIN) completion = this.#invalidator.translationsOfDomain(domainId);
      done = asked;
      if (asked === IotlbGranularity.PAGE) {
        const order = this.#file.get("IVA", IVA.fields.AM);
        done = this.#pageGranularity(order);
        if (done === IotlbGranularity.DOMAIN) completion = this.#invalidator.translationsOfDomain(domainId);
        if (done === IotlbGranularity.PAGE)
          completion = this.#invalidator.translationsOfPages(
            domainId,
            maskedRange(this.#file.get("IVA", IVA.fields.ADDR), order),
          );
      }
    }
    this.#finish(completion, () => {
      this.#file.set("IOTLB", IAIG, done);
      this.#file.set("IOTLB", IVT, 0);
    });
  }

  /** What a page-selective request becomes: coarser without PSI, nothing beyond MAMV. */
  #pageGranularity(order: number): number {
    const { PSI, MAMV } = CAP.fields;
    const { cap } = this.#capabilities;
    if (PSI.get(cap, 0) === 0) return IotlbGranularity.DOMAIN;
    return order > MAMV.get(cap, 0) ? NOTHING_DONE : IotlbGranularity.PAGE;
  }

  #accepts(): boolean {
    return (
      this.#file.get("GSTS", GSTS.fields.QIES) === 0 && this.#file.get("VER", VER.fields.MAX) < FIRST_WITHOUT_REGISTERS
    );
  }

  #domainId(value: number): number {
    return value % 2 ** domainIdBits(this.#capabilities.cap);
  }

  #finish(completion: Completion, done: () => void): void {
    const epoch = this.#epoch;
    whenDone(completion, () => {
      if (epoch === this.#epoch) done();
    });
  }
}
