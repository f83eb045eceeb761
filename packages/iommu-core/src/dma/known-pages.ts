/**
 * Where pages lie that devices were allowed to reach: what spares most transfers the way through the backend.
 *
 * One for each unit, direct-mapped, in a typed array. A record says: this port may make this kind of access (read or write, as it was asked for and allowed) to this page,
 * and the page lies there. A backend that keeps answers itself promises that they hold until it announces a change (`Backend.keepsAnswers`); every announcement ends all
 * records, whatever it is about. So there is no rule here about what an invalidation covers, and nothing is swept: records carry a stamp, and old stamps are void.
 */

/** 8 MiB of pages. */
const RECORDS = 2048;
// A record, half a cache line: the page's frame, its stamp, its guest-physical address, pages of the block around it.
const WORDS_SHIFT = 2;
const STAMP = 1;
const GPA = 2;
const BLOCK = 3;
const NO_FRAME = -1;
/** The golden ratio of 2^32: what ports have at the same frames lies at different places. */
const SPREAD = 0x9e3779b1;

/** The records of one unit: `find` spares asking the backend, `note` follows each answer that allowed something, `forget` each announcement. */
export class KnownPages {
  #records = new Float64Array(0);
  #mask = 0;
  #nextStamp = 1;
  #oldestStamp = 1;

  /** Ends all records: what was allowed may be refused from now on. */
  forget(): void {
    this.#oldestStamp = this.#nextStamp;
  }

  /** Whether records with this stamp hold. */
  holds(stamp: number): boolean {
    return stamp >= this.#oldestStamp;
  }

  /** A stamp for the records of one port and one kind of access, until `forget`. Never 0. */
  stamp(): number {
    return this.#nextStamp++;
  }

  /** The record of a page under a stamp; -1 if there is none that holds. */
  find(pfn: number, stamp: number): number {
    const records = this.#records;
    const at = ((pfn + Math.imul(stamp, SPREAD)) & this.#mask) << WORDS_SHIFT;
    return records[at] === pfn && records[at | STAMP] === stamp && stamp >= this.#oldestStamp ? at : -1;
  }

  /** The guest-physical address of a record's page. */
  gpaOf(record: number): number {
    return this.#records[record | GPA] as number;
  }

  /** Pages of the naturally aligned block around it that the backend's answer held for. */
  blockOf(record: number): number {
    return this.#records[record | BLOCK] as number;
  }

  /** Notes where a page lies, and how large the block around it is. */
  note(pfn: number, stamp: number, gpa: number, blockPages: number): void {
    if (this.#mask === 0) this.#allocate();
    const records = this.#records;
    const at = ((pfn + Math.imul(stamp, SPREAD)) & this.#mask) << WORDS_SHIFT;
    records[at] = pfn;
    records[at | STAMP] = stamp;
    records[at | GPA] = gpa;
    records[at | BLOCK] = blockPages;
  }

  /** Not before somebody makes a transfer. */
  #allocate(): void {
    this.#records = new Float64Array(RECORDS << WORDS_SHIFT).fill(NO_FRAME);
    this.#mask = RECORDS - 1;
  }
}
