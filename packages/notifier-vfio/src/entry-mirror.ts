/**
 * A container's entries, made from runs of frames by a coalescing policy.
 *
 * The unit adds and removes runs; this class cuts them into entries, cuts entries that lose a part (whole entry out, the
 * rest in again), and keeps account of that rest where the container had no room for it. What the unit takes for held is
 * always held here, or owed.
 */
import { type Access, type CompletionGroup, IommuError, isPending, type MapAnswer } from "@iommu-kit/iommu-core";
import { type Coalescing, type Piece, piecesOf } from "./coalescing.js";
import type { Answer, ContainerRefusal, DmaContainer } from "./container.js";
import { EntryPressure } from "./entry-pressure.js";
import type { VfioEventEmitter } from "./events.js";
import { Flights, restOf } from "./flights.js";
import { HeldEntries, type Outcome, type Unmapper } from "./held-entries.js";
import { shadowBlock, ShadowPageTable } from "./shadow-page-table.js";

/** What an `EntryMirror` works by. */
export interface MirrorOptions {
  readonly name: string;
  readonly policy: Coalescing;
  /** Most frames of an entry: a power of two, or Infinity. */
  readonly largest: number;
  readonly pressureLevels: readonly number[];
  /** Whether only whole runs are removed, as they were added. */
  readonly exact: boolean;
  /** Whether the container applies calls as one step: then cutting an entry opens no window. */
  readonly atomic: boolean;
  readonly unmapper: Unmapper;
}

/** The entries of one notifier in one container. */
export class EntryMirror {
  readonly #container: DmaContainer;
  readonly #events: VfioEventEmitter;
  readonly #options: MirrorOptions;
  readonly #held: HeldEntries;
  readonly #pressure: EntryPressure;
  /** What was offered to the container and is not answered yet. */
  readonly #offers: Flights;
  /** The rest of a merged entry that was cut, where the container had no room to map it again. */
  readonly #owed = new ShadowPageTable();
  /** Entries were freed since what is owed was last tried. */
  #roomMade = false;

  /** @throws {IommuError} `bad-option` for pressure levels that do not ascend. */
  constructor(container: DmaContainer, events: VfioEventEmitter, options: MirrorOptions) {
    this.#container = container;
    this.#events = events;
    this.#options = options;
    this.#pressure = new EntryPressure(options.pressureLevels, (event) => events.report("pressure", event));
    this.#offers = new Flights(options.exact);
    this.#held = new HeldEntries(container, options.unmapper);
  }

  /** What is held, each entry a block. */
  get table(): ShadowPageTable {
    return this.#held.table;
  }

  /** Frames that the unit takes for held, and that wait for room. */
  get owedPages(): number {
    return this.#owed.pageCount;
  }

  /** Notes that entries were freed, by whomever: what is owed is worth another try. */
  roomMade(): void {
    this.#roomMade = true;
  }

  /** Adds a run: all of it or nothing. None of its frames is held. */
  place(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): MapAnswer | Promise<MapAnswer> {
    const outcome = this.#put(iovaPfn, pageCount, gpaPfn, access);
    if (!isPending(outcome)) return this.answer(outcome, iovaPfn, pageCount, gpaPfn);
    const offer = this.#offers.start({ iovaPfn, pageCount, gpaPfn });
    return Promise.resolve(outcome).then((cause) => {
      this.#offers.end(offer);
      if (cause === undefined || offer.dropped.length === 0) return this.answer(cause, iovaPfn, pageCount, gpaPfn);
      // Part of it has been unmapped since: to the unit it was held, so the rest is this notifier's own debt.
      this.#owe(cause, restOf(offer), access);
      return undefined;
    });
  }

  /** The container's outcome in the words of the notifier contract. */
  answer(cause: ContainerRefusal | undefined, iovaPfn: number, pageCount: number, gpaPfn: number): MapAnswer {
    this.#pressure.update(this.#container.entriesHeld, this.#container.entryLimit);
    if (cause === undefined) return undefined;
    if (cause === "gone") throw this.#gone();
    this.#reportRefusal(iovaPfn, pageCount, gpaPfn, cause);
    return cause === "no-space" ? "full" : "unsupported";
  }

  /** Takes a range away. */
  remove(iovaPfn: number, pageCount: number, group: CompletionGroup): void {
    const endPfn = iovaPfn + pageCount;
    this.#offers.drop({ firstPfn: iovaPfn, pageCount });
    if (this.#owed.blockCount > 0) this.#owed.remove(iovaPfn, pageCount);
    if (this.#container.granularity === "page") this.#removeParts(iovaPfn, endPfn, group);
    else this.#removeEntries(iovaPfn, endPfn, group);
    this.#pressure.update(this.#container.entriesHeld, this.#container.entryLimit);
  }

  /** Tries what is owed again, if there may be room for it. */
  payOwed(group: CompletionGroup): void {
    if (!this.#roomMade || this.#owed.blockCount === 0) return;
    this.#roomMade = false;
    for (const block of [...this.#owed.blocks()]) {
      this.#owed.removeBlock(block.iovaPfn);
      this.#restore(block, block.access, group);
    }
  }

  /** Removes every entry, one by one, and insists on removals that are not confirmed. Answers how many frames devices may reach even so. */
  dropAll(): Answer<number> {
    return this.#held.dropAll();
  }

  /** Forgets everything, without a word to the container. */
  forget(): void {
    this.#held.forget();
    this.#offers.clear();
    this.#owed.clear();
  }

  /** Puts a run into the container, as the entries of the policy: all of them or none. */
  #put(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): Outcome | Promise<Outcome> {
    const pieces: readonly Piece[] =
      this.#options.policy === "aligned" || pageCount > this.#options.largest
        ? piecesOf(this.#options.policy, iovaPfn, pageCount, gpaPfn, this.#options.largest)
        : [{ iovaPfn, pageCount, gpaPfn }];
    return this.#held.add(pieces, access);
  }

  /** In a container that can cut: one call for each contiguous part that is held. */
  #removeParts(iovaPfn: number, endPfn: number, group: CompletionGroup): void {
    const block = shadowBlock();
    for (let at = iovaPfn; this.#held.table.blockFrom(at, block) && block.iovaPfn < endPfn;) {
      const firstPfn = Math.max(at, block.iovaPfn);
      do at = Math.min(endPfn, block.iovaPfn + block.pageCount);
      while (at < endPfn && this.#held.table.blockAt(at, block));
      group.add(this.#held.drop(firstPfn, at - firstPfn));
    }
  }

  /** In a container that cannot: whole entries; what a cut one still holds is mapped again. */
  #removeEntries(iovaPfn: number, endPfn: number, group: CompletionGroup): void {
    const entry = shadowBlock();
    for (let at = iovaPfn; this.#held.table.blockFrom(at, entry) && entry.iovaPfn < endPfn;) {
      const { iovaPfn: firstPfn, pageCount: count, gpaPfn, access } = entry;
      at = firstPfn + count;
      // What is mapped again below is an offer of its own.
      this.#offers.drop({ firstPfn, pageCount: count });
      group.add(this.#held.drop(firstPfn, count));
      const below = Math.max(0, iovaPfn - firstPfn);
      const above = Math.max(0, at - endPfn);
      if (below > 0) this.#restore({ iovaPfn: firstPfn, pageCount: below, gpaPfn }, access, group);
      if (above > 0)
        this.#restore({ iovaPfn: endPfn, pageCount: above, gpaPfn: gpaPfn + (count - above) }, access, group);
      if (below + above > 0 && !this.#options.atomic) {
        this.#events.report("window", { iovaPfn: firstPfn, pageCount: count, keptPageCount: below + above });
      }
    }
  }

  /** Maps again what is left of a cut entry. Where there is no room it is owed. */
  #restore(piece: Piece, access: Access, group: CompletionGroup): void {
    const outcome = this.#put(piece.iovaPfn, piece.pageCount, piece.gpaPfn, access);
    if (!isPending(outcome)) {
      if (outcome === undefined) return;
      // Refused at this very moment: not worth another try before entries are freed again.
      this.#roomMade = false;
      this.#owe(outcome, [piece], access);
      return;
    }
    const offer = this.#offers.start(piece);
    const settled = outcome.then((cause) => {
      this.#offers.end(offer);
      if (cause !== undefined) this.#owe(cause, restOf(offer), access);
    });
    group.add(settled);
  }

  /** Frames that the unit takes for held were refused. */
  #owe(cause: ContainerRefusal, rest: readonly Piece[], access: Access): void {
    if (cause === "gone") throw this.#gone();
    for (const { iovaPfn, pageCount, gpaPfn } of rest) {
      if (cause === "no-space") this.#owed.insert(iovaPfn, pageCount, gpaPfn, access);
      this.#reportRefusal(iovaPfn, pageCount, gpaPfn, cause);
    }
  }

  #gone(): IommuError {
    return new IommuError("notifier-failed", `${this.#options.name}: expected a container, got one that is gone`, {
      hint: "make a new one and attach to it: it is replayed",
    });
  }

  #reportRefusal(iovaPfn: number, pageCount: number, gpaPfn: number, cause: ContainerRefusal): void {
    if (this.#events.listenerCount("refused") > 0)
      this.#events.report("refused", { iovaPfn, pageCount, gpaPfn, cause });
  }
}
